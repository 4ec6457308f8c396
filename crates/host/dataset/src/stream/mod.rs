//! A snapshot as a stream of bytes: to a file, through a pipe, to another root or host.
//!
//! ```text
//! "coppice-volume\n"  magic, which `file` and people can read
//! u32                 version, 1
//! u32, bytes          header: JSON, what the snapshot is called and carries, and of which other one this is the difference
//! (u32, bytes)*, 0    the tree, in pieces of at most 1 MiB
//! [u8; 32]            SHA-256 of all before
//! ```
//!
//! Numbers are little-endian. Nothing of a stream is believed before its checksum: it is unpacked aside, and a stream that is
//! cut, torn or somebody else's leaves nothing. The checksum tells accidents; against a hostile stream the form of the
//! [tree](record) stands: a name is one part of a path, and nothing is reached through a link.

mod error;
mod pack;
mod record;
mod unpack;

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use error::StreamError;
pub(crate) use pack::pack;
pub(crate) use unpack::unpack;

use crate::stamps::Stamps;

const MAGIC: &[u8; 15] = b"coppice-volume\n";
const VERSION: u32 = 1;
/// Longest header, in bytes: 1,024 stamps of the longest.
const HEADER_MAX: u32 = 1 << 20;
/// Longest piece, in bytes.
const PIECE_MAX: usize = 1 << 20;
/// Bytes that are gathered before a piece is written.
const PIECE: usize = 256 << 10;

/// What a stream says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// What it was sent from.
    pub(crate) dataset: String,
    pub(crate) snapshot: String,
    pub(crate) id: String,
    pub(crate) stamps: Stamps,
    /// What must be there already.
    pub(crate) base: Option<Base>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    pub(crate) snapshot: String,
    pub(crate) id: String,
}

/// Writes a stream.
pub(crate) struct Sender<W: Write> {
    out: Hashing<W>,
    piece: Vec<u8>,
}

impl<W: Write> Sender<W> {
    pub(crate) fn begin(out: W, header: &Header) -> io::Result<Self> {
        let mut out = Hashing { inner: out, hash: Sha256::new() };
        let header = serde_json::to_vec(header)?;
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&length(header.len()))?;
        out.write_all(&header)?;
        Ok(Self { out, piece: Vec::with_capacity(PIECE) })
    }

    pub(crate) fn end(mut self) -> io::Result<()> {
        self.piece_out()?;
        self.out.write_all(&length(0))?;
        let Hashing { mut inner, hash } = self.out;
        inner.write_all(&hash.finalize())?;
        inner.flush()
    }

    fn piece_out(&mut self) -> io::Result<()> {
        for piece in self.piece.chunks(PIECE_MAX) {
            self.out.write_all(&length(piece.len()))?;
            self.out.write_all(piece)?;
        }
        self.piece.clear();
        Ok(())
    }
}

impl<W: Write> Write for Sender<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE);
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() >= PIECE {
            self.piece_out()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a stream.
pub(crate) struct Receiver<R: Read> {
    input: Hashing<R>,
    /// Bytes of the piece that is being read.
    left: usize,
    ended: bool,
}

impl<R: Read> Receiver<R> {
    pub(crate) fn begin(input: R) -> Result<(Self, Header), StreamError> {
        let mut input = Hashing { inner: input, hash: Sha256::new() };
        let mut magic = [0; MAGIC.len()];
        match input.read_exact(&mut magic) {
            Ok(()) if magic == *MAGIC => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(StreamError::Read(error)),
            _ => return Err(StreamError::Foreign),
        }
        let version = number(&mut input)?;
        if version != VERSION {
            return Err(StreamError::Version(version));
        }
        let len = number(&mut input)?;
        if len > HEADER_MAX {
            return Err(StreamError::Foreign);
        }
        let mut header = vec![0; len as usize];
        input.read_exact(&mut header)?;
        let header = serde_json::from_slice(&header).map_err(|_| StreamError::Foreign)?;
        Ok((Self { input, left: 0, ended: false }, header))
    }

    /// What comes after the tree: nothing of it, the right checksum, and nothing more.
    pub(crate) fn end(mut self) -> Result<(), StreamError> {
        if self.read(&mut [0])? != 0 {
            return Err(StreamError::Torn);
        }
        let Hashing { mut inner, hash } = self.input;
        let mut sum = [0; 32];
        inner.read_exact(&mut sum)?;
        if hash.finalize()[..] != sum || inner.read(&mut [0])? != 0 {
            return Err(StreamError::Torn);
        }
        Ok(())
    }
}

impl<R: Read> Read for Receiver<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut len = [0; 4];
            self.input.read_exact(&mut len)?;
            self.left = u32::from_le_bytes(len) as usize;
            self.ended = self.left == 0;
            if self.left > PIECE_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, StreamError::Torn));
            }
        }
        let most = room.len().min(self.left);
        let read = self.input.read(&mut room[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        Ok(read)
    }
}

/// What goes through it is counted in the checksum.
struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(room)?;
        self.hash.update(&room[..read]);
        Ok(read)
    }
}

fn length(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

fn number(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}
