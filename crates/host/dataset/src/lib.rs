//! Datasets: where the data of volumes lies, so that it can be snapshotted, cloned and switched back.
//!
//! What a container mounts is always under the same path, `<root>/<app>/<volume>/head`.
//!
//! One interface, [`Store`], over kinds of storage that differ in what a snapshot costs: on btrfs a head and its
//! snapshots are subvolumes, on ZFS datasets of a pool, and each operation takes the same time for any size; anywhere else they
//! are directories, whose files share their blocks where the filesystem can do that (xfs, bcachefs) and are copied where
//! it cannot. One conformance suite holds for all of them.
//!
//! [`Store::switch`] never destroys: the head that is cut becomes a snapshot, which can be switched to like any other.
//! One step of it decides (a rename, a property), so that after a crash there is the old head or the new one, whole; the
//! next operation on the dataset finishes it.
//!
//! A dataset and each snapshot carry [`Stamps`], which are kept in the filesystem beside the data and need no database.
//! A snapshot has those of the head at its time, and a head that was switched those of its snapshot.
//!
//! Refused: snapshots of what is being written, where the kind cannot do it at one moment ([`Kind::Directory`]): that is
//! for the caller to see to.

mod attachment;
mod copy;
mod driver;
mod error;
mod folder;
mod id;
mod name;
mod owners;
mod properties;
mod staging;
mod stamps;
mod store;
mod stream;
mod transfer;
mod tree;
mod trees;
mod zfs;

pub use attachment::ATTACHMENT_MAX;
pub use driver::Kind;
pub use error::DatasetError;
pub use name::{DatasetName, NameError, SnapshotName};
pub use properties::{Compression, Properties};
pub use stamps::{StampError, Stamps};
pub use store::{Dataset, Snapshot, Store, Survey};
pub use stream::StreamError;
pub use transfer::{Received, check_stream};
