//! Layers taken into the store from a stream or file: the pass of [`crate::ingest`], then both renames.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::digest::Digest;
use crate::ingest::{Chunks, Expected, FileChunks, Ingested, LayerError, Tee, ingest};
use crate::store::{Inner, Lease};

impl Inner {
    /// Takes a layer from a stream, keeping its bytes as a blob.
    pub(crate) fn take_stream(
        self: &Arc<Self>,
        chunks: Box<dyn Chunks>,
        expected: Expected,
    ) -> Result<(Ingested, Lease), LayerError> {
        let blob_home = self.scratch()?;
        let blob = blob_home.path().join("blob");
        let tee = Tee::new(chunks, Some((File::create(&blob)?, 0)), self.settings.layer.bytes);
        let tree = self.scratch()?;
        let ingested = ingest(tee, &tree, expected, &self.settings.layer, &self.boot)?;
        let lease = self.lease([ingested.blob, ingested.diff_id]);
        std::fs::rename(&blob, self.blob_path(&ingested.blob))?;
        self.keep_layer(&tree, &ingested.diff_id)?;
        Ok((ingested, lease))
    }

    /// Takes a layer from a file on the store's filesystem, which becomes the blob (by a hard link).
    pub(crate) fn take_file(
        self: &Arc<Self>,
        path: &Path,
        expected: Expected,
    ) -> Result<(Ingested, Lease), LayerError> {
        let tee = Tee::new(Box::new(FileChunks(File::open(path)?)), None, self.settings.layer.bytes);
        let tree = self.scratch()?;
        let ingested = ingest(tee, &tree, expected, &self.settings.layer, &self.boot)?;
        let lease = self.lease([ingested.blob, ingested.diff_id]);
        let blob = self.blob_path(&ingested.blob);
        if path != blob {
            match std::fs::hard_link(path, &blob) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
        }
        self.keep_layer(&tree, &ingested.diff_id)?;
        Ok((ingested, lease))
    }

    /// Whether both the blob and the unpacked layer are here. Call under a lease.
    pub(crate) fn has_whole(&self, blob: &Digest, size: u64, diff_id: &Digest) -> bool {
        self.has_layer(diff_id) && std::fs::metadata(self.blob_path(blob)).is_ok_and(|found| found.len() == size)
    }
}
