//! The tree as people see it: what each child does, since when, why, and what it waits for.

use std::fmt;
use std::fmt::Debug;

use coppice_base::{DurationText, Timestamp};
use coppice_spec::{Condition, Strategy};
use serde::{Deserialize, Serialize};

use crate::cause::{Cause, Escalation, Failure, Note};
use crate::machine::Supervision;
use crate::record::{Desired, Phase};

/// A whole tree at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeStatus<K> {
    pub overall: Overall,
    /// Why the root gave up, until the tree is started or stopped.
    pub failed: Option<Escalation<K>>,
    pub root: SupervisorStatus<K>,
    /// Children no longer in the tree that have not stopped yet.
    pub leaving: Vec<ChildStatus<K>>,
}

/// One word for a whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    /// Nothing runs and nothing is to.
    Stopped,
    /// On the way up, nothing has failed.
    Starting,
    /// All that is to be up is ready or complete.
    Ready,
    /// Something failed: it is in backoff, unready after having failed, failed for good, or waits for such.
    Degraded,
    Stopping,
    /// The root gave up.
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorStatus<K> {
    pub name: String,
    pub strategy: Strategy,
    /// Restarts counted within the window when last something happened.
    pub restarts_in_window: u32,
    pub max_restarts: u32,
    pub window: DurationText,
    /// In start order; a group is where its first child is.
    pub members: Vec<MemberStatus<K>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberStatus<K> {
    Child(ChildStatus<K>),
    Supervisor(SupervisorStatus<K>),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildStatus<K> {
    pub key: K,
    pub state: ChildState<K>,
    /// When it entered the state.
    pub since: Timestamp,
    /// Why it is in the state, or was last started. `None`: it never was.
    pub cause: Option<Cause<K>>,
    /// Failures in a row.
    pub attempt: u32,
    /// Restarts that nobody asked for, ever.
    pub restarts: u64,
    pub next_retry: Option<Timestamp>,
    /// The last [`HISTORY_MAX`](crate::HISTORY_MAX) notes, oldest first.
    pub history: Vec<Note<K>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildState<K> {
    Stopped,
    Waiting { unmet: Vec<Unmet<K>> },
    Backoff { until: Timestamp },
    Starting,
    Running { ready: bool, unhealthy: Option<String> },
    Stopping,
    Completed,
    Failed(Failure),
}

/// What a waiting child waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmet<K> {
    Need {
        keys: Vec<K>,
        condition: Condition,
    },
    /// Others that are restarted with it have not stopped yet.
    Siblings(Vec<K>),
}

/// A child that will not get up by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stuck<K> {
    Failed { key: K, failure: Failure },
    Blocked { key: K, by: K, condition: Condition },
}

impl<K: Ord + Clone + Debug> Supervision<K> {
    pub fn status(&self) -> TreeStatus<K> {
        let leaving = (0..self.state.children.len()).filter(|&i| self.child(i).leaving);
        TreeStatus {
            overall: self.overall(),
            failed: self.state.failed.clone(),
            root: self.supervisor_status(0),
            leaving: leaving.map(|i| self.child_status(i)).collect(),
        }
    }

    /// One child's part of [`status`](Self::status); `None`: no such key.
    pub fn status_of(&self, key: &K) -> Option<ChildStatus<K>> {
        self.order.index.get(key).map(|&i| self.child_status(i))
    }

    pub fn overall(&self) -> Overall {
        let children = &self.state.children;
        let alive = children.iter().any(|child| child.is_alive());
        if self.state.failed.is_some() {
            return if alive { Overall::Stopping } else { Overall::Failed };
        }
        if self.state.desired != Desired::Up {
            return if alive { Overall::Stopping } else { Overall::Stopped };
        }
        let (mut all_up, mut troubled) = (true, false);
        for child in children {
            match &child.phase {
                Phase::Running { doom: None, ready_since: Some(_), .. } | Phase::Completed => {}
                Phase::Stopped { .. } | Phase::Failed { .. } if !child.wanted => continue,
                _ => all_up = false,
            }
            troubled |= match &child.phase {
                Phase::Failed { .. } | Phase::Backoff { .. } => true,
                Phase::Running { unhealthy: Some(_), .. } => true,
                Phase::Starting { .. } | Phase::Running { ready_since: None, .. } => child.attempt > 0,
                Phase::Waiting { cause } => cause.is_failure(),
                Phase::Stopping { doom } => doom.cause.is_failure(),
                _ => false,
            };
        }
        match (all_up, troubled) {
            (true, _) => Overall::Ready,
            (false, true) => Overall::Degraded,
            (false, false) if self.stuck().is_empty() => Overall::Starting,
            (false, false) => Overall::Degraded,
        }
    }

    /// The children that are to be up and will not be unless somebody does something. Empty while everything is
    /// ready or still under way, so `up --wait` may give up when it is not.
    pub fn stuck(&self) -> Vec<Stuck<K>> {
        let mut hopeless = vec![false; self.state.children.len()];
        let mut stuck = Vec::new();
        for (i, child) in self.state.children.iter().enumerate() {
            let key = child.spec.key.clone();
            match &child.phase {
                Phase::Failed { failure } => {
                    hopeless[i] = true;
                    if child.wanted {
                        stuck.push(Stuck::Failed { key, failure: failure.clone() });
                    }
                }
                Phase::Stopped { .. } => hopeless[i] = true,
                Phase::Waiting { .. } | Phase::Backoff { .. } => {
                    let hopeless_need = self.unmet(i).find_map(|(missing, condition)| {
                        let by = missing.into_iter().find(|&j| {
                            let needed = self.child(j);
                            // A child that runs but never ends can still meet a need to complete; one that has ended
                            // and does not meet its need now never will.
                            hopeless[j] || matches!(needed.phase, Phase::Completed)
                        })?;
                        Some((by, condition))
                    });
                    if let Some((by, condition)) = hopeless_need {
                        hopeless[i] = true;
                        stuck.push(Stuck::Blocked { key, by: self.child(by).spec.key.clone(), condition });
                    }
                }
                _ => {}
            }
        }
        stuck
    }

    fn supervisor_status(&self, s: usize) -> SupervisorStatus<K> {
        let record = &self.state.supervisors[s];
        let mut members: Vec<(usize, MemberStatus<K>)> = Vec::new();
        for (i, child) in self.state.children.iter().enumerate() {
            if child.parent == s && !child.leaving {
                members.push((i, MemberStatus::Child(self.child_status(i))));
            }
        }
        for (group, _) in self.state.supervisors.iter().enumerate().filter(|(_, group)| group.parent == Some(s)) {
            let first = (0..self.state.children.len()).find(|&i| self.order.is_under(i, group)).unwrap_or(usize::MAX);
            members.push((first, MemberStatus::Supervisor(self.supervisor_status(group))));
        }
        members.sort_by_key(|(first, _)| *first);
        SupervisorStatus {
            name: record.name.clone(),
            strategy: record.supervise.strategy,
            restarts_in_window: record
                .restarts
                .iter()
                .filter(|&&at| self.state.now.since(at) < record.supervise.window.0)
                .count() as u32,
            max_restarts: record.supervise.max_restarts,
            window: record.supervise.window,
            members: members.into_iter().map(|(_, member)| member).collect(),
        }
    }

    fn child_status(&self, i: usize) -> ChildStatus<K> {
        let child = self.child(i);
        let key_of = |j: usize| self.child(j).spec.key.clone();
        let (state, cause) = match &child.phase {
            Phase::Stopped { cause } => (ChildState::Stopped, cause.clone()),
            Phase::Waiting { cause } => {
                let mut unmet: Vec<Unmet<K>> = self
                    .unmet(i)
                    .map(|(keys, condition)| Unmet::Need { keys: keys.into_iter().map(key_of).collect(), condition })
                    .collect();
                if self.round_is_stopping(i) {
                    let others = (0..self.state.children.len())
                        .filter(|&j| self.child(j).round == child.round && self.child(j).is_alive());
                    unmet.push(Unmet::Siblings(others.map(key_of).collect()));
                }
                (ChildState::Waiting { unmet }, Some(cause.clone()))
            }
            Phase::Backoff { cause, until, .. } => (ChildState::Backoff { until: *until }, Some(cause.clone())),
            Phase::Starting { cause, .. } => (ChildState::Starting, Some(cause.clone())),
            Phase::Running { cause, ready_since, unhealthy, .. } => {
                let state = ChildState::Running { ready: ready_since.is_some(), unhealthy: unhealthy.clone() };
                (state, Some(cause.clone()))
            }
            Phase::Stopping { doom } => (ChildState::Stopping, Some(doom.cause.clone())),
            Phase::Completed => (ChildState::Completed, None),
            Phase::Failed { failure } => (ChildState::Failed(failure.clone()), Some(Cause::Failed(failure.clone()))),
        };
        ChildStatus {
            key: child.spec.key.clone(),
            next_retry: if let ChildState::Backoff { until } = state { Some(until) } else { None },
            state,
            since: child.since,
            cause,
            attempt: child.attempt,
            restarts: child.restarts,
            history: child.history.clone(),
        }
    }
}

fn join<K: fmt::Display>(keys: &[K]) -> String {
    keys.iter().map(K::to_string).collect::<Vec<_>>().join(", ")
}

fn condition_text(condition: Condition) -> &'static str {
    match condition {
        Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::Completed => "completed",
    }
}

impl<K: fmt::Display> fmt::Display for Unmet<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Need { keys, condition } => {
                write!(f, "for {} to be {}", join(keys), condition_text(*condition))
            }
            Self::Siblings(keys) => write!(f, "for {} to stop", join(keys)),
        }
    }
}

impl<K: fmt::Display> fmt::Display for ChildState<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Waiting { unmet } if unmet.is_empty() => f.write_str("waiting"),
            Self::Waiting { unmet } => {
                write!(f, "waiting {}", unmet.iter().map(Unmet::to_string).collect::<Vec<_>>().join(" and "))
            }
            Self::Backoff { .. } => f.write_str("backoff"),
            Self::Starting => f.write_str("starting"),
            Self::Running { ready: true, .. } => f.write_str("ready"),
            Self::Running { unhealthy: Some(reason), .. } => write!(f, "unhealthy: {reason}"),
            Self::Running { .. } => f.write_str("running, not ready"),
            Self::Stopping => f.write_str("stopping"),
            Self::Completed => f.write_str("completed"),
            Self::Failed(failure) => write!(f, "failed: {failure}"),
        }
    }
}

impl fmt::Display for Overall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        })
    }
}

impl<K: fmt::Display> fmt::Display for Stuck<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { key, failure } => write!(f, "{key} {failure}"),
            Self::Blocked { key, by, condition } => {
                write!(f, "{key} waits for {by} to be {}, which it will not", condition_text(*condition))
            }
        }
    }
}
