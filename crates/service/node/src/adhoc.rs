//! Ad-hoc containers with a restart policy: a supervision tree of one child each.
//!
//! The first start is the caller's, who wants its error; the supervisor takes over what runs. The same machine that
//! keeps apps up keeps these up, and its snapshot lies beside the container's record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use coppice_base::ContainerId;
use coppice_spec::{RestartPolicy, SuperviseSpec};
use coppice_supervise::{Action, Adopted, ChildSpec, Event, MemberSpec, Supervision, SupervisorSpec};

use crate::container::{Container, Owner, Phase};
use crate::containers::Containers;
use crate::instance;
use crate::network::Names;
use crate::supervisor::{self, Supervisor};

/// Supervisors of the ad-hoc containers that have one.
pub(crate) struct AdHoc {
    containers: Arc<Containers>,
    supervisors: Mutex<BTreeMap<ContainerId, Supervisor>>,
}

impl AdHoc {
    pub(crate) fn new(containers: Arc<Containers>) -> Arc<Self> {
        Arc::new(Self { containers, supervisors: Mutex::default() })
    }

    fn supervisors(&self) -> std::sync::MutexGuard<'_, BTreeMap<ContainerId, Supervisor>> {
        self.supervisors.lock().expect("no panic holds this lock")
    }

    /// Whether this container is watched over by a supervisor of its own: it has a restart policy or a health check.
    fn is_kept(container: &Container) -> bool {
        matches!(container.owner, Owner::AdHoc)
            && container.read(|r| !r.spec.remove && (r.spec.restart != RestartPolicy::Never || r.spec.health.is_some()))
    }

    /// The container runs because somebody started it: keep it up from now on.
    pub(crate) fn keep(self: &Arc<Self>, container: &Arc<Container>) {
        if !Self::is_kept(container) {
            return;
        }
        let Ok(machine) = Supervision::new(tree(container)) else { return };
        let supervisor = self.spawn(container, machine);
        supervisor.tell(Event::Adopt(container.name(), Adopted::Running { ready: false }));
        supervisor.tell(Event::Start);
        self.watch(container.clone(), supervisor, false);
    }

    /// The daemon is back: go on as the snapshot says.
    pub(crate) fn resume(self: &Arc<Self>) {
        for container in self.containers.table.all().into_iter().filter(|container| Self::is_kept(container)) {
            let path = self.snapshot(&container);
            let Ok((machine, true)) = supervisor::machine(&path, tree(&container)) else { continue };
            let supervisor = self.spawn(&container, machine);
            let phase = container.phase();
            let found = match &phase {
                Phase::Running { .. } | Phase::Starting => {
                    self.watch(container.clone(), supervisor.clone(), false);
                    Adopted::Running { ready: false }
                }
                Phase::Exited { .. } => Adopted::Exited(instance::reason(phase.exit(), &phase)),
                _ => Adopted::Absent,
            };
            supervisor.tell(Event::Adopt(container.name(), found));
        }
    }

    /// Somebody stopped or killed it: leave it down.
    pub(crate) fn rest(&self, container: &Container) {
        if let Some(supervisor) = self.supervisors().get(&container.id) {
            supervisor.tell(Event::Stop);
        }
    }

    /// It is being removed.
    pub(crate) fn drop_one(&self, container: &Container) {
        self.supervisors().remove(&container.id);
    }

    /// Restarts that nobody asked for.
    pub(crate) fn restarts(&self, container: &Container) -> u32 {
        let supervisor = self.supervisors().get(&container.id).cloned();
        let status = supervisor.and_then(|supervisor| supervisor.read(|machine| machine.status_of(&container.name())));
        status.map_or(0, |status| u32::try_from(status.restarts).unwrap_or(u32::MAX))
    }

    fn snapshot(&self, container: &Container) -> std::path::PathBuf {
        supervisor::snapshot(&self.containers.root.container(&container.id))
    }

    fn spawn(self: &Arc<Self>, container: &Arc<Container>, machine: Supervision<String>) -> Supervisor {
        let (this, weak) = (Arc::downgrade(self), Arc::downgrade(container));
        let execute = Box::new(move |supervisor: &Supervisor, action: Action<String>| {
            if let (Some(this), Some(container)) = (this.upgrade(), weak.upgrade()) {
                this.execute(supervisor, container, action);
            }
        });
        let clock = self.containers.clock.clone();
        let supervisor = Supervisor::spawn(machine, self.snapshot(container), clock, execute);
        self.supervisors().insert(container.id.clone(), supervisor.clone());
        supervisor
    }

    fn execute(self: &Arc<Self>, supervisor: &Supervisor, container: Arc<Container>, action: Action<String>) {
        match action {
            Action::Start { key, attempt, cause } => {
                self.containers.tell(&container, "restart", format!("attempt {attempt}: {cause}"));
                let (this, supervisor) = (self.clone(), supervisor.clone());
                tokio::spawn(async move {
                    match this.containers.start(&container, None, None, &Names::new()).await {
                        Ok(()) => {
                            supervisor.tell(Event::Started(key));
                            this.watch(container, supervisor, false);
                        }
                        Err(error) => supervisor.tell(Event::StartFailed(key, error.to_string())),
                    }
                });
            }
            Action::Stop { .. } => {
                let containers = self.containers.clone();
                tokio::spawn(async move {
                    if let Err(error) = containers.stop(&container, None, None).await {
                        tracing::warn!(container = %container.name(), %error, "cannot stop it");
                    }
                });
            }
            Action::Escalate(escalation) => self.containers.tell(&container, "fail", escalation.to_string()),
            Action::Note { .. } => {}
        }
    }

    fn watch(self: &Arc<Self>, container: Arc<Container>, supervisor: Supervisor, ready: bool) {
        let containers = self.containers.clone();
        tokio::spawn(async move {
            let key = container.name();
            instance::watch_over(&containers, &container, &key, ready, &supervisor).await;
        });
    }
}

fn tree(container: &Container) -> SupervisorSpec<String> {
    let (restart, has_health) = container.read(|record| (record.spec.restart, record.spec.health.is_some()));
    let child = ChildSpec {
        key: container.name(),
        order: 0,
        restart,
        one_shot: false,
        has_health,
        needs: Vec::new(),
        revision: String::new(),
        generation: None,
        complete: false,
    };
    // Docker's policy has no intensity: it is tried for ever, ever more slowly.
    let supervise = SuperviseSpec { max_restarts: u32::MAX, ..SuperviseSpec::default() };
    SupervisorSpec { name: "ad hoc".to_owned(), order: 0, supervise, members: vec![MemberSpec::Child(child)] }
}
