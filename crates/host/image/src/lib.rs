//! Images: fetched from registries or archives, verified, unpacked into layer directories, kept within a budget.
//!
//! ```text
//! registry ─┐                       ┌─ blobs/sha256/<hex>       what was fetched, byte for byte
//! archive  ─┼─ ingest (hash, tee) ──┤
//! rootfs   ─┘                       └─ layers/<diff-id>/fs      unpacked, overlay whiteouts, ids as in the image
//! ```
//!
//! Layers are unpacked while they download, by file descriptor beneath their directory, and appear under their final
//! name only when whole. Resolving a name to its layers ([`ImageStore::resolve`]) touches memory only: it is on the
//! path of every start.
//!
//! Refused: digests other than SHA-256, schema 1 manifests, foreign layers, an index without the wanted architecture
//! (never another one instead), plain HTTP to registries elsewhere unless asked, device nodes (counted, not created).

mod archive;
mod catalog;
mod config;
mod digest;
mod image;
mod import;
mod ingest;
mod layer;
mod limits;
mod load;
mod manifest;
mod names;
mod platform;
mod progress;
mod pull;
mod push;
mod reference;
mod registry;
mod save;
mod store;
mod stream;
mod sync;
mod unpack;

pub use config::{ConfigError, HistoryEntry, ImageConfig, ImageHealthcheck};
pub use digest::{Digest, DigestError};
pub use limits::{LayerLimits, TransferLimits};
pub use platform::{Platform, PlatformError};
pub use progress::{LayerState, Progress, ProgressSink, silent};
pub use pull::{PullError, PullOptions, PullPolicy};
pub use push::{PushError, PushOptions};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};

pub use archive::{TarError, pack_layer};
pub use image::Image;
pub use import::{ImportError, ImportOptions};
pub use ingest::LayerError;
pub use load::LoadError;
pub use manifest::ManifestError;
pub use names::{PruneOptions, RemoveError, Removed, TagError};
pub use registry::{Credentials, CredentialsError, RegistryError};
pub use save::{ArchiveFormat, SaveError};
pub use store::{ImageStore, OpenError, ResolveError, Settings, StoreError};
pub use unpack::UnpackError;
