//! A backup's file: one stream of bytes that is opened whole or not at all.
//!
//! ```text
//!   coppice-backup-1\n   {"version":1,"key":"<id>"|null,"created_ms":…}\n
//!   (length u32, chunk)…   each chunk sealed for its place: this header, its number, whether it is the last
//!   0 u32   SHA-256 of all before it
//! ```
//!
//! The digest finds damage before a key is asked for; the seals find forgery. A chunk that is left out, doubled, moved or from
//! another backup does not open, since its place is part of what it was sealed for. What is inside (a tar) is the writer's.
//! Refuses what is longer or shorter than it says, and versions it does not know.

mod replace;

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use coppice_secret::Key;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use replace::{ReplaceError, Replacement, entries, finish, unfinished};

const MAGIC: &[u8] = b"coppice-backup-1\n";
const VERSION: u32 = 1;
/// Bytes sealed at once.
const CHUNK: usize = 1 << 20;
/// What sealing adds at most (magic, nonce, tag).
const SEAL_MAX: usize = 128;
const HEADER_MAX: usize = 4096;
const DIGEST: usize = 32;

/// Why a backup was not opened. Nothing of it was used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("it is not a backup of Coppice")]
    NotOne,
    #[error("it is a backup of version {found}, and this program knows {VERSION}: use the Coppice that made it")]
    Version { found: u32 },
    #[error("the backup is damaged or cut off: its SHA-256 is not what its end says; take another copy")]
    Damaged,
    #[error("the backup is sealed with key {id}: give the file of that key with --key-file")]
    NoKey { id: String },
    #[error("the backup is sealed with key {wanted}, and the key given is {found}")]
    OtherKey { wanted: String, found: String },
    #[error("the backup has a part that its key did not seal: it was forged, or put together from several")]
    Forged,
    #[error("the backup cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// What a backup says of itself, for anyone to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    version: u32,
    /// Id of the key it is sealed with; `None`: it is not sealed.
    pub key: Option<String>,
    /// Milliseconds since 1970, UTC.
    pub created_ms: u64,
}

/// Writes a backup. What was written without [`finish`](Self::finish) is none.
pub struct Writer<W: Write> {
    out: Hashing<W>,
    key: Option<Key>,
    place: String,
    number: u64,
    pending: Vec<u8>,
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.inner.write_all(bytes)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn place_of(header: &[u8]) -> String {
    format!("backup/{}", hex(&Sha256::digest(header)))
}

fn what(place: &str, number: u64, last: bool) -> String {
    format!("{place}/{number}/{}", if last { "last" } else { "more" })
}

impl<W: Write> Writer<W> {
    /// `key`: what it is sealed with; `None`: anybody can read it.
    pub fn begin(out: W, key: Option<Key>, created_ms: u64) -> io::Result<Self> {
        let header = Header { version: VERSION, key: key.as_ref().map(Key::id), created_ms };
        let header = [MAGIC, &serde_json::to_vec(&header)?, b"\n"].concat();
        let mut out = Hashing { inner: out, hasher: Sha256::new() };
        out.put(&header)?;
        Ok(Self { out, key, place: place_of(&header), number: 0, pending: Vec::with_capacity(CHUNK) })
    }

    fn chunk(&mut self, last: bool) -> io::Result<()> {
        let plain = std::mem::take(&mut self.pending);
        let chunk = match &self.key {
            Some(key) => key.seal(&what(&self.place, self.number, last), &plain),
            None => plain,
        };
        if !chunk.is_empty() {
            let length = u32::try_from(chunk.len()).map_err(io::Error::other)?;
            self.out.put(&length.to_be_bytes())?;
            self.out.put(&chunk)?;
        }
        self.number += 1;
        Ok(())
    }

    /// Writes the end. Only then is it a backup.
    pub fn finish(mut self) -> io::Result<W> {
        self.chunk(true)?;
        self.out.put(&0u32.to_be_bytes())?;
        let Hashing { mut inner, hasher } = self.out;
        inner.write_all(&hasher.finalize())?;
        inner.flush()?;
        Ok(inner)
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.pending.len() == CHUNK {
            self.chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A backup whose digest is right.
pub struct Backup<R> {
    input: R,
    header: Header,
    place: String,
    at: u64,
}

impl<R: Read + Seek> Backup<R> {
    /// Reads it to its end, once, for its digest.
    pub fn open(mut input: R) -> Result<Self, OpenError> {
        let length = input.seek(SeekFrom::End(0))?;
        input.rewind()?;
        let mut start = Vec::new();
        input.by_ref().take((MAGIC.len() + HEADER_MAX) as u64).read_to_end(&mut start)?;
        let line = start.strip_prefix(MAGIC).ok_or(OpenError::NotOne)?;
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let header_length = MAGIC.len() + line.len() + 1;
        let found: serde_json::Value = serde_json::from_slice(line).map_err(|_| OpenError::Damaged)?;
        let version = found.get("version").and_then(serde_json::Value::as_u64).ok_or(OpenError::Damaged)?;
        if version != u64::from(VERSION) {
            return Err(OpenError::Version { found: u32::try_from(version).unwrap_or(u32::MAX) });
        }
        let header: Header = serde_json::from_value(found).map_err(|_| OpenError::Damaged)?;
        let body = length.checked_sub(DIGEST as u64).filter(|body| *body > header_length as u64);
        let body = body.ok_or(OpenError::Damaged)?;
        input.rewind()?;
        let mut hasher = Sha256::new();
        io::copy(&mut BufReader::with_capacity(CHUNK, input.by_ref().take(body)), &mut hasher)?;
        let mut digest = [0; DIGEST];
        input.read_exact(&mut digest)?;
        if hasher.finalize().as_slice() != digest {
            return Err(OpenError::Damaged);
        }
        let place = place_of(start.get(..header_length).ok_or(OpenError::Damaged)?);
        Ok(Self { input, header, place, at: header_length as u64 })
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether it can be opened with this key, or without one.
    pub fn admits(&self, key: Option<&Key>) -> Result<(), OpenError> {
        match (&self.header.key, key) {
            (Some(id), None) => Err(OpenError::NoKey { id: id.clone() }),
            (Some(id), Some(key)) if key.id() != *id => {
                Err(OpenError::OtherKey { wanted: id.clone(), found: key.id() })
            }
            _ => Ok(()),
        }
    }

    /// Writes all that is inside to `out`, chunk by chunk; what was written before an error is not to be used.
    pub fn unseal(&mut self, key: Option<&Key>, out: &mut impl Write) -> Result<(), OpenError> {
        self.admits(key)?;
        let key = key.filter(|_| self.header.key.is_some());
        self.input.seek(SeekFrom::Start(self.at))?;
        let mut chunk = self.next()?;
        let mut number = 0;
        while let Some(bytes) = chunk {
            let following = self.next()?;
            match key {
                None => out.write_all(&bytes)?,
                Some(key) => {
                    let place = what(&self.place, number, following.is_none());
                    out.write_all(&key.open(&place, &bytes).map_err(|_| OpenError::Forged)?)?;
                }
            }
            chunk = following;
            number += 1;
        }
        // A sealed backup has a last chunk, be it empty.
        if key.is_some() && number == 0 { Err(OpenError::Forged) } else { Ok(()) }
    }

    fn next(&mut self) -> Result<Option<Vec<u8>>, OpenError> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 {
            return Ok(None);
        }
        if length > CHUNK + SEAL_MAX {
            return Err(OpenError::Forged);
        }
        let mut bytes = vec![0; length];
        self.input.read_exact(&mut bytes)?;
        Ok(Some(bytes))
    }
}
