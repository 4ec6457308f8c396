//! Releases in the API's words. Reading only.

use coppice_api::{
    CandidateDetail, FailureDetail, HistoryRelease, PreviousSuccessful, ReleaseDetail, ReleaseEntry, ReleaseFields,
    ReleaseStatus, ReleaseStep, RolloutCheckpoint, RolloutDetail, RolloutRuling, RolloutTarget, WorkloadCounts,
    WorkloadTotals,
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
    let is_current = app.current().id == release.id && !release.is_void();
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
pub(crate) fn manifest_hash(release: &Release) -> String {
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
        // What it had started is gone again; there was nothing before it to come back.
        (_, Some(_)) if release.is_void() => Status::Failed,
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
        Some(Verdict::Failed { .. }) if record.rollout_state() == RolloutState::RolledBack => RolloutState::Failed,
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
        rulings: progress.rulings.iter().map(ruling).collect(),
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

fn ruling(ruling: &coppice_rollout::Ruling) -> RolloutRuling {
    RolloutRuling { at: ruling.at, action: ruling.control.as_str().to_owned(), actor: ruling.by.clone() }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use coppice_base::{DurationText, Name, Timestamp};
    use coppice_rollout::{CandidateId, Control, Event, How, Pace, Plan, Rollout, Stage, Target, WorkloadKind};
    use coppice_spec::{AppSpec, FailureAction, ServiceSpec, WorkloadSpec};
    use coppice_state::{Actor, Body, Command, CommandId, ReleaseId, ReleaseTerms, State};

    use super::*;

    const MINUTE: DurationText = DurationText(std::time::Duration::from_secs(60));

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn spec(image: &str) -> AppSpec {
        let service = ServiceSpec { replicas: 2, ..ServiceSpec::of(WorkloadSpec::of(image)) };
        AppSpec { services: BTreeMap::from([(name("web"), service)]), ..AppSpec::of(name("shop")) }
    }

    fn rolling(failure_action: FailureAction) -> Box<Plan> {
        let target = |instance: &str| Target { instance: instance.to_owned(), has_old: true, numbered_after: 0 };
        Box::new(Plan {
            first: false,
            snapshots: vec![],
            before: vec![],
            ahead: 0,
            switches: vec![],
            halt: vec![],
            stages: vec![Stage {
                workload: name("web"),
                kind: WorkloadKind::Service,
                how: How::Rolling(Pace { parallelism: 1, max_surge: 1 }),
                targets: vec![target("web-1"), target("web-2")],
                ready_timeout: MINUTE,
                deadline: MINUTE,
                delay: DurationText::default(),
            }],
            after: vec![],
            removed: vec![],
            failure_action,
            deadline: MINUTE,
        })
    }

    /// The log of one app, with what its rollout reports.
    struct Log {
        state: State,
        commands: u64,
        rollout: Option<Rollout>,
    }

    impl Log {
        fn new() -> Self {
            let mut log = Self { state: State::default(), commands: 0, rollout: None };
            log.release(1, "web:1", None);
            log
        }

        fn app(&self) -> &App {
            self.state.app("shop").unwrap()
        }

        fn propose(&mut self, body: Body) {
            self.commands += 1;
            let at = Timestamp(self.commands * 1000);
            let command = Command { id: CommandId(self.commands.into()), at, actor: Actor::User { uid: 7 }, body };
            self.state.apply(&command).unwrap();
        }

        fn release(&mut self, id: u64, image: &str, rollout: Option<Box<Plan>>) {
            self.propose(Body::Apply {
                release: ReleaseId(id),
                spec: Box::new(spec(image)),
                images: BTreeMap::new(),
                expected_release: None,
                stopped: Default::default(),
                secrets: BTreeMap::new(),
                terms: ReleaseTerms { rollout, ..ReleaseTerms::default() },
            });
            let record = self.app().newest().rollout.as_deref().cloned();
            self.rollout = record.map(|record| Rollout::resume(record, Timestamp(self.commands * 1000)).unwrap().0);
        }

        fn succeed(&mut self, id: u64) {
            let (app, release) = (name("shop"), ReleaseId(id));
            self.propose(Body::RecordVerdict { app, release, verdict: Verdict::Succeeded });
        }

        fn report(&mut self, event: Event) {
            let rollout = self.rollout.as_mut().unwrap();
            rollout.handle(Timestamp((self.commands + 1) * 1000), event);
            let progress = Box::new(rollout.record().progress.clone());
            let release = self.state.app("shop").unwrap().newest().id;
            self.propose(Body::RecordProgress { app: name("shop"), release, progress });
        }

        fn newest(&self) -> ReleaseEntry {
            history(self.app(), &|_| None).remove(0)
        }
    }

    fn candidate(instance: &str, number: u32) -> CandidateId {
        CandidateId { instance: instance.to_owned(), number }
    }

    #[test]
    fn a_rollout_on_its_way_is_told_with_its_batch_its_candidates_and_its_checkpoint() {
        let mut log = Log::new();
        log.succeed(1);
        log.release(2, "web:2", Some(rolling(FailureAction::Rollback)));
        let entry = log.newest();
        assert_eq!((entry.fields.status.as_str(), entry.fields.rollout_state.as_str()), ("in_progress", "starting"));
        assert_eq!(
            (entry.rollout.batch.as_slice(), entry.rollout.strategy.as_deref()),
            (&["web-1".to_owned()][..], Some("rolling"))
        );
        assert_eq!(entry.rollout.candidates[0].state, "starting");
        log.report(Event::CandidateReady(candidate("web-1", 1)));
        log.report(Event::Promoted { candidates: vec![candidate("web-1", 1)] });
        let entry = log.newest();
        assert_eq!((entry.fields.rollout_state.as_str(), entry.fields.completed_targets), ("rolling", 1));
        let checkpoint = entry.fields.rollout_checkpoint.clone().unwrap();
        assert_eq!((checkpoint.batch_start, checkpoint.batch_end, checkpoint.total_targets), (1, 2, 2));
        assert!(entry.fields.is_in_progress() && !entry.fields.is_failed());
        assert_eq!((entry.fields.actor.as_str(), entry.fields.duration_ms), ("uid 7", None));

        log.report(Event::Control { control: Control::Pause, by: "uid 7".to_owned() });
        let entry = log.newest();
        assert_eq!(
            (entry.fields.rollout_state.as_str(), entry.fields.rollout_control_state.as_str()),
            ("blocked", "paused")
        );
        assert!(entry.fields.message.is_some_and(|message| message.contains("a pause was asked for")));
        let ruling = &entry.rollout.rulings[0];
        assert_eq!((ruling.action.as_str(), ruling.actor.as_str()), ("pause", "uid 7"));
    }

    #[test]
    fn a_status_is_of_the_newest_release_and_says_which_one_is_wanted_and_which_would_come_back() {
        let mut log = Log::new();
        log.succeed(1);
        log.release(2, "web:2", None);
        log.succeed(2);
        log.release(3, "web:3", Some(rolling(FailureAction::Rollback)));
        let failed = Event::CandidateFailed {
            candidate: candidate("web-1", 1),
            reason: Reason::ReadinessTimeout,
            detail: "not healthy within 60s".to_owned(),
        };
        log.report(failed);
        let status = release_status(log.app(), &|_| None);
        assert_eq!((status.newest.number, status.current_release.fields.number), (3, 2));
        let previous = status.previous_successful_release.unwrap();
        assert_eq!(previous.fields.number, 1);
        assert_eq!(status.previous.previous_successful_release_id, Some(previous.id));
        assert_eq!(status.previous.previous_successful_status.as_deref(), Some("completed"));
        let cause = status.newest.cause.unwrap();
        assert!(cause.contains("web-1: readiness_timeout: not healthy within 60s"), "{cause}");
        assert_eq!(status.newest.failure_details[0].workload_kind, "service");
        assert_eq!((status.workloads.services, status.counts.service_count), (1, 1));
    }

    #[test]
    fn a_failure_that_rests_is_partial_and_one_that_was_superseded_says_by_whom() {
        let mut log = Log::new();
        log.release(2, "web:2", None);
        let all = history(log.app(), &|_| None);
        assert_eq!((all[1].fields.status.as_str(), all[1].fields.rollout_state.as_str()), ("superseded", "superseded"));
        assert_eq!(all[1].fields.superseded_by_release_id, Some(all[0].id.clone()));
        assert_eq!(all[1].fields.message.as_deref(), Some("release 2 (uid 7) came before it had ended"));

        log.succeed(2);
        log.release(3, "web:3", Some(rolling(FailureAction::Pause)));
        log.report(Event::CandidateFailed {
            candidate: candidate("web-1", 1),
            reason: Reason::ReadinessTimeout,
            detail: String::new(),
        });
        let entry = log.newest();
        assert_eq!(
            (entry.fields.status.as_str(), entry.fields.rollout_state.as_str()),
            ("partially_failed", "blocked")
        );
        assert!(entry.fields.is_failed() && entry.is_current);
    }

    #[test]
    fn a_first_release_is_as_far_as_its_instances_are() {
        let log = Log::new();
        let doing = |instance: &str| {
            let (state, why) = match instance {
                "web-1" => (TargetState::Ready, None),
                _ => (TargetState::Failed, Some("exited with code 1".to_owned())),
            };
            Some(InstanceDoing { state, why })
        };
        let entry = history(log.app(), &doing).remove(0);
        assert_eq!((entry.fields.completed_targets, entry.fields.failed_targets), (1, 1));
        assert_eq!(entry.fields.failure_details[0].message, "web-2: exited with code 1");
        assert_eq!((entry.fields.status.as_str(), entry.fields.rollout_state.as_str()), ("in_progress", "rolling"));
        assert_eq!(entry.rollout.phase, None);
        let mut log = log;
        log.succeed(1);
        assert_eq!((log.newest().fields.completed_targets, log.newest().fields.duration_ms), (2, Some(1000)));
    }

    #[test]
    fn the_hash_of_a_spec_is_that_of_its_text_and_of_nothing_else() {
        let mut log = Log::new();
        log.succeed(1);
        log.release(2, "web:2", None);
        log.succeed(2);
        log.release(3, "web:1", None);
        let all = history(log.app(), &|_| None);
        assert_eq!(all[0].fields.manifest_hash, all[2].fields.manifest_hash);
        assert_ne!(all[0].fields.manifest_hash, all[1].fields.manifest_hash);
    }
}
