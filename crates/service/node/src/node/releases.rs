//! Releases: taking one on, going back to one, and ruling a rollout.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_api::{ApplyReply, ApplyRequest};
use coppice_base::{Name, SystemRandom};
use coppice_dataset::Kind;
use coppice_rollout::Control;
use coppice_spec::AppSpec;
use coppice_state::{Actor, Body, Digest, Effect, Preview, Release, ReleaseId, ReleaseTerms, State, Trigger};

use super::Node;
use crate::app::run_spec;
use crate::error::NodeError;
use crate::events::About;
use crate::prepare::{self, PrepareError};
use crate::rollout::{RolloutInput, Rollouts, existing_volumes, first, plan};
use crate::{host_network, images, peer, zone};

/// What a release is to be.
struct Draft {
    spec: AppSpec,
    images: BTreeMap<Name, Digest>,
    secrets: BTreeMap<Name, u64>,
    stopped: BTreeSet<Name>,
    trigger: Trigger,
    preview: Option<Preview>,
}

/// What is known of a release beside its spec.
#[derive(Default)]
pub(super) struct Given {
    /// The preview that the app is.
    pub(super) preview: Option<Preview>,
    /// Images, by workload, which are run whatever their names stand for now.
    pub(super) images: BTreeMap<Name, Digest>,
}

/// Where to go back to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RollbackTo {
    /// An id or a number; `None`: the newest successful release before the current one.
    pub release: Option<String>,
    /// With the volumes' data.
    pub data: bool,
    /// Take the last rollback with data back, instead.
    pub undo: bool,
}

impl Node {
    /// Records a new release and returns once the node has begun to make it so. One that comes while another is being
    /// rolled out waits for its end.
    pub async fn apply(&self, uid: u32, request: ApplyRequest) -> Result<ApplyReply, NodeError> {
        self.apply_given(uid, request, Given::default()).await
    }

    pub(super) async fn apply_given(
        &self,
        uid: u32,
        request: ApplyRequest,
        given: Given,
    ) -> Result<ApplyReply, NodeError> {
        let spec = request.spec;
        let known = self.log.read().app(spec.name.as_str()).and_then(|app| app.preview.clone());
        if let Some(Preview { of, name, .. }) = known.filter(|_| given.preview.is_none()) {
            return Err(NodeError::Invalid(format!(
                "{} is preview {name} of {of}: `coppice up --preview {name}` updates it, `coppice preview promote` makes {of} \
                 what it is",
                spec.name
            )));
        }
        let mut broken = spec.check();
        broken.extend(coppice_plan::name_clashes(&spec));
        broken.extend(peer::refused(&spec));
        broken.extend(host_network::refused(&self.log.read(), &spec));
        broken.extend(zone::refused(&spec));
        for name in request.only.iter().filter(|name| spec.workload(name.as_str()).is_none()) {
            broken.push(format!("{name} is not in the app"));
        }
        if !broken.is_empty() {
            return Err(NodeError::Spec(broken));
        }
        if !self.settings.containers.allow_privileged && spec.definitions().any(|(_, workload)| workload.privileged) {
            return Err(PrepareError::Privileged(self.root.settings()).into());
        }
        for (name, service) in &spec.services {
            self.containers.network.check_ports(&format!("{}/{name}", spec.name), &service.ports)?;
        }
        self.containers.traffic.check(&spec)?;
        self.refuse_unset_secrets(&spec)?;
        self.refuse_blocked(&spec.name)?;
        // Old instances run on while images come.
        let mut images = BTreeMap::new();
        for (name, workload) in spec.definitions() {
            let pinned = given.images.get(name);
            let image = match pinned.and_then(|digest| images::by_manifest(&self.containers.images, digest.as_str())) {
                Some(image) => image,
                None => images::get(&self.containers, &workload.image, workload.pull).await?,
            };
            prepare::arguments(&run_spec(workload), &image.config)?;
            let digest = Digest::parse(&image.manifest_digest.to_string());
            images.insert(name.clone(), digest.map_err(|error| NodeError::Invalid(error.to_string()))?);
        }
        let secrets = self.secrets_of(uid, &spec).await?;
        let name = spec.name.clone();
        let turn = self.turn(&name).await?;
        let plan = self.plan(&spec);
        let stopped = self.stopped_after(&spec, &request.only);
        let clones = match &given.preview {
            Some(preview) => self.clone_volumes(preview, &name).await?,
            None => Vec::new(),
        };
        let draft = Draft { spec, images, secrets, stopped, trigger: Trigger::Apply, preview: given.preview };
        let released = self.release(Actor::User { uid }, draft).await;
        if released.is_err() && self.log.read().app(name.as_str()).is_none() {
            self.drop_clones(&clones).await;
        }
        let (number, changed) = released?;
        drop(turn);
        self.containers.events.emit(
            "app",
            "apply",
            name.as_str(),
            About { app: Some(name.as_str()), message: format!("release {number}"), ..About::default() },
        );
        Ok(ApplyReply { release: number, changed, plan })
    }

    /// Has an earlier release come back, as a release of its own.
    pub async fn rollback(&self, uid: u32, app: &str, to: &RollbackTo) -> Result<ApplyReply, NodeError> {
        self.roll_back(Actor::User { uid }, app, to).await
    }

    /// What [`rollback`](Self::rollback) would go back to.
    pub fn rollback_target(&self, app: &str, to: &RollbackTo) -> Result<Arc<Release>, NodeError> {
        target(&self.log.read(), app, to)
    }

    pub(crate) async fn roll_back(&self, actor: Actor, app: &str, to: &RollbackTo) -> Result<ApplyReply, NodeError> {
        let name = Name::new(app).map_err(|error| NodeError::Invalid(error.to_string()))?;
        self.refuse_blocked(&name)?;
        let turn = self.turn(&name).await?;
        let state = self.log.read();
        let target = match actor {
            Actor::User { .. } => target(&state, app, to)?,
            Actor::Node(_) => {
                let known = state.app(app).ok_or_else(|| NodeError::NoApp(app.to_owned()))?;
                known.to_bring_back().cloned().ok_or_else(|| {
                    NodeError::Invalid("no release before it that succeeded was not given up, too".to_owned())
                })?
            }
        };
        for (workload, digest) in &target.images {
            if images::by_manifest(&self.containers.images, digest.as_str()).is_none() {
                let image = target.spec.definition(workload.as_str()).map_or("", |workload| workload.image.as_str());
                return Err(NodeError::Invalid(format!(
                    "the image of {workload} in release {} ({image}, {}) is not here any more: pull it again, or choose \
                     another release",
                    target.number,
                    digest.as_str()
                )));
            }
        }
        let plan = self.plan(&target.spec);
        let draft = Draft {
            spec: target.spec.clone(),
            images: target.images.clone(),
            secrets: target.secrets.clone(),
            stopped: BTreeSet::new(),
            trigger: Trigger::Rollback { source: target.id, data: to.data || to.undo },
            preview: None,
        };
        let (number, changed) = self.release(actor, draft).await?;
        drop(turn);
        let message = format!("release {number} brings back release {}", target.number);
        self.containers.events.emit("app", "rollback", app, About { app: Some(app), message, ..About::default() });
        Ok(ApplyReply { release: number, changed, plan })
    }

    /// Pauses, resumes or cancels the rollout that goes on.
    pub fn control_rollout(&self, uid: u32, app: &str, control: Control) -> Result<(), NodeError> {
        let known = self.app(app)?;
        if self.rollouts.control(&Actor::User { uid }, &known.name, control) {
            return Ok(());
        }
        Err(NodeError::Invalid(format!(
            "no release of {app} is being rolled out: `coppice history {app}` lists those it has"
        )))
    }

    /// What the log says of an app and its releases.
    pub fn app_state(&self, app: &str) -> Result<Arc<coppice_state::App>, NodeError> {
        self.log.read().app(app).cloned().ok_or_else(|| NodeError::NoApp(app.to_owned()))
    }

    /// One release of an app is made at a time.
    pub(super) async fn turn(&self, app: &Name) -> Result<tokio::sync::OwnedMutexGuard<()>, NodeError> {
        let lock = self.turns.lock().expect("no panic holds this lock").entry(app.clone()).or_default().clone();
        let turn = lock.lock_owned().await;
        let mut states = self.log.watch();
        loop {
            let known = states.borrow_and_update().app(app.as_str()).cloned();
            let Some(known) = known else { return Ok(turn) };
            let up = async {
                match (known.rollout(), self.agent.get(app.as_str())) {
                    (Some(_), _) => std::future::pending().await,
                    (None, Some(app)) => app.come_up(known.current()).await,
                    (None, None) => {}
                }
            };
            tokio::select! {
                biased;
                () = up => return Ok(turn),
                changed = states.changed() => changed.map_err(|_| NodeError::Log("the node is going down".to_owned()))?,
            }
            self.refuse_blocked(app)?;
        }
    }

    /// A rollout that rests until somebody says otherwise is not waited for.
    fn refuse_blocked(&self, app: &Name) -> Result<(), NodeError> {
        let state = self.log.read();
        let Some(known) = state.app(app.as_str()) else { return Ok(()) };
        match known.rollout() {
            Some((record, _)) if record.progress.blocked.is_some() => {
                Err(NodeError::RolloutBlocked { app: app.to_string(), release: known.current().number })
            }
            _ => Ok(()),
        }
    }

    /// Proposes a release with what its rollout is to do, and has this node begin. Its number, and whether it is new.
    async fn release(&self, actor: Actor, draft: Draft) -> Result<(u64, bool), NodeError> {
        let name = draft.spec.name.clone();
        let state = self.log.read();
        let before = state.app(name.as_str()).cloned();
        let id = ReleaseId::generate(&mut SystemRandom);
        let at = self.clock.now();
        let release = Release {
            id,
            number: before.as_ref().map_or(1, |app| app.newest().number + 1),
            spec: draft.spec,
            images: draft.images,
            created_at: at,
            actor: actor.clone(),
            verdict: None,
            trigger: draft.trigger,
            from: before
                .as_ref()
                .map(|app| app.current())
                .filter(|current| !current.is_void())
                .map(|current| current.id),
            rollout: None,
            secrets: draft.secrets,
            ended_at: None,
        };
        let is_rollback = matches!(release.trigger, Trigger::Rollback { .. });
        let rollout = match before.as_ref().filter(|_| release.from.is_some()) {
            Some(before) => self.rollout_plan(before, &release, &draft.stopped)?,
            None => first(&release),
        };
        let body = Body::Apply {
            release: id,
            expected_release: before.as_ref().map(|app| app.current().id),
            spec: Box::new(release.spec),
            images: release.images,
            stopped: draft.stopped,
            secrets: release.secrets,
            terms: ReleaseTerms { trigger: release.trigger, rollout, always: is_rollback, preview: draft.preview },
        };
        let (number, changed) = match self.propose_as(actor, body).await? {
            Effect::Released { number, .. } => (number, true),
            Effect::Unchanged { number, .. } => (number, false),
            Effect::Removed | Effect::Recorded => (0, false),
        };
        // Its own turn, so that a status asked for right after this answer is of the new release; and one that
        // failed for good is tried again even when nothing changed.
        self.agent.reconcile();
        self.agent.when_settled(name.as_str()).await;
        if let Some(app) = self.agent.get(name.as_str()) {
            app.supervisor().caught_up().await;
            app.retry();
            app.supervisor().caught_up().await;
        }
        Ok((number, changed))
    }

    /// How the instances and the data of the current release make way for those of `release`.
    pub(super) fn rollout_plan(
        &self,
        before: &coppice_state::App,
        release: &Release,
        stopped: &BTreeSet<Name>,
    ) -> Result<Option<Box<coppice_rollout::Plan>>, NodeError> {
        let name = &release.spec.name;
        let data_of = match &release.trigger {
            Trigger::Rollback { source, data: true } => Some(*source),
            _ => None,
        };
        let volumes = existing_volumes(&self.containers.volumes, name)?;
        let known = self.agent.get(name.as_str());
        let runs = |instance: &str| {
            let container = known.as_ref().and_then(|app| app.view(instance).container);
            container.is_some_and(|container| container.phase().is_running())
        };
        let latest = |instance: &str| known.as_ref().map_or(0, |app| app.latest_number(instance));
        let input = RolloutInput {
            app: before,
            new: release,
            stopped,
            runs: &runs,
            latest: &latest,
            volumes: &volumes,
            snapshots_are_cheap: self.containers.volumes.kind() != Kind::Directory,
            data_of,
            is_rollback: matches!(release.trigger, Trigger::Rollback { .. }),
        };
        plan(&input).map_err(NodeError::Invalid)
    }

    /// Workloads that stay down: with `only`, those that neither are named, nor needed by them, nor up already.
    fn stopped_after(&self, spec: &AppSpec, only: &[Name]) -> BTreeSet<Name> {
        if only.is_empty() {
            return BTreeSet::new();
        }
        let mut wanted: BTreeSet<Name> = BTreeSet::new();
        let mut left: Vec<Name> = only.to_vec();
        while let Some(name) = left.pop() {
            let needs = spec.workload(name.as_str()).into_iter().flat_map(|workload| &workload.depends_on);
            left.extend(needs.map(|need| need.name.clone()).filter(|need| !wanted.contains(need)));
            wanted.insert(name);
        }
        let state = self.log.read();
        let current = state.app(spec.name.as_str());
        let is_up = |name: &Name| {
            current.is_some_and(|app| app.spec().workload(name.as_str()).is_some() && !app.is_stopped(name.as_str()))
        };
        spec.workloads().map(|(name, _)| name.clone()).filter(|name| !wanted.contains(name) && !is_up(name)).collect()
    }
}

/// The release that a rollback goes to.
fn target(state: &State, app: &str, to: &RollbackTo) -> Result<Arc<Release>, NodeError> {
    let known = state.app(app).ok_or_else(|| NodeError::NoApp(app.to_owned()))?;
    let current = known.current();
    let of = |id: ReleaseId| known.releases.iter().find(|release| release.id == id).cloned();
    let none = |what: &str| NodeError::Invalid(format!("app {app} {what}: `coppice history {app}` lists its releases"));
    if to.undo {
        let is_back = matches!(current.trigger, Trigger::Rollback { data: true, .. });
        let from = current.from.filter(|_| is_back).and_then(of);
        return from.ok_or_else(|| none("is not at a release that a rollback with data brought back"));
    }
    let Some(text) = &to.release else {
        return known
            .previous_successful()
            .cloned()
            .ok_or_else(|| none("has no successful release before the current one"));
    };
    let found = match (ReleaseId::parse(text), text.trim_start_matches('r').parse::<u64>()) {
        (Ok(id), _) => of(id),
        (Err(_), Ok(number)) => known.releases.iter().find(|release| release.number == number).cloned(),
        (Err(_), Err(_)) => None,
    };
    found.ok_or_else(|| none(&format!("has no release {text}, or not any more")))
}

/// Has the release before come back where an app that asked for it has exhausted its supervisor.
pub(super) async fn keep_promises(node: std::sync::Weak<Node>, rollouts: Arc<Rollouts>) {
    while let Some(app) = rollouts.next_exhausted().await {
        let Some(node) = node.upgrade() else { return };
        tracing::warn!(%app, "its supervisor gave up: the release before comes back");
        if let Err(error) = node.roll_back(Actor::Node(super::NODE), app.as_str(), &RollbackTo::default()).await {
            let message = format!("its supervisor gave up, and the release before does not come back: {error}");
            tracing::warn!(%app, "{message}");
            let about = About { app: Some(app.as_str()), message, ..About::default() };
            node.containers.events.emit("app", "fail", app.as_str(), about);
        }
    }
}
