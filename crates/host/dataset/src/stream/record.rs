//! What a tree is made of in a stream: one record after the other, each of a directory that is open.
//!
//! A record's name is one part of a path, never a path: whoever reads makes what it says in the directory it is in, and enters
//! and leaves directories one at a time. A file that has several names has a number, by which later records name it.

use std::io::{self, Read, Write};

use super::error::StreamError;

/// Longest name in a directory, in bytes (`NAME_MAX`).
pub(super) const NAME_MAX: usize = 255;
/// Longest target of a link, in bytes (`PATH_MAX`).
const TARGET_MAX: usize = 4096;
/// Most attributes of a file, and longest name and value of one, in bytes: the kernel's (`XATTR_*_MAX`).
const ATTRIBUTES_MAX: u16 = 1024;
const ATTRIBUTE_NAME_MAX: usize = 255;
const VALUE_MAX: usize = 64 << 10;
/// Longest run of bytes of a file in one record.
pub(super) const RUN: usize = 128 << 10;

/// What is known of a file besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) accessed: (i64, u32),
    pub(super) modified: (i64, u32),
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Enter a directory; it is made where it is not there.
    Enter(Vec<u8>),
    /// Leave it. The last one is the tree's own.
    Leave(Meta),
    /// Take what is called so away, with all that is in it.
    Remove(Vec<u8>),
    /// Make a file; its runs follow. It has a number where it has several names.
    File {
        name: Vec<u8>,
        size: u64,
        number: u64,
    },
    /// Change one that is there.
    Change {
        name: Vec<u8>,
        size: u64,
    },
    /// Bytes of the file.
    Run {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// No bytes, where there were.
    Hole {
        offset: u64,
        len: u64,
    },
    /// The file is whole.
    Done(Meta),
    /// One more name of a file.
    Link {
        name: Vec<u8>,
        number: u64,
    },
    Symlink {
        name: Vec<u8>,
        target: Vec<u8>,
        meta: Meta,
    },
    /// A named pipe or socket, by its mode.
    Special {
        name: Vec<u8>,
        meta: Meta,
    },
}

impl Record {
    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Enter(name) => tagged(out, b'D', &[name]),
            Self::Leave(meta) => {
                tagged(out, b'U', &[])?;
                meta.write(out)
            }
            Self::Remove(name) => tagged(out, b'X', &[name]),
            Self::File { name, size, number } => {
                tagged(out, b'F', &[name])?;
                out.write_all(&size.to_le_bytes())?;
                out.write_all(&number.to_le_bytes())
            }
            Self::Change { name, size } => {
                tagged(out, b'C', &[name])?;
                out.write_all(&size.to_le_bytes())
            }
            Self::Run { offset, bytes } => {
                tagged(out, b'R', &[])?;
                out.write_all(&offset.to_le_bytes())?;
                text(out, bytes)
            }
            Self::Hole { offset, len } => {
                tagged(out, b'H', &[])?;
                out.write_all(&offset.to_le_bytes())?;
                out.write_all(&len.to_le_bytes())
            }
            Self::Done(meta) => {
                tagged(out, b'E', &[])?;
                meta.write(out)
            }
            Self::Link { name, number } => {
                tagged(out, b'L', &[name])?;
                out.write_all(&number.to_le_bytes())
            }
            Self::Symlink { name, target, meta } => {
                tagged(out, b'S', &[name, target])?;
                meta.write(out)
            }
            Self::Special { name, meta } => {
                tagged(out, b'P', &[name])?;
                meta.write(out)
            }
        }
    }

    pub(super) fn read(input: &mut impl Read) -> Result<Self, StreamError> {
        let mut tag = [0];
        input.read_exact(&mut tag)?;
        Ok(match tag[0] {
            b'D' => Self::Enter(name(input)?),
            b'U' => Self::Leave(Meta::read(input)?),
            b'X' => Self::Remove(name(input)?),
            b'F' => Self::File { name: name(input)?, size: size(input)?, number: number(input)? },
            b'C' => Self::Change { name: name(input)?, size: size(input)? },
            b'R' => Self::Run { offset: size(input)?, bytes: bytes(input, RUN)? },
            b'H' => Self::Hole { offset: size(input)?, len: size(input)? },
            b'E' => Self::Done(Meta::read(input)?),
            b'L' => Self::Link { name: name(input)?, number: number(input)? },
            b'S' => Self::Symlink { name: name(input)?, target: bytes(input, TARGET_MAX)?, meta: Meta::read(input)? },
            b'P' => Self::Special { name: name(input)?, meta: Meta::read(input)? },
            _ => return Err(hostile("a record of no kind", &tag)),
        })
    }
}

impl Meta {
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for number in [self.mode, self.uid, self.gid] {
            out.write_all(&number.to_le_bytes())?;
        }
        for (seconds, nanoseconds) in [self.accessed, self.modified] {
            out.write_all(&seconds.to_le_bytes())?;
            out.write_all(&nanoseconds.to_le_bytes())?;
        }
        out.write_all(&u16::try_from(self.attributes.len()).unwrap_or(u16::MAX).to_le_bytes())?;
        for (name, value) in &self.attributes {
            text(out, name)?;
            text(out, value)?;
        }
        Ok(())
    }

    fn read(input: &mut impl Read) -> Result<Self, StreamError> {
        let mut meta = Self { mode: small(input)?, uid: small(input)?, gid: small(input)?, ..Self::default() };
        for time in [&mut meta.accessed, &mut meta.modified] {
            *time = (number(input)?.cast_signed(), small(input)?);
            if time.1 >= 1_000_000_000 {
                return Err(hostile("a time that is none", b""));
            }
        }
        // The user and group of "nobody said" would leave those that are there.
        if meta.uid == u32::MAX || meta.gid == u32::MAX {
            return Err(hostile("an owner that is none", b""));
        }
        let mut count = [0; 2];
        input.read_exact(&mut count)?;
        let count = u16::from_le_bytes(count);
        if count > ATTRIBUTES_MAX {
            return Err(hostile("too many attributes", b""));
        }
        for _ in 0..count {
            let name = bytes(input, ATTRIBUTE_NAME_MAX)?;
            // Ours say what a dataset is; those of its own filesystem are no data.
            if name.is_empty() || name.contains(&0) || !is_data(&name) {
                return Err(hostile("an attribute that is not data", &name));
            }
            meta.attributes.push((name, bytes(input, VALUE_MAX)?));
        }
        Ok(meta)
    }
}

/// Whether an attribute goes with a file to another filesystem.
pub(super) fn is_data(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.coppice") && !name.starts_with(b"btrfs.")
}

pub(super) fn hostile(what: &'static str, at: &[u8]) -> StreamError {
    StreamError::Hostile { what, at: String::from_utf8_lossy(at).into_owned() }
}

fn tagged(out: &mut impl Write, tag: u8, texts: &[&Vec<u8>]) -> io::Result<()> {
    out.write_all(&[tag])?;
    texts.iter().try_for_each(|one| text(out, one))
}

fn text(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    out.write_all(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes())?;
    out.write_all(bytes)
}

fn small(input: &mut impl Read) -> Result<u32, StreamError> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn number(input: &mut impl Read) -> Result<u64, StreamError> {
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A size of, or an offset in, a file: what the kernel takes as such.
fn size(input: &mut impl Read) -> Result<u64, StreamError> {
    let size = number(input)?;
    if i64::try_from(size).is_ok() { Ok(size) } else { Err(hostile("a size that no file has", b"")) }
}

fn bytes(input: &mut impl Read, most: usize) -> Result<Vec<u8>, StreamError> {
    let len = small(input)? as usize;
    if len > most {
        return Err(hostile("more bytes than fit", b""));
    }
    let mut bytes = vec![0; len];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn name(input: &mut impl Read) -> Result<Vec<u8>, StreamError> {
    let name = bytes(input, NAME_MAX)?;
    let is_part = !matches!(name.as_slice(), b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'));
    if is_part { Ok(name) } else { Err(hostile("a name that is no file's", &name)) }
}
