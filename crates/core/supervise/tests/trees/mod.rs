//! Short ways to write trees down.
#![allow(dead_code)] // each test file uses its part

use std::time::Duration;

use coppice_base::{DurationText, Random};
use coppice_spec::{Backoff, Condition, RestartPolicy, Strategy, SuperviseSpec};
use coppice_supervise::{ChildSpec, MemberSpec, Need, SupervisorSpec};

pub(crate) type Tree = SupervisorSpec<String>;
pub(crate) type Child = ChildSpec<String>;

/// Always the shortest wait.
pub(crate) struct NoJitter;

impl Random for NoJitter {
    fn next_u64(&mut self) -> u64 {
        0
    }
}

/// Backoff 100 ms doubling to 1 s, fresh after 10 s.
pub(crate) fn supervise(strategy: Strategy, max_restarts: u32, window_ms: u64) -> SuperviseSpec {
    let ms = |ms| DurationText(Duration::from_millis(ms));
    SuperviseSpec {
        strategy,
        max_restarts,
        window: ms(window_ms),
        backoff: Backoff { first: ms(100), max: ms(1000), reset_after: ms(10_000) },
    }
}

/// A supervisor with 3 restarts in 60 s; members get their place as order.
pub(crate) fn supervisor(name: &str, strategy: Strategy, members: Vec<MemberSpec<String>>) -> Tree {
    let mut members = members;
    for (order, member) in (0..).zip(&mut members) {
        match member {
            MemberSpec::Child(child) if child.order == u32::MAX => child.order = order,
            MemberSpec::Child(_) => {}
            MemberSpec::Supervisor(group) => group.order = order,
        }
    }
    SupervisorSpec { name: name.to_owned(), order: 0, supervise: supervise(strategy, 3, 60_000), members }
}

/// A permanent child without a health check.
pub(crate) fn child(key: &str) -> Child {
    ChildSpec {
        key: key.to_owned(),
        order: u32::MAX,
        restart: RestartPolicy::Always,
        one_shot: false,
        has_health: false,
        needs: Vec::new(),
        revision: "1".to_owned(),
        generation: Some(0),
        complete: false,
    }
}

pub(crate) trait ChildWords: Sized {
    fn healthy(self) -> Self;
    fn restart(self, policy: RestartPolicy) -> Self;
    fn one_shot(self) -> Self;
    fn needs(self, keys: &[&str], condition: Condition) -> Self;
    fn at(self, order: u32) -> Self;
    fn revision(self, revision: &str) -> Self;
    fn generation(self, generation: u64) -> Self;
    fn member(self) -> MemberSpec<String>;
}

impl ChildWords for Child {
    fn healthy(mut self) -> Self {
        self.has_health = true;
        self
    }
    fn restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = policy;
        self
    }
    fn one_shot(mut self) -> Self {
        self.one_shot = true;
        self.restart(RestartPolicy::OnFailure)
    }
    fn needs(mut self, keys: &[&str], condition: Condition) -> Self {
        self.needs.push(Need { keys: keys.iter().map(|key| (*key).to_owned()).collect(), condition });
        self
    }
    fn at(mut self, order: u32) -> Self {
        self.order = order;
        self
    }
    fn revision(mut self, revision: &str) -> Self {
        self.revision = revision.to_owned();
        self
    }
    fn generation(mut self, generation: u64) -> Self {
        self.generation = Some(generation);
        self
    }
    fn member(self) -> MemberSpec<String> {
        MemberSpec::Child(self)
    }
}
