//! The journal: one JSON line per start, exit and forgotten record, so that a launcher that was killed is replaced by
//! one that knows what it left behind, and the daemon never misses an exit code.
//!
//! A start is in the file before the daemon hears of it. Nothing is synced: a power cut ends the containers too. A torn
//! last line is passed over.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use coppice_base::{ContainerId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::protocol::Exit;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    Start {
        id: ContainerId,
        pid: u32,
        /// Field 22 of /proc/pid/stat: tells this process from a later one of the same number.
        ticks: u64,
        at: Timestamp,
    },
    Exit {
        id: ContainerId,
        exit: Exit,
    },
    Forget {
        id: ContainerId,
    },
}

/// What the journal knows of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub pid: u32,
    pub ticks: u64,
    pub at: Timestamp,
    pub exit: Option<Exit>,
}

pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// The last write failed, maybe in the middle of a line.
    torn: bool,
    records: BTreeMap<ContainerId, Record>,
}

/// Lines beyond twice the live records after which the file is rewritten.
const SLACK: usize = 1024;
/// A journal is small; one that is not is not ours.
const SIZE_MAX: u64 = 256 << 20;

impl Journal {
    /// Opens the journal, reads it and rewrites it without what is forgotten.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let mut text = String::new();
        match File::open(path) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(SIZE_MAX).read_to_end(&mut bytes)?;
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let mut records = BTreeMap::new();
        for line in text.lines() {
            if let Ok(entry) = serde_json::from_str(line) {
                apply(&mut records, &entry);
            }
        }
        let (file, lines) = rewrite(path, &records)?;
        Ok(Self { path: path.to_owned(), file, lines, torn: false, records })
    }

    pub(crate) fn records(&self) -> &BTreeMap<ContainerId, Record> {
        &self.records
    }

    /// Adds an entry. A full disk does not stop the launcher; the error is for who must not go on without it.
    pub(crate) fn add(&mut self, entry: &Entry) -> std::io::Result<()> {
        apply(&mut self.records, entry);
        let mut line = if self.torn { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.lines += 1;
        if self.lines > 2 * self.records.len() + SLACK {
            (self.file, self.lines) = rewrite(&self.path, &self.records)?;
        }
        Ok(())
    }
}

fn apply(records: &mut BTreeMap<ContainerId, Record>, entry: &Entry) {
    match entry {
        Entry::Start { id, pid, ticks, at } => {
            records.insert(id.clone(), Record { pid: *pid, ticks: *ticks, at: *at, exit: None });
        }
        Entry::Exit { id, exit } => {
            if let Some(record) = records.get_mut(id) {
                record.exit = Some(*exit);
            }
        }
        Entry::Forget { id } => {
            records.remove(id);
        }
    }
}

/// Writes the records beside the journal and puts them in its place.
fn rewrite(path: &Path, records: &BTreeMap<ContainerId, Record>) -> std::io::Result<(File, usize)> {
    let beside = path.with_extension("journal.next");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC)
        .open(&beside)?;
    let mut text = Vec::new();
    let mut lines = 0;
    for (id, record) in records {
        let Record { pid, ticks, at, exit } = record.clone();
        let exit = exit.map(|exit| Entry::Exit { id: id.clone(), exit });
        for entry in [Some(Entry::Start { id: id.clone(), pid, ticks, at }), exit].into_iter().flatten() {
            text.extend(serde_json::to_vec(&entry)?);
            text.push(b'\n');
            lines += 1;
        }
    }
    file.write_all(&text)?;
    std::fs::rename(&beside, path)?;
    Ok((file, lines))
}
