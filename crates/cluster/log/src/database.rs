//! `log.db`: the only place that speaks SQLite, and the only thread that touches the disk.
//!
//! Rows carry a SHA-256 of their content: SQLite checks frames of its write-ahead file, but not pages of the
//! database file, and a command with a flipped bit must stop the node, not deploy something else.
//!
//! The file is made under another name and renamed when it is whole, so that a `log.db` without content is damage
//! and never mistaken for a first start.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::wal;

/// The database's name in the log's directory.
pub const FILE: &str = "log.db";
/// Marks the file as ours ("Copp"), in SQLite's header.
const APPLICATION_ID: i32 = 0x436f_7070;
/// The layout of tables and rows; in SQLite's header as `user_version`.
const FORMAT: i32 = 1;
/// Bytes of a snapshot in one row. SQLite holds a whole row in memory to write it, and refuses 1 GB.
const CHUNK: usize = 1 << 20;

const SCHEMA: &str = "
    CREATE TABLE log (idx INTEGER PRIMARY KEY, entry BLOB NOT NULL, sum BLOB NOT NULL);
    CREATE TABLE fact (id INTEGER PRIMARY KEY, value BLOB NOT NULL, sum BLOB NOT NULL);
    CREATE TABLE snapshot (chunk INTEGER PRIMARY KEY, data BLOB NOT NULL, sum BLOB NOT NULL);
";

/// Why the log's files could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    #[error("no space left for {}; nothing already agreed is lost; free some space and try again", path.display())]
    Full { path: PathBuf },
    #[error(
        "{} is damaged ({detail}); move its folder away and restore it from a backup, or start without it: \
         running containers are not touched", path.display()
    )]
    Damaged { path: PathBuf, detail: String },
    #[error("{} is in use by another process; stop the other node, or choose another root", path.display())]
    InUse { path: PathBuf },
    #[error("{} was written by a later version (format {found}, known: {FORMAT}); run that version", path.display())]
    LaterFormat { path: PathBuf, found: i32 },
    #[error("{} belongs to node {found}, not to node {wanted}; check which root is used", path.display())]
    OtherNode { path: PathBuf, found: u64, wanted: u64 },
    #[error("{} cannot be read or written ({detail}); check the disk and the permissions", path.display())]
    Io { path: PathBuf, detail: String },
    #[error("the log at {} is closed", path.display())]
    Closed { path: PathBuf },
}

/// What is kept beside log and snapshot, by the number of its row. Every row is there from the beginning, empty, so
/// that a missing one is damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fact {
    Node = 1,
    Vote = 2,
    Committed = 3,
    Purged = 4,
    /// Describes the snapshot.
    Snapshot = 5,
}

impl Fact {
    const ALL: [Fact; 5] = [Fact::Node, Fact::Vote, Fact::Committed, Fact::Purged, Fact::Snapshot];

    fn row(self) -> u64 {
        self as u64
    }
}

/// A snapshot as stored.
pub(crate) struct StoredSnapshot {
    pub(crate) description: Vec<u8>,
    pub(crate) data: Vec<u8>,
}

/// The open database. Every method that writes is one transaction: all of it or nothing.
pub(crate) struct Database {
    connection: Connection,
    path: PathBuf,
    /// Written with the next append: losing it costs nothing but a moment at the next start.
    committed: Option<Vec<u8>>,
}

impl Database {
    /// Opens the database of `node` in `dir`, made first if there is none.
    fn open(dir: &Path, node: u64) -> Result<Self, StorageError> {
        let path = dir.join(FILE);
        let wal = dir.join(format!("{FILE}-wal"));
        let io_error = |error: io::Error| io_failure(&path, &error);
        let ahead = match std::fs::read(&wal) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => Some(read.map_err(io_error)?),
        };
        if !path.try_exists().map_err(io_error)? {
            if ahead.is_some() {
                let detail = format!("it is missing, but {} is there", wal.display());
                return Err(StorageError::Damaged { path, detail });
            }
            create(dir, node).map_err(|error| error.at(&path))?;
        }
        if let Some(detail) = ahead.as_deref().and_then(wal::damage) {
            return Err(StorageError::Damaged { path, detail });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags).and_then(configure);
        let connection = opened.map_err(|error| sqlite_failure(&path, &error))?;
        let database = Self { connection, path, committed: None };
        database.verify(node)?;
        database.checkpoint()?;
        Ok(database)
    }

    fn verify(&self, node: u64) -> Result<(), StorageError> {
        let header = |name| self.connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i32>(0));
        if self.sqlite(header("application_id"))? != APPLICATION_ID {
            return Err(self.damaged("it is not a log of Coppice, or was emptied"));
        }
        let found = self.sqlite(header("user_version"))?;
        if found != FORMAT {
            return Err(StorageError::LaterFormat { path: self.path.clone(), found });
        }
        let check = self.connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        match self.sqlite(check)?.as_str() {
            "ok" => {}
            detail => return Err(self.damaged(detail)),
        }
        if self.sqlite(self.connection.is_readonly("main"))? {
            return Err(StorageError::Io { path: self.path.clone(), detail: "it can only be read".to_owned() });
        }
        if self.has_gap()? {
            return Err(self.damaged("entries are missing"));
        }
        let owner = self.fact(Fact::Node)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        match owner {
            Some(found) if found == node => Ok(()),
            Some(found) => Err(StorageError::OtherNode { path: self.path.clone(), found, wanted: node }),
            None => Err(self.damaged("it does not say whose it is")),
        }
    }

    /// Empties the write-ahead file into the database, so that no remains of a crash outlive the next one
    /// (see [`wal`]). On a full disk that has to wait.
    fn checkpoint(&self) -> Result<(), StorageError> {
        match self.sqlite(self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))) {
            Err(StorageError::Full { .. }) => Ok(()),
            done => done,
        }
    }

    /// Writes all of it, as it is now, into a new file at `path`, which is on disk when this returns.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), StorageError> {
        let failed = |error: io::Error| io_failure(path, &error);
        let text = path.to_str().ok_or_else(|| failed(io::Error::from(io::ErrorKind::InvalidInput)))?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let copied = self.connection.execute("VACUUM INTO ?1", [text]);
        copied.map_err(|error| sqlite_failure(path, &error))?;
        File::open(path).and_then(|file| file.sync_all()).map_err(failed)
    }

    pub(crate) fn fact(&self, fact: Fact) -> Result<Option<Vec<u8>>, StorageError> {
        let query = "SELECT value, sum FROM fact WHERE id = ?1";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let found: Option<(Vec<u8>, Vec<u8>)> =
            self.sqlite(self.connection.query_row(query, [fact.row()], read).optional())?;
        match found {
            Some((value, stored)) if sum(fact.row(), &value).as_slice() == stored => {
                Ok(Some(value).filter(|value| !value.is_empty()))
            }
            Some(_) => Err(self.damaged(&format!("its {fact:?} does not match its checksum"))),
            None => Err(self.damaged(&format!("its {fact:?} is missing"))),
        }
    }

    pub(crate) fn put_fact(&mut self, fact: Fact, value: &[u8]) -> Result<(), StorageError> {
        self.transaction(|tx| put(tx, fact, value))
    }

    /// Takes note of how far the log is committed; on disk with the next append.
    pub(crate) fn note_committed(&mut self, value: Vec<u8>) {
        self.committed = Some(value);
    }

    /// Indexes of the first and last entry, if any is left. There is no gap between them.
    pub(crate) fn ends(&self) -> Result<Option<(u64, u64)>, StorageError> {
        let read = |row: &rusqlite::Row<'_>| Ok(row.get::<_, Option<u64>>(0)?.zip(row.get(1)?));
        self.sqlite(self.connection.query_row("SELECT min(idx), max(idx) FROM log", [], read))
    }

    fn has_gap(&self) -> Result<bool, StorageError> {
        let query = "SELECT count(*) > 0 AND max(idx) - min(idx) + 1 <> count(*) FROM log";
        self.sqlite(self.connection.query_row(query, [], |row| row.get(0)))
    }

    /// Entries of `range`, in order, those that are there.
    pub(crate) fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, StorageError> {
        let rows = || {
            let mut query = self
                .connection
                .prepare_cached("SELECT idx, entry, sum FROM log WHERE idx >= ?1 AND idx < ?2 ORDER BY idx")?;
            let rows = query.query_map([range.start, range.end], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<Result<Vec<(u64, Vec<u8>, Vec<u8>)>, _>>()
        };
        let mut entries = Vec::new();
        for (index, entry, stored) in self.sqlite(rows())? {
            if sum(index, &entry).as_slice() != stored {
                return Err(self.damaged(&format!("entry {index} does not match its checksum")));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Adds entries, each with its index.
    pub(crate) fn append(&mut self, entries: &[(u64, Vec<u8>)]) -> Result<(), StorageError> {
        let committed = self.committed.take();
        let appended = self.transaction(|tx| {
            let mut insert = tx.prepare_cached("INSERT INTO log (idx, entry, sum) VALUES (?1, ?2, ?3)")?;
            for (index, entry) in entries {
                insert.execute(params![index, entry, sum(*index, entry).as_slice()])?;
            }
            committed.as_deref().map_or(Ok(()), |committed| put(tx, Fact::Committed, committed))
        });
        if appended.is_err() {
            self.committed = committed;
        }
        appended
    }

    /// Takes back the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) -> Result<(), StorageError> {
        self.transaction(|tx| tx.execute("DELETE FROM log WHERE idx >= ?1", [index]).map(|_| ()))
    }

    /// Drops the entries up to and with `index`; `purged` describes the last of them.
    pub(crate) fn purge(&mut self, index: u64, purged: &[u8]) -> Result<(), StorageError> {
        self.transaction(|tx| {
            tx.execute("DELETE FROM log WHERE idx <= ?1", [index])?;
            put(tx, Fact::Purged, purged)
        })
    }

    /// Puts a snapshot in the place of the one there is.
    pub(crate) fn put_snapshot(&mut self, description: &[u8], data: &[u8]) -> Result<(), StorageError> {
        self.transaction(|tx| {
            tx.execute("DELETE FROM snapshot", [])?;
            let mut insert = tx.prepare("INSERT INTO snapshot (chunk, data, sum) VALUES (?1, ?2, ?3)")?;
            for (number, chunk) in (0u64..).zip(data.chunks(CHUNK)) {
                insert.execute(params![number, chunk, sum(number, chunk).as_slice()])?;
            }
            put(tx, Fact::Snapshot, description)
        })
    }

    pub(crate) fn snapshot(&self) -> Result<Option<StoredSnapshot>, StorageError> {
        let Some(description) = self.fact(Fact::Snapshot)? else { return Ok(None) };
        let rows = || {
            let mut query = self.connection.prepare("SELECT chunk, data, sum FROM snapshot ORDER BY chunk")?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            rows.collect::<Result<Vec<(u64, Vec<u8>, Vec<u8>)>, _>>()
        };
        let mut data = Vec::new();
        for (expected, (number, chunk, stored)) in (0u64..).zip(self.sqlite(rows())?) {
            if number != expected || sum(number, &chunk).as_slice() != stored {
                return Err(self.damaged("the snapshot does not match its checksum"));
            }
            data.extend_from_slice(&chunk);
        }
        Ok(Some(StoredSnapshot { description, data }))
    }

    pub(crate) fn damaged(&self, detail: &str) -> StorageError {
        StorageError::Damaged { path: self.path.clone(), detail: detail.to_owned() }
    }

    fn transaction(
        &mut self,
        body: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StorageError> {
        let path = &self.path;
        let done = self.connection.transaction().and_then(|tx| {
            body(&tx)?;
            tx.commit()
        });
        done.map_err(|error| sqlite_failure(path, &error))
    }

    fn sqlite<T>(&self, result: rusqlite::Result<T>) -> Result<T, StorageError> {
        result.map_err(|error| sqlite_failure(&self.path, &error))
    }
}

fn put(tx: &rusqlite::Transaction<'_>, fact: Fact, value: &[u8]) -> rusqlite::Result<()> {
    let statement =
        "INSERT INTO fact (id, value, sum) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET value = ?2, sum = ?3";
    tx.prepare_cached(statement)?.execute(params![fact.row(), value, sum(fact.row(), value).as_slice()]).map(|_| ())
}

fn sum(number: u64, data: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(number.to_be_bytes()).chain_update(data).finalize().into()
}

enum CreateError {
    Io(io::Error),
    Sqlite(rusqlite::Error),
}

impl CreateError {
    fn at(self, path: &Path) -> StorageError {
        match self {
            CreateError::Io(error) => io_failure(path, &error),
            CreateError::Sqlite(error) => sqlite_failure(path, &error),
        }
    }
}

impl From<io::Error> for CreateError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<rusqlite::Error> for CreateError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Makes an empty database of `node`, whole or not at all. Specs hold secrets: for the owner's eyes only.
fn create(dir: &Path, node: u64) -> Result<(), CreateError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let draft = dir.join(format!("{FILE}.new"));
    for left_behind in [draft.clone(), dir.join(format!("{FILE}.new-wal")), dir.join(format!("{FILE}.new-shm"))] {
        match std::fs::remove_file(left_behind) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let mut connection = Connection::open_with_flags(&draft, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    // A draft that a crash spoils is made again; it is synced once, when it is whole.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.pragma_update(None, "synchronous", "OFF")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let tx = connection.transaction()?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", FORMAT)?;
    tx.execute_batch(SCHEMA)?;
    for fact in Fact::ALL {
        put(&tx, fact, &[])?;
    }
    put(&tx, Fact::Node, &node.to_be_bytes())?;
    tx.commit()?;
    // Closing would do it, and be silent if it cannot.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    File::open(&draft)?.sync_all()?;
    std::fs::rename(&draft, dir.join(FILE))?;
    File::open(dir)?.sync_all()?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Sets what SQLite keeps per connection.
fn configure(connection: Connection) -> rusqlite::Result<Connection> {
    // Nothing to wait for: the lock is held as long as its process lives.
    connection.busy_timeout(Duration::ZERO)?;
    // One process, so no shared-memory index file; and a second process is refused.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    // In WAL mode, in which it was made, FULL is one fsync for each commit, and none is answered before it.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // KiB; rows are read once, at start.
    connection.pragma_update(None, "cache_size", -256)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

fn sqlite_failure(path: &Path, error: &rusqlite::Error) -> StorageError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StorageError::Full { path },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StorageError::InUse { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StorageError::Damaged { path, detail: error.to_string() }
        }
        // There is less of the file than it says of itself: it was cut.
        _ if is_short_read(error) => StorageError::Damaged { path, detail: "it was cut short".to_owned() },
        _ => StorageError::Io { path, detail: error.to_string() },
    }
}

fn is_short_read(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(failure, _) if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ)
}

fn io_failure(path: &Path, error: &io::Error) -> StorageError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageError::Full { path: path.to_owned() },
        _ => StorageError::Io { path: path.to_owned(), detail: error.to_string() },
    }
}

enum Job {
    Do(Box<dyn FnOnce(&mut Database) + Send>),
    Close(oneshot::Sender<()>),
}

/// The database's thread, as seen from async code. Jobs run one after the other, in the order they are sent.
#[derive(Clone, Debug)]
pub(crate) struct DatabaseThread {
    jobs: mpsc::Sender<Job>,
    path: PathBuf,
}

/// Niceness of the thread, which starts no other.
const FIRST: i32 = -10;

impl DatabaseThread {
    /// Starts the thread and opens the database on it.
    pub(crate) async fn open(dir: &Path, node: u64) -> Result<Self, StorageError> {
        let (jobs, received) = mpsc::channel::<Job>();
        let (opened, result) = oneshot::channel();
        let path = dir.join(FILE);
        let dir = dir.to_owned();
        let spawned: io::Result<JoinHandle<()>> =
            std::thread::Builder::new().name("coppice-log-db".to_owned()).spawn(move || {
                // Who waits for an entry is not to wait for what runs. Without CAP_SYS_NICE it does.
                let _ = rustix::process::setpriority_process(None, FIRST);
                let mut database = match Database::open(&dir, node) {
                    Ok(database) => database,
                    Err(error) => return drop(opened.send(Err(error))),
                };
                if opened.send(Ok(())).is_err() {
                    return;
                }
                let mut closing = None;
                for job in received {
                    match job {
                        Job::Do(work) => work(&mut database),
                        Job::Close(closed) => {
                            closing = Some(closed);
                            break;
                        }
                    }
                }
                drop(database);
                closing.map(|closed| closed.send(()));
            });
        spawned.map_err(|error| io_failure(&path, &error))?;
        result.await.unwrap_or_else(|_| Err(StorageError::Closed { path: path.clone() }))?;
        Ok(Self { jobs, path })
    }

    /// Runs `work` on the database's thread and returns what it returns.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Do(Box::new(move |database| drop(reply.send(work(database)))));
        let closed = || StorageError::Closed { path: self.path.clone() };
        self.jobs.send(job).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Closes the database and returns when its lock is free. What is sent later fails with `Closed`.
    pub(crate) async fn close(&self) {
        let (closed, done) = oneshot::channel();
        if self.jobs.send(Job::Close(closed)).is_ok() {
            // An error means that the thread ended already.
            let _ = done.await;
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
