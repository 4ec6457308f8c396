//! Why one cannot reach another: facts are collected here, and judged by [`diagnosis`], which is pure.
//!
//! ```text
//! asked     what somebody wrote          →  names, addresses, ports
//! ends      who that is on this node     →  containers, services, routes
//! inside    seen and tried from there    →  its link, its answer for a name, a connection
//! diagnosis facts                        →  steps, the first broken one being the cause
//! ```
//!
//! It looks and tries, and changes nothing that lasts: while a connection is tried there is one more nftables table, that
//! has the kernel tell whose rule drops it. It refuses to guess about what lies beyond this machine, and UDP, where silence
//! says nothing.

mod asked;
mod diagnosis;
mod ends;
mod facts;
mod inside;
mod sockets;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use coppice_api::{DoctorReport, DoctorState};
use coppice_network::Trace;
use coppice_spec::NetworkMode;

use crate::doctor::asked::Asked;
use crate::doctor::facts::{BridgeFacts, End, Facts, PeerFacts, PolicyFacts, Probe, Speaker, Target};
use crate::error::NodeError;
use crate::node::Node;

pub(crate) use crate::doctor::facts::FastPathState;

/// A port at which nobody listens, for connections that are to be refused: the one of `discard`.
const NOBODYS_PORT: u16 = 9;

impl Node {
    /// What is broken on the way from one to another; without `to`, what `from` needs of the network; without both, how
    /// this node's network is. Blocking: tries a connection, which may take seconds.
    pub fn diagnose(&self, from: Option<&str>, to: Option<&str>) -> Result<DoctorReport, NodeError> {
        let asked = to.map(asked::parse).transpose().map_err(NodeError::Invalid)?;
        let from_facts = from.map(|from| self.speaker(from)).transpose()?;
        let mut facts = Facts { bridge: self.bridge_facts(), from: from_facts, ..Facts::default() };
        match &asked {
            Some(asked) => self.toward(&mut facts, asked)?,
            None => self.at_large(&mut facts),
        }
        let steps = diagnosis::diagnose(&facts);
        let first = steps.iter().find(|step| step.state == DoctorState::Broken);
        Ok(DoctorReport {
            from: facts.from.as_ref().map(|from| match from {
                Speaker::Host => "host".to_owned(),
                Speaker::Container(end) => end.name.clone(),
            }),
            to: asked.as_ref().and(to).map(|text| match &facts.to {
                Some(Target::Service(service)) => match &service.instance {
                    Some(key) => format!("{}/{key}", service.name.split('/').next().unwrap_or_default()),
                    None => service.name.clone(),
                },
                Some(Target::Container(end)) => end.name.clone(),
                _ => text.to_owned(),
            }),
            well: first.is_none(),
            problem: first.and_then(|step| step.problem.clone()),
            steps,
        })
    }

    fn bridge_facts(&self) -> Option<BridgeFacts> {
        let network = &self.containers.network;
        let survey = network.survey()?;
        let is_on = |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
        let (link, rules, closed) = match survey {
            Ok(survey) => (survey.link, Ok(survey.rules), survey.closed.into_iter().map(|word| word.0).collect()),
            Err(error) => (None, Err(error.to_string()), Vec::new()),
        };
        Some(BridgeFacts {
            name: network.bridge_name(),
            link,
            table: format!("coppice-{}", self.root().key()),
            rules,
            closed,
            forwards: is_on("/proc/sys/net/ipv4/ip_forward"),
            forwards6: network.subnet6().map(|_| is_on("/proc/sys/net/ipv6/conf/all/forwarding")),
            strict_sources: strict_sources(),
            fast_path: network.fast_path_state(),
            names: self.containers.traffic.has_names(),
        })
    }

    /// What a connection from one end to the other needs.
    fn toward(&self, facts: &mut Facts, asked: &Asked) -> Result<(), NodeError> {
        let from = match &facts.from {
            Some(Speaker::Container(end)) => Some(end.clone()),
            _ => None,
        };
        let from_app = from.as_ref().and_then(|end| self.owner_of(end));
        let target = self.target(asked, from_app.as_ref().map(|(app, _)| app.as_str()))?;
        facts.port = asked.port.or_else(|| self.usual_port(&target));
        let can_try =
            from.as_ref().is_none_or(|end| end.is_running && !end.is_paused && end.network != NetworkMode::None);
        let pid = from.as_ref().filter(|end| end.network == NetworkMode::Bridge).and_then(|end| self.pid_of(end));
        if let (true, Some(end)) = (can_try, &from)
            && asked.host.parse::<IpAddr>().is_err()
            && !matches!(target, Target::Container(_))
        {
            let (name, known_as, expected) = self.name_toward(asked, &target, from_app.as_ref());
            let etc = self.etc_of(end);
            if let Some(etc) = etc {
                let resolved =
                    inside::within(pid, || inside::resolve(&name, &etc.join("hosts"), &etc.join("resolv.conf")));
                facts.resolution = resolved.ok().map(|found| facts::Resolution { expected, known_as, ..found });
            }
        }
        if let Target::Service(service) = &target {
            let to = self.member(&service.name);
            facts.policy = to.as_ref().and_then(|to| self.policy_facts(from_app.as_ref(), to, &from));
            facts.peer_tls = to.as_ref().and_then(|to| self.peer_facts(from_app.as_ref(), to, service.virtual_address));
        }
        let address = self.address_to_try(&target, facts);
        facts.to = Some(target);
        if let (true, Some(address), Some(port)) = (can_try, address, facts.port) {
            let guarded = facts.peer_tls.as_ref().is_some_and(|peer| peer.is_guarded);
            facts.probe = Some(self.probe(from.as_ref(), pid, SocketAddr::new(address, port), guarded));
        }
        Ok(())
    }

    /// Without an end to be reached: whether packets pass at all, from one container to another.
    fn at_large(&self, facts: &mut Facts) {
        let running = self.running_ends();
        let from = match &facts.from {
            Some(Speaker::Container(end)) => Some(end.clone()),
            Some(Speaker::Host) => None,
            None => running.first().cloned(),
        };
        let Some(from) = from.filter(|end| end.is_running && !end.is_paused && end.network == NetworkMode::Bridge)
        else {
            return;
        };
        let speaker = self.owner_of(&from);
        let allowed = |end: &&End| {
            end.key != from.key
                && !end.is_paused
                && self.owner_of(end).is_none_or(|to| {
                    self.policy_facts(speaker.as_ref(), &to, &None).is_none_or(|policy| policy.is_allowed)
                        && self.peer_facts(speaker.as_ref(), &to, None).is_none()
                })
        };
        let Some(to) = running.iter().find(allowed).and_then(|end| end.address) else { return };
        let pid = self.pid_of(&from);
        facts.probe = Some(self.probe(Some(&from), pid, SocketAddr::new(to.into(), NOBODYS_PORT), false));
    }

    fn probe(&self, from: Option<&End>, pid: Option<u32>, to: SocketAddr, guarded: bool) -> Probe {
        // The kernel is asked to tell only of what is sent from that address.
        let source = match to.ip() {
            IpAddr::V4(_) => from.and_then(|end| end.address).map(IpAddr::V4),
            IpAddr::V6(_) => from.and_then(|end| self.containers.network.address6(end.address?)).map(IpAddr::V6),
        };
        let trace = source.map(|source| Trace::begin(&self.root().key(), source, to.port()));
        let mut trace = trace.and_then(|trace| {
            trace.inspect_err(|error| tracing::debug!(%error, "the doctor cannot trace packets")).ok()
        });
        let mut attempt = |patience| {
            let outcome = inside::within(pid, || inside::connect(to, patience, guarded))
                .unwrap_or_else(|error| facts::Outcome::Failed(error.to_string()));
            (outcome, trace.as_mut().and_then(|trace| trace.dropped().ok()).flatten())
        };
        let (mut outcome, mut dropped) = attempt(inside::MOMENT);
        // Slow, or lost where the kernel does not tell of it.
        if outcome == facts::Outcome::TimedOut && dropped.is_none() {
            (outcome, dropped) = attempt(inside::ANSWER);
        }
        let legacy = std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|names| !names.trim().is_empty());
        Probe { to, outcome, dropped, legacy_rules: legacy }
    }

    /// Where a connection is tried: where the name led, or where it should have.
    fn address_to_try(&self, target: &Target, facts: &Facts) -> Option<IpAddr> {
        let answers = facts.resolution.as_ref().map_or(&[][..], |resolution| resolution.answers.as_slice());
        let first = answers.iter().find(|answer| answer.is_ipv4()).or(answers.first()).copied();
        let of = |end: &End| match end.network {
            NetworkMode::Host => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => end.address.map(IpAddr::V4),
        };
        match target {
            Target::Service(service) => first.or_else(|| match (&service.instance, service.virtual_address) {
                (None, Some(address)) => Some(address),
                _ => service.meant().filter(|one| one.is_running).find_map(of),
            }),
            Target::Container(end) => of(end),
            Target::Host(address) | Target::Address(address) | Target::Vacant(address) => Some(*address),
            Target::Name { name, .. } => first.or_else(|| {
                // Beyond, as this machine sees it; from a container its own answer is the only one that counts.
                let from_here = !matches!(facts.from, Some(Speaker::Container(_)));
                let mut found =
                    from_here.then(|| std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 0)).ok())??;
                found.next().map(|socket| socket.ip())
            }),
            Target::Route(route) => route.listens.first().map(|listens| {
                let own = self.containers.network.gateway().map(IpAddr::V4);
                match (listens.ip().is_unspecified(), &facts.from) {
                    (true, Some(Speaker::Container(end))) if end.network == NetworkMode::Bridge => {
                        own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
                    }
                    (true, _) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    (false, _) => listens.ip(),
                }
            }),
        }
    }

    fn policy_facts(
        &self,
        from: Option<&crate::policies::Member>,
        to: &crate::policies::Member,
        end: &Option<End>,
    ) -> Option<PolicyFacts> {
        use coppice_spec::Verdict;
        use coppice_state::Decider;
        // Policy is about containers: the host's own programs are nobody's.
        if end.as_ref().is_none_or(|end| end.network != NetworkMode::Bridge) && from.is_none() {
            return None;
        }
        let state = self.containers.policies.state()?;
        let (verdict, decider) = state.decide(from.map(|(app, workload)| (app, workload)), (&to.0, &to.1));
        let to_text = format!("{}/{}", to.0, to.1);
        let by_hand = from.map(|(app, workload)| format!("coppice policy allow {app}/{workload} {to_text}"));
        let (by, remedy) = match decider {
            Decider::Itself => ("none: a service may always speak to itself".to_owned(), by_hand),
            Decider::Rule { from, to } => {
                (format!("the rule {from} -> {to} (`coppice policy`)"), Some(format!("coppice policy rm {from} {to}")))
            }
            Decider::Manifest { app } => (format!("[policy] of the manifest of {app}"), by_hand),
            Decider::Default { app } => (format!("[policy] default of the manifest of {app}"), by_hand),
        };
        // A container of no app cannot be named in a rule.
        let remedy = remedy.unwrap_or_else(|| format!("default = \"allow\" under [policy] of {}", to.0));
        Some(PolicyFacts { is_allowed: verdict == Verdict::Allow, by, remedy })
    }

    fn peer_facts(
        &self,
        from: Option<&crate::policies::Member>,
        to: &crate::policies::Member,
        address: Option<IpAddr>,
    ) -> Option<PeerFacts> {
        let mode = self.peer_mode(to)?;
        let guarded = self.containers.traffic.peers().guarded();
        let is_guarded = address.map_or(!guarded.is_empty(), |address| guarded.contains(&address));
        Some(PeerFacts { mode, is_of_app: from.is_some_and(|(app, _)| *app == to.0), is_guarded })
    }
}

/// Whether a link checks sources strictly: the larger of its own setting and that of all links counts. The bridge is not
/// meant: what comes from it is answered by it.
fn strict_sources() -> bool {
    const LINKS: &str = "/proc/sys/net/ipv4/conf";
    let of = |link: &str| std::fs::read_to_string(format!("{LINKS}/{link}/rp_filter")).unwrap_or_default();
    let links = std::fs::read_dir(LINKS).into_iter().flatten().flatten();
    let names = links.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut up = names.filter(|name| !name.starts_with("cp") && !matches!(name.as_str(), "all" | "default" | "lo"));
    let all = of("all");
    up.any(|link| [all.trim(), of(&link).trim()].into_iter().max() == Some("1"))
}
