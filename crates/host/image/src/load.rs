//! `image load`: archives of other tools. docker-archive (docker save, skopeo, podman save, buildah) and OCI layouts in a
//! tar (oci-archive) are told apart by what they contain; either may be compressed as a whole.
//!
//! Members are first spooled to files, since either format may name a member before or after it comes. Links between
//! members (docker's older archives) are followed among the members only. All images of an archive are added at once,
//! or none.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::AsyncRead;

use crate::archive::{Kind, TarError, TarReader};
use crate::catalog::{LayerRecord, Record};
use crate::config::{ConfigError, ImageConfig};
use crate::digest::Digest;
use crate::image::Image;
use crate::ingest::{Compression, Expected, LayerError, Scratch, sniff};
use crate::limits::{CONFIG_MAX, MANIFEST_MAX};
use crate::manifest::{
    self, Descriptor, Document, Index, Manifest, ManifestError, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
    OCI_MANIFEST,
};
use crate::platform::Platform;
use crate::progress::{LayerState, Progress, ProgressSink};
use crate::reference::{Reference, ReferenceError};
use crate::store::{ImageStore, Inner, Lease, NewImage, StoreError, layer_record};
use crate::stream::chunks_of;

/// Most members of an archive: 500 layers and their legacy files, several images.
const MEMBERS_MAX: usize = 20_000;
/// Most images of an archive.
const IMAGES_MAX: usize = 1000;
/// Indexes within indexes.
const INDEX_DEPTH: usize = 4;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Why an archive was not loaded. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(
        "the stream is not an image archive: it has neither manifest.json (docker save) nor index.json (OCI layout)"
    )]
    NotAnArchive,
    #[error("the archive is damaged: {0}")]
    Tar(#[from] TarError),
    #[error("the archive's member {0:?} was refused: {1}")]
    Member(String, &'static str),
    #[error("the archive names {0:?}, which it does not contain")]
    Missing(String),
    #[error("the archive's {name} is {size} bytes long; at most {max} are accepted")]
    TooLong { name: String, size: u64, max: u64 },
    #[error("the archive's {what} is not what its format says: {source}")]
    Malformed { what: &'static str, source: serde_json::Error },
    #[error("the archive has more than {0}, the most that is accepted")]
    TooMany(&'static str),
    #[error("the archive's blob {0} has other content than its digest says")]
    WrongDigest(Digest),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the archive gives an image a bad name: {0}")]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for LoadError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ImageStore {
    /// Loads every image of an archive; for an index, the one for this machine.
    pub async fn load(
        &self,
        archive: impl AsyncRead + Send + Unpin + 'static,
        progress: ProgressSink,
    ) -> Result<Vec<Arc<Image>>, LoadError> {
        let chunks = chunks_of(archive);
        let inner = self.inner.clone();
        let work = move || {
            let spool = Spool::fill(inner.scratch()?, Box::new(chunks), inner.settings.layer.bytes)?;
            let mut loader = Loader { inner: &inner, spool: &spool, progress, leases: Vec::new(), images: Vec::new() };
            let loaded = loader.load();
            if loaded.is_err() {
                let brought: BTreeSet<Digest> = loader.leases.iter().flat_map(Lease::digests).copied().collect();
                drop(loader);
                // The failure itself is what the caller must hear of; what stays is pruned later.
                let _ = inner.sweep_those(|digest| brought.contains(digest));
            }
            loaded
        };
        let images = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        self.syncer.ask(&self.inner);
        Ok(images)
    }
}

enum Member {
    File(PathBuf, u64),
    Link(String),
}

/// An archive's members as files.
struct Spool {
    _home: Scratch,
    members: HashMap<String, Member>,
}

impl Spool {
    fn fill(home: Scratch, input: Box<dyn Read + Send>, max: u64) -> Result<Self, LoadError> {
        let mut input = BufReader::with_capacity(256 << 10, input);
        let decoded: Box<dyn Read> = match sniff(input.fill_buf()?) {
            Compression::Plain => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
        };
        let mut reader = TarReader::new(BufReader::with_capacity(256 << 10, decoded), 1 << 20);
        let mut members = HashMap::new();
        let mut buffer = vec![0; 256 << 10];
        let mut total = 0u64;
        while let Some(entry) = reader.next_entry().map_err(tar_error)? {
            if members.len() >= MEMBERS_MAX {
                return Err(LoadError::TooMany("20000 members"));
            }
            let shown = || String::from_utf8_lossy(&entry.path).chars().take(200).collect::<String>();
            let name = clean(&entry.path).ok_or_else(|| LoadError::Member(shown(), "its name points outside"))?;
            match entry.kind {
                Kind::File if entry.segments.is_none() => {
                    total = total.saturating_add(entry.size);
                    if total > max {
                        return Err(LoadError::TooMany("the largest unpacked size of a layer"));
                    }
                    let path = home.path().join(members.len().to_string());
                    let mut file = File::create(&path)?;
                    loop {
                        match reader.read_data(&mut buffer).map_err(tar_error)? {
                            0 => break,
                            got => file.write_all(&buffer[..got])?,
                        }
                    }
                    members.insert(name, Member::File(path, entry.size));
                }
                Kind::Symlink => {
                    let base = name.rsplit_once('/').map_or("", |(base, _)| base).to_owned();
                    let target = std::str::from_utf8(&entry.link).ok().and_then(|link| relative(&base, link));
                    let target = target.ok_or_else(|| LoadError::Member(shown(), "its link points outside"))?;
                    members.insert(name, Member::Link(target));
                }
                Kind::Hardlink => {
                    let target = clean(&entry.link);
                    let target = target.ok_or_else(|| LoadError::Member(shown(), "its link points outside"))?;
                    members.insert(name, Member::Link(target));
                }
                Kind::Directory => {}
                _ => return Err(LoadError::Member(shown(), "an image archive has only files, links and directories")),
            }
        }
        Ok(Self { _home: home, members })
    }

    fn find(&self, name: &str) -> Result<(&PathBuf, u64), LoadError> {
        let mut at = name.to_owned();
        for _ in 0..8 {
            match self.members.get(&at) {
                Some(Member::File(path, size)) => return Ok((path, *size)),
                Some(Member::Link(target)) => at.clone_from(target),
                None => break,
            }
        }
        Err(LoadError::Missing(name.chars().take(200).collect()))
    }

    fn read(&self, name: &str, max: u64) -> Result<Vec<u8>, LoadError> {
        let (path, size) = self.find(name)?;
        if size > max {
            return Err(LoadError::TooLong { name: name.chars().take(200).collect(), size, max });
        }
        Ok(std::fs::read(path)?)
    }

    fn read_blob(&self, descriptor: &Descriptor, max: u64) -> Result<Vec<u8>, LoadError> {
        let bytes = self.read(&blob_name(&descriptor.digest), max)?;
        if Digest::of(&bytes) != descriptor.digest || bytes.len() as u64 != descriptor.size {
            return Err(LoadError::WrongDigest(descriptor.digest));
        }
        Ok(bytes)
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Failures of the disk keep their name through the tar reader.
fn tar_error(error: TarError) -> LoadError {
    match error {
        TarError::Io(source) => source.into(),
        other => other.into(),
    }
}

fn clean(raw: &[u8]) -> Option<String> {
    relative("", std::str::from_utf8(raw).ok()?)
}

/// `link` seen from the directory `base`, both within the archive; `None` when it leads out.
fn relative(base: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    if link.starts_with('/') {
        return None;
    }
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

struct Loader<'a> {
    inner: &'a Arc<Inner>,
    spool: &'a Spool,
    progress: ProgressSink,
    leases: Vec<Lease>,
    images: Vec<NewImage>,
}

/// One image of docker-archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

impl Loader<'_> {
    fn load(&mut self) -> Result<Vec<Arc<Image>>, LoadError> {
        if self.spool.members.contains_key("manifest.json") {
            self.docker()?;
        } else if self.spool.members.contains_key("index.json") {
            self.oci()?;
        } else {
            return Err(LoadError::NotAnArchive);
        }
        if self.images.is_empty() {
            return Err(LoadError::NotAnArchive);
        }
        Ok(self.inner.add_images(std::mem::take(&mut self.images))?)
    }

    fn docker(&mut self) -> Result<(), LoadError> {
        let bytes = self.spool.read("manifest.json", MANIFEST_MAX)?;
        let entries: Vec<DockerEntry> =
            serde_json::from_slice(&bytes).map_err(|source| LoadError::Malformed { what: "manifest.json", source })?;
        if entries.len() > IMAGES_MAX {
            return Err(LoadError::TooMany("1000 images"));
        }
        for entry in entries {
            let config = self.spool.read(&entry.config, CONFIG_MAX)?;
            let (_, diff_ids) = ImageConfig::parse(&config)?;
            let paths = entry.layers.unwrap_or_default();
            if paths.len() != diff_ids.len() {
                return Err(ConfigError::LayerCount { diff_ids: diff_ids.len(), layers: paths.len() }.into());
            }
            let tags: Vec<Reference> =
                entry.repo_tags.unwrap_or_default().iter().map(|tag| tag.parse()).collect::<Result<_, _>>()?;
            let mut layers = Vec::new();
            for (path, diff_id) in paths.iter().zip(diff_ids) {
                let (file, size) = self.spool.find(path)?;
                layers.push(self.layer(file, size, None, diff_id, None)?);
            }
            let descriptor = |media_type: &str, digest, size| Descriptor {
                media_type: media_type.to_owned(),
                digest,
                size,
                platform: None,
                annotations: None,
            };
            let manifest = Manifest {
                schema_version: 2,
                media_type: OCI_MANIFEST.to_owned(),
                config: descriptor(OCI_CONFIG, Digest::of(&config), config.len() as u64),
                layers: layers.iter().map(|l| descriptor(&l.media_type, l.blob, l.size)).collect(),
            };
            let manifest = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
            self.image(&manifest, OCI_MANIFEST, &config, layers, tags)?;
        }
        Ok(())
    }

    fn oci(&mut self) -> Result<(), LoadError> {
        let bytes = self.spool.read("index.json", MANIFEST_MAX)?;
        let index: Index =
            serde_json::from_slice(&bytes).map_err(|source| LoadError::Malformed { what: "index.json", source })?;
        if index.manifests.len() > IMAGES_MAX {
            return Err(LoadError::TooMany("1000 images"));
        }
        let named = index.manifests.iter().any(|d| name_of(d).is_some());
        if !named && index.manifests.len() > 1 && index.manifests.iter().all(|d| d.platform.is_some()) {
            // The layout is one image for several machines.
            let chosen = index.choose(&Platform::host())?.clone();
            return self.oci_image(&chosen, Vec::new());
        }
        for descriptor in &index.manifests {
            let tags = match name_of(descriptor) {
                // umoci and others put only a tag there, which names nothing by itself.
                Some(name) if name.contains(['/', ':']) => vec![name.parse()?],
                _ => Vec::new(),
            };
            self.oci_image(descriptor, tags)?;
        }
        Ok(())
    }

    fn oci_image(&mut self, descriptor: &Descriptor, tags: Vec<Reference>) -> Result<(), LoadError> {
        let mut descriptor = descriptor.clone();
        for _ in 0..INDEX_DEPTH {
            let bytes = self.spool.read_blob(&descriptor, MANIFEST_MAX)?;
            let manifest = match manifest::parse(&bytes, Some(&descriptor.media_type))? {
                Document::Index(index) => {
                    descriptor = index.choose(&Platform::host())?.clone();
                    continue;
                }
                Document::Image(manifest) => manifest,
            };
            let config = self.spool.read_blob(&manifest.config, CONFIG_MAX)?;
            let (_, diff_ids) = ImageConfig::parse(&config)?;
            if manifest.layers.len() != diff_ids.len() {
                return Err(ConfigError::LayerCount { diff_ids: diff_ids.len(), layers: manifest.layers.len() }.into());
            }
            let mut layers = Vec::new();
            for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
                let (file, size) = self.spool.find(&blob_name(&layer.digest))?;
                let blob = Some((layer.digest, layer.size));
                layers.push(self.layer(file, size, blob, diff_id, Some(&layer.media_type))?);
            }
            return self.image(&bytes, &manifest.media_type, &config, layers, tags);
        }
        Err(LoadError::TooMany("4 indexes within each other"))
    }

    /// Takes one layer, unless it is here already.
    fn layer(
        &mut self,
        file: &std::path::Path,
        size: u64,
        blob: Option<(Digest, u64)>,
        diff_id: Digest,
        media_type: Option<&str>,
    ) -> Result<LayerRecord, LoadError> {
        // A plain layer's blob is named by its diff-id.
        let (digest, want) = blob.unwrap_or((diff_id, size));
        self.leases.push(self.inner.lease([digest, diff_id]));
        if self.inner.has_whole(&digest, want, &diff_id) {
            (self.progress)(Progress { digest, state: LayerState::Exists });
            let media_type = media_type.unwrap_or(OCI_LAYER).to_owned();
            return Ok(LayerRecord { blob: digest, size: want, media_type, diff_id });
        }
        (self.progress)(Progress { digest, state: LayerState::Unpacking });
        let (ingested, lease) = self.inner.take_file(file, Expected { blob, diff_id: Some(diff_id) })?;
        self.leases.push(lease);
        (self.progress)(Progress { digest, state: LayerState::Done });
        let found = match ingested.compression {
            Compression::Plain => OCI_LAYER,
            Compression::Gzip => OCI_LAYER_GZIP,
            Compression::Zstd => OCI_LAYER_ZSTD,
        };
        Ok(layer_record(&ingested, media_type.unwrap_or(found)))
    }

    fn image(
        &mut self,
        manifest: &[u8],
        media_type: &str,
        config: &[u8],
        layers: Vec<LayerRecord>,
        tags: Vec<Reference>,
    ) -> Result<(), LoadError> {
        self.leases.push(self.inner.lease([Digest::of(config), Digest::of(manifest)]));
        let config = self.inner.write_blob(config)?;
        let manifest = self.inner.write_blob(manifest)?;
        let now = self.inner.settings.clock.now();
        let record = Record {
            config,
            media_type: media_type.to_owned(),
            layers,
            repo_digests: Default::default(),
            pulled_at: now,
            last_used: now,
            unsynced_since: None,
        };
        self.images.push(NewImage { manifest, record, tags });
        Ok(())
    }
}

fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations.as_ref()?;
    let name = annotations.get(CONTAINERD_NAME).or_else(|| annotations.get(REF_NAME))?;
    Some(name.as_str())
}
