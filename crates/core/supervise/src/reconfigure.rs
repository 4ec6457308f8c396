//! A new tree takes the place of the old one; what is the same in both goes on undisturbed.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::cause::Cause;
use crate::event::{EventError, Turn};
use crate::machine::Supervision;
use crate::order::{Order, flatten};
use crate::record::{ChildRecord, Desired, Doom, Next, Phase};
use crate::tree::{ChildSpec, SupervisorSpec};

impl<K: Ord + Clone + Debug> Supervision<K> {
    pub(crate) fn reconfigure(&mut self, turn: &mut Turn<'_, K>, tree: SupervisorSpec<K>) -> Result<(), EventError<K>> {
        let (mut supervisors, mut children) = flatten(tree, turn.now)?;

        for supervisor in &mut supervisors {
            if let Some(old) = self.state.supervisors.iter().find(|old| old.name == supervisor.name) {
                supervisor.restarts.clone_from(&old.restarts);
                supervisor.attempt = old.attempt;
                supervisor.renewed = old.renewed;
            }
            // A smaller intensity than before must not count what was within the larger one.
            let excess = supervisor.restarts.len().saturating_sub(supervisor.supervise.max_restarts as usize);
            supervisor.restarts.drain(..excess);
        }

        let up = self.state.desired == Desired::Up && self.state.failed.is_none();
        let old_children = std::mem::take(&mut self.state.children);
        let mut old: BTreeMap<K, ChildRecord<K>> =
            old_children.into_iter().map(|child| (child.spec.key.clone(), child)).collect();
        let mut again = Vec::new();
        for child in &mut children {
            match old.remove(&child.spec.key) {
                Some(before) => {
                    if is_restart(&child.spec, &before) {
                        again.push(child.spec.key.clone());
                    }
                    carry_over(child, before, up, turn);
                }
                None if up => {
                    child.wanted = true;
                    let done = child.spec.is_done_before();
                    let phase = if done { Phase::Completed } else { Phase::Waiting { cause: Cause::Requested } };
                    child.enter(phase, turn.now);
                }
                None => {}
            }
        }
        // Leavers are last in the order: nothing in the new tree can depend on them, so they may stop first.
        let mut leavers: Vec<ChildRecord<K>> = old.into_values().filter(ChildRecord::is_alive).collect();
        sort_by_needs(&mut leavers, &self.order);
        for leaver in &mut leavers {
            leaver.leaving = true;
            leaver.wanted = false;
            leaver.round = None;
            leaver.parent = 0;
            leaver.set_doom(Doom { cause: Cause::Removed, next: Next::Rest });
        }
        children.extend(leavers);

        self.order = Order::of(&supervisors, &children);
        self.state.supervisors = supervisors;
        self.state.children = children;
        if !again.is_empty() {
            self.restart_all(turn, &again)?;
        }
        Ok(())
    }
}

/// Whether the new definition of a child asks for a restart that the change itself does not bring.
fn is_restart<K>(spec: &ChildSpec<K>, before: &ChildRecord<K>) -> bool {
    let asked = before.spec.generation.is_some() && spec.generation != before.spec.generation;
    let changes = spec.revision != before.spec.revision && before.wanted;
    asked && !changes && !before.leaving
}

/// Gives `child`, fresh from the new tree, what is known of its key.
fn carry_over<K: Ord + Clone + Debug>(
    child: &mut ChildRecord<K>,
    before: ChildRecord<K>,
    up: bool,
    turn: &mut Turn<'_, K>,
) {
    let changed = child.spec.revision != before.spec.revision;
    let came_back = before.leaving;
    let spec = std::mem::replace(&mut child.spec, before.spec.clone());
    let parent = child.parent;
    *child = ChildRecord { spec, parent, leaving: false, ..before };
    // Without its health check nobody would ever say that it is ready.
    if let Phase::Running { ready_since, unhealthy, .. } = &mut child.phase
        && !child.spec.has_health
    {
        ready_since.get_or_insert(turn.now);
        *unhealthy = None;
    }
    if came_back {
        child.wanted = up;
        if up && !changed && child.spare() {
            return;
        }
        if up {
            child.set_doom(Doom { cause: Cause::Changed, next: Next::Again { until: None } });
        }
        return;
    }
    if changed && !child.wanted && !child.is_alive() && child.spec.is_done_before() {
        child.enter(Phase::Completed, turn.now);
    }
    if !changed || !child.wanted {
        return;
    }
    child.attempt = 0;
    if !child.is_alive() && child.spec.is_done_before() {
        child.enter(Phase::Completed, turn.now);
    } else if child.is_alive() {
        child.set_doom(Doom { cause: Cause::Changed, next: Next::Again { until: None } });
    } else {
        child.enter(Phase::Waiting { cause: Cause::Changed }, turn.now);
    }
}

/// Puts records taken out of a map back into the order they were in.
fn sort_by_needs<K: Ord + Clone + Debug>(records: &mut [ChildRecord<K>], order: &Order<K>) {
    records.sort_by_key(|record| order.index.get(&record.spec.key).copied());
}
