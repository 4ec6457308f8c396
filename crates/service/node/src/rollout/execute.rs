//! One action after the other: those that take time are begun, and answer when they are done.

use coppice_api::ErrorKind;
use coppice_base::Name;
use coppice_rollout::{Action, Event, Side};

use super::Driver;
use super::data;
use crate::error::NodeError;

impl Driver {
    pub(super) async fn execute(&mut self, action: Action) {
        let (app, tell) = (self.app.clone(), self.tell.clone());
        // Where nobody listens any more, the rollout has ended.
        match action {
            Action::Snapshot { volume, snapshot } => {
                tokio::spawn(async move {
                    let _ = tell.send(match data::snapshot(&app, &volume, &snapshot).await {
                        Ok(()) => Event::Snapshotted { volume, snapshot },
                        Err(error) => Event::SnapshotFailed { volume, snapshot, detail: error.to_string() },
                    });
                });
            }
            Action::SwitchData { volume, to, keep } => {
                tokio::spawn(async move {
                    let _ = tell.send(match data::switch(&app, &volume, &to, &keep).await {
                        Ok(()) => Event::Switched { volume, to },
                        Err(error) => switch_failed(volume, to, &error),
                    });
                });
            }
            Action::SwitchBack { volume, to, cut } => {
                tokio::spawn(async move {
                    let _ = tell.send(match data::switch_back(&app, &volume, &to, &cut).await {
                        Ok(()) => Event::Switched { volume, to },
                        Err(error) => switch_failed(volume, to, &error),
                    });
                });
            }
            Action::Halt { workloads, round } => {
                tokio::spawn(async move {
                    app.rested(&workloads).await;
                    let _ = tell.send(Event::Halted { round });
                });
            }
            Action::StartCandidate { candidate, workload, side } => {
                app.start_candidate(candidate, workload, side, &tell);
            }
            Action::Promote { workload, candidates, side } => match app.promote(&workload, &candidates, side) {
                Ok(replaced) => {
                    let (rollouts, release, since) = (self.rollouts.clone(), self.release, app.now());
                    tokio::spawn(async move {
                        let wait = |what: &str, why: Option<&NodeError>| {
                            rollouts.hold_up(&app.name, &release, what, why.map(|why| (since, why.to_string())));
                        };
                        app.lead_away(replaced, wait).await;
                        let _ = tell.send(Event::Promoted { candidates });
                    });
                }
                Err((candidate, detail)) => {
                    let reason = coppice_rollout::Reason::ProcessFailed;
                    let _ = tell.send(Event::CandidateFailed { candidate, reason, detail });
                }
            },
            Action::Discard { candidates } => app.discard(candidates, &tell),
            Action::Weigh { workload, percent } => app.weigh(workload, percent).await,
            Action::Sample { workload, since } => self.sample(&workload, since),
            Action::Enter { workload } => self.watch(workload, Side::New),
            Action::Leave { workload } => self.watch(workload, Side::Old),
            Action::Remove { workload } => {
                tokio::spawn(async move {
                    app.gone(&workload).await;
                    let _ = tell.send(Event::Removed { workload });
                });
            }
            Action::RunHook { worker, when, attempt } => {
                let side = app.hook_side();
                app.run_hook(worker, when, attempt, side, &tell);
            }
            Action::StopHook { worker, when, attempt } => app.stop_hook(worker, when, attempt),
            Action::End(_) => {}
        }
    }
}

fn switch_failed(volume: Name, to: String, error: &NodeError) -> Event {
    Event::SwitchFailed { volume, to, detail: error.to_string(), no_room: error.kind() == ErrorKind::NoSpace }
}
