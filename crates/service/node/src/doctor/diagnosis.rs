//! From facts to findings: what is broken first on the way from one end to the other, and what to do. Pure.
//!
//! Steps are in the order in which a connection depends on them, so the first that is broken is the cause to begin with;
//! what follows from it is shown too, since two things may be broken at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use coppice_api::{DoctorState, DoctorStep};
use coppice_network::RulesNow;
use coppice_spec::{NetworkMode, PeerTls};

use super::facts::{
    BridgeFacts, End, Facts, FastPathState, Outcome, PeerFacts, Probe, Resolution, RouteFacts, ServiceFacts, Speaker,
    Target,
};

/// What is found at each step.
pub(crate) fn diagnose(facts: &Facts) -> Vec<DoctorStep> {
    let mut steps = Steps::default();
    match &facts.bridge {
        Some(bridge) => of_bridge(&mut steps, bridge, facts),
        None => steps.skipped("bridge", "no container has had a network yet: there is no bridge"),
    }
    match &facts.from {
        Some(Speaker::Container(end)) => of_speaker(&mut steps, end, facts),
        Some(Speaker::Host) | None => {}
    }
    match &facts.to {
        Some(Target::Service(service)) => of_service(&mut steps, service, facts),
        Some(Target::Container(end)) => of_container(&mut steps, end, facts.port),
        Some(Target::Route(route)) => of_route(&mut steps, route),
        Some(Target::Vacant(address)) => steps.broken(
            "target",
            "vacant-address",
            format!("{address} is an address for containers, and none has it"),
            "use the service's name: addresses of containers change, `coppice status --network` lists them",
        ),
        Some(Target::Host(_) | Target::Address(_) | Target::Name { .. }) | None => {}
    }
    if let Some(resolution) = &facts.resolution {
        of_name(&mut steps, resolution, facts.to.as_ref());
    }
    if let Some(Target::Service(service)) = &facts.to {
        of_address(&mut steps, service);
    }
    if let Some(policy) = &facts.policy {
        let by = &policy.by;
        if policy.is_allowed {
            steps.fine("policy", format!("allowed, by {by}"));
        } else {
            let advice = format!("`{}` lets it through", policy.remedy);
            steps.broken("policy", "policy-denied", format!("denied, by {by}"), advice);
        }
    }
    if let Some(peer) = &facts.peer_tls {
        of_peer_tls(&mut steps, peer);
    }
    match &facts.probe {
        Some(probe) => of_probe(&mut steps, probe, facts),
        None if matches!(facts.to, Some(Target::Service(_) | Target::Container(_))) && facts.port.is_none() => {
            steps.skipped("connection", "no port is known to try: write it, as in `web:8080`");
        }
        None => {}
    }
    steps.0
}

/// What was found so far.
#[derive(Default)]
struct Steps(Vec<DoctorStep>);

impl Steps {
    fn add(&mut self, step: &str, state: DoctorState, found: String, problem: Option<&str>, advice: Option<String>) {
        let problem = problem.map(str::to_owned);
        self.0.push(DoctorStep { step: step.to_owned(), state, found, problem, advice });
    }

    fn fine(&mut self, step: &str, found: impl Into<String>) {
        self.add(step, DoctorState::Fine, found.into(), None, None);
    }

    fn skipped(&mut self, step: &str, found: impl Into<String>) {
        self.add(step, DoctorState::Skipped, found.into(), None, None);
    }

    fn doubtful(&mut self, step: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(step, DoctorState::Doubtful, found.into(), None, Some(advice.into()));
    }

    fn broken(&mut self, step: &str, problem: &str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(step, DoctorState::Broken, found.into(), Some(problem), Some(advice.into()));
    }
}

fn of_bridge(steps: &mut Steps, bridge: &BridgeFacts, facts: &Facts) {
    let BridgeFacts { name, table, .. } = bridge;
    match bridge.link {
        None => steps.broken(
            "bridge",
            "bridge-missing",
            format!("the bridge {name} is gone: somebody removed it"),
            "`coppice node stop --all`, then bring the apps up again: a new one is made",
        ),
        Some(link) if !link.is_raised => steps.broken(
            "bridge",
            "bridge-down",
            format!("the bridge {name} was set down"),
            format!("`ip link set {name} up`; a restart of the daemon gives it its IPv6 address again"),
        ),
        Some(_) => steps.fine("bridge", format!("{name} is up")),
    }
    let forwards = [(Some(bridge.forwards), "net.ipv4.ip_forward"), (bridge.forwards6, "net.ipv6.conf.all.forwarding")];
    let off: Vec<&str> = forwards.iter().filter(|(on, _)| *on == Some(false)).map(|(_, key)| *key).collect();
    if off.is_empty() {
        steps.fine("forwarding", "this machine forwards packets");
    } else {
        let set: Vec<String> = off.iter().map(|key| format!("sysctl -w {key}=1")).collect();
        let found = format!("this machine does not forward packets any more: {} is 0", off.join(" and "));
        steps.broken("forwarding", "forwarding-off", found, format!("`{}`", set.join(" && ")));
    }
    match &bridge.rules {
        Ok(RulesNow::Intact) => steps.fine("rules", format!("table inet {table} is as the node made it")),
        Ok(RulesNow::Missing) => steps.broken(
            "rules",
            "rules-missing",
            format!("table inet {table} is gone: somebody flushed nftables' rules"),
            "the node puts it back within seconds; where it does not, see its log (`rules-restored` in `coppice events`)",
        ),
        Ok(RulesNow::Changed) => steps.broken(
            "rules",
            "rules-changed",
            format!("table inet {table} is not as the node made it: somebody changed it"),
            "the node puts it back within seconds; where it does not, see its log",
        ),
        Err(why) => steps.doubtful("rules", format!("table inet {table} cannot be read: {why}"), "try again"),
    }
    let goes_through = facts.probe.as_ref().is_some_and(|probe| is_answered(&probe.outcome));
    for closed in bridge.closed.iter().filter(|_| !goes_through) {
        steps.doubtful("other-rules", closed.clone(), "skip this where connections go through all the same");
    }
    let fast_path = match bridge.fast_path {
        FastPathState::InForce => "connections are balanced by BPF programs on the bridge",
        FastPathState::Loading => "BPF programs are being loaded; nftables does their work",
        FastPathState::NotWanted => "no BPF programs, by `[network] bpf = false`: nftables does their work",
        FastPathState::Hooked => {
            "no BPF programs, since bridged frames pass IP's hooks (br_netfilter): nftables does their work"
        }
        FastPathState::Refused => "no BPF programs (the daemon's log says why): nftables does their work",
    };
    steps.fine("fast-path", fast_path);
    if !bridge.names {
        steps.broken(
            "name-server",
            "no-name-server",
            "the node's name server does not run: another program has port 53 of the bridge's address",
            "have that program (`ss -lnup sport = 53`) listen on addresses of its own, and restart the daemon",
        );
    }
}

fn of_speaker(steps: &mut Steps, end: &End, facts: &Facts) {
    let name = &end.name;
    if !end.is_running {
        let advice = format!("`coppice start {name}`, or `coppice logs {name}` for what it said last");
        return steps.broken("from", "from-not-running", format!("{name} does not run: {}", state(end)), advice);
    }
    if end.is_paused {
        let advice = format!("`coppice unpause {name}`");
        return steps.broken("from", "from-paused", format!("{name} is paused: its processes do nothing"), advice);
    }
    match end.network {
        NetworkMode::None => {
            let found = format!("{name} has no network (network = \"none\")");
            return steps.broken("from", "from-without-network", found, "give it network = \"bridge\"");
        }
        NetworkMode::Host => return steps.fine("from", format!("{name} runs, on the host's own network")),
        NetworkMode::Bridge => {}
    }
    let index = facts.bridge.as_ref().and_then(|bridge| bridge.link).map(|link| link.index);
    match end.link {
        None => steps.broken(
            "from",
            "link-missing",
            format!("{name} has no link eth0: somebody removed it or its other end"),
            format!("`coppice restart {name}` gives it a new one"),
        ),
        Some(link) if !link.is_up => steps.broken(
            "from",
            "link-down",
            format!("the link of {name} is down, at one of its ends"),
            match &facts.bridge {
                Some(bridge) => format!("`ip link show master {}` shows this machine's end: set it up", bridge.name),
                None => format!("`coppice restart {name}`"),
            },
        ),
        Some(_) if !end.has_route => steps.broken(
            "from",
            "route-missing",
            format!("{name} has no default route"),
            format!("`coppice restart {name}` gives it one"),
        ),
        Some(_) => {
            let address = end.address.map(|address| format!(" as {address}")).unwrap_or_default();
            let bridge = index.and(facts.bridge.as_ref()).map(|bridge| format!(" on {}", bridge.name));
            steps.fine("from", format!("{name} runs{address}{}", bridge.unwrap_or_default()));
        }
    }
}

/// Why one that runs not, or is not ready.
fn state(end: &End) -> String {
    match &end.reason {
        Some(reason) => format!("{} ({reason})", end.state),
        None => end.state.clone(),
    }
}

fn of_service(steps: &mut Steps, service: &ServiceFacts, facts: &Facts) {
    let name = &service.name;
    let which = service.instance.as_ref().map_or_else(|| name.clone(), |key| format!("{key} of {name}"));
    let running: Vec<&End> = service.meant().filter(|one| one.is_running).collect();
    if running.is_empty() {
        let why: Vec<String> = service.meant().map(|one| format!("{} is {}", one.key, state(one))).collect();
        return if service.is_stopped {
            let advice = format!("`coppice start {name}`");
            steps.broken("target", "stopped", format!("{which} was stopped by hand"), advice)
        } else if service.replicas == 0 {
            let advice = "give it replicas in coppice.toml, and `coppice up`";
            steps.broken("target", "no-instances", format!("{name} has replicas = 0: nobody is there"), advice)
        } else {
            let found = format!("no instance of {which} runs: {}", why.join(", "));
            steps.broken("target", "not-running", found, format!("`coppice logs {name}` for what it said last"))
        };
    }
    if let Some(paused) = running.iter().find(|one| one.is_paused)
        && running.iter().all(|one| one.is_paused)
    {
        let advice = format!("`coppice unpause {}`", paused.name);
        return steps.broken("target", "paused", format!("{which} is paused: it takes nothing"), advice);
    }
    steps.fine("target", format!("{} of {} instances of {name} run", running.len(), service.instances.len()));
    of_listeners(steps, &running, facts.port);
    let ready: Vec<&&End> = running.iter().filter(|one| one.is_ready).collect();
    if ready.is_empty() {
        let why: Vec<String> = running.iter().map(|one| format!("{} is {}", one.key, state(one))).collect();
        let advice = format!("see its health check in `coppice status` and `coppice logs {name}`");
        let found = format!("{which} runs, and is not ready: {}", why.join(", "));
        steps.broken("ready", "not-ready", found, advice);
    } else {
        steps.fine("ready", format!("{} ready", listed(ready.iter().map(|one| one.key.clone()))));
    }
}

fn of_container(steps: &mut Steps, end: &End, port: Option<u16>) {
    if !end.is_running {
        let advice = format!("`coppice start {}`", end.name);
        return steps.broken("target", "not-running", format!("{} does not run: {}", end.name, state(end)), advice);
    }
    steps.fine("target", format!("{} runs", end.name));
    of_listeners(steps, &[end], port);
}

/// Whether those that run take connections to the port at an address that others reach.
fn of_listeners(steps: &mut Steps, running: &[&End], port: Option<u16>) {
    let known: Vec<(&End, &[SocketAddr])> =
        running.iter().filter_map(|end| Some((*end, end.listens.as_deref()?))).collect();
    if known.is_empty() {
        return;
    }
    let Some(port) = port else {
        let (end, _) = known[0];
        let found = format!("{} listens for TCP nowhere", end.key);
        return steps.broken("listens", "not-listening", found, "have it listen, on 0.0.0.0 or its own address");
    };
    let at = |sockets: &[SocketAddr]| -> Vec<SocketAddr> {
        sockets.iter().filter(|socket| socket.port() == port).copied().collect()
    };
    let deaf = known.iter().find(|(_, sockets)| !at(sockets).iter().any(|socket| !is_loopback(socket.ip())));
    match deaf {
        None => {
            steps.fine("listens", format!("{} on port {port}", listed(known.iter().map(|(end, _)| end.key.clone()))))
        }
        Some((end, sockets)) => match at(sockets).first() {
            Some(socket) => steps.broken(
                "listens",
                "loopback-only",
                format!("{} listens on {socket} only, where nobody else reaches it", end.key),
                format!("have its program listen on 0.0.0.0:{port} (or [::]:{port})"),
            ),
            None => {
                let others = listed(sockets.iter().map(ToString::to_string));
                let others = if sockets.is_empty() { String::new() } else { format!(", but on {others}") };
                steps.broken(
                    "listens",
                    "not-listening",
                    format!("{} does not listen on port {port}{others}", end.key),
                    "ask for the port that it listens on, or set its program to this one",
                );
            }
        },
    }
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

fn listed(texts: impl Iterator<Item = String>) -> String {
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(", ") }
}

fn of_name(steps: &mut Steps, resolution: &Resolution, to: Option<&Target>) {
    let Resolution { name, by, answers, error, expected, known_as } = resolution;
    if answers.is_empty() {
        if let Some(why) = error {
            let advice = match to {
                Some(Target::Name { .. } | Target::Route(_)) => {
                    "does it resolve on this machine itself? The name server asks those of this machine's /etc/resolv.conf"
                }
                _ => "see the name server in `coppice status --network`, and whether the container may send to it",
            };
            let found = format!("{name} does not resolve ({by}): {why}");
            return steps.broken("name", "name-unanswered", found, advice);
        }
        let advice = match (known_as, to) {
            (Some(known_as), _) => format!("ask for {known_as}, its name from here"),
            (None, Some(Target::Name { known, .. })) if !known.is_empty() => {
                format!("names known here: {}", known.join(", "))
            }
            _ => "`coppice status --network` lists the names of services".to_owned(),
        };
        return steps.broken(
            "name",
            "unknown-name",
            format!("{name} does not resolve ({by}): there is no such name"),
            advice,
        );
    }
    let said = listed(answers.iter().map(ToString::to_string));
    if !expected.is_empty() && !answers.iter().any(|answer| expected.contains(answer)) {
        let right = listed(expected.iter().map(ToString::to_string));
        return steps.broken(
            "name",
            "name-elsewhere",
            format!("{name} resolves to {said} ({by}), and not to {right}"),
            "look for the name in `extra_hosts` and in the container's /etc/hosts",
        );
    }
    steps.fine("name", format!("{name} is {said} ({by})"));
}

/// Whether the service's own address leads to its instances.
fn of_address(steps: &mut Steps, service: &ServiceFacts) {
    let (Some(address), None) = (service.virtual_address, &service.instance) else { return };
    let ready: Vec<Ipv4Addr> =
        service.instances.iter().filter(|one| one.is_ready).filter_map(|one| one.address).collect();
    if service.balanced.is_empty() {
        // Where nobody is ready, that was said.
        if !ready.is_empty() {
            let found = format!("{address} leads nowhere, although instances are ready");
            steps.broken("address", "not-balanced", found, "see the daemon's log: the bridge took no new backends");
        }
        return;
    }
    let to = listed(service.balanced.iter().map(ToString::to_string));
    steps.fine("address", format!("{address} leads to {to}"));
}

fn of_peer_tls(steps: &mut Steps, peer: &PeerFacts) {
    match (peer.mode, peer.is_of_app) {
        (PeerTls::Off, _) => {}
        (PeerTls::Require, false) => steps.broken(
            "tls.peer",
            "peer-tls-required",
            "the service takes callers of its own app only (tls.peer = \"require\")",
            "call it from a service of its app, or say tls.peer = \"warn\"",
        ),
        (_, _) if !peer.is_guarded => steps.broken(
            "tls.peer",
            "peer-tls-not-in-force",
            "the service has tls.peer, and its address is not guarded (yet): nobody is let through",
            "see the daemon's log",
        ),
        (PeerTls::Warn, false) => {
            steps.fine("tls.peer", "not encrypted: the caller is of another app, and is let through")
        }
        (_, true) => steps.fine("tls.peer", "encrypted, with certificates of the app's authority"),
    }
}

fn of_route(steps: &mut Steps, route: &RouteFacts) {
    let asked = format!("{}{}", route.host, route.path);
    if route.listens.is_empty() {
        return steps.broken(
            "proxy",
            "no-proxy",
            "the HTTP proxy does not listen: no app has routes, or its port was taken",
            "give a service `http_proxy` or `http_routes` in coppice.toml; `coppice up` says where a port is taken",
        );
    }
    steps.fine("proxy", format!("listens on {}", listed(route.listens.iter().map(ToString::to_string))));
    let Some(name) = &route.route else {
        let advice = format!("hosts with routes: {}", listed(route.hosts.iter().cloned()));
        return steps.broken("route", "no-route", format!("no route takes a GET of {asked}"), advice);
    };
    steps.fine("route", format!("{name} takes {asked}"));
    let told: Vec<String> = route
        .backends
        .iter()
        .map(|(instance, state)| match state {
            Ok(()) => format!("{instance} is ready"),
            Err(why) => format!("{instance} is {why}"),
        })
        .collect();
    if route.backends.iter().any(|(_, state)| state.is_ok()) {
        steps.fine("backends", told.join(", "));
    } else {
        let found = if told.is_empty() { "no instance runs".to_owned() } else { told.join(", ") };
        let advice =
            "`coppice status` says why; what is ejected, or has an open breaker, failed requests: `coppice metrics`";
        steps.broken("backends", "no-backend", format!("nobody answers for {name}: {found}"), advice);
    }
}

/// Something at the other end said yes or no: packets go both ways.
fn is_answered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Connected | Outcome::Closed | Outcome::Refused)
}

fn of_probe(steps: &mut Steps, probe: &Probe, facts: &Facts) {
    let to = probe.to;
    // Of a pair that was chosen to see whether packets pass at all.
    let any_answer = facts.to.is_none();
    let is_guarded = facts.peer_tls.as_ref().is_some_and(|peer| peer.is_guarded);
    match &probe.outcome {
        Outcome::Connected => steps.fine("connection", format!("a connection to {to} succeeds")),
        Outcome::Refused if any_answer => steps.fine("connection", format!("packets to {to} and back go through")),
        Outcome::Closed if is_guarded => steps.broken(
            "connection",
            "closed",
            format!("a connection to {to} is closed at once: the halves of tls.peer do not reach an instance for this caller"),
            "`coppice metrics` shows whom they refused, and how often instances did not answer",
        ),
        Outcome::Closed => steps.fine("connection", format!("a connection to {to} succeeds, and the other side ends it")),
        Outcome::Refused => steps.broken(
            "connection",
            "refused",
            format!("a connection to {to} is refused: nobody listens there, or nobody is ready behind it"),
            "see the steps above; a program that has just started may not listen yet",
        ),
        Outcome::TimedOut | Outcome::Unreachable(_) => of_silence(steps, probe, facts),
        Outcome::Failed(why) => steps.doubtful("connection", format!("could not be tried: {why}"), "try again"),
    }
}

/// Packets get lost.
fn of_silence(steps: &mut Steps, probe: &Probe, facts: &Facts) {
    let to = probe.to;
    let what = match &probe.outcome {
        Outcome::Unreachable(why) => format!("a connection to {to} fails: {why}"),
        _ => format!("a connection to {to} gets no answer"),
    };
    if let Some(dropped) = &probe.dropped {
        let (family, table, chain) = (dropped.family, &dropped.table, &dropped.chain);
        let by = match dropped.rule {
            Some(handle) => format!("rule {handle} of chain {chain}"),
            None => format!("the policy of chain {chain}"),
        };
        let ours = facts.bridge.as_ref().is_some_and(|bridge| table.starts_with(&bridge.table));
        if ours {
            return steps.broken(
                "connection",
                "dropped-by-node",
                format!("{what}: {by} of the node's table {family} {table} drops it"),
                "that is the policy, an address that is not the sender's, or a service without instances: see above",
            );
        }
        let opens = facts.bridge.as_ref().and_then(|bridge| {
            let named = format!("Chain {chain} of table {table} ");
            bridge.closed.iter().find(|word| word.starts_with(&named))?.split('`').nth(1).map(str::to_owned)
        });
        let advice = match opens {
            Some(command) => format!("`{command}` opens it for containers"),
            None => format!(
                "`nft -a list chain {family} {table} {chain}` shows it: it is another program's, so change it there"
            ),
        };
        return steps.broken(
            "connection",
            "dropped-by-other-rules",
            format!("{what}: {by} of table {family} {table} drops it, which is not Coppice's"),
            advice,
        );
    }
    if facts.policy.as_ref().is_some_and(|policy| !policy.is_allowed) {
        return steps.broken(
            "connection",
            "dropped-by-node",
            format!("{what}: the BPF programs on the bridge drop it, as the policy says"),
            "see the policy above",
        );
    }
    if probe.legacy_rules {
        return steps.broken(
            "connection",
            "no-answer",
            format!("{what}; rules of the older iptables are in force beside nftables'"),
            "`iptables-legacy -S FORWARD` and `iptables-legacy -S INPUT` show what they drop",
        );
    }
    let beyond = matches!(facts.to, Some(Target::Address(_) | Target::Name { .. }));
    let advice = if beyond && facts.bridge.as_ref().is_some_and(|bridge| bridge.strict_sources) {
        "answers that come in by another link than questions go out by are dropped here (net.ipv4.conf.*.rp_filter is 1): \
         is it reached with 2? If not, and this machine itself does not reach it either, the fault is beyond"
    } else if beyond {
        "is it reached from this machine itself (`curl`, `ping`)? If not, the fault is beyond it"
    } else {
        "no rule on this machine drops it, so it is lost in the container: its own firewall, or a program that hangs"
    };
    steps.broken("connection", "no-answer", what, advice);
}

#[cfg(test)]
mod tests;
