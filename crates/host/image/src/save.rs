//! `image save` and `image export`: archives for other tools. The same images always give the same bytes: members are
//! sorted and dated 1970, and blobs are what was pulled, byte for byte.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde_json::json;
use tokio::io::AsyncWrite;

use crate::archive::{Merged, TarWriter, write_merged};
use crate::catalog::Record;
use crate::digest::{Digest, Hasher};
use crate::image::Image;
use crate::ingest::{Compression, sniff};
use crate::manifest::{Descriptor, Index, OCI_INDEX};
use crate::store::{ImageStore, Inner, ResolveError};
use crate::stream::write_through;

/// What `image save` writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// As `docker save` and `docker load`; layers are not compressed.
    #[default]
    Docker,
    /// An OCI layout in a tar; manifests keep their digests.
    Oci,
}

/// Why an archive could not be written. What was written so far is not an archive.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("there is no image {0:?} here: see `coppice images`")]
    NotFound(String),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error("the store's blob {0} is damaged: remove the image and pull it again")]
    Damaged(Digest),
    #[error("the archive could not be written: {0}")]
    Io(#[from] io::Error),
}

/// An image to save, with the names to give it there.
struct Chosen {
    image: Arc<Image>,
    record: Record,
    tags: Vec<String>,
}

impl ImageStore {
    /// Writes images into one archive. A name in `sources` is kept; an image chosen by id goes without name.
    pub async fn save(
        &self,
        sources: &[String],
        format: ArchiveFormat,
        out: impl AsyncWrite + Unpin,
    ) -> Result<(), SaveError> {
        let mut chosen: BTreeMap<Digest, Chosen> = BTreeMap::new();
        for text in sources {
            let image = self.inner.find(text)?.ok_or_else(|| SaveError::NotFound(text.clone()))?;
            let record = self.inner.lock_state().catalog.images.get(&image.manifest_digest).cloned();
            let record = record.ok_or_else(|| SaveError::NotFound(text.clone()))?;
            let tag = text.parse::<crate::Reference>().ok().filter(|r| image.tags.contains(r)).map(|r| r.full());
            let entry = chosen.entry(image.manifest_digest).or_insert(Chosen { image, record, tags: Vec::new() });
            entry.tags.extend(tag);
        }
        let digests = chosen.values().flat_map(|c| {
            let layers = c.record.layers.iter().flat_map(|l| [l.blob, l.diff_id]);
            layers.chain([c.record.config, c.image.manifest_digest]).collect::<Vec<_>>()
        });
        let lease = self.inner.lease(digests);
        let inner = self.inner.clone();
        let chosen: Vec<Chosen> = chosen.into_values().collect();
        write_through(out, move |out| {
            let _lease = lease;
            match format {
                ArchiveFormat::Docker => inner.save_docker(&chosen, out),
                ArchiveFormat::Oci => inner.save_oci(&chosen, out),
            }
        })
        .await
    }

    /// Writes the root filesystem that an image's layers make, as a tar.
    pub async fn export(&self, source: &str, out: impl AsyncWrite + Unpin) -> Result<(), SaveError> {
        let image = self.inner.find(source)?.ok_or_else(|| SaveError::NotFound(source.to_owned()))?;
        let record = self.inner.lock_state().catalog.images.get(&image.manifest_digest).cloned();
        let record = record.ok_or_else(|| SaveError::NotFound(source.to_owned()))?;
        let lease = self.inner.lease(record.layers.iter().map(|l| l.diff_id));
        write_through(out, move |out| {
            let _lease = lease;
            let mut merged = Merged::default();
            for layer in &image.layers {
                merged.add(layer)?;
            }
            Ok(write_merged(&merged, out)?)
        })
        .await
    }
}

impl Inner {
    fn save_docker(&self, chosen: &[Chosen], out: &mut dyn Write) -> Result<(), SaveError> {
        let mut writer = TarWriter::new(out);
        let mut written = BTreeSet::new();
        let mut manifest = Vec::new();
        for Chosen { record, tags, .. } in chosen {
            let config = format!("{}.json", record.config.hex());
            if written.insert(record.config) {
                let bytes = self.read_blob(&record.config).map_err(|_| SaveError::Damaged(record.config))?;
                writer.file(&config, bytes.len() as u64, &mut &bytes[..])?;
            }
            let mut layers = Vec::new();
            for layer in &record.layers {
                let name = format!("{}.tar", layer.diff_id.hex());
                if written.insert(layer.diff_id) {
                    let size = self.lock_state().layers.get(&layer.diff_id).map(|marker| marker.tar_bytes);
                    let size = size.ok_or(SaveError::Damaged(layer.blob))?;
                    let mut source = Checked::new(decoded(File::open(self.blob_path(&layer.blob))?)?);
                    // A decoder that fails or ends early met a damaged blob.
                    writer.file(&name, size, &mut source).map_err(|error| match error.kind() {
                        io::ErrorKind::BrokenPipe => SaveError::Io(error),
                        _ => SaveError::Damaged(layer.blob),
                    })?;
                    if source.hasher.finish() != layer.diff_id {
                        return Err(SaveError::Damaged(layer.blob));
                    }
                }
                layers.push(name);
            }
            manifest.push(json!({"Config": config, "RepoTags": tags, "Layers": layers}));
        }
        let manifest = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
        writer.file("manifest.json", manifest.len() as u64, &mut &manifest[..])?;
        writer.finish()?;
        Ok(())
    }

    fn save_oci(&self, chosen: &[Chosen], out: &mut dyn Write) -> Result<(), SaveError> {
        let mut writer = TarWriter::new(out);
        let mut blobs = BTreeSet::new();
        let mut manifests = Vec::new();
        for Chosen { image, record, tags } in chosen {
            blobs.extend(record.layers.iter().map(|l| l.blob));
            blobs.extend([record.config, image.manifest_digest]);
            let plain = Descriptor {
                media_type: record.media_type.clone(),
                digest: image.manifest_digest,
                size: std::fs::metadata(self.blob_path(&image.manifest_digest))?.len(),
                platform: Some(image.config.platform()).filter(|p| !p.architecture.is_empty()),
                annotations: None,
            };
            let named = tags.iter().map(|tag| {
                let keys = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];
                let annotations = keys.iter().map(|key| ((*key).to_owned(), tag.clone())).collect();
                Descriptor { annotations: Some(annotations), ..plain.clone() }
            });
            manifests.extend(named);
            if tags.is_empty() {
                manifests.push(plain);
            }
        }
        for digest in blobs {
            let file = File::open(self.blob_path(&digest))?;
            let size = file.metadata()?.len();
            let mut source = Checked::new(file);
            writer.file(&format!("blobs/sha256/{}", digest.hex()), size, &mut source)?;
            if source.hasher.finish() != digest {
                return Err(SaveError::Damaged(digest));
            }
        }
        let index = Index { schema_version: 2, media_type: OCI_INDEX.to_owned(), manifests };
        let index = serde_json::to_vec(&index).map_err(io::Error::from)?;
        writer.file("index.json", index.len() as u64, &mut &index[..])?;
        let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
        writer.file("oci-layout", version.len() as u64, &mut &version[..])?;
        writer.finish()?;
        Ok(())
    }
}

/// Hashes what is read.
struct Checked<R> {
    inner: R,
    hasher: Hasher,
}

impl<R> Checked<R> {
    fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

/// A blob's uncompressed bytes.
fn decoded(file: File) -> io::Result<Box<dyn Read>> {
    let mut reader = io::BufReader::with_capacity(256 << 10, file);
    Ok(match sniff(io::BufRead::fill_buf(&mut reader)?) {
        Compression::Plain => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(reader)?),
    })
}
