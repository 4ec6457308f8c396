//! openraft's log on [`Database`]: entries, vote, committed and purged positions, as JSON rows.
//!
//! JSON, so that fields can be added to commands later and a person can read the log with `sqlite3`.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, StorageIOError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::StorageError;
use crate::consensus::{Entry, LogId, RaftStorageError, SnapshotMeta, TypeConfig, Vote};
use crate::database::{Database, DatabaseThread, Fact};

/// The log's storage. Clones share the database and the failure.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) database: DatabaseThread,
    /// openraft stops at the first failed read or write and tells it as text only; here is what it was.
    failure: Arc<Mutex<Option<StorageError>>>,
}

impl Store {
    pub(crate) fn new(database: DatabaseThread) -> Self {
        Self { database, failure: Arc::default() }
    }

    /// The failure that stopped consensus, if it was one of storage.
    pub(crate) fn failure(&self) -> Option<StorageError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether log, snapshot and what is said of them fit together; openraft takes that for granted.
    pub(crate) async fn verify(&self) -> Result<(), StorageError> {
        let verified = self.database.run(|database| {
            let purged: Option<LogId> = decode_fact(database, Fact::Purged, "the purged position")?;
            let snapshot: Option<SnapshotMeta> = decode_fact(database, Fact::Snapshot, "the snapshot's description")?;
            let ends = database.ends()?;
            let next_after = |id: Option<LogId>| id.map_or(0, |id| id.index + 1);
            let purged_end = next_after(purged);
            if purged_end > next_after(snapshot.and_then(|snapshot| snapshot.last_log_id)) {
                return Err(database.damaged("commands were purged that the snapshot does not have"));
            }
            match ends {
                Some((first, _)) if first > purged_end => Err(database.damaged("the first entries are missing")),
                Some(_) if database.fact(Fact::Vote)?.is_none() && ends != Some((0, 0)) => {
                    Err(database.damaged("the vote is missing"))
                }
                _ => Ok(()),
            }
        });
        verified.await
    }

    /// Whether the other is a clone of this one.
    pub(crate) fn is(&self, other: &Store) -> bool {
        Arc::ptr_eq(&self.failure, &other.failure)
    }

    /// Runs `work` on the database; a failure is remembered and told to openraft, which then stops.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, RaftStorageError> {
        self.database.run(work).await.map_err(|error| {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            let told = StorageIOError::write(openraft::AnyError::new(&error)).into();
            failure.get_or_insert(error);
            told
        })
    }
}

pub(crate) fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("log rows have only text keys and no I/O")
}

pub(crate) fn decode<T: DeserializeOwned>(database: &Database, what: &str, row: &[u8]) -> Result<T, StorageError> {
    serde_json::from_slice(row).map_err(|error| database.damaged(&format!("{what} cannot be read: {error}")))
}

fn decode_fact<T: DeserializeOwned>(database: &Database, fact: Fact, what: &str) -> Result<Option<T>, StorageError> {
    database.fact(fact)?.map(|row| decode(database, what, &row)).transpose()
}

fn entries(database: &Database, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
    let rows = database.entries(start..end)?;
    rows.iter().map(|row| decode(database, "an entry", row)).collect()
}

fn last_log_id(database: &Database) -> Result<Option<LogId>, StorageError> {
    let Some((_, last)) = database.ends()? else {
        return decode_fact(database, Fact::Purged, "the purged position");
    };
    Ok(entries(database, last, last + 1)?.first().map(|entry| entry.log_id))
}

impl RaftLogReader<TypeConfig> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, RaftStorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        // SQLite's integers are signed.
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => i64::MAX.unsigned_abs(),
        };
        self.run(move |database| entries(database, start, end)).await
    }
}

impl RaftLogStorage<TypeConfig> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, RaftStorageError> {
        self.run(|database| {
            Ok(LogState {
                last_purged_log_id: decode_fact(database, Fact::Purged, "the purged position")?,
                last_log_id: last_log_id(database)?,
            })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), RaftStorageError> {
        let row = encode(vote);
        self.run(move |database| database.put_fact(Fact::Vote, &row)).await
    }

    /// A node killed after its election and before its first entry as leader would lead again at once, with entries
    /// of earlier terms that only an entry of this term can commit. Without the mark of victory it is
    /// elected again, and that writes one.
    async fn read_vote(&mut self) -> Result<Option<Vote>, RaftStorageError> {
        self.run(|database| {
            let Some(mut vote) = decode_fact::<Vote>(database, Fact::Vote, "the vote")? else { return Ok(None) };
            let last_term = last_log_id(database)?.map(|last| last.leader_id.term);
            vote.committed &= last_term == Some(vote.leader_id.term);
            Ok(Some(vote))
        })
        .await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), RaftStorageError> {
        let row = encode(&committed);
        self.run(move |database| {
            database.note_committed(row);
            Ok(())
        })
        .await
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, RaftStorageError> {
        self.run(|database| {
            Ok(decode_fact::<Option<LogId>>(database, Fact::Committed, "the committed position")?.flatten())
        })
        .await
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), RaftStorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows: Vec<(u64, Vec<u8>)> = entries.into_iter().map(|entry| (entry.log_id.index, encode(&entry))).collect();
        self.run(move |database| database.append(&rows)).await?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), RaftStorageError> {
        self.run(move |database| database.truncate(log_id.index)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), RaftStorageError> {
        let row = encode(&log_id);
        self.run(move |database| database.purge(log_id.index, &row)).await
    }
}
