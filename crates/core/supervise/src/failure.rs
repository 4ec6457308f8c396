//! What a failure leads to: backoff, the strategy, intensity, and giving up towards the root.

use std::fmt::Debug;
use std::time::Duration;

use coppice_base::{Random, Timestamp};
use coppice_spec::{Backoff, RestartPolicy, Strategy};

use crate::cause::{Cause, Escalation, Failure, Origin};
use crate::event::Turn;
use crate::machine::Supervision;
use crate::record::{Phase, SupervisorRecord};

/// A member of a supervisor, by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Child(usize),
    Group(usize),
}

impl<K: Ord + Clone + Debug> Supervision<K> {
    /// Child `i`, which is to be restarted on failure, has failed: it has just ended, or it runs and is unhealthy.
    pub(crate) fn child_failed(&mut self, turn: &mut Turn<'_, K>, i: usize, failure: Failure, counted: bool) {
        let s = self.child(i).parent;
        let backoff = self.state.supervisors[s].supervise.backoff;
        let child = &mut self.state.children[i];
        if let Phase::Running { ready_since: Some(since), .. } = child.phase
            && turn.now.since(since) >= backoff.reset_after.0
        {
            child.attempt = 0;
        }
        child.attempt = child.attempt.saturating_add(1);
        let until = turn.now.plus(delay(&backoff, child.attempt, turn.random));
        if let (Failure::Unhealthy(reason), Phase::Running { ready_since, unhealthy, .. }) =
            (&failure, &mut child.phase)
        {
            *ready_since = None;
            *unhealthy = Some(reason.clone());
        } else {
            child.enter(Phase::Stopped { cause: Some(Cause::Failed(failure.clone())) }, turn.now);
        }
        if counted && !self.state.supervisors[s].count_restart(turn.now) {
            return self.give_up(turn, s, self.child(i).spec.key.clone(), failure);
        }
        let origin = Origin::Child(self.child(i).spec.key.clone());
        self.apply_strategy(turn, s, Member::Child(i), origin, Cause::Failed(failure), until);
    }

    /// Supervisor `s` has restarted more often than it may. `key` and `failure` are the last straw.
    fn give_up(&mut self, turn: &mut Turn<'_, K>, s: usize, key: K, failure: Failure) {
        let supervisor = &mut self.state.supervisors[s];
        let escalation = Escalation {
            supervisor: supervisor.name.clone(),
            max_restarts: supervisor.supervise.max_restarts,
            window: supervisor.supervise.window,
            key: key.clone(),
            failure: failure.clone(),
        };
        let first_failure = supervisor.restarts.first().copied().unwrap_or(turn.now);
        supervisor.restarts.clear();
        let (renewed, attempt, name) = (supervisor.renewed, supervisor.attempt, supervisor.name.clone());

        let Some(parent) = supervisor.parent else {
            self.state.failed = Some(escalation.clone());
            self.state.escalated = false;
            for i in 0..self.state.children.len() {
                self.rest(turn, i, Cause::GaveUp(escalation.clone()));
            }
            return;
        };
        if !self.state.supervisors[parent].count_restart(turn.now) {
            return self.give_up(turn, parent, key, failure);
        }
        let backoff = self.state.supervisors[parent].supervise.backoff;
        // A group ran well for as long as none of the failures that ended it had happened.
        let ran_well = renewed.is_none_or(|renewed| first_failure.since(renewed) >= backoff.reset_after.0);
        let attempt = if ran_well { 1 } else { attempt.saturating_add(1) };
        let until = turn.now.plus(delay(&backoff, attempt, turn.random));
        let supervisor = &mut self.state.supervisors[s];
        supervisor.attempt = attempt;
        supervisor.renewed = Some(until);
        self.apply_strategy(turn, parent, Member::Group(s), Origin::Group(name), Cause::GaveUp(escalation), until);
    }

    /// Restarts what supervisor `s`'s strategy says when its member `failed` has failed, not before `until`.
    fn apply_strategy(
        &mut self,
        turn: &mut Turn<'_, K>,
        s: usize,
        failed: Member,
        origin: Origin<K>,
        cause: Cause<K>,
        until: Timestamp,
    ) {
        let strategy = self.state.supervisors[s].supervise.strategy;
        let failed_at = self.first_of(failed);
        let taken = |member: Member| match strategy {
            _ if member == failed => true,
            Strategy::OneForOne => false,
            Strategy::OneForAll => true,
            Strategy::RestForOne => self.first_of(member) > failed_at && self.rank_of(member) != self.rank_of(failed),
        };
        let children: Vec<(usize, Member)> = (0..self.state.children.len())
            .filter(|&i| self.order.is_under(i, s) && !self.child(i).leaving)
            .map(|i| (i, self.member_above(i, s)))
            .filter(|&(_, member)| taken(member))
            .collect();
        let renewed: Vec<usize> = (0..self.state.supervisors.len())
            .filter(|&group| self.group_below(s, group).is_some_and(|member| taken(Member::Group(member))))
            .collect();

        for group in renewed {
            self.state.supervisors[group].restarts.clear();
        }
        let round = (children.len() > 1).then(|| {
            self.state.rounds += 1;
            self.state.rounds
        });
        for (i, member) in children {
            let in_failed = member == failed;
            let cause = if in_failed { cause.clone() } else { Cause::Sibling { origin: origin.clone(), strategy } };
            let child = &mut self.state.children[i];
            if matches!(member, Member::Group(_)) {
                child.attempt = 0;
            } else if !in_failed && child.spec.restart == RestartPolicy::Never {
                if !matches!(child.phase, Phase::Completed | Phase::Failed { .. } | Phase::Stopped { .. }) {
                    self.rest(turn, i, cause);
                }
                continue;
            }
            self.again(turn, i, cause, Some(until), round);
        }
    }

    /// The member of supervisor `s` that child `i`, which is under it, is or belongs to.
    fn member_above(&self, i: usize, s: usize) -> Member {
        let below = self.order.chains[i].iter().skip_while(|&&above| above != s).nth(1);
        below.map_or(Member::Child(i), |&group| Member::Group(group))
    }

    /// The group that is a member of `s` and is or contains `group`; `None` when `group` is not below `s`.
    fn group_below(&self, s: usize, mut group: usize) -> Option<usize> {
        loop {
            let parent = self.state.supervisors[group].parent?;
            if parent == s {
                return Some(group);
            }
            group = parent;
        }
    }

    /// Where in the start order a member begins.
    fn first_of(&self, member: Member) -> usize {
        match member {
            Member::Child(i) => i,
            Member::Group(s) => {
                (0..self.state.children.len()).find(|&i| self.order.is_under(i, s)).unwrap_or(usize::MAX)
            }
        }
    }

    fn rank_of(&self, member: Member) -> u32 {
        match member {
            Member::Child(i) => self.child(i).spec.order,
            Member::Group(s) => self.state.supervisors[s].order,
        }
    }
}

impl SupervisorRecord {
    /// Counts a restart at `now`; false when that is one too many within the window.
    fn count_restart(&mut self, now: Timestamp) -> bool {
        let window = self.supervise.window.0;
        // Moments after `now` are from before the clock was set back.
        self.restarts.retain(|&at| at <= now && now.since(at) < window);
        self.restarts.push(now);
        self.restarts.len() <= self.supervise.max_restarts as usize
    }
}

/// `first`, doubled for each further failure in a row, at most `max`; plus up to a quarter of jitter.
fn delay(backoff: &Backoff, attempt: u32, random: &mut dyn Random) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    let plain = backoff.first.0.saturating_mul(1 << doublings).min(backoff.max.0);
    let quarter_ms = u64::try_from(plain.as_millis() / 4).unwrap_or(u64::MAX - 1);
    plain.saturating_add(Duration::from_millis(random.below(quarter_ms + 1)))
}
