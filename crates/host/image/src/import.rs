//! `image import`: a root filesystem's tar becomes an image of one layer, or one more layer on an image that is here.

use std::io;
use std::sync::Arc;

use coppice_base::Timestamp;
use tokio::io::AsyncRead;

use crate::catalog::Record;
use crate::config::{HistoryEntry, ImageConfig};
use crate::image::Image;
use crate::ingest::{Compression, Expected, LayerError};
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::store::{ImageStore, Inner, NewImage, StoreError, layer_record};
use crate::stream::chunks_of;

/// What the image shall say about running it; the tar cannot.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// As the image has it; its platform, time and history are written by the import, whatever is in them here.
    pub config: ImageConfig,
    /// The host's when not given.
    pub platform: Option<Platform>,
    /// Kept in the image's history.
    pub message: Option<String>,
    /// The image below: its layers, and its configuration where `config` says nothing.
    pub base: Option<Arc<Image>>,
}

/// Why an import failed. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the root filesystem was not imported: {0}")]
    Layer(#[from] LayerError),
    #[error("the image below, {0}, was removed meanwhile; fetch it again")]
    NoBase(crate::digest::Digest),
    #[error("the options of the import make no configuration: {0}")]
    Config(#[from] crate::config::ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for ImportError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ImageStore {
    /// Makes an image of one layer from a root filesystem's tar (plain, gzip or zstd) and names it `reference`.
    pub async fn import(
        &self,
        tar: impl AsyncRead + Send + Unpin + 'static,
        reference: Option<Reference>,
        options: ImportOptions,
    ) -> Result<Arc<Image>, ImportError> {
        let chunks = chunks_of(tar);
        let inner = self.inner.clone();
        let work = move || inner.import(Box::new(chunks), reference, options);
        let image = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
        self.syncer.ask(&self.inner);
        Ok(image)
    }
}

impl Inner {
    fn import(
        self: &Arc<Self>,
        chunks: Box<dyn crate::ingest::Chunks>,
        reference: Option<Reference>,
        options: ImportOptions,
    ) -> Result<Arc<Image>, ImportError> {
        let Below { config: base, layers: mut below, lease: _base_lease } = self.below(options.base.as_deref())?;
        let platform =
            options.platform.unwrap_or_else(|| base.as_ref().map_or_else(Platform::host, ImageConfig::platform));
        let now = self.settings.clock.now();
        let created = rfc3339(now);
        let history = HistoryEntry {
            created: Some(created.clone()),
            created_by: Some("coppice image import".into()),
            comment: options.message,
            ..HistoryEntry::default()
        };
        let config = match base {
            Some(base) => on_top(base, options.config),
            None => ImageConfig { history: Vec::new(), ..options.config },
        };
        let config = ImageConfig {
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            created: Some(created),
            history: config.history.iter().cloned().chain([history]).collect(),
            ..config
        };
        // Options are judged before the work, by the rules for anyone's configuration.
        ImageConfig::parse(&config.to_json(&[]))?;
        let (ingested, _layer_lease) = self.take_stream(chunks, Expected::default())?;
        let media_type = match ingested.compression {
            Compression::Plain => OCI_LAYER,
            Compression::Gzip => OCI_LAYER_GZIP,
            Compression::Zstd => OCI_LAYER_ZSTD,
        };
        below.push(layer_record(&ingested, media_type));
        let diff_ids: Vec<_> = below.iter().map(|layer| layer.diff_id).collect();
        self.add_made_image(&config.to_json(&diff_ids), below, reference.as_slice(), now).map_err(Into::into)
    }

    /// What an import is put upon; leased, so that it stays until the new image has it.
    fn below(self: &Arc<Self>, base: Option<&Image>) -> Result<Below, ImportError> {
        let Some(base) = base else { return Ok(Below { config: None, layers: Vec::new(), lease: self.lease([]) }) };
        let find = || self.lock_state().catalog.images.get(&base.manifest_digest).map(|record| record.layers.clone());
        let layers = find().ok_or(ImportError::NoBase(base.id))?;
        let lease = self.lease(layers.iter().flat_map(|layer| [layer.blob, layer.diff_id]));
        // Whoever removed it before the lease was there has taken its record first.
        let layers = find().ok_or(ImportError::NoBase(base.id))?;
        Ok(Below { config: Some((*base.config).clone()), layers, lease })
    }

    /// Stores an image whose layers are here and whose manifest is ours to write.
    pub(crate) fn add_made_image(
        self: &Arc<Self>,
        config: &[u8],
        layers: Vec<crate::catalog::LayerRecord>,
        tags: &[Reference],
        now: Timestamp,
    ) -> io::Result<Arc<Image>> {
        let descriptor = |media_type: &str, digest, size| Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
        };
        let config_digest = crate::digest::Digest::of(config);
        let manifest = Manifest {
            schema_version: 2,
            media_type: OCI_MANIFEST.to_owned(),
            config: descriptor(OCI_CONFIG, config_digest, config.len() as u64),
            layers: layers.iter().map(|l| descriptor(&l.media_type, l.blob, l.size)).collect(),
        };
        let manifest = serde_json::to_vec(&manifest)?;
        let _lease = self.lease([config_digest, crate::digest::Digest::of(&manifest)]);
        self.write_blob(config)?;
        let manifest = self.write_blob(&manifest)?;
        let record = Record {
            config: config_digest,
            media_type: OCI_MANIFEST.to_owned(),
            layers,
            repo_digests: Default::default(),
            pulled_at: now,
            last_used: now,
            unsynced_since: None,
        };
        self.add_images(vec![NewImage { manifest, record, tags: tags.to_vec() }])?
            .pop()
            .ok_or_else(|| io::Error::other("the new image is not in the catalog"))
    }
}

struct Below {
    config: Option<ImageConfig>,
    layers: Vec<crate::catalog::LayerRecord>,
    lease: crate::store::Lease,
}

/// `base` where `over` says nothing. An entry point brings its own arguments; variables are set one by one.
fn on_top(base: ImageConfig, over: ImageConfig) -> ImageConfig {
    let variable = |line: &str| line.split('=').next().unwrap_or_default().to_owned();
    let replaced: Vec<String> = over.env.iter().map(|line| variable(line)).collect();
    let kept = base.env.iter().filter(|line| !replaced.contains(&variable(line))).cloned();
    let or = |over: String, base: &str| if over.is_empty() { base.to_owned() } else { over };
    let cmd = if over.entrypoint.is_empty() && over.cmd.is_empty() { base.cmd.clone() } else { over.cmd };
    ImageConfig {
        env: kept.chain(over.env).collect(),
        cmd,
        entrypoint: if over.entrypoint.is_empty() { base.entrypoint.clone() } else { over.entrypoint },
        working_dir: or(over.working_dir, &base.working_dir),
        user: or(over.user, &base.user),
        ..base
    }
}

/// `2026-11-21T12:00:00Z`, by the days-from-civil algorithm (H. Hinnant) run backwards.
fn rfc3339(at: Timestamp) -> String {
    let seconds = at.0 / 1000;
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696_000, "2000-02-29T12:34:56Z"),
            (1_795_219_200_999, "2026-11-21T00:00:00Z"),
            (4_107_542_399_000, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(Timestamp(ms)), text);
        }
    }
}
