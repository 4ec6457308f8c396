//! `pull`: manifest, configuration, then layers side by side, each unpacked while it comes.
//!
//! Mirrors are asked first, in order, without credentials; the registry itself last. Whatever came stays: the next
//! place, and the next pull, go on from it. A blob that several pulls want is fetched by one and awaited by the others.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, Semaphore};
use tokio::task::JoinSet;

use crate::catalog::{LayerRecord, Record};
use crate::config::{ConfigError, ImageConfig};
use crate::digest::Digest;
use crate::image::Image;
use crate::ingest::{Chunks, Expected, Ingested, LayerError, Tee, ingest};
use crate::limits::CONFIG_MAX;
use crate::manifest::{self, Descriptor, Document, Manifest, ManifestError};
use crate::platform::Platform;
use crate::progress::{LayerState, Progress, ProgressSink};
use crate::reference::{DEFAULT_REGISTRY, Reference};
use crate::registry::{Access, Credentials, RegistryError, Session};
use crate::store::{ImageStore, Inner, Lease, NewImage, StoreError, layer_record};
use crate::stream::{ChannelChunks, chunk_channel};
use crate::unpack::UnpackError;

/// Where Docker's own registry really is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// Indexes within indexes.
const INDEX_DEPTH: usize = 4;
/// Progress is told every so many bytes.
const PROGRESS_STEP: u64 = 256 << 10;

/// When to ask the registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Only when the image is not here.
    #[default]
    Missing,
    /// Also when it is here: the tag may have moved.
    Always,
    Never,
}

#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    pub policy: PullPolicy,
    /// The host's when not given.
    pub platform: Option<Platform>,
    /// Plain HTTP is allowed for this registry.
    pub insecure: bool,
    pub credentials: Credentials,
}

/// Why a pull failed. The store has no new image; layers that came whole and partial downloads are kept for the next
/// attempt until pruned, except when the disk is full.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{0} is not on this node, and pulling was forbidden")]
    NotHere(Reference),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error("{reference} was not pulled: {source}")]
    Manifest { reference: Reference, source: ManifestError },
    #[error("{reference} was not pulled: {source}")]
    Config { reference: Reference, source: ConfigError },
    #[error("{reference} was not pulled: {source}")]
    Layer { reference: Reference, source: LayerError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for PullError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

impl PullError {
    fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Store(StoreError::DiskFull) | Self::Layer { source: LayerError::Unpack(UnpackError::DiskFull), .. }
        )
    }

    /// Whether another registry cannot help.
    fn is_disk(&self) -> bool {
        matches!(
            self,
            Self::Store(_) | Self::Layer { source: LayerError::Unpack(UnpackError::DiskFull | UnpackError::Io(_)), .. }
        )
    }
}

impl ImageStore {
    /// Makes `reference` be here, whole and unpacked.
    pub async fn pull(
        &self,
        reference: &Reference,
        options: PullOptions,
        progress: ProgressSink,
    ) -> Result<Arc<Image>, PullError> {
        let wanted = options.platform.clone().unwrap_or_else(Platform::host);
        if options.policy != PullPolicy::Always {
            // A reference always parses as one.
            let local = self.resolve(&reference.full()).ok().flatten();
            match local.filter(|image| fits(&wanted, &image.config)) {
                Some(image) => return Ok(image),
                None if options.policy == PullPolicy::Never => return Err(PullError::NotHere(reference.clone())),
                None => {}
            }
        }
        let pulled = self.pull_from_anywhere(reference, &wanted, options, &progress).await;
        if pulled.as_ref().is_err_and(PullError::is_disk_full) {
            let inner = self.inner.clone();
            // The full disk is the error to report; what could not be removed now is pruned later.
            let _ = tokio::task::spawn_blocking(move || inner.reclaim()).await;
        }
        pulled
    }

    async fn pull_from_anywhere(
        &self,
        reference: &Reference,
        wanted: &Platform,
        options: PullOptions,
        progress: &ProgressSink,
    ) -> Result<Arc<Image>, PullError> {
        let settings = &self.inner.settings;
        let mirrors = settings.mirrors.get(reference.registry()).map_or(&[][..], |list| list);
        for mirror in mirrors {
            let plain = settings.insecure.contains(mirror);
            let place = Place { endpoint: mirror, plain, credentials: Credentials::Anonymous };
            match self.pull_from(place, reference, wanted, progress).await {
                Ok(image) => return Ok(image),
                Err(error) if error.is_disk() => return Err(error),
                Err(error) => tracing::warn!(%mirror, %reference, %error, "a mirror failed; trying the next place"),
            }
        }
        let endpoint = match reference.registry() {
            DEFAULT_REGISTRY => DOCKER_HUB_HOST,
            other => other,
        };
        let plain = options.insecure || settings.insecure.contains(reference.registry());
        let place = Place { endpoint, plain, credentials: options.credentials };
        self.pull_from(place, reference, wanted, progress).await
    }

    async fn pull_from(
        &self,
        place: Place<'_>,
        reference: &Reference,
        wanted: &Platform,
        progress: &ProgressSink,
    ) -> Result<Arc<Image>, PullError> {
        let Place { endpoint, plain, credentials } = place;
        let repository = reference.repository();
        let session = Session::open(&self.connector, endpoint, repository, Access::Pull, credentials, plain).await?;
        let session = Arc::new(session);
        let top = session.manifest(&reference.selector()).await?;
        let mut fetched = None;
        let mut current = top.bytes.clone();
        let mut content_type = top.content_type.clone();
        let mut digest = top.digest;
        let wrong_manifest = |source| PullError::Manifest { reference: reference.clone(), source };
        for _ in 0..INDEX_DEPTH {
            match manifest::parse(&current, content_type.as_deref()).map_err(wrong_manifest)? {
                Document::Image(manifest) => {
                    fetched = Some(manifest);
                    break;
                }
                Document::Index(index) => {
                    let chosen = index.choose(wanted).map_err(wrong_manifest)?;
                    let next = session.manifest(&chosen.digest.to_string()).await?;
                    (current, content_type, digest) = (next.bytes, next.content_type, next.digest);
                }
            }
        }
        let manifest = fetched.ok_or_else(|| wrong_manifest(ManifestError::Ambiguous))?;
        let config = session.small_blob(&manifest.config.digest, manifest.config.size, CONFIG_MAX).await?;
        let wrong_config = |source| PullError::Config { reference: reference.clone(), source };
        let (parsed, diff_ids) = ImageConfig::parse(&config).map_err(wrong_config)?;
        if !fits(wanted, &parsed) {
            let available = vec![parsed.platform().to_string()];
            return Err(wrong_manifest(ManifestError::Platform { wanted: wanted.clone(), available }));
        }
        if diff_ids.len() != manifest.layers.len() {
            let layers = manifest.layers.len();
            return Err(wrong_config(ConfigError::LayerCount { diff_ids: diff_ids.len(), layers }));
        }
        let small_lease = self.inner.lease([digest, manifest.config.digest]);
        let (layers, leases) = self.pull_layers(&session, reference, &manifest, &diff_ids, progress).await?;

        let now = self.inner.settings.clock.now();
        let record = Record {
            config: manifest.config.digest,
            media_type: manifest.media_type.clone(),
            layers,
            repo_digests: [top.digest, digest].iter().map(|d| reference.at(*d).full()).collect(),
            pulled_at: now,
            last_used: now,
            unsynced_since: None,
        };
        let tags = if reference.digest().is_some() { Vec::new() } else { vec![reference.clone()] };
        let inner = self.inner.clone();
        let image = tokio::task::spawn_blocking(move || {
            inner.write_blob(&config)?;
            inner.write_blob(&current)?;
            let added = inner.add_images(vec![NewImage { manifest: digest, record, tags }]);
            drop((small_lease, leases));
            added
        })
        .await
        .map_err(io::Error::other)??;
        self.syncer.ask(&self.inner);
        image.into_iter().next().ok_or_else(|| io::Error::other("the new image is not in the catalog").into())
    }

    async fn pull_layers(
        &self,
        session: &Arc<Session>,
        reference: &Reference,
        manifest: &Manifest,
        diff_ids: &[Digest],
        progress: &ProgressSink,
    ) -> Result<(Vec<LayerRecord>, Vec<Lease>), PullError> {
        for layer in &manifest.layers {
            progress(Progress { digest: layer.digest, state: LayerState::Waiting });
        }
        let permits = Arc::new(Semaphore::new(self.inner.settings.transfer.parallel.max(1)));
        // Dropped on the first failure, which stops the others.
        let mut tasks = JoinSet::new();
        for (at, (layer, diff_id)) in manifest.layers.iter().zip(diff_ids).enumerate() {
            let job = LayerJob {
                inner: self.inner.clone(),
                session: session.clone(),
                layer: layer.clone(),
                diff_id: *diff_id,
                progress: progress.clone(),
            };
            let permits = permits.clone();
            tasks.spawn(async move {
                let _permit = permits.acquire().await;
                (at, job.run().await)
            });
        }
        let mut records: Vec<Option<LayerRecord>> = vec![None; diff_ids.len()];
        let mut leases = Vec::new();
        while let Some(done) = tasks.join_next().await {
            let (at, result) = done.map_err(io::Error::other)?;
            let (record, lease) = result.map_err(|error| match error {
                JobError::Registry(error) => PullError::Registry(error),
                JobError::Layer(source) => PullError::Layer { reference: reference.clone(), source },
            })?;
            records[at] = Some(record);
            leases.push(lease);
        }
        Ok((records.into_iter().flatten().collect(), leases))
    }
}

/// Whether an image's configuration suits `wanted`; one that does not say is taken.
fn fits(wanted: &Platform, config: &ImageConfig) -> bool {
    config.architecture.is_empty() || wanted.suits(&config.platform()).is_some()
}

/// A registry or mirror.
struct Place<'a> {
    endpoint: &'a str,
    plain: bool,
    credentials: Credentials,
}

enum JobError {
    Registry(RegistryError),
    Layer(LayerError),
}

impl From<io::Error> for JobError {
    fn from(error: io::Error) -> Self {
        Self::Layer(error.into())
    }
}

/// One layer of one pull.
struct LayerJob {
    inner: Arc<Inner>,
    session: Arc<Session>,
    layer: Descriptor,
    diff_id: Digest,
    progress: ProgressSink,
}

impl LayerJob {
    async fn run(self) -> Result<(LayerRecord, Lease), JobError> {
        let (digest, size) = (self.layer.digest, self.layer.size);
        let lease = self.inner.lease([digest, self.diff_id]);
        let record =
            LayerRecord { blob: digest, size, media_type: self.layer.media_type.clone(), diff_id: self.diff_id };
        let guard = Arc::new(self.inner.blob_lock(&digest).lock_owned().await);
        if self.inner.has_whole(&digest, size, &self.diff_id) {
            self.tell(LayerState::Exists);
            return Ok((record, lease));
        }
        if self.inner.blob_path(&digest).exists() && self.unpack_blob(&guard).await? {
            self.tell(LayerState::Done);
            return Ok((record, lease));
        }
        let resumed = self.partial_length()?;
        let found = match self.download(&guard, resumed).await {
            // What an earlier pull left was damaged: once more, from the beginning.
            Err(JobError::Layer(LayerError::WrongDigest { .. } | LayerError::Unpack(_))) if resumed > 0 => {
                self.download(&guard, 0).await?
            }
            other => other?,
        };
        self.tell(LayerState::Done);
        Ok((layer_record(&found, &self.layer.media_type), lease))
    }

    fn tell(&self, state: LayerState) {
        (self.progress)(Progress { digest: self.layer.digest, state });
    }

    fn expected(&self) -> Expected {
        Expected { blob: Some((self.layer.digest, self.layer.size)), diff_id: Some(self.diff_id) }
    }

    /// Unpacks a blob that is here without its layer; false when the blob is no good.
    async fn unpack_blob(&self, guard: &Arc<OwnedMutexGuard<()>>) -> Result<bool, JobError> {
        self.tell(LayerState::Unpacking);
        let (inner, expected, guard) = (self.inner.clone(), self.expected(), guard.clone());
        let path = inner.blob_path(&self.layer.digest);
        let work = move || {
            let _guard = guard;
            match inner.take_file(&path, expected) {
                Ok(_) => Ok(true),
                Err(LayerError::WrongDigest { .. } | LayerError::WrongSize { .. }) => {
                    std::fs::remove_file(&path)?;
                    Ok(false)
                }
                Err(error) => Err(JobError::Layer(error)),
            }
        };
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
    }

    /// Bytes of an earlier download; one that is too long is thrown away.
    fn partial_length(&self) -> io::Result<u64> {
        let path = self.inner.partial_path(&self.layer.digest);
        match std::fs::metadata(&path) {
            Ok(found) if found.len() <= self.layer.size => Ok(found.len()),
            Ok(_) => std::fs::remove_file(&path).map(|()| 0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Downloads from `resumed` on and unpacks from the beginning, at the same time.
    async fn download(&self, guard: &Arc<OwnedMutexGuard<()>>, resumed: u64) -> Result<Ingested, JobError> {
        let (digest, size) = (self.layer.digest, self.layer.size);
        let path = self.inner.partial_path(&digest);
        let (sender, channel) = chunk_channel();
        // The guard goes with the worker: should this pull be dropped, the file is still in its hands for a moment.
        let (inner, expected, guard) = (self.inner.clone(), self.expected(), guard.clone());
        let worker = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            let keep = OpenOptions::new().create(true).append(true).open(&path)?;
            keep.set_len(resumed)?;
            let before = File::open(&path)?.take(resumed);
            let chunks = Resumed { before, rest: channel };
            let tee = Tee::new(Box::new(chunks), Some((keep, resumed)), inner.settings.layer.bytes);
            let result = inner.scratch().map_err(LayerError::from).and_then(|scratch| {
                let ingested = ingest(tee, &scratch, expected, &inner.settings.layer, &inner.boot)?;
                std::fs::rename(&path, inner.blob_path(&digest))?;
                inner.keep_layer(&scratch, &ingested.diff_id)?;
                Ok(ingested)
            });
            match &result {
                // Cut short, not wrong: the next attempt goes on from here.
                Err(error) if is_cut(error, size, &path) => {}
                Err(_) => {
                    // The refusal is the error to report; a file that stays is found too long or wrong next time.
                    let _ = std::fs::remove_file(&path);
                }
                Ok(_) => {}
            }
            result
        });
        self.tell(LayerState::Downloading { done: resumed, total: size });
        let told = AtomicU64::new(resumed);
        let on_bytes = |done: u64| {
            if done >= told.load(Ordering::Relaxed) + PROGRESS_STEP || done == size {
                told.store(done, Ordering::Relaxed);
                self.tell(LayerState::Downloading { done, total: size });
            }
        };
        let fetched = self.session.blob(&digest, size, resumed, &sender, &on_bytes).await;
        drop(sender);
        if fetched.is_ok() {
            self.tell(LayerState::Unpacking);
        }
        let ingested = worker.await.map_err(io::Error::other)?;
        match (fetched, ingested) {
            (_, Ok(ingested)) => Ok(ingested),
            // The download's own failure explains the short blob that the worker saw.
            (Err(error), Err(_)) if !matches!(error, RegistryError::Unwanted) => {
                if matches!(error, RegistryError::WrongSize { .. } | RegistryError::WrongRange { .. }) {
                    // Nothing that such a registry sent is worth going on from.
                    let _ = std::fs::remove_file(self.inner.partial_path(&digest));
                }
                Err(JobError::Registry(error))
            }
            (_, Err(error)) => Err(JobError::Layer(error)),
        }
    }
}

/// Whether a failed pass only lacked bytes.
fn is_cut(error: &LayerError, size: u64, path: &std::path::Path) -> bool {
    let short = std::fs::metadata(path).is_ok_and(|found| found.len() < size);
    let lacking =
        matches!(error, LayerError::WrongSize { .. } | LayerError::Unpack(UnpackError::Tar(_) | UnpackError::Io(_)));
    short && lacking
}

/// What an earlier download kept, then what comes.
struct Resumed {
    before: io::Take<File>,
    rest: ChannelChunks,
}

impl Chunks for Resumed {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.before.limit() > 0 {
            let mut chunk = vec![0; usize::try_from(self.before.limit().min(1 << 20)).unwrap_or(1 << 20)];
            self.before.read_exact(&mut chunk)?;
            return Ok(Some(chunk.into()));
        }
        self.rest.next()
    }
}
