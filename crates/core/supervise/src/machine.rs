//! The machine itself: what each event does.

use std::collections::BTreeSet;
use std::fmt::Debug;

use coppice_base::{Random, Timestamp};
use coppice_spec::RestartPolicy;

use crate::cause::{Cause, ExitReason, Failure, Note, What};
use crate::event::{Action, Event, EventError, Turn};
use crate::order::{Order, flatten};
use crate::record::{ChildRecord, Desired, Doom, HISTORY_MAX, Next, Phase, Snapshot};
use crate::tree::{SupervisorSpec, TreeError};

/// A supervision tree and its state. See the crate's header for the rules.
#[derive(Clone, Debug)]
pub struct Supervision<K> {
    pub(crate) state: Snapshot<K>,
    pub(crate) order: Order<K>,
}

/// Why a snapshot is not one this version can go on from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the supervision snapshot contradicts itself ({}): drop it and adopt what runs into a new tree", .0.join("; "))]
pub struct RestoreError(pub Vec<String>);

impl<K: Ord + Clone + Debug> Supervision<K> {
    /// A tree with everything stopped.
    pub fn new(tree: SupervisorSpec<K>) -> Result<Self, TreeError<K>> {
        let now = Timestamp::ZERO;
        let (supervisors, children) = flatten(tree, now)?;
        let order = Order::of(&supervisors, &children);
        let state = Snapshot {
            desired: Desired::Untold,
            failed: None,
            escalated: false,
            rounds: 0,
            now,
            supervisors,
            children,
        };
        Ok(Self { state, order })
    }

    /// What to keep so that a later process can go on. Keep it before executing the actions of the call that led to
    /// it: an action that was kept but not executed is found by [`Event::Adopt`], the reverse is not.
    pub fn snapshot(&self) -> &Snapshot<K> {
        &self.state
    }

    /// Goes on from a snapshot. Follow with [`Event::Adopt`] for every child.
    pub fn restore(snapshot: Snapshot<K>) -> Result<Self, RestoreError> {
        let broken = snapshot.check_shape();
        if !broken.is_empty() {
            return Err(RestoreError(broken));
        }
        let order = Order::of(&snapshot.supervisors, &snapshot.children);
        let restored = Self { state: snapshot, order };
        let broken = restored.check();
        if broken.is_empty() { Ok(restored) } else { Err(RestoreError(broken)) }
    }

    /// When to send [`Event::Tick`] at the latest, if nothing happens before; `None`: no timer runs.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        let untils = self.state.children.iter().filter_map(|child| match child.phase {
            Phase::Backoff { until, .. } => Some(until),
            _ => None,
        });
        untils.min()
    }

    /// The keys of the tree in start order, those on their way out included.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.state.children.iter().map(|child| &child.spec.key)
    }

    /// What the machine takes a child's run, or its next one, to be made from.
    pub fn revision_of(&self, key: &K) -> Option<&str> {
        self.order.index.get(key).map(|&i| self.state.children[i].spec.revision.as_str())
    }

    /// `keys` and all they depend on, however indirectly, in start order. Unknown keys are left out.
    pub fn dependencies_of(&self, keys: &[K]) -> Vec<K> {
        let wanted: BTreeSet<usize> = keys.iter().filter_map(|key| self.order.index.get(key).copied()).collect();
        let children = self.state.children.iter().enumerate();
        let needed = children.filter(|(i, _)| {
            wanted.contains(i) || self.order.dependents[*i].iter().any(|dependent| wanted.contains(dependent))
        });
        needed.map(|(_, child)| child.spec.key.clone()).collect()
    }

    /// Takes one event and says what to do. An error leaves everything as it was.
    pub fn handle(
        &mut self,
        now: Timestamp,
        event: Event<K>,
        random: &mut dyn Random,
    ) -> Result<Vec<Action<K>>, EventError<K>> {
        let mut turn = Turn { now, random, actions: Vec::new() };
        match event {
            Event::Start => self.start_all(&mut turn),
            Event::Stop => self.stop_all(&mut turn),
            Event::StartChildren(keys) => {
                let chosen = self.find_all(&keys)?;
                self.state.desired = Desired::Up;
                self.state.failed = None;
                for i in chosen {
                    self.start(&mut turn, i, true);
                }
            }
            Event::StopChildren(keys) => {
                for i in self.find_all(&keys)? {
                    self.rest(&mut turn, i, Cause::Requested);
                }
            }
            Event::Restart(keys) => self.restart_all(&mut turn, &keys)?,
            Event::Reconfigure(tree) => self.reconfigure(&mut turn, tree)?,
            Event::Started(key) => self.started(&mut turn, &key)?,
            Event::StartFailed(key, reason) => {
                let i = self.find(&key)?;
                if !matches!(self.state.children[i].phase, Phase::Starting { .. } | Phase::Stopping { .. }) {
                    return Err(self.unexpected(i, "StartFailed"));
                }
                self.ended(&mut turn, i, Failure::StartFailed(reason), true);
            }
            Event::Ready(key) => self.ready(&mut turn, &key)?,
            Event::Unhealthy(key, reason) => self.unhealthy(&mut turn, &key, reason)?,
            Event::Exited(key, reason) => {
                let i = self.find(&key)?;
                if !self.state.children[i].is_alive() {
                    return Err(self.unexpected(i, "Exited"));
                }
                self.ended(&mut turn, i, Failure::Exited(reason), true);
            }
            Event::Adopt(key, found) => {
                let i = self.find(&key)?;
                self.adopt(&mut turn, i, found);
            }
            Event::Replaced(key, revision) => {
                let i = self.find(&key)?;
                self.replaced(&mut turn, i, revision);
            }
            Event::Tick => {}
        }
        self.settle(&mut turn);
        self.state.now = now;
        Ok(turn.actions)
    }

    fn start_all(&mut self, turn: &mut Turn<'_, K>) {
        let was_down = self.state.desired != Desired::Up || self.state.failed.is_some();
        self.state.desired = Desired::Up;
        self.state.failed = None;
        if was_down {
            for supervisor in &mut self.state.supervisors {
                supervisor.restarts.clear();
                supervisor.attempt = 0;
                supervisor.renewed = None;
            }
        }
        for i in 0..self.state.children.len() {
            self.start(turn, i, was_down);
        }
    }

    fn stop_all(&mut self, turn: &mut Turn<'_, K>) {
        self.state.desired = Desired::Down;
        self.state.failed = None;
        for i in 0..self.state.children.len() {
            self.rest(turn, i, Cause::Requested);
        }
    }

    /// Wants child `i` up. `afresh`: run it again if it is complete, at once if it is in backoff.
    fn start(&mut self, turn: &mut Turn<'_, K>, i: usize, afresh: bool) {
        let child = &mut self.state.children[i];
        if child.leaving {
            return;
        }
        child.wanted = true;
        if afresh {
            child.attempt = 0;
        }
        let waiting = Phase::Waiting { cause: Cause::Requested };
        match &child.phase {
            Phase::Stopped { cause: None } if child.spec.is_done_before() => child.enter(Phase::Completed, turn.now),
            Phase::Stopped { .. } | Phase::Failed { .. } => child.enter(waiting, turn.now),
            Phase::Completed | Phase::Backoff { .. } if afresh => child.enter(waiting, turn.now),
            _ if child.doom().is_some_and(|doom| doom.next == Next::Rest) => {
                if child.spare() {
                    child.round = None;
                } else {
                    child.set_doom(Doom { cause: Cause::Requested, next: Next::Again { until: None } });
                }
            }
            _ => {}
        }
    }

    pub(crate) fn restart_all(&mut self, turn: &mut Turn<'_, K>, keys: &[K]) -> Result<(), EventError<K>> {
        let chosen = self.find_all(keys)?;
        self.state.desired = Desired::Up;
        self.state.failed = None;
        for i in chosen {
            self.restart(turn, i);
        }
        Ok(())
    }

    fn restart(&mut self, turn: &mut Turn<'_, K>, i: usize) {
        let child = &mut self.state.children[i];
        child.wanted = true;
        child.attempt = 0;
        if child.is_alive() {
            child.set_doom(Doom { cause: Cause::Requested, next: Next::Again { until: None } });
        } else if !matches!(child.phase, Phase::Waiting { .. }) {
            child.enter(Phase::Waiting { cause: Cause::Requested }, turn.now);
        }
    }

    /// Wants child `i` down: what lives is doomed, what waits stops waiting, what has ended keeps its end.
    pub(crate) fn rest(&mut self, turn: &mut Turn<'_, K>, i: usize, cause: Cause<K>) {
        let child = &mut self.state.children[i];
        if child.leaving {
            return;
        }
        child.wanted = false;
        child.round = None;
        if child.is_alive() {
            // A stop already issued keeps its cause: it is the one that is in the history.
            let cause = match (&child.phase, child.doom()) {
                (Phase::Stopping { .. }, Some(doom)) => doom.cause.clone(),
                _ => cause,
            };
            child.set_doom(Doom { cause, next: Next::Rest });
        } else if matches!(child.phase, Phase::Waiting { .. } | Phase::Backoff { .. }) {
            child.enter(Phase::Stopped { cause: Some(cause) }, turn.now);
        }
    }

    fn started(&mut self, turn: &mut Turn<'_, K>, key: &K) -> Result<(), EventError<K>> {
        let i = self.find(key)?;
        let child = &mut self.state.children[i];
        match &child.phase {
            Phase::Starting { cause, doom } => {
                let ready_since = (!child.spec.has_health).then_some(turn.now);
                let (cause, doom) = (cause.clone(), doom.clone());
                child.enter(Phase::Running { cause, ready_since, unhealthy: None, doom }, turn.now);
                self.note(turn, i, What::Running);
                if ready_since.is_some() {
                    self.note(turn, i, What::Ready);
                }
                Ok(())
            }
            // The answer to the start crossed the stop; the exit follows.
            Phase::Stopping { .. } => Ok(()),
            _ => Err(self.unexpected(i, "Started")),
        }
    }

    fn ready(&mut self, turn: &mut Turn<'_, K>, key: &K) -> Result<(), EventError<K>> {
        let i = self.find(key)?;
        match &mut self.state.children[i].phase {
            Phase::Running { ready_since, unhealthy, .. } => {
                *unhealthy = None;
                if ready_since.is_none() {
                    *ready_since = Some(turn.now);
                    self.note(turn, i, What::Ready);
                }
                Ok(())
            }
            Phase::Stopping { .. } => Ok(()),
            _ => Err(self.unexpected(i, "Ready")),
        }
    }

    fn unhealthy(&mut self, turn: &mut Turn<'_, K>, key: &K, reason: String) -> Result<(), EventError<K>> {
        let i = self.find(key)?;
        let child = &mut self.state.children[i];
        let stays = child.spec.restart == RestartPolicy::Never || !child.wanted;
        match &mut child.phase {
            Phase::Stopping { .. } => Ok(()),
            // It stops anyway; remembered in case the stop is taken back.
            Phase::Running { ready_since, unhealthy, doom: Some(_), .. } => {
                *ready_since = None;
                *unhealthy = Some(reason);
                Ok(())
            }
            Phase::Running { ready_since, unhealthy, .. } if stays => {
                *ready_since = None;
                if unhealthy.as_ref() != Some(&reason) {
                    *unhealthy = Some(reason.clone());
                    self.note(turn, i, What::Failed(Failure::Unhealthy(reason)));
                }
                Ok(())
            }
            Phase::Running { .. } => {
                let failure = Failure::Unhealthy(reason);
                self.note(turn, i, What::Failed(failure.clone()));
                self.child_failed(turn, i, failure, true);
                Ok(())
            }
            _ => Err(self.unexpected(i, "Unhealthy")),
        }
    }

    /// Nothing of live child `i` is left. `counted`: whether the intensity counts a restart.
    pub(crate) fn ended(&mut self, turn: &mut Turn<'_, K>, i: usize, end: Failure, counted: bool) {
        let child = &mut self.state.children[i];
        let success = end == Failure::Exited(ExitReason::Code(0));
        let told = matches!(child.phase, Phase::Stopping { .. });
        // A worker that finishes by itself before it is told to stop has done its work, unless it is to do it again.
        let finished = success && !told && (child.spec.one_shot || child.spec.restart != RestartPolicy::Always);
        match child.doom().cloned() {
            Some(Doom { next: Next::Rest, .. }) | None if finished => {
                child.round = None;
                child.enter(Phase::Completed, turn.now);
                self.note(turn, i, What::Completed);
            }
            Some(Doom { cause, next }) => {
                let what = match &end {
                    Failure::Exited(reason) => What::Stopped(*reason),
                    other => What::Failed(other.clone()),
                };
                child.enter(Phase::Stopped { cause: Some(cause.clone()) }, turn.now);
                self.note(turn, i, what);
                if let Next::Again { until } = next {
                    let round = self.state.children[i].round;
                    self.again(turn, i, cause, until, round);
                }
            }
            None => {
                let gives_up = child.spec.restart == RestartPolicy::Never;
                let restarts = child.wanted && !gives_up;
                if restarts {
                    // Where it stands until the failure is answered; `child_failed` reads the run's length first.
                    self.note(turn, i, What::Failed(end.clone()));
                    self.child_failed(turn, i, end, counted);
                } else {
                    child.enter(Phase::Failed { failure: end.clone() }, turn.now);
                    self.note(turn, i, What::Failed(end));
                }
            }
        }
    }

    /// Has child `i` started (again): now if it is not alive, else once it has stopped; not before `until`.
    /// Nothing happens to a child that is not wanted.
    pub(crate) fn again(
        &mut self,
        turn: &mut Turn<'_, K>,
        i: usize,
        cause: Cause<K>,
        until: Option<Timestamp>,
        round: Option<u64>,
    ) {
        let child = &mut self.state.children[i];
        if !child.wanted || child.leaving {
            return;
        }
        child.round = round;
        if child.is_alive() {
            child.set_doom(Doom { cause, next: Next::Again { until } });
            return;
        }
        match until {
            Some(until) if until > turn.now => {
                child.enter(Phase::Backoff { cause: cause.clone(), from: turn.now, until }, turn.now);
                self.note(turn, i, What::Retry { until, cause });
            }
            _ => child.enter(Phase::Waiting { cause }, turn.now),
        }
    }

    pub(crate) fn note(&mut self, turn: &mut Turn<'_, K>, i: usize, what: What<K>) {
        let child = &mut self.state.children[i];
        let note = Note { at: turn.now, what };
        if note.what.is_kept() {
            if child.history.len() >= HISTORY_MAX {
                child.history.remove(0);
            }
            child.history.push(note.clone());
        }
        turn.actions.push(Action::Note { key: child.spec.key.clone(), note });
    }

    pub(crate) fn child(&self, i: usize) -> &ChildRecord<K> {
        &self.state.children[i]
    }

    fn find(&self, key: &K) -> Result<usize, EventError<K>> {
        self.order.index.get(key).copied().ok_or_else(|| EventError::UnknownKey(key.clone()))
    }

    /// What people name: a child on its way out is no longer theirs to start or stop.
    fn find_all(&self, keys: &[K]) -> Result<Vec<usize>, EventError<K>> {
        let find = |key: &K| {
            let i = self.find(key)?;
            if self.child(i).leaving { Err(EventError::UnknownKey(key.clone())) } else { Ok(i) }
        };
        keys.iter().map(find).collect()
    }

    fn unexpected(&self, i: usize, event: &'static str) -> EventError<K> {
        let child = self.child(i);
        EventError::Unexpected { key: child.spec.key.clone(), event, state: child.state_name() }
    }
}
