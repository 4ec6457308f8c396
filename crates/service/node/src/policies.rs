//! Who may speak to whom, as bridge and proxy are told: instances by their addresses, services by numbers.
//!
//! What holds is decided by the state ([`State::may_speak`]); here it is put into numbers, for the containers there are.
//! An instance is known before its first process is, and what the bridge was told outlives the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use coppice_base::Name;
use coppice_network::{Identity, Policy};
use coppice_proxy::{Caller, Callers};
use coppice_spec::PolicySpec;
use coppice_state::State;

use crate::container::{Owner, Record};
use crate::containers::Containers;
use crate::error::NodeError;

/// A service or worker of an app.
pub(crate) type Member = (Name, Name);

/// What was decided last, and for whom.
#[derive(Default)]
pub(crate) struct Policies {
    decided: Mutex<Decided>,
    /// Held from the decision to the last who is told it: none overtakes a newer one.
    enforcing: Mutex<()>,
}

#[derive(Default)]
struct Decided {
    state: Option<Arc<State>>,
    /// Whom `denied` is about.
    of: BTreeSet<Member>,
    identities: BTreeMap<Member, Identity>,
    denied: BTreeSet<(Identity, Identity)>,
}

impl Policies {
    /// From now on this holds.
    pub(crate) fn follow(&self, state: Arc<State>) {
        let mut decided = self.decided.lock().expect("no panic holds this lock");
        if decided.state.as_ref().is_none_or(|before| before.revision() != state.revision()) {
            *decided = Decided { state: Some(state), ..Decided::default() };
        }
    }

    /// Apps as the state knows them; none before it is known.
    pub(crate) fn state(&self) -> Option<Arc<State>> {
        self.decided.lock().expect("no panic holds this lock").state.clone()
    }

    /// What holds between these containers, each with its identity. `None` before the state is known.
    pub(crate) fn policy(&self, members: &BTreeMap<Ipv4Addr, Member>) -> Option<Policy> {
        let mut decided = self.decided.lock().expect("no panic holds this lock");
        let state = decided.state.clone()?;
        let of: BTreeSet<Member> = members.values().cloned().collect();
        if of != decided.of {
            decided.identities = identities(&of);
            decided.denied = if is_open(&state) { BTreeSet::new() } else { denied(&state, &decided.identities) };
            decided.of = of;
        }
        let identity = |member: &Member| decided.identities.get(member).copied().unwrap_or_default();
        Some(Policy {
            members: members.iter().map(|(address, member)| (*address, identity(member))).collect(),
            denied: decided.denied.clone(),
        })
    }

    /// What `policy` denies, by name: for requests that come by a public route.
    fn denied(&self, policy: &Policy) -> BTreeMap<Caller, BTreeSet<Member>> {
        let decided = self.decided.lock().expect("no panic holds this lock");
        let members: BTreeMap<Identity, &Member> =
            decided.identities.iter().map(|(of, identity)| (*identity, of)).collect();
        let mut denied: BTreeMap<Caller, BTreeSet<Member>> = BTreeMap::new();
        for (from, to) in &policy.denied {
            let to = members.get(to).map(|member| (*member).clone());
            denied.entry(Caller(from.0)).or_default().extend(to);
        }
        denied
    }

    /// Which service a number means.
    pub(crate) fn member(&self, identity: Identity) -> Option<Member> {
        let decided = self.decided.lock().expect("no panic holds this lock");
        decided.identities.iter().find(|(_, of)| **of == identity).map(|(member, _)| member.clone())
    }
}

/// Nobody denies anything.
fn is_open(state: &State) -> bool {
    state.policy_rules().next().is_none() && state.apps().all(|(_, app)| app.spec().policy == PolicySpec::default())
}

/// A number for each that is the same whenever it is the same set, and nearly always when it is another: counters of
/// services outlive a restart of the daemon.
fn identities(of: &BTreeSet<Member>) -> BTreeMap<Member, Identity> {
    let mut taken = BTreeSet::from([Identity::OTHER]);
    let mut identities = BTreeMap::new();
    for member in of {
        let mut identity = Identity(hash(member));
        while !taken.insert(identity) {
            identity = Identity(identity.0.wrapping_add(1));
        }
        identities.insert(member.clone(), identity);
    }
    identities
}

/// FNV-1a, 32 bits: offset basis and prime are those of its authors' page.
fn hash((app, workload): &Member) -> u32 {
    let bytes = app.as_str().bytes().chain([b'/']).chain(workload.as_str().bytes());
    bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn denied(state: &State, identities: &BTreeMap<Member, Identity>) -> BTreeSet<(Identity, Identity)> {
    let speakers = identities.iter().map(|((app, workload), identity)| (Some((app, workload)), *identity));
    let speakers: Vec<_> = speakers.chain([(None, Identity::OTHER)]).collect();
    let mut denied = BTreeSet::new();
    for ((app, workload), to) in identities {
        let refused = speakers.iter().filter(|(from, _)| !state.may_speak(*from, (app, workload)));
        denied.extend(refused.map(|(_, from)| (*from, *to)));
    }
    denied
}

impl Containers {
    /// What holds for the containers there are now. `None` before the state is known.
    pub(crate) fn policy(&self) -> Option<Policy> {
        let members = self.table.all().into_iter().filter_map(|container| {
            let Owner::App { app, workload, .. } = &container.owner else { return None };
            let address = |record: &Record| record.address.or(record.home.as_ref().map(|home| home.address));
            Some((container.read(address)?, (app.clone(), workload.clone())))
        });
        self.policies.policy(&members.collect())
    }

    /// The same for the proxy, whose own connections the bridge lets through. Nobody where nothing is denied.
    fn callers(&self, policy: &Policy) -> Callers {
        let denied = self.policies.denied(policy);
        let Some(bridge) = self.network.on_bridge().filter(|_| !denied.is_empty()) else { return Callers::default() };
        let networks = [Some(self.network.subnet()), self.network.subnet6().map(|subnet| subnet.to_string())];
        let hosts = [Some(IpAddr::V4(bridge.gateway)), bridge.gateway6.map(IpAddr::V6)];
        let both = |address: Ipv4Addr| {
            [Some(IpAddr::V4(address)), self.network.address6(address).map(IpAddr::V6)].into_iter().flatten()
        };
        let members = policy.members.iter();
        let members = members.flat_map(|(address, of)| both(*address).map(|address| (address, Caller(of.0))));
        Callers {
            networks: networks.into_iter().flatten().filter_map(|subnet| subnet.parse().ok()).collect(),
            hosts: hosts.into_iter().flatten().collect(),
            members: members.collect(),
            denied,
        }
    }

    /// Has the bridge enforce it, and the proxy.
    pub(crate) fn enforce(&self) -> Result<(), NodeError> {
        let _one_at_a_time = self.policies.enforcing.lock().expect("no panic holds this lock");
        let Some(policy) = self.policy() else { return Ok(()) };
        self.traffic.peers().enforce(policy.clone(), self.network.subnet6());
        self.traffic.judge(self.callers(&policy));
        // Where nothing is denied, rules need not know who is who.
        let rules = if policy.denied.is_empty() { Policy::default() } else { policy.clone() };
        self.network.enforce(rules)?;
        self.network.classify(self.classes())?;
        self.tell_fast_path(policy);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use coppice_base::Timestamp;
    use coppice_spec::{AppSpec, ServiceSpec, Verdict, WorkloadSpec};
    use coppice_state::{Actor, Body, Command, CommandId, ReleaseId, ReleaseTerms};

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn state(policy: PolicySpec) -> Arc<State> {
        let service = || ServiceSpec::of(WorkloadSpec::of("nginx"));
        let services = BTreeMap::from([(name("web"), service()), (name("db"), service())]);
        let spec = AppSpec { services, policy, ..AppSpec::of(name("shop")) };
        let body = Body::Apply {
            release: ReleaseId(1),
            spec: Box::new(spec),
            images: BTreeMap::new(),
            expected_release: None,
            stopped: BTreeSet::new(),
            secrets: BTreeMap::new(),
            terms: ReleaseTerms::default(),
        };
        let mut state = State::default();
        let actor = Actor::User { uid: 0 };
        state.apply(&Command { id: CommandId(1), at: Timestamp(0), actor, body }).unwrap();
        Arc::new(state)
    }

    #[test]
    fn a_node_without_rules_denies_nothing() {
        let policies = Policies::default();
        policies.follow(state(PolicySpec::default()));
        let members = BTreeMap::from([(Ipv4Addr::new(10, 88, 0, 2), (name("shop"), name("web")))]);
        assert_eq!(policies.policy(&members).unwrap().denied, BTreeSet::new());
    }

    #[test]
    fn instances_of_a_service_share_its_number_and_strangers_have_none() {
        let policies = Policies::default();
        policies.follow(state(PolicySpec { default: Verdict::Deny, ..PolicySpec::default() }));
        let (web, db) = ((name("shop"), name("web")), (name("shop"), name("db")));
        let address = |last| Ipv4Addr::new(10, 88, 0, last);
        let members = BTreeMap::from([(address(2), web.clone()), (address(3), web), (address(4), db.clone())]);
        let policy = policies.policy(&members).unwrap();
        assert_eq!(policy.identity(address(2)), policy.identity(address(3)));
        assert!(policy.denies(address(2), address(4)) && policy.denies(address(4), address(2)));
        assert!(!policy.denies(address(2), address(3)), "a service speaks to itself");
        assert!(policy.denies(address(9), address(4)), "a container of no app");
        assert_eq!(policies.member(policy.identity(address(4))), Some(db.clone()));
        let caller = |last| Caller(policy.identity(address(last)).0);
        let denied = policies.denied(&policy);
        assert_eq!(denied[&caller(2)], BTreeSet::from([db.clone()]));
        assert_eq!(denied[&Caller::OTHER], BTreeSet::from([(name("shop"), name("web")), db]));
    }

    #[test]
    fn numbers_are_the_same_in_the_next_daemon() {
        let of = BTreeSet::from([(name("shop"), name("web")), (name("shop"), name("db"))]);
        assert_eq!(identities(&of), identities(&of.clone()));
    }
}
