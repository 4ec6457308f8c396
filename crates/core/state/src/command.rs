//! What can be asked of the state, and what it answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use coppice_base::{Name, Timestamp};
use coppice_rollout::{Plan, Progress};
use coppice_spec::{AppSpec, Party, SecretKind};
use serde::{Deserialize, Serialize};

use crate::{CommandId, Digest, NodeId, Preview, Release, ReleaseId, Resealed, Trigger, Verdict};

/// One change of the cluster's mind, whole: everything [`apply`](crate::State::apply) needs is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub id: CommandId,
    /// When it was asked for, by the clock of the node that proposed it. Recorded, never compared: clocks differ.
    pub at: Timestamp,
    pub actor: Actor,
    pub body: Body,
}

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// A user of a machine, known by the peer credentials of its socket.
    User { uid: u32 },
    /// A node on its own account, such as a supervisor that gives a verdict.
    Node(NodeId),
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Actor::User { uid } => write!(f, "uid {uid}"),
            Actor::Node(node) => write!(f, "node {node}"),
        }
    }
}

/// What is asked. An empty set of workloads means all of the app's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Make `spec` the app's current release. When spec and images equal the current release's, no release is
    /// made; the rest of the command still takes effect.
    Apply {
        release: ReleaseId,
        spec: Box<AppSpec>,
        /// Image digests by workload, as far as they are resolved; [`Body::PinImages`] adds the others.
        images: BTreeMap<Name, Digest>,
        /// Refuse unless this is the app's current release. `None`: whatever is there.
        expected_release: Option<ReleaseId>,
        /// Workloads that stay stopped; all others are wanted up, also those stopped before.
        stopped: BTreeSet<Name>,
        /// Versions of all secrets that the app uses.
        #[serde(default)]
        secrets: BTreeMap<Name, u64>,
        #[serde(default)]
        terms: ReleaseTerms,
    },
    /// Record image digests of a release which had none yet.
    PinImages {
        app: Name,
        release: ReleaseId,
        images: BTreeMap<Name, Digest>,
    },
    /// Forget the app. Its uid range stays its own while its volumes do.
    Remove {
        app: Name,
        remove_volumes: bool,
    },
    /// Run `replicas` instances of a service until the next release says otherwise.
    SetScale {
        app: Name,
        service: Name,
        replicas: u32,
    },
    /// Want workloads stopped, or up again.
    SetStopped {
        app: Name,
        workloads: BTreeSet<Name>,
        stopped: bool,
    },
    /// Restart workloads: their restart generation goes up by one. Those wanted stopped are wanted up again.
    Restart {
        app: Name,
        workloads: BTreeSet<Name>,
    },
    /// How a release turned out. The first verdict stands.
    RecordVerdict {
        app: Name,
        release: ReleaseId,
        verdict: Verdict,
    },
    /// Take an app in that the state has lost, with its releases as they were, oldest first.
    RecoverApp {
        app: Name,
        releases: Vec<Release>,
    },
    /// How far the rollout of the current release is. When it has ended, so has the release's time without a verdict.
    RecordProgress {
        app: Name,
        release: ReleaseId,
        progress: Box<Progress>,
    },
    /// Let `from` speak to `to`, or not, whatever their apps' manifests say. Replaces a rule for the same two.
    SetPolicyRule {
        from: Party,
        to: Party,
        verdict: coppice_spec::Verdict,
    },
    /// Let the manifests decide again.
    RemovePolicyRule {
        from: Party,
        to: Party,
    },
    /// A new version of a secret.
    SetSecret {
        name: Name,
        /// The one that comes next; it is sealed as that.
        version: u64,
        #[serde(flatten)]
        sealed: Resealed,
        /// What it was made as.
        kind: Option<SecretKind>,
        /// Id of the key that it is sealed with.
        key: String,
    },
    /// Forget a secret with all its versions.
    RemoveSecret {
        name: Name,
        /// Also while a release runs with it, or could be gone back to.
        force: bool,
    },
    /// Every version of every secret, sealed with another key.
    Rekey {
        from: String,
        to: String,
        versions: BTreeMap<Name, BTreeMap<u64, Resealed>>,
    },
    /// Have the app's current release run with these versions of secrets that it uses.
    PinSecrets {
        app: Name,
        release: ReleaseId,
        secrets: BTreeMap<Name, u64>,
    },
    AddNode {
        node: NodeId,
        name: Name,
    },
    RemoveNode {
        node: NodeId,
    },
}

/// On what terms a release comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseTerms {
    pub trigger: Trigger,
    /// How the instances of the release before it are replaced. `None`: as the supervisor does when it is told of
    /// another tree, which is what an app's first release and one that replaces nothing need.
    pub rollout: Option<Box<Plan>>,
    /// Make a release even of what is the same as the current one.
    pub always: bool,
    /// The app is this preview, which it was before, or there was no such app. `None`: it stays what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
}

/// The answer to a command that applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The state's revision after the command.
    pub revision: u64,
    pub effect: Effect,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A new release of the app is current.
    Released { release: ReleaseId, number: u64 },
    /// The app's current release is already the one asked for.
    Unchanged { release: ReleaseId, number: u64 },
    /// The app is gone (or, of an app removed before, its volumes' uid range).
    Removed,
    /// Stops, scale, restarts, digests, verdict, policy or nodes are now as asked.
    Recorded,
}
