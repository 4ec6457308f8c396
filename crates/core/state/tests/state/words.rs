//! Short ways to say specs and commands.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::{Name, Timestamp};
use coppice_spec::{AppSpec, OnRotate, RestartPolicy, SecretTarget, SecretUse, ServiceSpec, WorkerSpec, WorkloadSpec};
use coppice_state::{
    Actor, Applied, Body, Command, CommandId, Digest, Effect, NodeId, Rejection, ReleaseId, ReleaseTerms, Resealed,
    State,
};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(crate) fn names<const N: usize>(texts: [&str; N]) -> BTreeSet<Name> {
    texts.into_iter().map(name).collect()
}

pub(crate) fn digest(byte: u8) -> Digest {
    Digest::parse(&format!("sha256:{}", format!("{byte:02x}").repeat(32))).unwrap()
}

/// An app with service `web` (two replicas), service `db` and worker `seed`, all of `image`.
pub(crate) fn spec(app: &str, image: &str) -> AppSpec {
    let service = |replicas| ServiceSpec { replicas, ..ServiceSpec::of(WorkloadSpec::of(image)) };
    AppSpec {
        services: BTreeMap::from([(name("web"), service(2)), (name("db"), service(1))]),
        workers: BTreeMap::from([(
            name("seed"),
            WorkerSpec { workload: WorkloadSpec::of(image), restart: RestartPolicy::OnFailure },
        )]),
        ..AppSpec::of(name(app))
    }
}

pub(crate) fn apply(release: u64, spec: AppSpec) -> Body {
    Body::Apply {
        release: ReleaseId(release),
        spec: Box::new(spec),
        images: BTreeMap::new(),
        expected_release: None,
        stopped: BTreeSet::new(),
        secrets: BTreeMap::new(),
        terms: ReleaseTerms::default(),
    }
}

/// A use of a secret as an environment variable.
pub(crate) fn uses(secret: &str) -> SecretUse {
    let target = SecretTarget::Env("KEY".to_owned());
    SecretUse { secret: name(secret), part: None, target, on_rotate: OnRotate::Restart }
}

pub(crate) fn resealed(version: u64, key: &str) -> Resealed {
    Resealed { sealed: format!("version {version} with {key}"), fingerprint: format!("{version} by {key}") }
}

pub(crate) fn set_secret(name: Name, version: u64, key: &str) -> Body {
    Body::SetSecret { name, version, sealed: resealed(version, key), kind: None, key: key.to_owned() }
}

pub(crate) fn command(id: u128, body: Body) -> Command {
    let at = Timestamp(u64::try_from(id).unwrap_or(u64::MAX));
    Command { id: CommandId(id), at, actor: Actor::User { uid: 0 }, body }
}

/// A state and the next command id.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) next: u128,
    /// Milliseconds that the clock is ahead of counting commands.
    pub(crate) ahead_ms: u64,
}

impl World {
    /// A world where app `shop` has release 1.
    pub(crate) fn with_shop() -> Self {
        let mut world = Self::default();
        world.does(apply(1, spec("shop", "nginx:1")));
        world
    }

    pub(crate) fn asks(&mut self, body: Body) -> Result<Applied, Rejection> {
        self.next += 1;
        let before = self.state.to_snapshot();
        let mut command = command(self.next, body);
        command.at.0 += self.ahead_ms;
        let answer = self.state.apply(&command);
        if answer.is_err() {
            assert_eq!(self.state.to_snapshot(), before, "a rejection leaves the state unchanged");
        }
        assert_eq!(self.state.check(), Vec::<String>::new());
        answer
    }

    /// What a node does on its own account.
    pub(crate) fn node_does(&mut self, body: Body) -> Effect {
        self.next += 1;
        let command = Command { actor: Actor::Node(NodeId(1)), ..command(self.next, body) };
        self.state.apply(&command).unwrap().effect
    }

    pub(crate) fn does(&mut self, body: Body) -> Effect {
        self.asks(body).unwrap().effect
    }

    pub(crate) fn is_refused(&mut self, body: Body) -> Rejection {
        self.asks(body).unwrap_err()
    }
}
