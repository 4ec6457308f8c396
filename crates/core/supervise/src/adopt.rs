//! The caller was away and is back: reconcile what is remembered with what is there.

use std::fmt::Debug;

use crate::cause::{Cause, ExitReason, Failure, What};
use crate::event::{Action, Adopted, Turn};
use crate::machine::Supervision;
use crate::record::{Desired, Doom, Next, Phase};

impl<K: Ord + Clone + Debug> Supervision<K> {
    pub(crate) fn adopt(&mut self, turn: &mut Turn<'_, K>, i: usize, found: Adopted) {
        match found {
            Adopted::Running { ready } => self.adopt_running(turn, i, ready),
            Adopted::Exited(reason) => self.adopt_ended(turn, i, reason),
            Adopted::Absent => match self.child(i).phase.clone() {
                // The start never happened; it does now, unless a stop was meant to follow.
                Phase::Starting { cause, doom: None } => {
                    self.state.children[i].enter(Phase::Waiting { cause }, turn.now);
                }
                _ => self.adopt_ended(turn, i, ExitReason::Lost),
            },
        }
    }

    fn adopt_running(&mut self, turn: &mut Turn<'_, K>, i: usize, ready: bool) {
        let told = self.state.desired != Desired::Untold;
        let child = &mut self.state.children[i];
        let ready_now = (ready || !child.spec.has_health).then_some(turn.now);
        match &mut child.phase {
            Phase::Running { ready_since, .. } => {
                // Readiness that was known before is kept with its date.
                *ready_since = ready_since.or(ready_now).filter(|_| ready_now.is_some());
            }
            // The stop may not have been executed. Saying it twice does no harm, losing it does.
            Phase::Stopping { doom } => {
                let cause = doom.cause.clone();
                turn.actions.push(Action::Stop { key: child.spec.key.clone(), cause });
            }
            phase => {
                let (cause, doom) = match phase {
                    Phase::Starting { cause, doom } => (cause.clone(), doom.take()),
                    Phase::Waiting { cause } | Phase::Backoff { cause, .. } => (cause.clone(), None),
                    _ => (Cause::Requested, None),
                };
                child.round = None;
                child.enter(Phase::Running { cause, ready_since: ready_now, unhealthy: None, doom }, turn.now);
                if told && !child.wanted && child.doom().is_none() {
                    child.set_doom(Doom { cause: Cause::Requested, next: Next::Rest });
                }
                self.note(turn, i, What::Adopted);
            }
        }
    }

    pub(crate) fn replaced(&mut self, turn: &mut Turn<'_, K>, i: usize, revision: String) {
        let rests = self.state.desired == Desired::Down || !self.child(i).wanted;
        let child = &mut self.state.children[i];
        child.spec.revision = revision;
        child.round = None;
        child.attempt = 0;
        // What was to be done to the run before has nobody left to be done to; only that it is to be down still holds.
        let doom = rests.then_some(Doom { cause: Cause::Requested, next: Next::Rest });
        let running = Phase::Running { cause: Cause::Changed, ready_since: Some(turn.now), unhealthy: None, doom };
        child.enter(running, turn.now);
        self.note(turn, i, What::Running);
        self.note(turn, i, What::Ready);
    }

    fn adopt_ended(&mut self, turn: &mut Turn<'_, K>, i: usize, reason: ExitReason) {
        if self.child(i).is_alive() {
            self.ended(turn, i, Failure::Exited(reason), false);
        }
    }
}
