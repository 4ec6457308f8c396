//! What the rollout asks of supervision and of the proxy: whether a workload is up, down or gone, and how its new instances
//! do.

use std::sync::Arc;
use std::time::Duration;

use coppice_base::{DurationText, Name, Timestamp};
use coppice_rollout::{Event, How, Outcome, Reason, Record, Side, Verdict};
use coppice_spec::{AnalysisSpec, Condition, RolloutSpec};
use coppice_state::{Release, Trigger};
use coppice_supervise::{ChildState, ChildStatus, Overall, TreeStatus};

use super::{Driver, data};
use crate::app::{App, instances_of};
use crate::view::members;

/// Restarts of an instance after which it is plain that the definition does not work.
const RESTARTS_MAX: u64 = 3;

/// How an instance does under its supervisor.
enum Doing {
    Ready,
    OnTheWay,
    Failed(String),
}

impl Driver {
    /// Tells once when the workload is ready by this side's definition, or has failed.
    pub(super) fn watch(&mut self, workload: Name, side: Side) {
        if let Some(before) = self.watches.remove(&workload) {
            before.abort();
        }
        let (app, tell) = (self.app.clone(), self.tell.clone());
        let of = workload.clone();
        let task = tokio::spawn(async move {
            let _ = tell.send(match app.up(&of).await {
                Ok(()) => Event::WorkloadReady { workload: of, side },
                Err(detail) => Event::WorkloadFailed { workload: of, side, reason: Reason::ProcessFailed, detail },
            });
        });
        self.watches.insert(workload, task.abort_handle());
    }

    pub(super) fn sample(&self, workload: &Name, since: Timestamp) {
        let sample = self.app.sample(workload, since);
        tracing::debug!(app = %self.app.name, %workload, ?sample, "what the proxy has seen of the new instances");
        let _ = self.tell.send(Event::Sample {
            workload: workload.clone(),
            since,
            requests: sample.requests,
            errors: sample.errors,
            p99: sample.p99,
        });
    }
}

/// What the proxy has seen of some instances within a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    requests: u64,
    errors: u64,
    p99: Option<DurationText>,
}

impl Sample {
    /// The same where the proxy sends them nothing any more: enough to be judged, and all of it failed.
    fn taken_out(self, analysis: &AnalysisSpec) -> Self {
        let requests = self.requests.max(analysis.min_requests).max(1);
        Self { requests, errors: requests, ..self }
    }
}

/// What the proxy has counted of some instances so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// The proxy sends nothing to one of them any more: its breaker is open, or it was ejected.
    pub(crate) taken_out: bool,
    /// Requests by how long they took: upper bounds, ascending, and how many were within each and above the one before.
    pub(crate) latency: Vec<(Option<Duration>, u64)>,
}

impl Seen {
    fn since(&self, before: &Self) -> Sample {
        let counts = self.latency.iter().enumerate().map(|(at, (bound, count))| {
            (*bound, count.saturating_sub(before.latency.get(at).map_or(0, |(_, count)| *count)))
        });
        let counts: Vec<(Option<Duration>, u64)> = counts.collect();
        let total: u64 = counts.iter().map(|(_, count)| count).sum();
        // The bound within which 99 of 100 are; beyond the last there is none to name but the last.
        let mut left = total - total / 100;
        let mut p99 = None;
        for (bound, count) in counts {
            p99 = bound.or(p99);
            if count >= left {
                break;
            }
            left -= count;
        }
        Sample {
            requests: self.requests.saturating_sub(before.requests),
            errors: self.failures.saturating_sub(before.failures),
            p99: p99.filter(|_| total > 0).map(DurationText),
        }
    }
}

impl App {
    /// What the proxy has seen of the workload's new instances since that moment. A moment that is asked for first begins
    /// with the question.
    fn sample(&self, workload: &Name, since: Timestamp) -> Sample {
        let fresh = self.fresh_endpoints(workload);
        let seen = self.containers().traffic.seen(&self.name, workload, |instance| fresh.contains(instance));
        let before = self.sampled_since(workload, since, &seen);
        let mut sample = seen.since(&before);
        if seen.taken_out {
            // It gets no requests to fail any more: that it fails them is plain.
            let wanted = self.wanted();
            let plan = wanted.rollout().and_then(|(record, _)| record.plan.stage_of(workload.as_str()));
            if let Some(How::Canary { analysis, .. }) = plan.map(|stage| &stage.how) {
                sample = sample.taken_out(analysis);
            }
        }
        sample
    }

    /// Whose hooks run: before a rollback, those of the release that is left.
    pub(crate) fn hook_side(&self) -> Side {
        match self.wanted().current().trigger {
            Trigger::Rollback { .. } => Side::Old,
            _ => Side::New,
        }
    }

    /// Resolves when all of the workload's instances that are wanted are ready, or one has failed. A worker that others wait
    /// for is ready when it has ended.
    async fn up(self: &Arc<Self>, workload: &Name) -> Result<(), String> {
        let wanted = self.wanted();
        let ungated = wanted.rollout().and_then(|(record, _)| record.plan.stage_of(workload.as_str()).cloned());
        let ungated = ungated.is_some_and(|stage| stage.ready_timeout.0.is_zero());
        let keys = if wanted.is_stopped(workload.as_str()) { Vec::new() } else { instances_of(&wanted, workload) };
        // Who waits for a worker's end is not helped by its beginning.
        let awaited = wanted.spec().workloads().flat_map(|(_, other)| &other.depends_on);
        let awaited = awaited.into_iter().any(|on| on.name == *workload && on.condition == Condition::Completed);
        let supervisor = self.supervisor();
        let status = |key: &String| supervisor.read(|machine| machine.status_of(key));
        let before: Vec<u64> = keys.iter().map(|key| status(key).map_or(0, |status| status.restarts)).collect();
        let mut answer = Ok(());
        supervisor
            .when(|_| {
                let doing = keys.iter().zip(&before).map(|(key, before)| match status(key) {
                    Some(status) => doing(&status, *before, ungated, awaited),
                    None => Doing::OnTheWay,
                });
                let mut all = true;
                for one in doing {
                    match one {
                        Doing::Ready => {}
                        Doing::OnTheWay => all = false,
                        Doing::Failed(why) => {
                            answer = Err(why);
                            return true;
                        }
                    }
                }
                all
            })
            .await;
        answer
    }

    /// Resolves when it is known how a release does that supervision starts all at once: it has its verdict, something of
    /// it has failed, or it has had the time that an instance has to be ready.
    pub(crate) async fn come_up(&self, release: &Release) {
        if release.verdict.is_some() {
            return;
        }
        let supervisor = self.supervisor();
        supervisor.caught_up().await;
        let patience = RolloutSpec::default().ready_timeout.0.saturating_sub(self.now().since(release.created_at));
        let has_failed = |child: &&ChildStatus<String>| {
            child.restarts > 0 || matches!(child.state, ChildState::Backoff { .. } | ChildState::Failed(_))
        };
        // What is ready, or has failed for good, gets its verdict now; who waits hears of that from the log.
        let is_over = |status: &TreeStatus<String>| match status.overall {
            Overall::Stopped => true,
            Overall::Ready | Overall::Failed => false,
            _ => members(&status.root).iter().any(has_failed),
        };
        // Late or not: whoever comes after it need not wait any more.
        let _ = tokio::time::timeout(patience, supervisor.when(is_over)).await;
    }

    /// Resolves when nothing of these runs.
    pub(crate) async fn rested(&self, workloads: &[Name]) {
        let wanted = self.wanted();
        self.down(&workloads.iter().flat_map(|workload| instances_of(&wanted, workload)).collect()).await;
        self.stop_runs_beside(workloads).await;
        self.crons_rested(workloads).await;
    }

    /// Resolves when the supervisor has forgotten the workload.
    pub(crate) async fn gone(&self, workload: &Name) {
        let of = |key: &String| {
            key == workload.as_str()
                || key.rsplit_once('-').is_some_and(|(of, n)| of == workload.as_str() && n.parse::<u32>().is_ok())
        };
        let taken: Vec<String> =
            self.wanted().spec().workloads().flat_map(|(name, _)| instances_of(&self.wanted(), name)).collect();
        let supervisor = self.supervisor();
        supervisor
            .when(|status| !status.leaving.iter().any(|child| of(&child.key) && !taken.contains(&child.key)))
            .await;
    }

    /// How far the rollout is, for those who follow events.
    pub(crate) fn tell_progress(&self, record: &Record) {
        if let Some(step) = record.progress.steps.back() {
            self.tell("rollout", &step.what);
        }
    }

    /// The rollout has ended: what is in the volumes is said on them, and what no release needs any more goes.
    pub(crate) async fn rolled_out(self: &Arc<Self>, record: &Record, outcome: &Outcome) {
        let said = match (&outcome.verdict, &outcome.cause) {
            (Verdict::Completed, _) => "completed".to_owned(),
            (_, Some(cause)) => format!("went back: {cause}"),
            (_, None) => "went back".to_owned(),
        };
        tracing::info!(app = %self.name, steps = record.progress.steps.len(), "rollout {said}");
        data::settle(self).await;
    }
}

/// `ungated`: it need only run. `awaited`: it must have ended well.
fn doing(status: &ChildStatus<String>, before: u64, ungated: bool, awaited: bool) -> Doing {
    let cause = || status.history.last().map_or_else(String::new, |note| note.what.to_string());
    match &status.state {
        ChildState::Completed => Doing::Ready,
        ChildState::Running { ready, .. } if (*ready || ungated) && !awaited => Doing::Ready,
        ChildState::Failed(failure) => Doing::Failed(format!("{}: {failure}", status.key)),
        _ if status.restarts >= before + RESTARTS_MAX => {
            Doing::Failed(format!("{}: restarted {RESTARTS_MAX} times: {}", status.key, cause()))
        }
        _ => Doing::OnTheWay,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests within 10 ms, 100 ms and 1 s, and beyond that.
    fn seen(requests: u64, failures: u64, counts: [u64; 4]) -> Seen {
        let bounds = [Some(10), Some(100), Some(1000), None].map(|bound| bound.map(Duration::from_millis));
        Seen { requests, failures, taken_out: false, latency: bounds.into_iter().zip(counts).collect() }
    }

    fn p99(counts: [u64; 4]) -> Option<u128> {
        let requests = counts.iter().sum();
        seen(requests, 0, counts).since(&Seen::default()).p99.map(|p99| p99.0.as_millis())
    }

    #[test]
    fn the_99th_percentile_is_the_bound_within_which_99_of_100_requests_are() {
        let cases = [
            ([0, 0, 0, 0], None),
            ([1, 0, 0, 0], Some(10)),
            ([0, 1, 0, 0], Some(100)),
            ([99, 1, 0, 0], Some(10)),
            ([98, 2, 0, 0], Some(100)),
            ([98, 1, 1, 0], Some(100)),
            ([98, 0, 2, 0], Some(1000)),
            // Of fewer than a hundred each counts.
            ([98, 1, 0, 0], Some(100)),
            ([98, 0, 1, 0], Some(1000)),
            ([198, 1, 0, 0], Some(10)),
            ([197, 2, 0, 0], Some(100)),
            ([198, 0, 2, 0], Some(10)),
            ([197, 0, 3, 0], Some(1000)),
            // Beyond the last bound there is none to name but that.
            ([0, 0, 0, 1], Some(1000)),
            ([99, 0, 0, 1], Some(10)),
            ([98, 0, 0, 2], Some(1000)),
        ];
        for (counts, expected) in cases {
            assert_eq!(p99(counts), expected, "{counts:?}");
        }
    }

    #[test]
    fn between_two_looks_only_what_came_between_them_counts() {
        let before = seen(1000, 100, [0, 0, 1000, 0]);
        let after = seen(1100, 103, [99, 1, 1000, 0]);
        let p99 = |ms| Some(DurationText(Duration::from_millis(ms)));
        assert_eq!(after.since(&before), Sample { requests: 100, errors: 3, p99: p99(10) });
        assert_eq!(after.since(&Seen::default()), Sample { requests: 1100, errors: 103, p99: p99(1000) });
        assert_eq!(before.since(&before), Sample::default(), "nothing came: no percentile of nothing");
    }

    #[test]
    fn counters_that_begin_anew_count_nothing_rather_than_without_end() {
        // The instances that are counted are others than those at the first look, which had seen more.
        let before = seen(1000, 100, [1000, 0, 0, 0]);
        assert_eq!(seen(10, 1, [10, 0, 0, 0]).since(&before), Sample::default());
        let mixed = seen(10, 1, [0, 0, 10, 0]).since(&before);
        assert_eq!((mixed.requests, mixed.p99), (0, Some(DurationText(Duration::from_secs(1)))));
    }

    #[test]
    fn an_instance_that_the_proxy_has_taken_out_has_all_its_requests_fail() {
        let analysis = |min_requests| AnalysisSpec { min_requests, ..AnalysisSpec::default() };
        let of = |requests, errors| Sample { requests, errors, p99: None };
        // From as many requests on as are judged, and one at least: what it does not get cannot fail.
        for (seen, min_requests, judged) in [
            (of(0, 0), 20, of(20, 20)),
            (of(3, 3), 20, of(20, 20)),
            (of(100, 3), 20, of(100, 100)),
            (of(0, 0), 0, of(1, 1)),
        ] {
            assert_eq!(seen.taken_out(&analysis(min_requests)), judged, "{seen:?} from {min_requests} on");
        }
    }
}
