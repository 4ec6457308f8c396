//! After every event: whatever may go on now, goes on. This is the only place that issues starts and stops.

use std::fmt::Debug;

use coppice_base::Timestamp;
use coppice_spec::Condition;

use crate::cause::What;
use crate::event::{Action, Turn};
use crate::machine::Supervision;
use crate::order::Order;
use crate::record::{Phase, Snapshot};

impl<K: Ord + Clone + Debug> Supervision<K> {
    pub(crate) fn settle(&mut self, turn: &mut Turn<'_, K>) {
        self.end_backoffs(turn.now);
        // Before the stops: others may have waited for a leaver.
        self.forget_leavers();
        // Later children first, so that each sees what became of those it waits for.
        for i in (0..self.state.children.len()).rev() {
            if self.may_stop(i) {
                self.issue_stop(turn, i);
            }
        }
        for i in 0..self.state.children.len() {
            if self.may_start(i) {
                self.issue_start(turn, i);
            }
        }
        if let Some(escalation) = &self.state.failed
            && !self.state.escalated
            && !self.state.children.iter().any(|child| child.is_alive())
        {
            turn.actions.push(Action::Escalate(escalation.clone()));
            self.state.escalated = true;
        }
    }

    /// Whether child `i` waits for nothing but its start being issued.
    pub(crate) fn may_start(&self, i: usize) -> bool {
        let child = self.child(i);
        matches!(child.phase, Phase::Waiting { .. }) && !self.round_is_stopping(i) && self.unmet(i).next().is_none()
    }

    /// The needs of child `i` that are not met, each as the children it waits for.
    pub(crate) fn unmet(&self, i: usize) -> impl Iterator<Item = (Vec<usize>, Condition)> + '_ {
        self.order.needs[i].iter().filter_map(|(keys, condition)| {
            let missing: Vec<usize> = keys.iter().copied().filter(|&j| !self.meets(j, *condition)).collect();
            (!missing.is_empty()).then_some((missing, *condition))
        })
    }

    /// Whether others of child `i`'s round are still alive.
    pub(crate) fn round_is_stopping(&self, i: usize) -> bool {
        let round = self.child(i).round;
        round.is_some() && self.state.children.iter().any(|other| other.round == round && other.is_alive())
    }

    fn meets(&self, i: usize, condition: Condition) -> bool {
        let child = self.child(i);
        match &child.phase {
            Phase::Running { doom: None, ready_since, .. } => match condition {
                Condition::Started => true,
                Condition::Healthy => ready_since.is_some(),
                Condition::Completed => false,
            },
            // A service that ended well was started, but nothing healthy is there now.
            Phase::Completed => child.spec.one_shot || condition != Condition::Healthy,
            _ => false,
        }
    }

    /// Whether child `i` is to stop, was not told yet, and all that must stop before it have.
    pub(crate) fn may_stop(&self, i: usize) -> bool {
        let child = self.child(i);
        if child.doom().is_none() || matches!(child.phase, Phase::Stopping { .. }) {
            return false;
        }
        let goes = |j: usize| self.child(j).doom().is_some();
        if self.order.dependents[i].iter().any(|&j| goes(j)) {
            return false;
        }
        let mut later = i + 1..self.state.children.len();
        !later.any(|j| goes(j) && self.order.is_ordered(&self.state.supervisors, &self.state.children, i, j))
    }

    fn issue_stop(&mut self, turn: &mut Turn<'_, K>, i: usize) {
        let child = &mut self.state.children[i];
        if let Some(doom) = child.doom().cloned() {
            let (key, cause) = (child.spec.key.clone(), doom.cause.clone());
            child.enter(Phase::Stopping { doom }, turn.now);
            self.note(turn, i, What::Stopping(cause.clone()));
            turn.actions.push(Action::Stop { key, cause });
        }
    }

    fn issue_start(&mut self, turn: &mut Turn<'_, K>, i: usize) {
        let child = &mut self.state.children[i];
        if let Phase::Waiting { cause } = child.phase.clone() {
            child.round = None;
            if cause.is_failure() {
                child.restarts += 1;
            }
            let (key, attempt) = (child.spec.key.clone(), child.attempt);
            child.enter(Phase::Starting { cause: cause.clone(), doom: None }, turn.now);
            self.note(turn, i, What::Starting { attempt, cause: cause.clone() });
            turn.actions.push(Action::Start { key, attempt, cause });
        }
    }

    fn end_backoffs(&mut self, now: Timestamp) {
        for child in &mut self.state.children {
            if let Phase::Backoff { cause, from, until } = &mut child.phase {
                // The clock was set back: wait as long as was meant, not until the clock is there again.
                if now < *from {
                    *until = now.plus(until.since(*from));
                    *from = now;
                }
                if *until <= now {
                    let cause = cause.clone();
                    child.enter(Phase::Waiting { cause }, now);
                }
            }
        }
    }

    fn forget_leavers(&mut self) {
        let Snapshot { supervisors, children, .. } = &mut self.state;
        let before = children.len();
        children.retain(|child| !child.leaving || child.is_alive());
        if children.len() != before {
            self.order = Order::of(supervisors, children);
        }
    }
}
