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

mod config;
mod digest;
mod limits;
mod platform;
mod progress;
mod reference;

pub use config::{ConfigError, HistoryEntry, ImageConfig, ImageHealthcheck};
pub use digest::{Digest, DigestError};
pub use limits::{LayerLimits, TransferLimits};
pub use platform::{Platform, PlatformError};
pub use progress::{LayerState, Progress, ProgressSink, silent};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};

// The store, whose bodies follow in the next commits (signatures are settled):
//
//   #[derive(Clone)] ImageStore                        one process (flock); cheap clones, Send + Sync
//     open(dir: &Path /* <root>/images */, settings: Settings) -> Result<ImageStore, OpenError>      (blocking)
//     resolve(&self, text: &str) -> Result<Option<Arc<Image>>, ResolveError>        local, memory only; also id prefixes
//     list(&self) -> Vec<Arc<Image>>
//     async pull(&self, &Reference, PullOptions, ProgressSink) -> Result<Arc<Image>, PullError>
//     async push(&self, source: &str, target: &Reference, PushOptions, ProgressSink) -> Result<Digest, PushError>
//     async import(&self, impl AsyncRead + Send + Unpin + 'static, Option<Reference>, ImportOptions)
//         -> Result<Arc<Image>, ImportError>
//     async load(&self, impl AsyncRead + Send + Unpin + 'static, ProgressSink) -> Result<Vec<Arc<Image>>, LoadError>
//     async save(&self, &[String], ArchiveFormat, impl AsyncWrite + Send + Unpin) -> Result<(), SaveError>
//     async export(&self, &str, impl AsyncWrite + Send + Unpin) -> Result<(), ExportError>     flattened root tar
//     tag(&self, source: &str, target: &Reference) -> Result<(), TagError>                     (blocking, fsync)
//     remove(&self, text: &str, pinned: &BTreeSet<Digest>) -> Result<Removed, RemoveError>     (blocking)
//     prune(&self, PruneOptions) -> Result<Collected, StoreError>                              (blocking)
//     collect(&self, budget: Bytes, pinned: &BTreeSet<Digest>) -> Result<Collected, StoreError> (blocking)
//     usage(&self) -> Bytes;  async sync(&self)     waits until all that was pulled would survive a power cut
//
//   Image { id: Digest /* config */, manifest_digest: Digest, tags: Vec<Reference>, repo_digests: Vec<String>,
//           config: Arc<ImageConfig>, layers: Vec<PathBuf> /* bottom → top */, size: Bytes, pulled_at: Timestamp }
//   PullOptions { policy: PullPolicy::{Missing, Always, Never}, platform: Option<Platform>, insecure: bool,
//                 credentials: Credentials }
//   Credentials::{Anonymous, Basic { username, password }, IdentityToken(..)}
//     Credentials::from_docker_config(path, registry)   auths, credHelpers, credsStore (the CLI resolves, the node uses)
