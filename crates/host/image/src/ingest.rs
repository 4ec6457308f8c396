//! One layer on its way in: bytes come, are hashed, kept, decompressed, hashed again and unpacked, in one pass.
//!
//! ```text
//! chunks ─→ Tee (blob digest, size, kept file) ─→ gzip | zstd | plain ─→ Decoded (diff-id, bomb limit) ─→ unpack
//! ```
//!
//! The pass runs on a blocking thread. The unpacked tree is built in `ingest/` and renamed into `layers/` when every
//! check has passed; on any failure it is removed and nothing else has changed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Hasher};
use crate::limits::LayerLimits;
use crate::unpack::{UnpackError, unpack};

/// Read at once from a file.
const CHUNK: usize = 1 << 20;
/// Between the decoder and the tar reader: one hash update per this many bytes.
const DECODED: usize = 256 << 10;

/// Why a layer was not taken. Nothing of it is left, except that a cut download can be resumed.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("blob {expected} is {got} bytes long, and should be {want}")]
    WrongSize { expected: Digest, want: u64, got: u64 },
    #[error("blob {expected} has the digest {got}: it was damaged or forged on its way")]
    WrongDigest { expected: Digest, got: Digest },
    #[error("the layer in blob {blob} unpacks to {got}, and the image's configuration says {expected}")]
    WrongDiffId { blob: Digest, expected: Digest, got: Digest },
    #[error(transparent)]
    Unpack(UnpackError),
}

impl From<UnpackError> for LayerError {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        Self::Unpack(error.into())
    }
}

/// Where a layer's compressed bytes come from.
pub(crate) trait Chunks: Send {
    /// The next bytes, or `None` at the end.
    fn next(&mut self) -> io::Result<Option<Bytes>>;
}

/// A file, from its current position.
pub(crate) struct FileChunks(pub(crate) File);

impl Chunks for FileChunks {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut chunk = vec![0; CHUNK];
        let got = self.0.read(&mut chunk)?;
        chunk.truncate(got);
        Ok((got > 0).then(|| chunk.into()))
    }
}

/// What the pass must find, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Expected {
    pub(crate) blob: Option<(Digest, u64)>,
    pub(crate) diff_id: Option<Digest>,
}

/// What the pass found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ingested {
    pub(crate) blob: Digest,
    pub(crate) blob_size: u64,
    pub(crate) diff_id: Digest,
    pub(crate) compression: Compression,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// Left in a layer's directory when it is whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LayerMarker {
    /// The boot during which it was unpacked: after a power cut, what no durable record vouches for is unpacked anew.
    pub(crate) boot: String,
    /// Length of the uncompressed tar.
    pub(crate) tar_bytes: u64,
    /// Sum of its files' lengths.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    pub(crate) devices_skipped: u64,
    pub(crate) xattrs_skipped: u64,
}

/// Hashes, counts and keeps chunks as they pass.
pub(crate) struct Tee {
    chunks: Box<dyn Chunks>,
    current: Bytes,
    hasher: Hasher,
    /// Where bytes are kept, and how many of the first ones are there already.
    keep: Option<(File, u64)>,
    passed: Arc<AtomicU64>,
    max: u64,
    done: bool,
}

impl Tee {
    pub(crate) fn new(chunks: Box<dyn Chunks>, keep: Option<(File, u64)>, max: u64) -> Self {
        Self {
            chunks,
            current: Bytes::new(),
            hasher: Hasher::default(),
            keep,
            passed: Arc::new(AtomicU64::new(0)),
            max,
            done: false,
        }
    }

    fn advance(&mut self) -> io::Result<bool> {
        while !self.done {
            let Some(chunk) = self.chunks.next()? else {
                self.done = true;
                break;
            };
            if chunk.is_empty() {
                continue;
            }
            let before = self.passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if before + chunk.len() as u64 > self.max {
                return Err(io::Error::other(UnpackError::TooBig(self.max)));
            }
            self.hasher.update(&chunk);
            if let Some((file, kept)) = &mut self.keep {
                let fresh = usize::try_from(kept.saturating_sub(before)).unwrap_or(usize::MAX).min(chunk.len());
                file.write_all(&chunk[fresh..])?;
            }
            self.current = chunk;
            return Ok(true);
        }
        Ok(false)
    }

    /// The first bytes, up to `count`, without consuming them.
    fn peek(&mut self, count: usize) -> io::Result<Bytes> {
        while self.current.len() < count {
            let before = std::mem::take(&mut self.current);
            let more = self.advance()?;
            self.current = if before.is_empty() {
                std::mem::take(&mut self.current)
            } else {
                [&before[..], &self.current[..]].concat().into()
            };
            if !more {
                break;
            }
        }
        Ok(self.current.slice(..count.min(self.current.len())))
    }

    fn drain(&mut self) -> io::Result<()> {
        while self.advance()? {}
        Ok(())
    }
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let got = available.len().min(buffer.len());
        buffer[..got].copy_from_slice(&available[..got]);
        self.consume(got);
        Ok(got)
    }
}

impl BufRead for Tee {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.current.is_empty() {
            self.advance()?;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current = self.current.slice(count..);
    }
}

/// The decompressed side: hashes and bounds what comes out.
struct Decoded<'a> {
    inner: Box<dyn Read + 'a>,
    /// `None` when the layer is not compressed: its blob's digest is its diff-id.
    hasher: Option<Hasher>,
    count: u64,
    compressed: Arc<AtomicU64>,
    limits: &'a LayerLimits,
}

impl Read for Decoded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count += got as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..got]);
            let allowed = self.compressed.load(Ordering::Relaxed).saturating_mul(self.limits.ratio);
            if self.count > self.limits.ratio_from && self.count > allowed {
                return Err(io::Error::other(UnpackError::Bomb(self.limits.ratio)));
            }
        }
        // Headers and padding come on top of the files' own bytes.
        let headers = self.limits.entries.saturating_mul(2048);
        if self.count > self.limits.bytes.saturating_add(headers) {
            return Err(io::Error::other(UnpackError::TooBig(self.limits.bytes)));
        }
        Ok(got)
    }
}

/// A directory in `ingest/`, removed when dropped unless it was moved away.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn make(path: PathBuf) -> io::Result<Self> {
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Opening the store removes what is left.
            Err(error) => tracing::warn!(path = %self.0.display(), %error, "could not remove an ingest directory"),
        }
    }
}

/// Runs the pass: unpacks into `<scratch>/fs` and writes the marker beside it. Renaming is the caller's.
pub(crate) fn ingest(
    mut tee: Tee,
    scratch: &Scratch,
    expected: Expected,
    limits: &LayerLimits,
    boot: &str,
) -> Result<Ingested, LayerError> {
    let tree = scratch.path().join("fs");
    std::fs::create_dir(&tree)?;
    let root = File::open(&tree)?;
    rustix::fs::fchmod(&root, rustix::fs::Mode::from_raw_mode(0o755)).map_err(io::Error::from)?;

    let compression = sniff(&tee.peek(4)?);
    let compressed = tee.passed.clone();
    let inner: Box<dyn Read + '_> = match compression {
        Compression::Plain => Box::new(&mut tee),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(&mut tee)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(&mut tee)?),
    };
    let hasher = (compression != Compression::Plain).then(Hasher::default);
    let decoded = Decoded { inner, hasher, count: 0, compressed, limits };
    let reader = BufReader::with_capacity(DECODED, decoded);
    use std::os::fd::AsFd;
    let result = unpack(reader, root.as_fd(), limits).and_then(|(unpacked, rest)| {
        let mut decoded = rest;
        // Padding after the archive's end belongs to the diff-id too.
        io::copy(&mut decoded, &mut io::sink())?;
        let decoded = decoded.into_inner();
        Ok((unpacked, decoded.hasher.map(Hasher::finish), decoded.count))
    });
    // A damaged blob usually breaks the decoder or the tar reader first; its digest is the better message.
    let result = match result {
        Err(error @ (UnpackError::Tar(_) | UnpackError::Io(_))) if expected.blob.is_some() => Err(error),
        other => Ok(other?),
    };
    let drained = tee.drain();
    let blob_size = tee.passed.load(Ordering::Relaxed);
    let blob = tee.hasher.finish();
    if drained.is_ok()
        && let Some((digest, size)) = expected.blob
    {
        if blob_size != size {
            return Err(LayerError::WrongSize { expected: digest, want: size, got: blob_size });
        }
        if blob != digest {
            return Err(LayerError::WrongDigest { expected: digest, got: blob });
        }
    }
    let (unpacked, hash, tar_bytes) = result?;
    drained?;
    let diff_id = hash.unwrap_or(blob);
    if let Some(expected) = expected.diff_id
        && expected != diff_id
    {
        return Err(LayerError::WrongDiffId { blob, expected, got: diff_id });
    }
    let marker = LayerMarker {
        boot: boot.to_owned(),
        tar_bytes,
        bytes: unpacked.bytes,
        entries: unpacked.entries,
        devices_skipped: unpacked.devices_skipped,
        xattrs_skipped: unpacked.xattrs_skipped,
    };
    std::fs::write(scratch.path().join("complete"), serde_json::to_vec(&marker).map_err(io::Error::from)?)?;
    if unpacked.devices_skipped > 0 || unpacked.unknown_skipped > 0 {
        let (devices, unknown) = (unpacked.devices_skipped, unpacked.unknown_skipped);
        tracing::warn!(layer = %diff_id, devices, unknown, "a layer has device nodes or unknown entries: not created");
    }
    Ok(Ingested { blob, blob_size, diff_id, compression })
}

pub(crate) fn sniff(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A zstd skippable frame, which pzstd and estargz-like tools put first.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::Plain,
    }
}
