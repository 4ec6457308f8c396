//! The tar writer: ustar headers, with a PAX header before an entry that needs one. Nothing from the clock, the host's
//! user names or the order of a directory gets in, so the same tree always gives the same bytes.

use std::io::{self, Read, Write};

use super::pax;
use super::read::{Entry, Kind};

const BLOCK: usize = 512;

/// Writes entries to a stream; [`TarWriter::finish`] ends the archive.
pub(crate) struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    /// An entry without data, or whose data `data` holds: exactly `entry.size` bytes are taken.
    pub(crate) fn entry(&mut self, entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
        self.head(entry)?;
        if entry.kind == Kind::File {
            let copied = io::copy(&mut data.take(entry.size), &mut self.out)?;
            if copied != entry.size {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was read"));
            }
            let padding = (BLOCK as u64 - entry.size % BLOCK as u64) % BLOCK as u64;
            self.out.write_all(&[0; BLOCK][..padding as usize])?;
        }
        Ok(())
    }

    /// A regular file owned by root, dated 1970.
    pub(crate) fn file(&mut self, path: &str, size: u64, data: &mut dyn Read) -> io::Result<()> {
        let entry = Entry {
            path: path.as_bytes().to_vec(),
            link: Vec::new(),
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size,
            segments: None,
            xattrs: Vec::new(),
        };
        self.entry(&entry, data)
    }

    /// Two blocks of zeros, and back to the stream.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn head(&mut self, entry: &Entry) -> io::Result<()> {
        let mut extended = Vec::new();
        let size = if entry.kind == Kind::File { entry.size } else { 0 };
        let (seconds, nanos) = entry.mtime;
        if entry.path.len() > 100 || !entry.path.is_ascii() {
            pax::push_record(&mut extended, b"path", &entry.path);
        }
        if entry.link.len() > 100 || !entry.link.is_ascii() {
            pax::push_record(&mut extended, b"linkpath", &entry.link);
        }
        if size > 0o777_7777_7777 {
            pax::push_record(&mut extended, b"size", size.to_string().as_bytes());
        }
        for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
            if id > 0o777_7777 {
                pax::push_record(&mut extended, key, id.to_string().as_bytes());
            }
        }
        if nanos != 0 || !(0..=0o777_7777_7777).contains(&seconds) {
            pax::push_record(&mut extended, b"mtime", time_text(seconds, nanos).as_bytes());
        }
        for (name, value) in &entry.xattrs {
            pax::push_record(&mut extended, &[b"SCHILY.xattr.", &name[..]].concat(), value);
        }
        if !extended.is_empty() {
            let head = header(b"PaxHeaders/entry", b"", b'x', 0o644, 0, 0, 0, extended.len() as u64);
            self.out.write_all(&head)?;
            extended.resize(extended.len().next_multiple_of(BLOCK), 0);
            self.out.write_all(&extended)?;
        }
        let flag = match entry.kind {
            Kind::File => b'0',
            Kind::Hardlink => b'1',
            Kind::Symlink => b'2',
            Kind::Char => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
            Kind::Other(flag) => flag,
        };
        let clip = |text: &[u8]| text[..text.len().min(100)].to_vec();
        let head = header(
            &clip(&entry.path),
            &clip(&entry.link),
            flag,
            entry.mode,
            entry.uid.min(0o777_7777),
            entry.gid.min(0o777_7777),
            u64::try_from(seconds).unwrap_or(0).min(0o777_7777_7777),
            size.min(0o777_7777_7777),
        );
        self.out.write_all(&head)
    }
}

fn time_text(seconds: i64, nanos: u32) -> String {
    if seconds >= 0 || nanos == 0 {
        format!("{seconds}.{nanos:09}")
    } else {
        // Nanoseconds count up from the whole second below.
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
    }
}

#[allow(clippy::too_many_arguments)] // the fields of a tar header, in its order
fn header(path: &[u8], link: &[u8], flag: u8, mode: u32, uid: u64, gid: u64, mtime: u64, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..path.len()].copy_from_slice(path);
    let mut octal = |at: usize, length: usize, value: u64| {
        let text = format!("{value:0width$o}", width = length - 1);
        block[at..at + length - 1].copy_from_slice(&text.as_bytes()[..length - 1]);
    };
    octal(100, 8, u64::from(mode));
    octal(108, 8, uid);
    octal(116, 8, gid);
    octal(124, 12, size);
    octal(136, 12, mtime);
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
