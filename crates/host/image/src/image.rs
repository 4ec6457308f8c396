//! One image of the store, as others see it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_base::{Bytes, Timestamp};
use serde::Serialize;

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::reference::Reference;

/// An image that is whole on this node.
#[derive(Clone, Debug, Serialize)]
pub struct Image {
    /// Digest of its configuration: what docker calls the image id.
    pub id: Digest,
    pub manifest_digest: Digest,
    /// Names it has here, sorted.
    pub tags: Vec<Reference>,
    /// `registry/repository@sha256:…` it is known by elsewhere.
    pub repo_digests: Vec<String>,
    pub config: Arc<ImageConfig>,
    /// Unpacked layers, bottom first: directories ready to be overlayfs lower layers.
    pub layers: Vec<PathBuf>,
    /// Sum of its files' lengths; shared layers count in each image.
    pub size: Bytes,
    /// Sum of its layers as a registry has them.
    pub compressed_size: Bytes,
    /// Device nodes in its layers, which were not created.
    pub devices_skipped: u64,
    pub pulled_at: Timestamp,
    #[serde(skip)]
    pub(crate) used: Arc<AtomicU64>,
}

impl Image {
    /// When it was last resolved or pulled.
    pub fn last_used(&self) -> Timestamp {
        Timestamp(self.used.load(Ordering::Relaxed))
    }
}
