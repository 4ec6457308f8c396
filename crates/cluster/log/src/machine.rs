//! openraft's state machine: the [`State`] in memory, published after each apply, and its snapshots.

use std::io::Cursor;
use std::sync::Arc;

use coppice_state::State;
use openraft::entry::EntryPayload;
use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use crate::StorageError;
use crate::consensus::{Answer, Entry, LogId, Membership, RaftStorageError, SnapshotMeta, TypeConfig};
use crate::database::{Database, StoredSnapshot};
use crate::store::{Store, decode, encode};

/// The state with its place in the log.
#[derive(Clone)]
pub(crate) struct Machine {
    store: Store,
    place: Place,
    published: Arc<watch::Sender<Arc<State>>>,
}

/// What a snapshot is taken of.
#[derive(Clone, Default)]
struct Place {
    state: Arc<State>,
    applied: Option<LogId>,
    membership: Membership,
}

impl Machine {
    /// The state of the last snapshot, or the empty one; what came later is applied again by openraft. Nothing is
    /// published until it is newer than what is published already.
    pub(crate) async fn restore(store: Store, published: Arc<watch::Sender<Arc<State>>>) -> Result<Self, StorageError> {
        let place = store.database.run(|database| Ok(read(database)?.map(|(place, _, _)| place))).await?;
        let machine = Self { store, place: place.unwrap_or_default(), published };
        machine.publish();
        Ok(machine)
    }

    /// After a failed write the log starts again from the snapshot; readers never see the way back.
    fn publish(&self) {
        self.published.send_if_modified(|current| {
            let newer = self.place.state.revision() > current.revision();
            if newer {
                *current = self.place.state.clone();
            }
            newer
        });
    }
}

/// The snapshot there is: what it holds, its description and its bytes.
fn read(database: &Database) -> Result<Option<(Place, SnapshotMeta, Vec<u8>)>, StorageError> {
    let Some(StoredSnapshot { description, data }) = database.snapshot()? else { return Ok(None) };
    let meta: SnapshotMeta = decode(database, "the snapshot's description", &description)?;
    let state = Arc::new(State::from_snapshot(&data).map_err(|error| database.damaged(&error.to_string()))?);
    let place = Place { state, applied: meta.last_log_id, membership: meta.last_membership.clone() };
    Ok(Some((place, meta, data)))
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, Membership), RaftStorageError> {
        Ok((self.place.applied, self.place.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, RaftStorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.place.applied = Some(entry.log_id);
            answers.push(match entry.payload {
                EntryPayload::Blank => Answer::Nothing,
                EntryPayload::Normal(command) => Answer::Command(Arc::make_mut(&mut self.place.state).apply(&command)),
                EntryPayload::Membership(membership) => {
                    self.place.membership = Membership::new(Some(entry.log_id), membership);
                    Answer::Nothing
                }
            });
        }
        self.publish();
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, RaftStorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), RaftStorageError> {
        let (meta, data) = (meta.clone(), snapshot.into_inner());
        let installed = self.store.run(move |database| {
            let refused = |error: coppice_state::SnapshotError| database.damaged(&error.to_string());
            let state = Arc::new(State::from_snapshot(&data).map_err(refused)?);
            database.put_snapshot(&encode(&meta), &data)?;
            Ok(Place { state, applied: meta.last_log_id, membership: meta.last_membership })
        });
        self.place = installed.await?;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, RaftStorageError> {
        let read = self.store.run(|database| read(database)).await?;
        Ok(read.map(|(_, meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    /// Encoded and written on the database's thread; commands wait meanwhile, and are applied to a copy.
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, RaftStorageError> {
        let place = self.place.clone();
        let built = self.store.run(move |database| {
            let data = place.state.to_snapshot();
            let snapshot_id = place.applied.map_or_else(|| "empty".to_owned(), |applied| applied.to_string());
            let meta = SnapshotMeta { last_log_id: place.applied, last_membership: place.membership, snapshot_id };
            database.put_snapshot(&encode(&meta), &data)?;
            Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) })
        });
        built.await
    }
}
