//! Workloads on the host's network, as far as policy goes.
//!
//! They speak from the host's own addresses and listen on them, so nothing in a packet tells them from other programs of the
//! host: no rule of the bridge can be about them. What is denied to them, or about them, is therefore refused rather than
//! recorded: nobody is to believe that it holds. Where another app denies by default, which nobody can refuse it for their
//! sake, the node's status says so.

use coppice_base::Name;
use coppice_spec::{AppSpec, NetworkMode, Party, Verdict};
use coppice_state::State;

const FIX: &str = "give it `network = \"bridge\"`";

fn on_host(spec: &AppSpec) -> impl Iterator<Item = &Name> {
    spec.workloads().filter(|(_, workload)| workload.network == NetworkMode::Host).map(|(name, _)| name)
}

/// What the app's `[policy]`, and rules given by hand, deny and nobody can enforce, each with the way out.
pub(crate) fn refused(state: &State, spec: &AppSpec) -> Vec<String> {
    let mut refused = Vec::new();
    for name in on_host(spec) {
        let unknown = format!("{name} is on the host's network, where policy cannot tell it from the host");
        if spec.policy.default == Verdict::Deny {
            refused.push(format!(
                "[policy] default = \"deny\" does not hold for {name}: {unknown}; {FIX}, or move it to an app of its own"
            ));
        }
        for pair in spec.policy.deny.iter().filter(|pair| pair.from == *name || pair.to == *name) {
            let (from, to) = (&pair.from, &pair.to);
            refused.push(format!("[policy] deny \"{from} -> {to}\": {unknown}; {FIX}, or drop the rule"));
        }
        let denied = state.policy_rules().filter(|(_, _, rule)| rule.verdict == Verdict::Deny);
        for (from, to, _) in denied.filter(|(from, to, _)| from.covers(&spec.name, name) || to.covers(&spec.name, name))
        {
            refused.push(format!(
                "the rule that {from} cannot connect to {to}: {unknown}; {FIX}, or `coppice policy rm {from} {to}` first"
            ));
        }
    }
    refused
}

/// Why a rule by which `from` cannot connect to `to` would not hold.
pub(crate) fn refused_rule(state: &State, from: &Party, to: &Party) -> Option<String> {
    [from, to].into_iter().find_map(|party| {
        let spec = state.app(party.app.as_str())?.spec();
        let name = on_host(spec).find(|name| party.covers(&spec.name, name))?;
        let others = match &party.workload {
            Some(_) => "",
            None => ", or name the app's others one by one",
        };
        let app = &party.app;
        Some(format!("{app}/{name} is on the host's network, where policy cannot tell it from the host: {FIX}{others}"))
    })
}

/// Whom apps that deny by default do not keep out, because they are other apps' on the host's network.
pub(crate) fn words(state: &State) -> Vec<String> {
    let mut words = Vec::new();
    for (closed, app) in state.apps().filter(|(_, app)| app.spec().policy.default == Verdict::Deny) {
        for (other, there) in state.apps().filter(|(other, _)| *other != closed) {
            let denied = |name: &&Name| {
                let of = |to: &Name| state.may_speak(Some((other, name)), (closed, to));
                !app.spec().workloads().all(|(to, _)| of(to))
            };
            words.extend(on_host(there.spec()).filter(denied).map(|name| {
                format!(
                    "{other}/{name} is on the host's network: that {closed} denies by default does not keep it out; {FIX}, or say `coppice policy allow {other}/{name} {closed}`"
                )
            }));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use coppice_base::Timestamp;
    use coppice_spec::{Pair, PolicySpec, ServiceSpec, WorkloadSpec};
    use coppice_state::{Actor, Body, Command, CommandId, ReleaseId, ReleaseTerms};

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn party(text: &str) -> Party {
        text.parse().unwrap()
    }

    /// `agent` on the host's network, `web` on the bridge.
    fn spec(app: &str, policy: PolicySpec) -> AppSpec {
        let host = WorkloadSpec { network: NetworkMode::Host, ..WorkloadSpec::of("agent") };
        let services = [("agent", host), ("web", WorkloadSpec::of("nginx"))];
        let services = services.map(|(of, workload)| (name(of), ServiceSpec::of(workload)));
        AppSpec { services: BTreeMap::from(services), policy, ..AppSpec::of(name(app)) }
    }

    fn apply(state: &mut State, id: u64, body: Body) {
        let command = Command { id: CommandId(id.into()), at: Timestamp(0), actor: Actor::User { uid: 0 }, body };
        state.apply(&command).unwrap();
    }

    fn with(state: &mut State, id: u64, spec: AppSpec) {
        let body = Body::Apply {
            release: ReleaseId(id),
            spec: Box::new(spec),
            images: BTreeMap::new(),
            expected_release: None,
            stopped: BTreeSet::new(),
            secrets: BTreeMap::new(),
            terms: ReleaseTerms::default(),
        };
        apply(state, id, body);
    }

    fn denying(from: &str, to: &str) -> PolicySpec {
        let pair = Pair { from: name(from), to: name(to) };
        PolicySpec { deny: BTreeSet::from([pair]), ..PolicySpec::default() }
    }

    #[test]
    fn a_manifest_that_denies_what_is_on_the_hosts_network_anything_is_refused_with_the_way_out() {
        let state = State::default();
        assert_eq!(refused(&state, &spec("shop", PolicySpec::default())), Vec::<String>::new());
        assert_eq!(refused(&state, &spec("shop", denying("web", "web"))), Vec::<String>::new());
        for policy in [
            denying("agent", "web"),
            denying("web", "agent"),
            PolicySpec { default: Verdict::Deny, ..PolicySpec::default() },
        ] {
            let refused = refused(&state, &spec("shop", policy.clone()));
            assert_eq!(refused.len(), 1, "{policy:?}");
            assert!(refused[0].contains("agent is on the host's network"), "{refused:?}");
            assert!(refused[0].contains("give it `network = \"bridge\"`"), "{refused:?}");
        }
    }

    #[test]
    fn a_rule_by_hand_is_refused_as_is_a_manifest_that_it_would_not_hold_for() {
        let mut state = State::default();
        with(&mut state, 1, spec("shop", PolicySpec::default()));
        let refused_for = |from: &str, to: &str| refused_rule(&state, &party(from), &party(to));
        for (from, to) in [("shop/agent", "shop/web"), ("shop/web", "shop/agent"), ("shop", "shop/web")] {
            assert!(refused_for(from, to).unwrap().contains("shop/agent is on the host's network"), "{from} {to}");
        }
        assert!(refused_for("shop", "shop/web").unwrap().contains("one by one"));
        assert_eq!(refused_for("shop/web", "shop/web"), None);

        let mut state = State::default();
        let bridged = |app: &str| {
            let mut spec = spec(app, PolicySpec::default());
            spec.services.get_mut("agent").unwrap().workload.network = NetworkMode::Bridge;
            spec
        };
        with(&mut state, 1, bridged("shop"));
        let (from, to) = (party("shop/agent"), party("shop/web"));
        apply(&mut state, 2, Body::SetPolicyRule { from, to, verdict: Verdict::Deny });
        let refused = refused(&state, &spec("shop", PolicySpec::default()));
        assert!(refused[0].contains("`coppice policy rm shop/agent shop/web`"), "{refused:?}");
    }

    #[test]
    fn whom_a_closed_app_does_not_keep_out_is_told_until_it_is_allowed() {
        let mut state = State::default();
        with(&mut state, 1, spec("watch", PolicySpec::default()));
        assert_eq!(words(&state), Vec::<String>::new());
        let closed = AppSpec {
            services: BTreeMap::from([(name("db"), ServiceSpec::of(WorkloadSpec::of("postgres")))]),
            policy: PolicySpec { default: Verdict::Deny, ..PolicySpec::default() },
            ..AppSpec::of(name("shop"))
        };
        with(&mut state, 2, closed);
        let told = words(&state);
        assert!(told.len() == 1 && told[0].contains("`coppice policy allow watch/agent shop`"), "{told:?}");
        let (from, to) = (party("watch/agent"), party("shop"));
        apply(&mut state, 3, Body::SetPolicyRule { from, to, verdict: Verdict::Allow });
        assert_eq!(words(&state), Vec::<String>::new());
    }
}
