//! The tar reader: ustar, PAX, GNU (long names, base-256 numbers, sparse files), V7.

use std::io::{self, Read};

use super::pax;

const BLOCK: usize = 512;

/// What an entry creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Hardlink,
    Symlink,
    Char,
    Block,
    Directory,
    Fifo,
    /// A type flag we do not know; its data is skipped.
    Other(u8),
}

/// One entry's header, with its extended headers applied.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: (i64, u32),
    /// The file's length, holes included.
    pub(crate) size: u64,
    /// Where the stored bytes belong, when they are not the whole file: offset and length, ascending.
    pub(crate) segments: Option<Vec<(u64, u64)>>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a tar stream could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the tar stream is malformed: {0}")]
    Malformed(&'static str),
    #[error("the tar stream ends in the middle of an entry")]
    Cut,
    #[error("the tar stream has a name, extended header or sparse map of {0} bytes, more than is accepted")]
    HeaderTooLong(u64),
    #[error("the tar stream could not be read: {0}")]
    Io(#[source] io::Error),
}

/// Reads entries one after the other; an entry's data is read, in part or whole, before the next is asked for.
pub(crate) struct TarReader<R> {
    inner: R,
    /// Stored bytes of the current entry not yet read.
    data_left: u64,
    /// Padding after them.
    padding: u64,
    header_max: u64,
    at_end: bool,
}

/// What the headers before an entry said about it.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

/// The `GNU.sparse.*` records.
#[derive(Default)]
struct PaxSparse {
    in_data: bool,
    name: Option<Vec<u8>>,
    real_size: Option<u64>,
    /// Offsets and lengths, alternating.
    map: Option<Vec<u64>>,
}

impl<R: Read> TarReader<R> {
    /// `header_max`: longest name, extended header or sparse map, in bytes.
    pub(crate) fn new(inner: R, header_max: u64) -> Self {
        Self { inner, data_left: 0, padding: 0, header_max, at_end: false }
    }

    /// The stream after the archive.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, or `None` at the archive's end.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip(self.data_left + self.padding)?;
        (self.data_left, self.padding) = (0, 0);
        if self.at_end {
            return Ok(None);
        }
        let mut extended = Extended::default();
        let mut pending = false;
        let mut headers = 0u64;
        loop {
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                self.at_end = true;
                return if pending { Err(TarError::Cut) } else { Ok(None) };
            }
            if block.iter().all(|&b| b == 0) {
                self.at_end = true;
                let mut second = [0; BLOCK];
                if pending || (self.read_block(&mut second)? && second.iter().any(|&b| b != 0)) {
                    return Err(TarError::Malformed("a block of zeros stands between two entries"));
                }
                return Ok(None);
            }
            let header = Header(&block);
            header.check()?;
            if matches!(header.flag(), b'x' | b'X' | b'g' | b'L' | b'K') {
                // Together, so that a chain of headers cannot grow without bound either.
                headers = headers.saturating_add(header.size()?).saturating_add(BLOCK as u64);
                if headers > self.header_max {
                    return Err(TarError::HeaderTooLong(headers));
                }
            }
            match header.flag() {
                b'x' | b'X' => self.read_extended(&header, &mut extended)?,
                // Global headers carry comments (git archive) or defaults that no layer uses: bounded and skipped.
                b'g' => {
                    self.read_header_data(header.size()?)?;
                    continue;
                }
                b'L' => extended.path = Some(cut_nul(self.read_header_data(header.size()?)?)),
                b'K' => extended.link = Some(cut_nul(self.read_header_data(header.size()?)?)),
                _ => return self.entry(&header, extended).map(Some),
            }
            pending = true;
        }
    }

    /// Reads stored bytes of the current entry; 0 at their end.
    pub(crate) fn read_data(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let want = buffer.len().min(usize::try_from(self.data_left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = read_some(&mut self.inner, &mut buffer[..want])?;
        if got == 0 {
            return Err(TarError::Cut);
        }
        self.data_left -= got as u64;
        Ok(got)
    }

    fn entry(&mut self, header: &Header<'_>, extended: Extended) -> Result<Entry, TarError> {
        let mut path = extended.path.unwrap_or_else(|| header.path());
        let kind = match header.flag() {
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Hardlink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        let stored = match kind {
            Kind::File | Kind::Other(_) => match extended.size {
                Some(size) => size,
                None => header.size()?,
            },
            _ => 0,
        };
        if stored > i64::MAX as u64 {
            return Err(TarError::Malformed("an entry's size is impossible"));
        }
        let mut size = stored;
        let mut segments = None;
        self.data_left = stored;
        self.padding = padding(stored);
        if header.flag() == b'S' {
            let (real, map) = self.old_gnu_map(header)?;
            size = real;
            segments = Some(map);
        } else if kind == Kind::File && (extended.sparse.in_data || extended.sparse.map.is_some()) {
            let sparse = extended.sparse;
            size = sparse.real_size.ok_or(TarError::Malformed("a sparse file has no size"))?;
            path = sparse.name.unwrap_or(path);
            let flat = if sparse.in_data { self.map_in_data()? } else { sparse.map.unwrap_or_default() };
            segments = Some(flat.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect());
        }
        if let Some(map) = &mut segments {
            check_map(map, size, self.data_left)?;
            // A last segment of length 0 only marks the file's end.
            map.retain(|&(_, length)| length > 0);
        }
        Ok(Entry {
            path,
            link: extended.link.unwrap_or_else(|| header.link()),
            kind,
            mode: u32::try_from(header.number(100, 8)? & 0o7777).unwrap_or(0),
            uid: extended.uid.map_or_else(|| header.number(108, 8), Ok)?,
            gid: extended.gid.map_or_else(|| header.number(116, 8), Ok)?,
            mtime: match extended.mtime {
                Some(time) => time,
                None => (header.time(136, 12)?, 0),
            },
            size,
            segments,
            xattrs: extended.xattrs,
        })
    }

    fn read_extended(&mut self, header: &Header<'_>, extended: &mut Extended) -> Result<(), TarError> {
        let data = self.read_header_data(header.size()?)?;
        let number = |value: &[u8]| pax::decimal(value).ok_or(TarError::Malformed("an extended number is not one"));
        let mut pairs: Vec<u64> = Vec::new();
        for (key, value) in pax::records(&data)? {
            match key {
                b"path" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"size" => extended.size = Some(number(value)?),
                b"uid" => extended.uid = Some(number(value)?),
                b"gid" => extended.gid = Some(number(value)?),
                b"mtime" => {
                    extended.mtime = Some(pax::time(value).ok_or(TarError::Malformed("an extended time is not one"))?);
                }
                b"GNU.sparse.major" => extended.sparse.in_data = value == b"1",
                b"GNU.sparse.name" => extended.sparse.name = Some(value.to_vec()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => extended.sparse.real_size = Some(number(value)?),
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => pairs.push(number(value)?),
                b"GNU.sparse.map" => {
                    let map: Result<Vec<u64>, TarError> = value.split(|&b| b == b',').map(number).collect();
                    extended.sparse.map = Some(map?);
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extended.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        if !pairs.is_empty() {
            extended.sparse.map = Some(pairs);
        }
        Ok(())
    }

    /// The sparse map of an `S` entry: four pairs in the header, then blocks of 21.
    fn old_gnu_map(&mut self, header: &Header<'_>) -> Result<(u64, Vec<(u64, u64)>), TarError> {
        let real = header.number(483, 12)?;
        let mut map = Vec::new();
        let mut take = |block: &Header<'_>, start: usize, count: usize| -> Result<(), TarError> {
            for at in (start..start + count * 24).step_by(24) {
                if block.0[at] != 0 {
                    map.push((block.number(at, 12)?, block.number(at + 12, 12)?));
                }
            }
            Ok(())
        };
        take(header, 386, 4)?;
        let mut more = header.0[482] != 0;
        let mut read = 0;
        while more {
            read += BLOCK as u64;
            if read > self.header_max {
                return Err(TarError::HeaderTooLong(read));
            }
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                return Err(TarError::Cut);
            }
            take(&Header(&block), 0, 21)?;
            more = block[504] != 0;
        }
        Ok((real, map))
    }

    /// The map of PAX sparse 1.0, at the start of the data: decimal lines (count, then pairs), padded to a block.
    fn map_in_data(&mut self) -> Result<Vec<u64>, TarError> {
        let bad = || TarError::Malformed("a sparse map is not one");
        let mut numbers: Vec<u64> = Vec::new();
        let mut line: Vec<u8> = Vec::new();
        let mut read = 0u64;
        loop {
            read += BLOCK as u64;
            if read > self.header_max {
                return Err(TarError::HeaderTooLong(read));
            }
            if self.data_left < BLOCK as u64 {
                return Err(bad());
            }
            let mut block = [0; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                filled += self.read_data(&mut block[filled..])?;
            }
            for &byte in &block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(bad());
                    }
                    continue;
                }
                numbers.push(pax::decimal(&line).ok_or_else(bad)?);
                line.clear();
                let count = usize::try_from(numbers[0]).map_err(|_| bad())?;
                if numbers.len() == count.checked_mul(2).and_then(|n| n.checked_add(1)).ok_or_else(bad)? {
                    return Ok(numbers.split_off(1));
                }
            }
        }
    }

    fn read_header_data(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > self.header_max {
            return Err(TarError::HeaderTooLong(size));
        }
        let mut data = vec![0; size as usize];
        read_whole(&mut self.inner, &mut data)?;
        self.skip(padding(size))?;
        Ok(data)
    }

    /// One block; false at a clean end of the stream.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, TarError> {
        let mut filled = 0;
        while filled < BLOCK {
            match read_some(&mut self.inner, &mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(TarError::Cut),
                got => filled += got,
            }
        }
        Ok(true)
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), TarError> {
        let mut sink = [0; 16 << 10];
        while bytes > 0 {
            let want = sink.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match read_some(&mut self.inner, &mut sink[..want])? {
                0 => return Err(TarError::Cut),
                got => bytes -= got as u64,
            }
        }
        Ok(())
    }
}

fn read_some(reader: &mut impl Read, buffer: &mut [u8]) -> Result<usize, TarError> {
    loop {
        match reader.read(buffer) {
            Ok(got) => return Ok(got),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(TarError::Io(error)),
        }
    }
}

fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), TarError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read_some(reader, &mut buffer[filled..])? {
            0 => return Err(TarError::Cut),
            got => filled += got,
        }
    }
    Ok(())
}

/// Segments ascend, do not overlap, end within the file, and account for every stored byte.
fn check_map(map: &[(u64, u64)], size: u64, stored: u64) -> Result<(), TarError> {
    let bad = TarError::Malformed("a sparse map does not fit its file");
    let mut end = 0u64;
    let mut total = 0u64;
    for &(offset, length) in map {
        match offset.checked_add(length) {
            Some(next) if offset >= end && next <= size => end = next,
            _ => return Err(bad),
        }
        total += length;
    }
    if total == stored && size <= i64::MAX as u64 { Ok(()) } else { Err(bad) }
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn cut_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|&b| b == 0) {
        name.truncate(end);
    }
    name
}

/// A header block.
struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn flag(&self) -> u8 {
        self.0[156]
    }

    fn text(&self, at: usize, length: usize) -> &[u8] {
        let field = &self.0[at..at + length];
        &field[..field.iter().position(|&b| b == 0).unwrap_or(length)]
    }

    fn path(&self) -> Vec<u8> {
        let name = self.text(0, 100);
        let prefix = self.text(345, 155);
        // Only POSIX headers have a prefix; GNU's ("ustar ") keep times and sparse maps there.
        if &self.0[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    }

    fn link(&self) -> Vec<u8> {
        self.text(157, 100).to_vec()
    }

    fn size(&self) -> Result<u64, TarError> {
        self.number(124, 12)
    }

    /// Octal text, or base 256 when the first bit is set (GNU).
    fn number(&self, at: usize, length: usize) -> Result<u64, TarError> {
        let field = &self.0[at..at + length];
        let bad = TarError::Malformed("a header has a field that is not a number");
        if field[0] & 0x80 != 0 {
            if field[0] & 0x40 != 0 {
                return Err(bad);
            }
            let mut value = u64::from(field[0] & 0x3f);
            for &byte in &field[1..] {
                if value >> 56 != 0 {
                    return Err(bad);
                }
                value = value << 8 | u64::from(byte);
            }
            return Ok(value);
        }
        let mut value = 0u64;
        for &byte in field.iter().skip_while(|b| **b == b' ') {
            match byte {
                b'0'..=b'7' => value = value << 3 | u64::from(byte - b'0'),
                0 | b' ' => break,
                _ => return Err(bad),
            }
        }
        Ok(value)
    }

    /// As [`Self::number`], but base 256 may be negative.
    fn time(&self, at: usize, length: usize) -> Result<i64, TarError> {
        let field = &self.0[at..at + length];
        if field[0] & 0xc0 == 0xc0 {
            let tail: [u8; 8] = field[length - 8..].try_into().unwrap_or([0; 8]);
            return Ok(i64::from_be_bytes(tail));
        }
        Ok(i64::try_from(self.number(at, length)?).unwrap_or(i64::MAX))
    }

    fn check(&self) -> Result<(), TarError> {
        let want = self.number(148, 8)?;
        let sum = |value: fn(u8) -> i64| -> i64 {
            let byte = |(at, &b): (usize, &u8)| if (148..156).contains(&at) { 32 } else { value(b) };
            self.0.iter().enumerate().map(byte).sum()
        };
        let want = i64::try_from(want).unwrap_or(-1);
        // Some old tars summed signed bytes.
        if sum(i64::from) == want || sum(|b| i64::from(b as i8)) == want {
            Ok(())
        } else {
            Err(TarError::Malformed("a header's checksum is wrong: this is not a tar archive, or it is damaged"))
        }
    }
}

#[cfg(test)]
mod tests {
    use coppice_base::Random;
    use coppice_base::random::Seeded;

    use super::*;
    use crate::archive::TarWriter;

    fn entry(path: &[u8], kind: Kind, size: u64) -> Entry {
        Entry {
            path: path.to_vec(),
            link: b"target".to_vec(),
            kind,
            mode: 0o4755,
            uid: 5_000_000,
            gid: 7,
            mtime: (-5, 250_000_000),
            size,
            segments: None,
            xattrs: vec![(b"user.a".to_vec(), b"\0=\n".to_vec())],
        }
    }

    fn archive() -> Vec<u8> {
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&entry(b"a/b", Kind::File, 700), &mut &[7u8; 700][..]).unwrap();
        writer.entry(&entry(&[b'n'; 200], Kind::Symlink, 0), &mut io::empty()).unwrap();
        writer.entry(&entry(b"d", Kind::Directory, 0), &mut io::empty()).unwrap();
        writer.finish().unwrap()
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = TarReader::new(bytes, 1 << 20);
        let mut list = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut data = Vec::new();
            let mut buffer = [0; 333];
            loop {
                match reader.read_data(&mut buffer)? {
                    0 => break,
                    got => data.extend_from_slice(&buffer[..got]),
                }
            }
            list.push((entry, data));
        }
        Ok(list)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let list = read_all(&archive()).unwrap();
        assert_eq!(list.len(), 3);
        let (file, data) = &list[0];
        assert_eq!(
            (&file.path[..], file.uid, file.mtime, file.mode),
            (&b"a/b"[..], 5_000_000, (-5, 250_000_000), 0o4755)
        );
        assert_eq!((data.len(), &file.xattrs[0].1[..]), (700, &b"\0=\n"[..]));
        assert_eq!((list[1].0.path.len(), list[1].0.kind, &list[1].0.link[..]), (200, Kind::Symlink, &b"target"[..]));
    }

    #[test]
    fn damaged_archives_end_in_an_error_or_entries_and_never_in_a_panic() {
        let good = archive();
        let mut random = Seeded::new(42);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.next_u64() as u8;
            }
            bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            fix_checksums(&mut bytes);
            // Only that it comes back.
            let _ = read_all(&bytes);
        }
    }

    /// Makes every block that looks like a header a valid one, so that damage gets past the checksum.
    fn fix_checksums(bytes: &mut [u8]) {
        for block in bytes.chunks_exact_mut(BLOCK).filter(|block| block[257..262] == *b"ustar") {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
