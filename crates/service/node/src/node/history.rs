//! What users see of releases: their history, one of them, and what a rollback would do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use coppice_api::{
    AppliedReply, ApplyReply, PreviewSnapshot, PreviewStage, PreviewSwitch, ReleaseEntry, ReleaseStep, RollbackPreview,
    RollbackReply, RollbackRequest,
};
use coppice_base::SystemRandom;
use coppice_rollout::Plan;
use coppice_state::{Actor, Release, ReleaseId, State, Trigger};

use super::{Node, RollbackTo};
use crate::error::NodeError;
use crate::view;

impl Node {
    /// The releases of an app that are kept, the newest first.
    pub fn history(&self, app: &str) -> Result<Vec<ReleaseEntry>, NodeError> {
        let (known, state) = (self.app(app)?, self.app_state(app)?);
        let mut all = view::history(&state, &|instance| view::doing(&known, instance));
        for (entry, release) in all.iter_mut().zip(state.releases.iter().rev()) {
            self.add_what_holds_up(entry, release);
        }
        Ok(all)
    }

    /// The step that is not on the log, because that takes nothing.
    fn add_what_holds_up(&self, entry: &mut ReleaseEntry, release: &Release) {
        if let Some((at, why)) = self.rollouts.held_up(&release.spec.name, &release.id) {
            entry.steps.push(ReleaseStep { at, what: format!("waits: {why}") });
        }
    }

    /// One release, by its number or id.
    pub fn release_entry(&self, app: &str, release: &str) -> Result<ReleaseEntry, NodeError> {
        let (known, state) = (self.app(app)?, self.app_state(app)?);
        let to = RollbackTo { release: Some(release.to_owned()), ..RollbackTo::default() };
        let found = self.rollback_target(app, &to)?;
        let mut entry = view::entry(&state, &found, &|instance| view::doing(&known, instance));
        self.add_what_holds_up(&mut entry, &found);
        Ok(entry)
    }

    /// The same, once it has ended; as it is after `patience`, if it has not by then.
    pub async fn release_once_over(
        &self,
        app: &str,
        release: &str,
        patience: Duration,
    ) -> Result<ReleaseEntry, NodeError> {
        let to = RollbackTo { release: Some(release.to_owned()), ..RollbackTo::default() };
        let id = self.rollback_target(app, &to)?.id;
        let mut states = self.log.watch();
        let goes_on = |state: &Arc<State>| {
            let app = state.app(app);
            app.and_then(|app| app.release(id)).is_some_and(|release| release.verdict.is_none())
        };
        // Where nothing is written any more, the node is going down.
        let _ = tokio::time::timeout(patience, states.wait_for(|state| !goes_on(state))).await;
        self.release_entry(app, release)
    }

    /// The answer to an apply: with how far its release is by now.
    pub fn applied(&self, app: &str, reply: ApplyReply) -> Result<AppliedReply, NodeError> {
        let (known, state) = (self.app(app)?, self.app_state(app)?);
        let status = view::release_status(&state, &|instance| view::doing(&known, instance));
        let (placed, failed) = (status.newest.completed_targets, status.newest.failed_targets);
        Ok(AppliedReply { reply, status, placed, failed })
    }

    /// Goes back to an earlier release, or says what that would do.
    pub async fn rollback_or_print(
        &self,
        uid: u32,
        app: &str,
        request: RollbackRequest,
    ) -> Result<RollbackReply, NodeError> {
        let RollbackRequest { release, data, undo, print } = request;
        if release.is_some() && undo {
            return Err(NodeError::Invalid("undo takes back the last rollback with data: name no release".to_owned()));
        }
        let mut to = RollbackTo { release, data, undo };
        let source = self.rollback_target(app, &to)?;
        let reply = |release, plan, preview| RollbackReply {
            app: app.to_owned(),
            source: source.number,
            source_release_id: source.id.to_string(),
            release,
            plan,
            preview,
        };
        if print {
            return Ok(reply(None, self.plan(&source.spec), Some(self.preview(uid, app, &source, data || undo)?)));
        }
        // What was found now, whatever comes while it waits for its turn; an undo is judged when its turn is there.
        if !undo {
            to.release = Some(source.id.to_string());
        }
        let done = self.rollback(uid, app, &to).await?;
        Ok(reply(Some(done.release), done.plan, None))
    }

    fn preview(&self, uid: u32, app: &str, source: &Release, data: bool) -> Result<RollbackPreview, NodeError> {
        let state = self.app_state(app)?;
        let back = Release {
            id: ReleaseId::generate(&mut SystemRandom),
            number: state.newest().number + 1,
            spec: source.spec.clone(),
            images: source.images.clone(),
            created_at: self.clock.now(),
            actor: Actor::User { uid },
            verdict: None,
            trigger: Trigger::Rollback { source: source.id, data },
            from: Some(state.current().id),
            rollout: None,
            secrets: source.secrets.clone(),
            ended_at: None,
        };
        let rollout = self.rollout_plan(&state, &back, &BTreeSet::new())?;
        Ok(preview(back, rollout.as_deref()))
    }
}

fn preview(release: Release, plan: Option<&Plan>) -> RollbackPreview {
    let text = |names: &[coppice_base::Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut preview = RollbackPreview {
        spec: release.spec,
        secrets: release.secrets,
        hooks: Vec::new(),
        halts: Vec::new(),
        switches: Vec::new(),
        snapshots: Vec::new(),
        stages: Vec::new(),
        removes: Vec::new(),
    };
    let Some(plan) = plan else { return preview };
    preview.hooks = text(&plan.before);
    preview.halts = text(&plan.halt);
    preview.removes = text(&plan.removed);
    let switches = plan.switches.iter().map(|switch| PreviewSwitch {
        volume: switch.volume.to_string(),
        to: switch.to.clone(),
        keep: switch.keep.clone(),
    });
    preview.switches = switches.collect();
    let snapshots = plan.snapshots.iter().map(|one| (&one.volume, &one.snapshot));
    let of_stages = plan.stages.iter().flat_map(|stage| match &stage.how {
        coppice_rollout::How::Switch { volumes, .. } => volumes.as_slice(),
        _ => &[],
    });
    let all = snapshots.chain(of_stages.map(|one| (&one.volume, &one.snapshot)));
    preview.snapshots = all
        .map(|(volume, snapshot)| PreviewSnapshot { volume: volume.to_string(), snapshot: snapshot.clone() })
        .collect();
    let stages = plan.stages.iter().map(|stage| PreviewStage {
        workload: stage.workload.to_string(),
        strategy: stage.how.as_str().to_owned(),
        instances: stage.targets.iter().map(|target| target.instance.clone()).collect(),
    });
    preview.stages = stages.collect();
    preview
}
