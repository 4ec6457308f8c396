//! What a long operation tells while it works.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One step of one layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The layer's blob.
    pub digest: Digest,
    pub state: LayerState,
}

/// Where a layer is. A layer goes `Waiting → Downloading* → Unpacking → Done`, or straight to `Exists`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum LayerState {
    Waiting,
    /// Bytes of the compressed blob; unpacking goes on at the same time.
    Downloading {
        done: u64,
        total: u64,
    },
    /// All bytes came; what is left is being unpacked.
    Unpacking,
    Uploading {
        done: u64,
        total: u64,
    },
    Done,
    /// Nothing to do: it was there already.
    Exists,
}

/// Where progress goes. Called often and from several threads: it must be quick.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// A sink that ignores everything.
pub fn silent() -> ProgressSink {
    Arc::new(|_| {})
}
