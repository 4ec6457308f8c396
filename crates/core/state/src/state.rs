//! The state and how to read it. How it changes is in `apply`, what always holds in `invariants`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use coppice_base::{Name, Timestamp};
use coppice_spec::Party;
use serde::{Deserialize, Serialize};

use crate::service_address::Resting;
use crate::{App, Applied, CommandId, NodeId, PolicyRule, Secret, UidRange};

/// Releases kept of each app. The oldest go first; the newest that succeeded stays whatever its age, because
/// it is what a roll-back needs.
pub const RELEASES_KEPT: usize = 20;

/// Ids of applied commands kept to recognise retries. A client retries within seconds; a busy cluster applies
/// some commands a second.
pub const SEEN_KEPT: usize = 1024;

/// How many uid ranges there are for apps: 4096 ranges of 65536 uids are a sixteenth of all uids, which
/// leaves room for containers started ad hoc.
pub const UID_RANGES: u32 = 4096;

/// Everything agreed on. Cheap to clone: apps and releases are shared with the clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Commands applied (not rejected, not retried) so far.
    pub(crate) revision: u64,
    pub(crate) apps: BTreeMap<Name, Arc<App>>,
    /// Who has which uid range: apps, and removed apps whose volumes are still there.
    pub(crate) uid_ranges: BTreeMap<Name, UidRange>,
    /// Rules of `coppice policy`, from → to. They outlive the apps they name.
    #[serde(default)]
    pub(crate) policy: BTreeMap<Party, BTreeMap<Party, PolicyRule>>,
    /// Virtual addresses given up by their services; oldest first.
    #[serde(default)]
    pub(crate) resting: VecDeque<Resting>,
    /// Also what is left of removed ones that a release pins.
    #[serde(default)]
    pub(crate) secrets: BTreeMap<Name, Arc<Secret>>,
    /// Id of the key that they are sealed with.
    #[serde(default)]
    pub(crate) secret_key: Option<String>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Nodes that were removed: their ids are not used again.
    pub(crate) removed_nodes: BTreeSet<NodeId>,
    /// Oldest first.
    pub(crate) seen: Arc<VecDeque<Seen>>,
}

/// The answer to an applied command, kept for retries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) id: CommandId,
    pub(crate) applied: Applied,
}

/// A machine of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: Name,
    pub joined_at: Timestamp,
}

impl State {
    /// Counts applied commands; two states of one log with equal revisions are equal.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What the command with this id did, while that is remembered ([`SEEN_KEPT`]).
    pub fn answer_to(&self, id: CommandId) -> Option<&Applied> {
        self.seen.iter().rev().find(|seen| seen.id == id).map(|seen| &seen.applied)
    }

    pub fn apps(&self) -> impl Iterator<Item = (&Name, &Arc<App>)> {
        self.apps.iter()
    }

    pub fn app(&self, name: &str) -> Option<&Arc<App>> {
        self.apps.get(name)
    }

    /// Uid ranges in use, by app; also those of removed apps whose volumes are kept.
    pub fn uid_ranges(&self) -> impl Iterator<Item = (&Name, UidRange)> {
        self.uid_ranges.iter().map(|(app, range)| (app, *range))
    }

    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }
}
