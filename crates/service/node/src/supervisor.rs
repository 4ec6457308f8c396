//! The shell around one `Supervision`: a task that feeds it events and time, and carries its actions out.
//!
//! What the machine decided is on disk before it is done, so a daemon that dies in between finds the decision in
//! the snapshot and its outcome by asking the launcher. The file is not synced: after a power cut there is
//! nothing left to adopt.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_base::{Clock, SystemRandom};
use coppice_supervise::{Action, Event, Snapshot, Supervision, SupervisorSpec, TreeStatus};
use tokio::sync::{mpsc, oneshot, watch};

use crate::root::replace_file;

/// A handle on a running supervisor. Cheap to clone; the task ends when all handles are gone.
#[derive(Clone)]
pub(crate) struct Supervisor {
    inbox: mpsc::UnboundedSender<Told>,
    machine: Arc<Mutex<Supervision<String>>>,
    /// Counts handled events, so that who waits for a state looks again.
    turns: watch::Receiver<u64>,
}

/// What its task is told.
enum Told {
    Event(Event<String>),
    /// Answer when everything told before is handled.
    Barrier(oneshot::Sender<()>),
}

/// What carries actions out. Called from the supervisor's task; must not block.
pub(crate) type Execute = Box<dyn Fn(&Supervisor, Action<String>) + Send>;

/// Where a supervisor's memory lies in the directory of what it supervises.
pub(crate) fn snapshot(dir: &Path) -> PathBuf {
    dir.join("supervise.json")
}

/// The machine whose memory is at `path`, if there is one that fits.
pub(crate) fn restore(path: &Path) -> Option<Supervision<String>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "starting the supervisor's memory anew");
            return None;
        }
    };
    let restored = serde_json::from_slice::<Snapshot<String>>(&bytes).map_err(|error| error.to_string());
    match restored.and_then(|snapshot| Supervision::restore(snapshot).map_err(|error| error.to_string())) {
        Ok(machine) => Some(machine),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "starting the supervisor's memory anew");
            None
        }
    }
}

/// The machine for `tree`: from the snapshot at `path` if there is one that fits, else new. True when it was
/// restored.
pub(crate) fn machine(
    path: &Path,
    tree: SupervisorSpec<String>,
) -> Result<(Supervision<String>, bool), coppice_supervise::TreeError<String>> {
    match restore(path) {
        Some(machine) => Ok((machine, true)),
        None => Ok((Supervision::new(tree)?, false)),
    }
}

impl Supervisor {
    pub(crate) fn spawn(machine: Supervision<String>, path: PathBuf, clock: Arc<dyn Clock>, execute: Execute) -> Self {
        let (inbox, mut events) = mpsc::unbounded_channel();
        let (turned, turns) = watch::channel(0);
        let supervisor = Self { inbox, machine: Arc::new(Mutex::new(machine)), turns };
        // The task's own handle must not keep the inbox open.
        let (weak, machine, turns) =
            (supervisor.inbox.downgrade(), supervisor.machine.clone(), supervisor.turns.clone());
        tokio::spawn(async move {
            loop {
                let wakeup = machine.lock().expect("no panic holds this lock").next_wakeup();
                let sleep = async {
                    match wakeup {
                        Some(at) => tokio::time::sleep(at.since(clock.now()) + Duration::from_millis(1)).await,
                        None => std::future::pending().await,
                    }
                };
                let event = tokio::select! {
                    told = events.recv() => match told {
                        Some(Told::Event(event)) => event,
                        Some(Told::Barrier(passed)) => {
                            // Who asked may have gone.
                            let _ = passed.send(());
                            continue;
                        }
                        None => return,
                    },
                    () = sleep => Event::Tick,
                };
                let Some(inbox) = weak.upgrade() else { return };
                let handled = {
                    let mut machine = machine.lock().expect("no panic holds this lock");
                    let handled = machine.handle(clock.now(), event, &mut SystemRandom);
                    if handled.is_ok()
                        && let Err(error) = keep(&path, machine.snapshot())
                    {
                        tracing::warn!(path = %path.display(), %error, "cannot keep the supervisor's memory");
                    }
                    handled
                };
                let handle = Supervisor { inbox, machine: machine.clone(), turns: turns.clone() };
                match handled {
                    Ok(actions) => actions.into_iter().for_each(|action| execute(&handle, action)),
                    Err(error) => tracing::debug!(%error, "event refused"),
                }
                turned.send_modify(|turn| *turn += 1);
            }
        });
        supervisor
    }

    /// Tells it something; it is handled in the order told.
    pub(crate) fn tell(&self, event: Event<String>) {
        // An error means the task is gone, and with it what was supervised.
        let _ = self.inbox.send(Told::Event(event));
    }

    /// Resolves once everything told so far is handled: a status read then is not of before.
    pub(crate) async fn caught_up(&self) {
        let (passed, barrier) = oneshot::channel();
        let _ = self.inbox.send(Told::Barrier(passed));
        // An error means the task is gone; there is nothing to wait for.
        let _ = barrier.await;
    }

    pub(crate) fn status(&self) -> TreeStatus<String> {
        self.machine.lock().expect("no panic holds this lock").status()
    }

    pub(crate) fn read<T>(&self, look: impl FnOnce(&Supervision<String>) -> T) -> T {
        look(&self.machine.lock().expect("no panic holds this lock"))
    }

    /// Resolves once `settled` holds.
    pub(crate) async fn when(&self, mut settled: impl FnMut(&TreeStatus<String>) -> bool) {
        let mut turns = self.turns.clone();
        loop {
            turns.borrow_and_update();
            if settled(&self.status()) {
                return;
            }
            if turns.changed().await.is_err() {
                return;
            }
        }
    }
}

fn keep(path: &Path, snapshot: &Snapshot<String>) -> io::Result<()> {
    replace_file(path, &serde_json::to_vec(snapshot).map_err(io::Error::other)?)
}
