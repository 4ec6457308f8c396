//! The store on disk and in memory.
//!
//! ```text
//! <dir>/lock                      flock: one process at a time
//!       catalog.json              images and names (see `catalog`)
//!       blobs/sha256/<hex>        manifests, configurations, compressed layers
//!       layers/<diff-id>/fs       an unpacked layer          } appear by rename,
//!                       /complete  its marker                } only when whole
//!       ingest/                   what is being made; partial downloads keep their digest as name
//! ```
//!
//! After a crash, opening removes what was being made (partial downloads stay, to be resumed). After a power cut, what
//! was not yet known to be on disk is checked: blobs by digest, and unpacked layers are dropped and must come again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use coppice_base::{Bytes, Clock, SystemClock, Timestamp};

use crate::catalog::{Catalog, LayerRecord, Record};
use crate::config::ImageConfig;
use crate::digest::{Digest, Hasher};
use crate::image::Image;
use crate::ingest::{LayerMarker, Scratch};
use crate::limits::{LayerLimits, TransferLimits};
use crate::reference::{Reference, ReferenceError};
use crate::registry::Connector;
use crate::sync::Syncer;

/// How a store behaves.
#[derive(Clone)]
pub struct Settings {
    pub layer: LayerLimits,
    pub transfer: TransferLimits,
    /// Registry → mirrors tried before it, in order: `host[:port]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries and mirrors that may be spoken to in plain HTTP, besides those on this machine.
    pub insecure: BTreeSet<String>,
    /// PEM files with certificate authorities to trust besides the system's.
    pub extra_roots: Vec<PathBuf>,
    /// Directories with one directory per registry (`host[:port]`), whose `*.crt` are the certificate authorities trusted
    /// for it besides the system's: as docker's `/etc/docker/certs.d`. They are read for each connection.
    pub certificate_dirs: Vec<PathBuf>,
    pub clock: Arc<dyn Clock>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layer: LayerLimits::default(),
            transfer: TransferLimits::default(),
            mirrors: BTreeMap::new(),
            insecure: BTreeSet::new(),
            extra_roots: Vec::new(),
            certificate_dirs: Vec::new(),
            clock: Arc::new(SystemClock),
        }
    }
}

/// Why a store could not be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the image store {path:?} is in use by another process: stop the other node daemon or use another --root")]
    InUse { path: PathBuf },
    #[error("the image store {path:?} could not be opened: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// Why a change of the store's files failed. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the disk is full: free space or run `coppice image prune`, then try again")]
    DiskFull,
    #[error("the image store could not be written: {0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        if crate::unpack::is_disk_full(&error) { Self::DiskFull } else { Self::Io(error) }
    }
}

/// Why a text names no single image here.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("{0:?} is the beginning of several image ids: write more digits")]
    Ambiguous(String),
}

/// Images of one node. Clones share the store.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
    pub(crate) connector: Arc<Connector>,
    // After `inner`: dropping the last clone joins the thread.
    pub(crate) syncer: Arc<Syncer>,
}

pub(crate) struct Inner {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) boot: String,
    pub(crate) state: Mutex<State>,
    view: RwLock<Arc<View>>,
    next_scratch: AtomicU64,
    blob_locks: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
    /// Holds the flock.
    _lock: File,
}

/// What changes, under one lock. Downloads and unpacking happen outside it.
pub(crate) struct State {
    pub(crate) catalog: Catalog,
    /// By manifest digest.
    configs: HashMap<Digest, Arc<ImageConfig>>,
    used: HashMap<Digest, Arc<AtomicU64>>,
    /// Unpacked layers by diff-id.
    pub(crate) layers: HashMap<Digest, LayerMarker>,
    /// Digests that operations under way rely on: never collected.
    pub(crate) leases: HashMap<Digest, usize>,
}

/// What readers see: swapped whole after every change.
#[derive(Default)]
struct View {
    tags: HashMap<String, Arc<Image>>,
    by_manifest: BTreeMap<Digest, Arc<Image>>,
    by_id: BTreeMap<Digest, Arc<Image>>,
    repo_digests: HashMap<String, Arc<Image>>,
}

/// How a change of the catalog is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// On disk before the call returns.
    Durable,
    /// Safe from a crash at once, from a power cut when the sync thread has run.
    Fresh,
}

impl ImageStore {
    /// Opens (or makes) the store in `dir`. Blocks: reads the catalog and every image's configuration.
    pub fn open(dir: &Path, settings: Settings) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Io { path: dir.to_owned(), source };
        for part in ["", "blobs/sha256", "layers", "ingest"] {
            std::fs::create_dir_all(dir.join(part)).map_err(failed)?;
        }
        // Layers hold set-uid programs and other tenants' files.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let lock = File::create(dir.join("lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse { path: dir.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?.trim().to_owned();
        let dir = dir.canonicalize().map_err(failed)?;
        let state = State::recover(&dir, &boot).map_err(failed)?;
        let inner = Arc::new(Inner {
            dir,
            settings,
            boot,
            state: Mutex::new(state),
            view: RwLock::default(),
            next_scratch: AtomicU64::new(0),
            blob_locks: Mutex::default(),
            _lock: lock,
        });
        inner.publish(&inner.lock_state());
        let syncer = Arc::new(Syncer::start().map_err(failed)?);
        if inner.lock_state().catalog.images.values().any(|record| record.unsynced_since.is_some()) {
            // A daemon that was killed had no time for it.
            syncer.ask(&inner);
        }
        let connector = Arc::new(Connector::new(&inner.settings));
        Ok(Self { inner, connector, syncer })
    }

    /// The local image that `text` names: a reference, an id, or the beginning (at least 4 digits) of an id. Memory
    /// only. Counts as a use of the image for [`ImageStore::collect`].
    pub fn resolve(&self, text: &str) -> Result<Option<Arc<Image>>, ResolveError> {
        let found = self.inner.find(text)?;
        if let Some(image) = &found {
            image.used.store(self.inner.settings.clock.now().0, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// Every image, by creation of its newest pull last.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut images: Vec<_> = self.inner.view().by_manifest.values().cloned().collect();
        images.sort_by_key(|image| (image.pulled_at, image.manifest_digest));
        images
    }

    /// Bytes that all blobs and unpacked layers take, layers counted by their files' lengths.
    pub fn usage(&self) -> Result<Bytes, StoreError> {
        let mut total = 0;
        for entry in std::fs::read_dir(self.inner.dir.join("blobs/sha256"))? {
            total += entry?.metadata()?.len();
        }
        let state = self.inner.lock_state();
        Ok(Bytes(total + state.layers.values().map(|layer| layer.bytes).sum::<u64>()))
    }

    /// Waits until everything pulled so far would survive a power cut.
    pub async fn sync(&self) -> Result<(), StoreError> {
        self.syncer.wait(&self.inner).await
    }
}

impl Inner {
    pub(crate) fn lock_state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves a catalog that was written or not; both are whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn find(&self, text: &str) -> Result<Option<Arc<Image>>, ResolveError> {
        let view = self.view();
        if let Ok(digest) = text.parse::<Digest>() {
            return Ok(view.by_id.get(&digest).or_else(|| view.by_manifest.get(&digest)).cloned());
        }
        let reference = text.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(image) = view.by_reference(reference)
        {
            return Ok(Some(image));
        }
        if (4..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            let first = Digest::from_hex(&format!("{text:0<64}")).unwrap_or_else(|_| Digest::of(b""));
            let mut matching = view.by_id.range(first..).take_while(|(id, _)| id.hex().starts_with(text));
            return match (matching.next(), matching.next()) {
                (Some((_, image)), None) => Ok(Some(image.clone())),
                (None, _) => Ok(None),
                (Some(_), Some(_)) => Err(ResolveError::Ambiguous(text.to_owned())),
            };
        }
        reference.map(|_| None).map_err(ResolveError::from)
    }

    /// Changes the catalog. When it cannot be written, nothing has changed.
    pub(crate) fn change<T>(&self, durability: Durability, edit: impl FnOnce(&mut Catalog) -> T) -> io::Result<T> {
        let mut state = self.lock_state();
        let before = state.catalog.clone();
        let result = edit(&mut state.catalog);
        state.catalog.generation += 1;
        let written = state.settle(&self.dir).and_then(|()| match durability {
            Durability::Durable => state.catalog.write_durably(&self.dir),
            Durability::Fresh => state.catalog.write_fresh(&self.dir),
        });
        if let Err(error) = written {
            state.catalog = before;
            return Err(error);
        }
        self.publish(&state);
        Ok(result)
    }

    /// Rebuilds what readers see.
    pub(crate) fn publish(&self, state: &State) {
        let mut view = View::default();
        for (manifest, record) in &state.catalog.images {
            let (Some(config), Some(used)) = (state.configs.get(manifest), state.used.get(manifest)) else { continue };
            let tags: Vec<Reference> =
                state.catalog.tags_of(manifest).iter().filter_map(|tag| tag.parse().ok()).collect();
            let markers = || record.layers.iter().filter_map(|l| state.layers.get(&l.diff_id));
            let image = Arc::new(Image {
                id: record.config,
                manifest_digest: *manifest,
                tags,
                repo_digests: record.repo_digests.iter().cloned().collect(),
                config: config.clone(),
                layers: record.layers.iter().map(|l| self.layer_path(&l.diff_id).join("fs")).collect(),
                size: Bytes(markers().map(|m| m.bytes).sum()),
                devices_skipped: markers().map(|m| m.devices_skipped).sum(),
                compressed_size: Bytes(record.layers.iter().map(|l| l.size).sum()),
                pulled_at: record.pulled_at,
                used: used.clone(),
            });
            for tag in &image.tags {
                view.tags.insert(tag.full(), image.clone());
            }
            for name in &image.repo_digests {
                view.repo_digests.insert(name.clone(), image.clone());
            }
            view.by_id.insert(image.id, image.clone());
            view.by_manifest.insert(*manifest, image);
        }
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("layers").join(diff_id.hex())
    }

    /// Where a blob's download is kept until it is whole.
    pub(crate) fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("ingest").join(digest.hex())
    }

    pub(crate) fn scratch(&self) -> io::Result<Scratch> {
        let number = self.next_scratch.fetch_add(1, Ordering::Relaxed);
        Scratch::make(self.dir.join("ingest").join(format!("scratch-{number}")))
    }

    /// Small blobs: manifests and configurations, already verified.
    pub(crate) fn write_blob(&self, bytes: &[u8]) -> io::Result<Digest> {
        let digest = Digest::of(bytes);
        let number = self.next_scratch.fetch_add(1, Ordering::Relaxed);
        crate::catalog::replace(&self.dir.join("ingest"), &format!("blob-{number}"), bytes, false)?;
        std::fs::rename(self.dir.join("ingest").join(format!("blob-{number}")), self.blob_path(&digest))?;
        Ok(digest)
    }

    /// Reads a small blob and checks it.
    pub(crate) fn read_blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        read_checked(&self.blob_path(digest), digest)
    }

    /// One holder at a time for a blob: the others find it there when they get the lock.
    pub(crate) fn blob_lock(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.blob_locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(digest).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(*digest, Arc::downgrade(&lock));
        lock
    }

    /// Moves a finished layer to its place. Another pass may have been faster with the same content.
    pub(crate) fn keep_layer(&self, scratch: &Scratch, diff_id: &Digest) -> io::Result<()> {
        let bytes = std::fs::read(scratch.path().join("complete"))?;
        let marker: LayerMarker = serde_json::from_slice(&bytes)?;
        let mut state = self.lock_state();
        if state.layers.contains_key(diff_id) {
            return Ok(());
        }
        std::fs::rename(scratch.path(), self.layer_path(diff_id))?;
        state.layers.insert(*diff_id, marker);
        Ok(())
    }

    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.lock_state().layers.contains_key(diff_id)
    }

    /// Keeps collection away from `digests` until the lease is dropped.
    pub(crate) fn lease(self: &Arc<Self>, digests: impl IntoIterator<Item = Digest>) -> Lease {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let mut state = self.lock_state();
        for digest in &digests {
            *state.leases.entry(*digest).or_default() += 1;
        }
        Lease { inner: self.clone(), digests }
    }

    /// Adds images (or what is new about them) and gives them their names, all at once.
    pub(crate) fn add_images(&self, images: Vec<NewImage>) -> io::Result<Vec<Arc<Image>>> {
        let manifests: Vec<Digest> = images.iter().map(|image| image.manifest).collect();
        self.change(Durability::Fresh, |catalog| {
            for NewImage { manifest, mut record, tags } in images {
                record.unsynced_since = Some(self.boot.clone());
                if let Some(known) = catalog.images.get(&manifest) {
                    record.repo_digests.extend(known.repo_digests.iter().cloned());
                }
                catalog.images.insert(manifest, record);
                for tag in tags {
                    catalog.tags.insert(tag.full(), manifest);
                }
            }
        })?;
        let view = self.view();
        Ok(manifests.iter().filter_map(|manifest| view.by_manifest.get(manifest).cloned()).collect())
    }
}

/// An image whose blobs and layers are in place and leased.
pub(crate) struct NewImage {
    pub(crate) manifest: Digest,
    pub(crate) record: Record,
    pub(crate) tags: Vec<Reference>,
}

/// Digests kept from collection.
pub(crate) struct Lease {
    inner: Arc<Inner>,
    digests: Vec<Digest>,
}

impl Lease {
    pub(crate) fn digests(&self) -> &[Digest] {
        &self.digests
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.inner.lock_state();
        for digest in &self.digests {
            if let Some(count) = state.leases.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    state.leases.remove(digest);
                }
            }
        }
    }
}

impl View {
    fn by_reference(&self, reference: &Reference) -> Option<Arc<Image>> {
        match reference.digest() {
            Some(digest) => self.repo_digests.get(&reference.at(digest).full()).cloned(),
            None => self.tags.get(&reference.full()).cloned(),
        }
    }
}

impl State {
    /// Reads what is on disk, and removes what a crash or power cut left half made.
    fn recover(dir: &Path, boot: &str) -> io::Result<Self> {
        let mut catalog = Catalog::read(dir)?;
        clear_ingest(&dir.join("ingest"))?;
        let vouched: BTreeSet<Digest> = catalog
            .images
            .values()
            .filter(|record| record.unsynced_since.is_none())
            .flat_map(|record| record.layers.iter().map(|l| l.diff_id))
            .collect();
        let mut layers = HashMap::new();
        for entry in std::fs::read_dir(dir.join("layers"))? {
            let entry = entry?;
            let name = entry.file_name();
            let diff_id = name.to_str().and_then(|name| Digest::from_hex(name).ok());
            let marker = std::fs::read(entry.path().join("complete")).ok();
            let marker: Option<LayerMarker> = marker.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            match (diff_id, marker) {
                (Some(diff_id), Some(marker)) if marker.boot == boot || vouched.contains(&diff_id) => {
                    layers.insert(diff_id, marker);
                }
                _ => {
                    tracing::warn!(path = %entry.path().display(), "removing a layer that a power cut left in doubt");
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
        }
        let mut state = Self {
            catalog: Catalog::default(),
            configs: HashMap::new(),
            used: HashMap::new(),
            layers,
            leases: HashMap::new(),
        };
        let mut lost = Vec::new();
        for (manifest, record) in &catalog.images {
            let in_doubt = record.unsynced_since.as_deref().is_some_and(|since| since != boot);
            if let Err(why) = state.check_record(dir, manifest, record, in_doubt) {
                tracing::warn!(image = %record.config, why, "an image in the store is damaged and was dropped: pull it again");
                lost.push(*manifest);
            }
        }
        catalog.images.retain(|manifest, _| !lost.contains(manifest));
        catalog.tags.retain(|_, manifest| catalog.images.contains_key(manifest));
        if !lost.is_empty() {
            catalog.generation += 1;
            catalog.write_durably(dir)?;
        }
        state.catalog = catalog;
        state.settle(dir)?;
        Ok(state)
    }

    /// Whether all that a record names is there; by digest when `in_doubt`.
    fn check_record(&self, dir: &Path, manifest: &Digest, record: &Record, in_doubt: bool) -> Result<(), &'static str> {
        let path = |digest: &Digest| dir.join("blobs/sha256").join(digest.hex());
        for digest in [manifest, &record.config] {
            read_checked(&path(digest), digest).map_err(|_| "its manifest or configuration is missing or damaged")?;
        }
        for layer in &record.layers {
            if !self.layers.contains_key(&layer.diff_id) {
                return Err("an unpacked layer is missing");
            }
            let length = std::fs::metadata(path(&layer.blob)).map_err(|_| "a layer's blob is missing")?.len();
            if length != layer.size {
                return Err("a layer's blob has the wrong length");
            }
            if in_doubt && hash_file(&path(&layer.blob)).ok() != Some(layer.blob) {
                // Neither this record nor another may reuse it.
                let _ = std::fs::remove_file(path(&layer.blob));
                return Err("a layer's blob was damaged by a power cut");
            }
        }
        Ok(())
    }

    /// Makes the memory side match the catalog: configurations of new images are read.
    fn settle(&mut self, dir: &Path) -> io::Result<()> {
        self.configs.retain(|manifest, _| self.catalog.images.contains_key(manifest));
        self.used.retain(|manifest, _| self.catalog.images.contains_key(manifest));
        for (manifest, record) in &mut self.catalog.images {
            if !self.configs.contains_key(manifest) {
                let bytes = read_checked(&dir.join("blobs/sha256").join(record.config.hex()), &record.config)?;
                let (config, _) = ImageConfig::parse(&bytes).map_err(io::Error::other)?;
                self.configs.insert(*manifest, Arc::new(config));
            }
            let used = self.used.entry(*manifest).or_insert_with(|| Arc::new(AtomicU64::new(record.last_used.0)));
            // The newest of what was read and what running programs noted.
            let newest = used.fetch_max(record.last_used.0, Ordering::Relaxed).max(record.last_used.0);
            record.last_used = Timestamp(newest);
        }
        Ok(())
    }
}

/// Removes what was being made; partial downloads (named by their digest) stay.
fn clear_ingest(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| Digest::from_hex(name).is_ok()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read_checked(path: &Path, digest: &Digest) -> io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    if Digest::of(&bytes) == *digest {
        Ok(bytes)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("the blob {digest} in the store is damaged")))
    }
}

pub(crate) fn hash_file(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finish()),
            got => hasher.update(&buffer[..got]),
        }
    }
}

/// A layer of a record, from what the pass found.
pub(crate) fn layer_record(ingested: &crate::ingest::Ingested, media_type: &str) -> LayerRecord {
    LayerRecord {
        blob: ingested.blob,
        size: ingested.blob_size,
        media_type: media_type.to_owned(),
        diff_id: ingested.diff_id,
    }
}
