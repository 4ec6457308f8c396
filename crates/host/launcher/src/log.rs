//! A container's log file: lines with time and stream, rotated by size, never more than promised.
//!
//! A full disk never stops a container: its output is read on, lines are dropped and counted, and when there is
//! space again the log says how many. A write that the disk took in part is taken back, so no line is torn.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use coppice_base::Bytes;
use coppice_container::LogConfig;
use rustix::fs::{CWD, Mode, OFlags, fstat, ftruncate, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Longest piece of a line; a longer line becomes several entries flagged `P` and a last one flagged `F`.
pub(crate) const PIECE_MAX: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

pub(crate) struct Log {
    config: LogConfig,
    file: Option<OwnedFd>,
    size: u64,
    dropped: u64,
    /// Entries not yet written; written at the end of each turn of reading.
    entries: Vec<u8>,
    lines: u64,
}

impl Log {
    pub(crate) fn open(config: LogConfig) -> Result<Self, Errno> {
        let (file, size) = open_append(&config)?;
        Ok(Self { config, file: Some(file), size, dropped: 0, entries: Vec::new(), lines: 0 })
    }

    /// A log whose fd was kept through a re-execution of the launcher.
    pub(crate) fn resume(config: LogConfig, file: Option<OwnedFd>, dropped: u64) -> Self {
        let size = file.as_ref().and_then(|file| fstat(file).ok()).map_or(0, |stat| stat.st_size as u64);
        Self { config, file, size, dropped, entries: Vec::new(), lines: 0 }
    }

    pub(crate) fn config(&self) -> &LogConfig {
        &self.config
    }

    pub(crate) fn file(&self) -> Option<&OwnedFd> {
        self.file.as_ref()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes output in; whole lines become entries, the rest stays in `pending`.
    pub(crate) fn take(&mut self, stream: Stream, bytes: &[u8], pending: &mut Vec<u8>) {
        let time = stamp();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = PIECE_MAX - pending.len();
            match rest.iter().take(room).position(|&b| b == b'\n') {
                Some(end) => {
                    self.entry(&time, stream, 'F', pending, &rest[..end]);
                    pending.clear();
                    rest = &rest[end + 1..];
                }
                // A line of exactly the longest piece needs its newline looked at before it is called partial.
                None if rest.len() > room => {
                    let flag = if rest[room] == b'\n' { 'F' } else { 'P' };
                    self.entry(&time, stream, flag, pending, &rest[..room]);
                    pending.clear();
                    rest = &rest[room + usize::from(flag == 'F')..];
                }
                None => {
                    pending.extend_from_slice(rest);
                    rest = &[];
                }
            }
        }
        if pending.is_empty() && pending.capacity() > 1024 {
            *pending = Vec::new();
        }
    }

    /// Writes what is left of a stream that ended without a newline.
    pub(crate) fn end(&mut self, stream: Stream, pending: &mut Vec<u8>) {
        if !pending.is_empty() {
            let rest = std::mem::take(pending);
            self.entry(&stamp(), stream, 'F', &rest, &[]);
        }
        self.flush();
    }

    fn entry(&mut self, time: &str, stream: Stream, flag: char, first: &[u8], second: &[u8]) {
        if self.entries.len() > 4 * PIECE_MAX {
            self.flush();
        }
        self.entries.extend_from_slice(format!("{time} {} {flag} ", stream.name()).as_bytes());
        self.entries.extend_from_slice(first);
        self.entries.extend_from_slice(second);
        self.entries.push(b'\n');
        self.lines += 1;
    }

    /// Writes the entries gathered.
    pub(crate) fn flush(&mut self) {
        if self.entries.is_empty() {
            return;
        }
        let mut entries = std::mem::take(&mut self.entries);
        let mut lines = std::mem::take(&mut self.lines);
        if self.dropped > 0 {
            let note = format!(
                "{} stderr F coppice: {} lines of output were lost here because the disk was full\n",
                stamp(),
                self.dropped
            );
            entries.splice(0..0, note.into_bytes());
        }
        let mut rest = &entries[..];
        while !rest.is_empty() {
            let (part, after) = rest.split_at(whole_lines(rest, self.config.max_size));
            if self.write(part).is_err() {
                // Any failure to write, not only a full disk, must leave the container running.
                self.dropped += lines;
                break;
            }
            self.dropped = 0;
            rest = after;
            lines = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        entries.clear();
        if entries.capacity() <= 4 * PIECE_MAX {
            self.entries = entries;
        }
        if self.entries.capacity() > 4096 {
            self.entries = Vec::new();
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if self.size > 0 && self.size + bytes.len() as u64 > self.config.max_size.0 {
            self.rotate();
        }
        if self.file.is_none() {
            let (file, size) = open_append(&self.config)?;
            (self.file, self.size) = (Some(file), size);
        }
        let file = self.file.as_ref().ok_or(Errno::BADF)?;
        let mut done = 0;
        while done < bytes.len() {
            match rustix::io::write(file, &bytes[done..]) {
                Ok(0) => return self.take_back(Errno::NOSPC),
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return self.take_back(e),
            }
        }
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn take_back(&self, errno: Errno) -> Result<(), Errno> {
        if let Some(file) = &self.file {
            // Shrinking needs no space; should it fail, a torn line is the worst of it.
            let _ = ftruncate(file, self.size);
        }
        Err(errno)
    }

    /// `path.n-2` → `path.n-1`, …, `path` → `path.1`; the oldest goes.
    fn rotate(&mut self) {
        let numbered = |n: u32| match n {
            0 => self.config.path.clone(),
            n => PathBuf::from(format!("{}.{n}", self.config.path.display())),
        };
        for n in (0..self.config.max_files.saturating_sub(1)).rev() {
            // A file that is not there yet has nothing to move.
            let _ = renameat(CWD, numbered(n), CWD, numbered(n + 1));
        }
        if self.config.max_files <= 1 {
            let _ = unlinkat(CWD, &self.config.path, rustix::fs::AtFlags::empty());
        }
        self.file = None;
        self.size = 0;
    }
}

/// How much of `entries` goes into one file: all, or as many whole lines as it may hold, and at least one.
fn whole_lines(entries: &[u8], max: Bytes) -> usize {
    let max = usize::try_from(max.0).unwrap_or(usize::MAX);
    if entries.len() <= max {
        return entries.len();
    }
    let end = |at: usize| at + 1;
    let fitting = entries[..max].iter().rposition(|byte| *byte == b'\n').map(end);
    fitting.or_else(|| entries.iter().position(|byte| *byte == b'\n').map(end)).unwrap_or(entries.len())
}

fn open_append(config: &LogConfig) -> Result<(OwnedFd, u64), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(CWD, &config.path, flags, Mode::from_raw_mode(0o640))?;
    let size = fstat(&file)?.st_size as u64;
    Ok((file, size))
}

/// The time as RFC 3339 with nanoseconds, UTC.
fn stamp() -> String {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    format_stamp(now.tv_sec, now.tv_nsec)
}

fn format_stamp(seconds: i64, nanoseconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1970 to a civil date: years of 400 start on 1 March 0000 (H. Hinnant, "chrono-compatible low-level
    // date algorithms", public domain).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gets_as_many_whole_lines_as_it_may_hold_and_at_least_one() {
        let lines = b"one\ntwo\nthree\n";
        for (max, taken) in [(100, 14), (14, 14), (13, 8), (8, 8), (7, 4), (1, 4)] {
            assert_eq!(whole_lines(lines, Bytes(max)), taken, "{max}");
        }
    }

    #[test]
    fn times_are_civil_dates() {
        assert_eq!(format_stamp(0, 5), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(format_stamp(951_782_400, 0), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(format_stamp(1_795_262_399, 999_999_999), "2026-11-21T11:59:59.999999999Z");
    }
}
