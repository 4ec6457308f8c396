//! The log as the rest of the program sees it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coppice_state::{Applied, Command, NodeId, Rejection, State};
use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, ServerState};
use tokio::sync::{Mutex, OwnedRwLockWriteGuard, RwLock, watch};

use crate::StorageError;
use crate::consensus::{Answer, NoNetwork, Raft, config};
use crate::database::DatabaseThread;
use crate::machine::Machine;
use crate::store::{Store, encode};

/// Largest command accepted, in bytes of its encoding. A spec of a thousand services is a tenth of this.
pub const COMMAND_MAX: usize = 4 << 20;

/// How long [`Log::open`] waits for the node to lead. A cluster of one needs milliseconds and some fsyncs; this is
/// for disks that hang.
const LEAD_WITHIN: Duration = Duration::from_secs(60);

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A snapshot is taken each time this many commands came after the last one.
    pub snapshot_every: u64,
    /// Commands before a snapshot that are kept, for members that are a little behind.
    pub keep_entries: u64,
}

impl Default for Settings {
    /// 1000 commands replay in well under a second.
    fn default() -> Self {
        Self { snapshot_every: 1000, keep_entries: 200 }
    }
}

/// Why a log could not be opened. Nothing on disk was changed, except that a log may have been made.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the log at {} did not get ready within {LEAD_WITHIN:?}; check that the disk answers", path.display())]
    NotReady { path: PathBuf },
    #[error("consensus over the log at {} stopped ({detail}); start the node again", path.display())]
    Stopped { path: PathBuf, detail: String },
}

/// Why a proposal has no effect, or (`Storage`, `Stopped`, `NotReady`) is not known to have one: the same command,
/// with the same id, can then be proposed again and takes effect once.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// The state refused it.
    #[error(transparent)]
    Rejected(Rejection),
    #[error(
        "the command is {size} bytes long and {COMMAND_MAX} is the most; nothing was changed; make the spec smaller"
    )]
    TooLarge { size: usize },
    #[error("this node does not lead the cluster; nothing was changed; ask {}", leader_name(.leader))]
    NotLeader { leader: Option<NodeId> },
    /// The log could not be written or opened again.
    #[error(transparent)]
    Unavailable(#[from] OpenError),
    #[error("the log is shut down; nothing was changed")]
    ShutDown,
}

/// Why no snapshot was taken. Nothing is lost.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Unavailable(#[from] OpenError),
    #[error("the log is shut down")]
    ShutDown,
}

/// Why the log was not copied. The log itself is as it was; the file may be there in part.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error(transparent)]
    Unavailable(#[from] OpenError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("the log is shut down")]
    ShutDown,
}

fn leader_name(leader: &Option<NodeId>) -> String {
    leader.map_or_else(|| "again in a moment".to_owned(), |node| format!("node {node}"))
}

/// Commands in one agreed order, durable, and the state they lead to. Clones are the same log.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    node: NodeId,
    settings: Settings,
    published: Arc<watch::Sender<Arc<State>>>,
    engine: Mutex<Slot>,
    /// Whose proposals are under way read it.
    proposing: Arc<RwLock<()>>,
}

/// While it is there, the state is what it is: proposals wait.
#[must_use]
pub struct Held {
    _proposing: OwnedRwLockWriteGuard<()>,
}

enum Slot {
    Running(Engine),
    /// Stopped by a failure; the next proposal puts it away and starts another.
    Failed(Engine),
    ShutDown,
}

/// Consensus and its storage, started together and stopped together.
#[derive(Clone)]
struct Engine {
    raft: Raft,
    store: Store,
}

impl Log {
    /// Opens the log of `node` in `dir`. Where there is none, makes it (and `dir`), a cluster of this node alone.
    /// Returns when everything that was ever answered is applied.
    pub async fn open(dir: &Path, node: NodeId) -> Result<Log, OpenError> {
        Self::open_with(dir, node, Settings::default()).await
    }

    /// [`open`](Self::open), with other settings than the default ones.
    pub async fn open_with(dir: &Path, node: NodeId, settings: Settings) -> Result<Log, OpenError> {
        let published = Arc::new(watch::Sender::new(Arc::default()));
        let engine = Engine::start(dir, node, &settings, &published).await?;
        let engine = Mutex::new(Slot::Running(engine));
        let proposing = Arc::default();
        Ok(Log { shared: Arc::new(Shared { dir: dir.to_owned(), node, settings, published, engine, proposing }) })
    }

    /// Adds `command` to the log. Returns when it is durable and applied, with what it did.
    ///
    /// A failed write gets one more try, on a log opened again. Dropping the future does not take the command back.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        let size = encode(&command).len();
        if size > COMMAND_MAX {
            return Err(ProposeError::TooLarge { size });
        }
        let _proposing = self.shared.proposing.read().await;
        let mut retried = false;
        loop {
            let Some(engine) = self.shared.running().await? else { return Err(ProposeError::ShutDown) };
            // A retry, by the caller or after a failure that struck between the write and the answer.
            if let Some(applied) = self.read().answer_to(command.id) {
                return Ok(applied.clone());
            }
            match engine.raft.client_write(command.clone()).await {
                Ok(written) => match written.data {
                    Answer::Command(answer) => return answer.map_err(ProposeError::Rejected),
                    Answer::Nothing => unreachable!("Machine::apply answers a command with Answer::Command"),
                },
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                    return Err(ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) });
                }
                Err(error) => {
                    let failure = self.shared.retire(engine, &error.to_string()).await;
                    if retried {
                        return Err(failure.into());
                    }
                    tracing::warn!(%failure, "the log stopped; opening it again");
                    retried = true;
                }
            }
        }
    }

    /// Has the state stay as it is for as long as what is answered is kept: proposals wait. Resolves when those that are under
    /// way have ended. Who holds it proposes nothing.
    pub async fn hold(&self) -> Held {
        Held { _proposing: self.shared.proposing.clone().write_owned().await }
    }

    /// The state after the last applied command. It does not change; ask again for a newer one.
    pub fn read(&self) -> Arc<State> {
        self.shared.published.borrow().clone()
    }

    /// The state now and whenever it changes. Each state seen is newer than the one before; some may be skipped.
    pub fn watch(&self) -> watch::Receiver<Arc<State>> {
        self.shared.published.subscribe()
    }

    /// Takes a snapshot of the state now and purges the commands before it, as far as the settings say.
    pub async fn snapshot_now(&self) -> Result<(), SnapshotError> {
        let Some(engine) = self.shared.running().await? else { return Err(SnapshotError::ShutDown) };
        let applied = engine.raft.metrics().borrow().last_applied;
        let taken = async {
            engine.raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
            let wait = engine.raft.wait(Some(LEAD_WITHIN));
            wait.metrics(|m| m.snapshot >= applied, "snapshot").await.map_err(|error| error.to_string())
        };
        match taken.await {
            Ok(_) => Ok(()),
            Err(detail) => Err(self.shared.retire(engine, &detail).await.into()),
        }
    }

    /// Writes the whole log, every command that was ever answered among it, to a new file `log.db` in `dir`, from which
    /// [`open`](Self::open) opens the same state. Proposals wait as long as that takes.
    pub async fn copy_to(&self, dir: &Path) -> Result<(), CopyError> {
        let Some(engine) = self.shared.running().await? else { return Err(CopyError::ShutDown) };
        let path = dir.join(crate::database::FILE);
        Ok(engine.store.database.run(move |database| database.copy_to(&path)).await?)
    }

    /// Stops consensus and closes the files. Proposals then fail; reads give the last state.
    pub async fn shutdown(&self) {
        let slot = std::mem::replace(&mut *self.shared.engine.lock().await, Slot::ShutDown);
        if let Slot::Running(engine) | Slot::Failed(engine) = slot {
            engine.stop().await;
        }
    }
}

impl Shared {
    /// The running engine, started again if a failure stopped it; `None` after a shutdown.
    async fn running(&self) -> Result<Option<Engine>, OpenError> {
        let mut slot = self.engine.lock().await;
        match &*slot {
            Slot::Running(engine) => Ok(Some(engine.clone())),
            Slot::ShutDown => Ok(None),
            Slot::Failed(failed) => {
                failed.stop().await;
                let engine = Engine::start(&self.dir, self.node, &self.settings, &self.published).await?;
                *slot = Slot::Running(engine.clone());
                Ok(Some(engine))
            }
        }
    }

    /// Takes a failed engine out of service, unless another proposal did so already.
    async fn retire(&self, failed: Engine, detail: &str) -> OpenError {
        let mut slot = self.engine.lock().await;
        let error = failed.failure(detail);
        if matches!(&*slot, Slot::Running(engine) if engine.store.is(&failed.store)) {
            *slot = Slot::Failed(failed);
        }
        error
    }
}

impl Engine {
    async fn start(
        dir: &Path,
        node: NodeId,
        settings: &Settings,
        published: &Arc<watch::Sender<Arc<State>>>,
    ) -> Result<Self, OpenError> {
        let store = Store::new(DatabaseThread::open(dir, node.0).await?);
        let started = Self::start_on(store.clone(), node, settings, published).await;
        if started.is_err() {
            store.database.close().await;
        }
        started
    }

    async fn start_on(
        store: Store,
        node: NodeId,
        settings: &Settings,
        published: &Arc<watch::Sender<Arc<State>>>,
    ) -> Result<Self, OpenError> {
        store.verify().await?;
        let machine = Machine::restore(store.clone(), published.clone()).await?;
        let path = store.database.path().to_owned();
        let raft = Raft::new(node.0, Arc::new(config(settings)), NoNetwork, store.clone(), machine)
            .await
            .map_err(|error| store.failure_or_stopped(&error.to_string()))?;
        let engine = Self { raft, store };
        match engine.lead(node).await {
            Ok(true) => Ok(engine),
            Ok(false) => {
                engine.stop().await;
                Err(OpenError::NotReady { path })
            }
            Err(detail) => {
                let failure = engine.failure(&detail);
                engine.stop().await;
                Err(failure)
            }
        }
    }

    /// Becomes the leader and applies all there is; `false` when that takes too long.
    async fn lead(&self, node: NodeId) -> Result<bool, String> {
        let text = |error: &dyn std::error::Error| error.to_string();
        if !self.raft.is_initialized().await.map_err(|error| text(&error))? {
            let alone = BTreeMap::from([(node.0, BasicNode::default())]);
            self.raft.initialize(alone).await.map_err(|error| text(&error))?;
        } else if self.raft.metrics().borrow().state != ServerState::Leader {
            self.raft.trigger().elect().await.map_err(|error| text(&error))?;
        }
        let wait = self.raft.wait(Some(LEAD_WITHIN));
        let ready = wait.metrics(
            |m| {
                let applied = m.last_applied;
                m.state == ServerState::Leader
                    && applied.is_some_and(|id| id.leader_id.term == m.current_term)
                    && applied.map(|id| id.index) >= m.last_log_index
            },
            "leading",
        );
        match ready.await {
            Ok(_) => Ok(true),
            Err(openraft::metrics::WaitError::Timeout(..)) => Ok(false),
            Err(error) => Err(text(&error)),
        }
    }

    fn failure(&self, detail: &str) -> OpenError {
        self.store.failure_or_stopped(detail)
    }

    async fn stop(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "consensus ended badly");
        }
        self.store.database.close().await;
    }
}

impl Store {
    fn failure_or_stopped(&self, detail: &str) -> OpenError {
        match self.failure() {
            Some(failure) => OpenError::Storage(failure),
            None => OpenError::Stopped { path: self.database.path().to_owned(), detail: detail.to_owned() },
        }
    }
}
