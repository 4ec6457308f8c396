//! What the store accepts from an image nobody has vouched for. Each bound is far above what real images have and far
//! below what hurts a node; passing one is an error that names the bound.

use std::time::Duration;

/// Longest manifest or index, in bytes (OCI distribution specification, "Pushing manifests": registries and clients
/// are expected to take at least 4 MiB).
pub(crate) const MANIFEST_MAX: u64 = 4 << 20;

/// Longest image configuration, in bytes.
pub(crate) const CONFIG_MAX: u64 = 8 << 20;

/// Most layers: overlayfs stacks at most this many lower directories (`OVL_MAX_STACK` in `fs/overlayfs/params.h`).
pub(crate) const LAYERS_MAX: usize = 500;

/// Most environment variables in a configuration, and most words in any of its other lists.
pub(crate) const CONFIG_LIST_MAX: usize = 4096;

/// Longest single word of a configuration, in bytes: `MAX_ARG_STRLEN`, above which execve(2) refuses it.
pub(crate) const CONFIG_WORD_MAX: usize = 128 << 10;

/// Bounds of one layer's unpacking.
#[derive(Clone, Debug)]
pub struct LayerLimits {
    /// Most entries in one layer.
    pub entries: u64,
    /// Most bytes one layer may unpack to, counting a sparse file at its full length.
    pub bytes: u64,
    /// Most unpacked bytes per compressed byte, counted once a layer has unpacked [`Self::ratio_from`] bytes. Gzip
    /// cannot pass 1032; program and library files compress to a third or so.
    pub ratio: u64,
    /// Unpacked bytes below which the ratio does not count.
    pub ratio_from: u64,
    /// Longest path of an entry, in bytes (`PATH_MAX`).
    pub path: usize,
    /// Most directories in a path. Removing a tree holds a descriptor for each.
    pub depth: usize,
    /// Longest extended (PAX) or long-name header, in bytes.
    pub header: u64,
}

impl Default for LayerLimits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            ratio: 250,
            ratio_from: 512 << 20,
            path: 4096,
            depth: 256,
            header: 1 << 20,
        }
    }
}

/// Patience with a registry.
#[derive(Clone, Debug)]
pub struct TransferLimits {
    /// Longest wait for a connection and its TLS handshake.
    pub connect: Duration,
    /// Longest wait for the head of a response.
    pub response: Duration,
    /// Over each span of waiting this long …
    pub stall_window: Duration,
    /// … at least this many bytes must come, or the connection is cut.
    pub stall_bytes: u64,
    /// Attempts for one request or blob before giving up; an attempt that brought new bytes does not count.
    pub attempts: u32,
    /// Pause before the second attempt; doubles each time, with jitter.
    pub backoff: Duration,
    /// Layers fetched at once.
    pub parallel: usize,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            response: Duration::from_secs(30),
            stall_window: Duration::from_secs(20),
            stall_bytes: 64 << 10,
            attempts: 5,
            backoff: Duration::from_millis(200),
            parallel: 4,
        }
    }
}
