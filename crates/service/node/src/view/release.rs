//! Releases in the API's words. Reading only.

use coppice_api::{
    CandidateDetail, FailureDetail, HistoryRelease, PreviousSuccessful, ReleaseDetail, ReleaseEntry, ReleaseFields,
    ReleaseStatus, ReleaseStep, RolloutCheckpoint, RolloutDetail, RolloutTarget, WorkloadCounts, WorkloadTotals,
};
use coppice_rollout::{
    CandidateState, ControlState, Phase, Progress, Reason, Record, RolloutState, Side, Status, TargetState,
};
use coppice_state::{App, Release, Trigger, Verdict};
use coppice_supervise::ChildState;
use sha2::{Digest, Sha256};

/// What an instance of a release that replaced nothing does; `None`: nobody knows of it.
pub(crate) type Doing<'a> = &'a dyn Fn(&str) -> Option<InstanceDoing>;

/// See [`Doing`].
pub(crate) struct InstanceDoing {
    state: TargetState,
    why: Option<String>,
}

impl From<&ChildState<String>> for InstanceDoing {
    fn from(state: &ChildState<String>) -> Self {
        let (state, why) = match state {
            ChildState::Running { ready: true, .. } | ChildState::Completed => (TargetState::Ready, None),
            ChildState::Failed(failure) => (TargetState::Failed, Some(failure.to_string())),
            ChildState::Stopped | ChildState::Waiting { .. } => (TargetState::Pending, None),
            _ => (TargetState::Starting, None),
        };
        Self { state, why }
    }
}

/// What an app's status says of its releases.
pub(crate) fn release_status(app: &App, doing: Doing<'_>) -> ReleaseStatus {
    let newest = app.newest();
    let of_newest = detail(app, newest, doing);
    let current = app.current();
    let previous = app.previous_successful().map(|release| detail(app, release, doing));
    let workloads = counts(newest);
    ReleaseStatus {
        app_name: newest.spec.name.to_string(),
        release_id: of_newest.id.clone(),
        counts: WorkloadTotals {
            service_count: workloads.services,
            worker_count: workloads.workers,
            cron_count: workloads.crons,
            ..WorkloadTotals::default()
        },
        previous: previous.as_ref().map(PreviousSuccessful::from).unwrap_or_default(),
        rollout: of_newest.rollout.clone(),
        current_release: if current.id == newest.id { of_newest.clone() } else { detail(app, current, doing) },
        newest: of_newest.fields,
        previous_successful_release: previous,
        workloads,
        ..ReleaseStatus::default()
    }
}

/// All releases that are kept, the newest first.
pub(crate) fn history(app: &App, doing: Doing<'_>) -> Vec<ReleaseEntry> {
    app.releases.iter().rev().map(|release| entry(app, release, doing)).collect()
}

pub(crate) fn entry(app: &App, release: &Release, doing: Doing<'_>) -> ReleaseEntry {
    let ReleaseDetail { id, fields, rollout } = detail(app, release, doing);
    let is_current = app.current().id == release.id;
    let is_previous_successful = app.previous_successful().is_some_and(|previous| previous.id == release.id);
    ReleaseEntry {
        id,
        app: release.spec.name.to_string(),
        service: None,
        release: HistoryRelease {
            fields: fields.clone(),
            rollout: rollout.clone(),
            current: is_current,
            previous_successful: is_previous_successful,
        },
        fields,
        rollout,
        is_current,
        is_previous_successful,
        workloads: counts(release),
        steps: steps(release),
    }
}

/// SHA-256 of the spec as JSON. Its maps are sorted, so equal specs have equal text.
fn manifest_hash(release: &Release) -> String {
    let text = serde_json::to_vec(&release.spec).expect("a spec is plain data");
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn counts(release: &Release) -> WorkloadCounts {
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    WorkloadCounts {
        services: count(release.spec.services.len()),
        workers: count(release.spec.workers.len()),
        crons: count(release.spec.crons.len()),
        training_jobs: 0,
    }
}

/// What was done, from its coming to its end.
fn steps(release: &Release) -> Vec<ReleaseStep> {
    let Some(record) = &release.rollout else {
        let mut steps = vec![ReleaseStep { at: release.created_at, what: "began".to_owned() }];
        let end = release.verdict.as_ref().zip(release.ended_at).map(|(verdict, at)| {
            let what = match verdict {
                Verdict::Succeeded => "completed".to_owned(),
                Verdict::Failed { reason } => format!("failed: {reason}"),
                Verdict::Superseded => "superseded".to_owned(),
                Verdict::RolledBack { reason } => format!("rolled back: {reason}"),
            };
            ReleaseStep { at, what }
        });
        steps.extend(end);
        return steps;
    };
    record.progress.steps.iter().map(|step| ReleaseStep { at: step.at, what: step.what.clone() }).collect()
}

fn detail(app: &App, release: &Release, doing: Doing<'_>) -> ReleaseDetail {
    let rollout = rollout(app, release, doing);
    let source = match &release.trigger {
        Trigger::Apply => None,
        Trigger::Rollback { source, .. } => Some(*source),
    };
    let fields = ReleaseFields {
        number: release.number,
        trigger: if source.is_some() { "rollback" } else { "apply" }.to_owned(),
        status: status(release).as_str().to_owned(),
        rollout_state: rollout.state.clone(),
        rollout_control_state: rollout.control_state.clone(),
        manifest_hash: manifest_hash(release),
        created_at: release.created_at,
        completed_targets: rollout.completed_targets,
        failed_targets: rollout.failed_targets,
        remaining_targets: rollout.remaining_targets,
        source_release_id: source.map(|id| id.to_string()),
        resumed_from_release_id: None,
        superseded_by_release_id: rollout.superseded_by_release_id.clone(),
        message: message(app, release),
        failure_details: rollout.failure_details.clone(),
        rollout_targets: rollout.targets.clone(),
        rollout_checkpoint: rollout.checkpoint.clone(),
        actor: release.actor.to_string(),
        ended_at: release.ended_at,
        duration_ms: release
            .ended_at
            .map(|at| u64::try_from(at.since(release.created_at).as_millis()).unwrap_or(u64::MAX)),
        cause: cause(release),
        source_release: source.and_then(|id| app.release(id)).map(|source| source.number),
        with_data: matches!(release.trigger, Trigger::Rollback { data: true, .. }),
    };
    ReleaseDetail { id: release.id.to_string(), fields, rollout }
}

fn status(release: &Release) -> Status {
    match (&release.verdict, &release.rollout) {
        (Some(Verdict::Superseded), _) => Status::Superseded,
        (_, Some(record)) => record.status(),
        (None, None) => Status::InProgress,
        (Some(Verdict::Succeeded), None) => Status::Completed,
        (Some(Verdict::Failed { .. }), None) => Status::Failed,
        (Some(Verdict::RolledBack { .. }), None) => Status::RolledBack,
    }
}

/// The one that came before this one had ended.
fn successor<'a>(app: &'a App, release: &Release) -> Option<&'a Release> {
    let is_superseded = release.verdict == Some(Verdict::Superseded);
    let mut later = app.releases.iter().filter(|other| other.number > release.number);
    later.find(|_| is_superseded).map(AsRef::as_ref)
}

fn rollout(app: &App, release: &Release, doing: Doing<'_>) -> RolloutDetail {
    let superseded_by_release_id = successor(app, release).map(|next| next.id.to_string());
    let Some(record) = release.rollout.as_deref() else {
        return RolloutDetail { superseded_by_release_id, ..at_once(app, release, doing) };
    };
    let counts = record.counts();
    let progress = &record.progress;
    let at = record.plan.stages.get(progress.stage).filter(|_| matches!(progress.phase, Phase::Stages | Phase::Back));
    let of = progress.stages.get(progress.stage);
    let steps = at.and_then(|stage| match &stage.how {
        coppice_rollout::How::Canary { steps, .. } => Some([number(of?.canary_step), number(steps.len())]),
        _ => None,
    });
    let batch = at.zip(of).map(|(stage, of)| {
        of.batch.iter().filter_map(|at| Some(stage.targets.get(*at)?.instance.clone())).collect::<Vec<_>>()
    });
    let state = match release.verdict {
        Some(Verdict::Superseded) => RolloutState::Superseded,
        _ => record.rollout_state(),
    };
    RolloutDetail {
        state: state.as_str().to_owned(),
        control_state: record.control_state().as_str().to_owned(),
        resumed_from_release_id: None,
        superseded_by_release_id,
        completed_targets: number(counts.completed),
        failed_targets: number(counts.failed),
        remaining_targets: number(counts.remaining),
        failure_details: failures(record),
        targets: targets(record),
        checkpoint: Some(checkpoint(record)),
        phase: Some(phase(progress.phase).to_owned()),
        workload: at.map(|stage| stage.workload.to_string()),
        strategy: at.map(|stage| stage.how.as_str().to_owned()),
        batch: batch.unwrap_or_default(),
        canary_steps: steps,
        candidates: candidates(record),
        blocked_since: progress.blocked.as_ref().map(|blocked| blocked.since),
        deadline: (!record.has_ended()).then_some(progress.deadline),
    }
}

/// Of a release that replaced nothing: its instances are supervision's from the beginning.
fn at_once(app: &App, release: &Release, doing: Doing<'_>) -> RolloutDetail {
    let is_current = app.current().id == release.id;
    // One that came after another and has no rollout has no instance to change.
    let is_first = release.from.is_none();
    let mut targets = Vec::new();
    let mut failure_details = Vec::new();
    for (name, _) in
        release.spec.workloads().filter(|(name, _)| is_first && !release.spec.hooks.contains(name.as_str()))
    {
        let service = release.spec.services.get(name);
        let kind = if service.is_some() { "service" } else { "worker" };
        if is_current && app.is_stopped(name.as_str()) {
            continue;
        }
        let instances = match service {
            Some(service) => (1..=service.replicas).map(|n| coppice_plan::instance_name(name, n)).collect(),
            None => vec![name.to_string()],
        };
        for instance in instances {
            let known = if is_current { doing(&instance) } else { None };
            let state = match (&release.verdict, &known) {
                (Some(Verdict::Succeeded), _) => TargetState::Ready,
                (_, Some(known)) => known.state,
                (Some(_), None) => TargetState::Failed,
                (None, None) => TargetState::Pending,
            };
            let failed = state == TargetState::Failed;
            if let Some(why) = known.and_then(|known| known.why).filter(|_| failed) {
                failure_details.push(FailureDetail {
                    workload_kind: kind.to_owned(),
                    workload_name: name.to_string(),
                    reason: Reason::ProcessFailed.as_str().to_owned(),
                    message: format!("{instance}: {why}"),
                });
            }
            targets.push(RolloutTarget {
                workload_kind: kind.to_owned(),
                workload_name: name.to_string(),
                instance,
                state: state.as_str().to_owned(),
                reason: failed.then(|| Reason::ProcessFailed.as_str().to_owned()),
            });
        }
    }
    let count = |is: &dyn Fn(&str) -> bool| number(targets.iter().filter(|target| is(&target.state)).count());
    let (completed, failed) = (count(&|state| state == "ready"), count(&|state| state == "failed"));
    let state = match release.verdict {
        None if completed == 0 => RolloutState::Starting,
        None => RolloutState::Rolling,
        Some(Verdict::Succeeded) => RolloutState::Stable,
        Some(Verdict::Failed { .. }) if completed > 0 => RolloutState::Degraded,
        Some(Verdict::Failed { .. }) => RolloutState::Failed,
        Some(Verdict::Superseded) => RolloutState::Superseded,
        Some(Verdict::RolledBack { .. }) => RolloutState::RolledBack,
    };
    RolloutDetail {
        state: state.as_str().to_owned(),
        control_state: ControlState::Active.as_str().to_owned(),
        completed_targets: completed,
        failed_targets: failed,
        remaining_targets: number(targets.len()) - completed - failed,
        failure_details,
        targets,
        ..RolloutDetail::default()
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn failures(record: &Record) -> Vec<FailureDetail> {
    let each = record.failure_details().into_iter().map(|failure| FailureDetail {
        workload_kind: failure.workload_kind,
        workload_name: failure.workload_name,
        reason: failure.reason.as_str().to_owned(),
        message: failure.message,
    });
    each.collect()
}

fn targets(record: &Record) -> Vec<RolloutTarget> {
    let each = record.targets().into_iter().map(|target| RolloutTarget {
        workload_kind: target.workload_kind.as_str().to_owned(),
        workload_name: target.workload_name.to_string(),
        instance: target.instance,
        state: target.state.as_str().to_owned(),
        reason: target.reason.map(|reason| reason.as_str().to_owned()),
    });
    each.collect()
}

fn checkpoint(record: &Record) -> RolloutCheckpoint {
    let at = record.checkpoint();
    RolloutCheckpoint {
        engine: at.engine,
        phase: at.phase,
        batch_start: number(at.batch_start),
        batch_end: number(at.batch_end),
        total_targets: number(at.total_targets),
        completed_targets: number(at.completed_targets),
        failed_targets: number(at.failed_targets),
        remaining_targets: number(at.remaining_targets),
        control_state: at.control_state.as_str().to_owned(),
    }
}

fn candidates(record: &Record) -> Vec<CandidateDetail> {
    let all = record.plan.stages.iter().zip(&record.progress.stages).flat_map(|(stage, progress)| {
        stage.targets.iter().zip(&progress.targets).filter_map(|(target, progress)| {
            let candidate = progress.candidate.as_ref()?;
            let state = match candidate.state {
                CandidateState::Starting => "starting",
                CandidateState::Ready => "ready",
                CandidateState::Promoting => "promoting",
                CandidateState::Discarding => "discarding",
            };
            Some(CandidateDetail {
                instance: target.instance.clone(),
                number: candidate.number,
                state: state.to_owned(),
                side: if candidate.side == Side::New { "new" } else { "old" }.to_owned(),
            })
        })
    });
    all.collect()
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Snapshots => "snapshots",
        Phase::Before => "before",
        Phase::Data => "data",
        Phase::Stages => "stages",
        Phase::After => "after",
        Phase::Removing => "removing",
        Phase::Back => "back",
        Phase::Settling => "settling",
        Phase::Ended => "ended",
    }
}

/// Why it went back, failed or rests.
fn cause(release: &Release) -> Option<String> {
    if let Some(record) = &release.rollout {
        let progress: &Progress = &record.progress;
        let blocked = progress.blocked.as_ref().and_then(|blocked| blocked.failure.as_ref());
        let ended = progress.outcome.as_ref().and_then(|outcome| outcome.cause.as_ref());
        return ended.or(blocked).or(progress.cause.as_ref()).map(ToString::to_string);
    }
    match &release.verdict {
        Some(Verdict::Failed { reason } | Verdict::RolledBack { reason }) => Some(reason.clone()),
        Some(Verdict::Succeeded | Verdict::Superseded) | None => None,
    }
}

/// One sentence of what the status does not say.
fn message(app: &App, release: &Release) -> Option<String> {
    if let Some(next) = successor(app, release) {
        return Some(format!("release {} ({}) came before it had ended", next.number, next.actor));
    }
    let Some(record) = release.rollout.as_deref() else { return cause(release) };
    let progress = &record.progress;
    if let Some(outcome) = &progress.outcome {
        let parts = outcome.cause.iter().map(ToString::to_string).chain(outcome.remains.iter().cloned());
        return Some(parts.collect::<Vec<_>>().join("; ")).filter(|text| !text.is_empty());
    }
    match (&progress.blocked, progress.control) {
        (Some(blocked), _) => Some(match &blocked.failure {
            Some(failure) => format!("rests until it is resumed or canceled: {failure}"),
            None => "rests until it is resumed or canceled: a pause was asked for".to_owned(),
        }),
        (None, ControlState::Paused) => {
            Some("a pause was asked for: it finishes the batch that it has begun".to_owned())
        }
        (None, ControlState::CancelRequested) => Some("a cancel was asked for".to_owned()),
        (None, ControlState::Active) => progress.cause.as_ref().map(|cause| format!("goes back: {cause}")),
    }
}
