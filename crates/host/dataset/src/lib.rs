//! Datasets: where the data of volumes lies, so that it can be snapshotted, cloned and switched back.
//!
//! ```text
//! <root>/<app>/<volume>/head              what a container mounts, always under this path
//!                      /snapshots/<name>  what it was once; nobody writes there
//!                      /next              half of a switch; gone, or finished, after the next look at the dataset
//! ```
//!
//! One interface, [`Store`], over kinds of storage that differ in what a snapshot costs: on btrfs a head and its
//! snapshots are subvolumes, and each operation takes the same time for any size; anywhere else they are directories,
//! whose files share their blocks where the filesystem can do that (xfs, bcachefs) and are copied where it cannot.
//!
//! [`Store::switch`] never destroys: the head that is cut becomes a snapshot, which can be switched to like any other.
//! Each step of it is one rename, so that after a crash there is the old head or the new one, whole; the next
//! operation on the dataset finishes it.
//!
//! A dataset and each snapshot carry [`Stamps`], which are kept in the filesystem beside the data and need no database.
//! A snapshot has those of the head at its time, and a head that was switched those of its snapshot.
//!
//! Refused: snapshots of what is being written, where the kind cannot do it at one moment ([`Kind::Directory`]): that is
//! for the caller to see to.

mod copy;
mod error;
mod name;
mod stamps;
mod store;
mod tree;

pub use error::DatasetError;
pub use name::{DatasetName, NameError, SnapshotName};
pub use stamps::{StampError, Stamps};
pub use store::{Dataset, Snapshot, Store};
pub use tree::Kind;
