//! Callers that a policy knows: containers of this node, and the services they may not reach.
//!
//! A container that may not connect to a service must not come to it by its public route either: the proxy's own
//! connection to the instance is the host's, and no rule of the network tells for whom it is. So each request is judged by
//! where it comes from: the far end of its connection, whoever that is; and whom a trusted proxy says it speaks for.
//! Clients that are no containers are told by comparing their address with a network or two; where nobody is denied
//! anything, nothing is compared at all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_base::Name;
use coppice_spec::Cidr;

use crate::identity::Peer;
use crate::routes::{Compiled, Member};
use crate::worker::Worker;

/// Who a container is to the policy. Numbers are the owner's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller(pub u32);

impl Caller {
    /// A container that is not among the [members](Callers::members).
    pub const OTHER: Self = Self(0);
}

/// What is denied to whom. The default denies nobody anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// Whoever calls from these is a container, except [`Callers::hosts`].
    pub networks: Vec<Cidr>,
    /// The node's own addresses in them.
    pub hosts: Vec<IpAddr>,
    pub members: HashMap<IpAddr, Caller>,
    /// The services (app and name) that each may not reach.
    pub denied: BTreeMap<Caller, BTreeSet<(Name, Name)>>,
}

impl Callers {
    fn caller(&self, address: IpAddr) -> Option<Caller> {
        if !self.networks.iter().any(|network| network.contains(address)) || self.hosts.contains(&address) {
            return None;
        }
        Some(self.members.get(&address).copied().unwrap_or(Caller::OTHER))
    }
}

/// Requests of one caller for one service that were refused, or ended, since the proxy started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedSnapshot {
    pub from: Caller,
    pub app: Name,
    pub service: Name,
    pub requests: u64,
}

/// Counts that outlive changes of the policy.
#[derive(Default)]
pub(crate) struct Refusals(BTreeMap<(Caller, Name, Name), Arc<AtomicU64>>);

/// Callers as the workers read them.
#[derive(Default)]
pub(crate) struct Judge {
    callers: Callers,
    /// What is denied, by caller, app and service, each with its count.
    denied: HashMap<Caller, HashMap<Name, HashMap<Name, Arc<AtomicU64>>>>,
}

impl Refusals {
    pub(crate) fn judge(&mut self, callers: Callers) -> Judge {
        let mut judge = Judge { callers, denied: HashMap::new() };
        for (caller, services) in &judge.callers.denied {
            for (app, service) in services {
                let count = self.0.entry((*caller, app.clone(), service.clone())).or_default();
                let of_app = judge.denied.entry(*caller).or_default().entry(app.clone()).or_default();
                of_app.insert(service.clone(), Arc::clone(count));
            }
        }
        // What is denied no more and was never asked for is forgotten.
        self.0.retain(|_, count| Arc::strong_count(count) > 1 || count.load(Ordering::Relaxed) > 0);
        judge
    }

    pub(crate) fn snapshot(&self) -> Vec<DeniedSnapshot> {
        let counted = self.0.iter().map(|((from, app, service), count)| DeniedSnapshot {
            from: *from,
            app: app.clone(),
            service: service.clone(),
            requests: count.load(Ordering::Relaxed),
        });
        counted.filter(|one| one.requests > 0).collect()
    }
}

impl Judge {
    /// The count to which a refusal belongs; `None` lets the request through.
    fn refusal(&self, origin: &Origin, app: &Name, service: &Name) -> Option<&AtomicU64> {
        if self.denied.is_empty() {
            return None;
        }
        let Origin([far_end, others @ ..]) = origin;
        let count_of = |address: IpAddr| {
            let caller = self.callers.caller(address)?;
            self.denied.get(&caller)?.get(app)?.get(service).map(Arc::as_ref)
        };
        // Nearly always all are one.
        let mut others = others.iter().filter(|other| *other != far_end);
        count_of(*far_end).or_else(|| others.find_map(|other| count_of(*other)))
    }
}

/// Where a request comes from: the far end of the connection, whom its PROXY header names, and whom a trusted proxy names.
/// Each may be a container: one that is trusted as a proxy is not rid of what is denied to itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin([IpAddr; 3]);

impl Origin {
    pub(crate) fn of(peer: &Peer, client: IpAddr) -> Self {
        Self([peer.far_end, peer.address.ip().to_canonical(), client])
    }
}

impl Worker {
    /// Whether a request from there may reach a service, by the newest policy.
    pub(crate) fn admits(&self, origin: &Origin, app: &Name, service: &Name) -> bool {
        self.with_judge(|judge| judge.refusal(origin, app, service).is_none())
    }

    /// Whether none of the services of a route may be reached from there; then that is counted, for the first.
    pub(crate) fn denies(&self, origin: &Origin, route: &Compiled) -> bool {
        self.with_judge(|judge| {
            let mut refusals = route.backends.iter().map(|group| judge.refusal(origin, &route.app, &group.service));
            let first = refusals.next().flatten();
            let denied = first.filter(|_| refusals.all(|other| other.is_some()));
            denied.is_some_and(|count| {
                count.fetch_add(1, Ordering::Relaxed);
                true
            })
        })
    }
}

/// A request's leave to go on, looked at again whenever the policy has changed.
pub(crate) struct Leave {
    origin: Origin,
    /// The number of the policy by which it was looked at; none has the largest.
    seen: u64,
}

impl Leave {
    pub(crate) fn new(origin: Origin) -> Self {
        Self { origin, seen: u64::MAX }
    }

    /// Whether a request at `member` must end, because it would not be let through now.
    pub(crate) fn is_revoked(&mut self, worker: &Worker, member: &Member) -> bool {
        let number = worker.shared.callers.number();
        if number == self.seen {
            return false;
        }
        self.seen = number;
        worker.with_judge(|judge| {
            let refusal = judge.refusal(&self.origin, &member.app, &member.service);
            refusal.map(|count| count.fetch_add(1, Ordering::Relaxed)).is_some()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn callers() -> Callers {
        let denied = BTreeSet::from([(name("shop"), name("db"))]);
        Callers {
            networks: vec!["10.88.0.0/16".parse().unwrap(), "fd12::/64".parse().unwrap()],
            hosts: vec![address("10.88.0.1")],
            members: HashMap::from([(address("10.88.0.2"), Caller(7)), (address("fd12::2"), Caller(7))]),
            denied: BTreeMap::from([(Caller(7), denied.clone()), (Caller::OTHER, denied)]),
        }
    }

    fn refused(judge: &Judge, origin: [&str; 3], service: &str) -> bool {
        judge.refusal(&Origin(origin.map(address)), &name("shop"), &name(service)).is_some()
    }

    #[test]
    fn containers_are_judged_by_every_address_a_request_comes_from_and_nobody_else_is() {
        let judge = Refusals::default().judge(callers());
        for (origin, denied) in [
            (["10.88.0.2"; 3], true),
            (["fd12::2"; 3], true),
            // Of no app.
            (["10.88.0.9"; 3], true),
            // The host itself, and clients beyond it.
            (["10.88.0.1"; 3], false),
            (["127.0.0.1"; 3], false),
            (["192.0.2.1"; 3], false),
            // A container that speaks for somebody; somebody who speaks for a container.
            (["10.88.0.2", "192.0.2.1", "192.0.2.1"], true),
            (["10.88.0.2", "10.88.0.2", "192.0.2.1"], true),
            (["192.0.2.1", "192.0.2.1", "10.88.0.2"], true),
        ] {
            assert_eq!(refused(&judge, origin, "db"), denied, "{origin:?}");
            assert!(!refused(&judge, origin, "web"), "{origin:?}");
        }
    }

    #[test]
    fn counts_outlive_changes_of_the_policy_and_pairs_that_nobody_asked_for_do_not() {
        let mut refusals = Refusals::default();
        let judge = refusals.judge(callers());
        let origin = Origin([address("10.88.0.2"); 3]);
        judge.refusal(&origin, &name("shop"), &name("db")).unwrap().fetch_add(1, Ordering::Relaxed);
        drop(judge);
        let judge = refusals.judge(Callers::default());
        assert!(judge.refusal(&origin, &name("shop"), &name("db")).is_none());
        drop(judge);
        assert_eq!(refusals.0.len(), 1, "the pair of those of no app is gone");
        let judge = refusals.judge(callers());
        judge.refusal(&origin, &name("shop"), &name("db")).unwrap().fetch_add(1, Ordering::Relaxed);
        let counted = refusals.snapshot();
        assert_eq!(counted.iter().map(|one| (one.from, one.requests)).collect::<Vec<_>>(), [(Caller(7), 2)]);
    }
}
