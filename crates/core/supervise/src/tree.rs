//! What is to be supervised: supervisors, children, and what each child needs before it may start.

use coppice_spec::{Condition, RestartPolicy, SuperviseSpec};
use serde::{Deserialize, Serialize};

/// A supervisor and its members. The root's `order` has no meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorSpec<K> {
    /// Unique among the supervisors of the tree.
    pub name: String,
    /// Place among the parent's members; see [`ChildSpec::order`].
    pub order: u32,
    pub supervise: SuperviseSpec,
    pub members: Vec<MemberSpec<K>>,
}

/// A member of a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberSpec<K> {
    Child(ChildSpec<K>),
    Supervisor(SupervisorSpec<K>),
}

/// One thing that is started, watched and restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSpec<K> {
    pub key: K,
    /// Start order among the members of one supervisor. Members of equal order (replicas of one service) count as
    /// started side by side: `rest_for_one` does not take them along for each other.
    pub order: u32,
    pub restart: RestartPolicy,
    /// Runs to exit 0, then is complete, whatever `restart` says.
    pub one_shot: bool,
    /// Ready only on [`Event::Ready`](crate::Event::Ready); else as soon as it runs.
    pub has_health: bool,
    pub needs: Vec<Need<K>>,
    /// Fingerprint of what runs. When it differs after a reconfiguration the child is replaced; when only other
    /// fields differ, it runs on under the new rules.
    pub revision: String,
    /// Counts the restarts that people asked for. One that differs after a reconfiguration is a restart by request, as
    /// [`Event::Restart`](crate::Event::Restart) is, and is remembered as done with the rest: the same tree told again
    /// is no second one. `None`: nobody counts; a first number restarts nothing.
    #[serde(default)]
    pub generation: Option<u64>,
    /// It has run to its end by this definition before, here or elsewhere: of a one-shot child that did not run (by
    /// another definition, or at all), that it is complete now. Only a restart by request runs it again.
    #[serde(default)]
    pub complete: bool,
}

impl<K> ChildSpec<K> {
    pub(crate) fn is_done_before(&self) -> bool {
        self.one_shot && self.complete
    }
}

/// Children that must all be at `condition` before the dependent starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need<K> {
    pub keys: Vec<K>,
    pub condition: Condition,
}

/// Why a tree cannot be supervised. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError<K: std::fmt::Debug> {
    #[error("{0:?} is in the tree twice: every child needs a key of its own")]
    DuplicateKey(K),
    #[error("two supervisors are named {0:?}: rename one of the groups")]
    DuplicateSupervisor(String),
    #[error("{child:?} depends on {needed:?}, which is not in the tree: add it or drop the dependency")]
    UnknownNeed { child: K, needed: K },
    #[error("{0:?} depends on itself through its dependencies: break the circle")]
    Circle(K),
}
