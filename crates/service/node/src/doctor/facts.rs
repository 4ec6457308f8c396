//! What is known about two ends and the way between them: everything that a diagnosis is made of.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use coppice_network::{Dropped, LinkNow, RulesNow};
use coppice_spec::{NetworkMode, PeerTls};

/// All that was collected for one question.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// `None`: no container has had a network yet.
    pub(crate) bridge: Option<BridgeFacts>,
    pub(crate) from: Option<Speaker>,
    pub(crate) to: Option<Target>,
    pub(crate) resolution: Option<Resolution>,
    pub(crate) policy: Option<PolicyFacts>,
    pub(crate) peer_tls: Option<PeerFacts>,
    /// The port that was asked for, or that the service says or shows by itself.
    pub(crate) port: Option<u16>,
    pub(crate) probe: Option<Probe>,
}

#[derive(Clone, Debug)]
pub(crate) struct BridgeFacts {
    pub(crate) name: String,
    /// `None`: somebody removed it.
    pub(crate) link: Option<LinkNow>,
    /// Name of the node's table.
    pub(crate) table: String,
    /// `Err`: it cannot be read, and why.
    pub(crate) rules: Result<RulesNow, String>,
    /// Sentences about other programs' chains that forward only what they know.
    pub(crate) closed: Vec<String>,
    /// `net.ipv4.ip_forward`.
    pub(crate) forwards: bool,
    /// `net.ipv6.conf.all.forwarding`; `None`: containers have no IPv6.
    pub(crate) forwards6: Option<bool>,
    /// A link of this machine takes packets only by the way that answers to them would go (`rp_filter` is 1).
    pub(crate) strict_sources: bool,
    pub(crate) fast_path: FastPathState,
    /// The node's name server runs.
    pub(crate) names: bool,
}

/// Whether BPF programs do what rules would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FastPathState {
    InForce,
    Loading,
    /// `[network] bpf = false`.
    NotWanted,
    /// Bridged frames pass IP's hooks (`br_netfilter`).
    Hooked,
    /// The kernel does not take it, or it was taken off; the log says why.
    Refused,
}

/// Who begins.
#[derive(Clone, Debug)]
pub(crate) enum Speaker {
    /// A program on this machine.
    Host,
    Container(End),
}

/// A container at one end.
#[derive(Clone, Debug, Default)]
pub(crate) struct End {
    /// `shop/web-1`, or a container's own name.
    pub(crate) name: String,
    /// `web-1`; a container's own name.
    pub(crate) key: String,
    pub(crate) is_running: bool,
    pub(crate) is_paused: bool,
    /// As its app is told of; `true` for a container of no app that runs.
    pub(crate) is_ready: bool,
    /// As `running` or `backoff`, and why.
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) network: NetworkMode,
    pub(crate) address: Option<Ipv4Addr>,
    /// Its own end of its link; `None`: it has none, or it was not looked at.
    pub(crate) link: Option<LinkNow>,
    /// Its way out.
    pub(crate) has_route: bool,
    /// Where it listens for TCP; `None`: not looked at.
    pub(crate) listens: Option<Vec<SocketAddr>>,
}

/// Who is to be reached.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Service(ServiceFacts),
    /// A container of no app.
    Container(End),
    /// The bridge's own address, or one of the machine's.
    Host(IpAddr),
    /// An address that is nobody's here.
    Address(IpAddr),
    /// A container's address that no container has.
    Vacant(IpAddr),
    /// A name that is nobody's here, and names that are somebody's.
    Name {
        name: String,
        known: Vec<String>,
    },
    /// Through the node's HTTP proxy.
    Route(RouteFacts),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceFacts {
    /// `shop/web`.
    pub(crate) name: String,
    /// It was this one that was asked for; else any.
    pub(crate) instance: Option<String>,
    /// Somebody stopped it (`coppice stop`).
    pub(crate) is_stopped: bool,
    pub(crate) replicas: u32,
    pub(crate) instances: Vec<End>,
    /// Virtual address, where it has one.
    pub(crate) virtual_address: Option<IpAddr>,
    /// What the bridge balances it to.
    pub(crate) balanced: Vec<Ipv4Addr>,
}

impl ServiceFacts {
    /// Those that are meant.
    pub(crate) fn meant(&self) -> impl Iterator<Item = &End> {
        self.instances.iter().filter(|one| self.instance.as_ref().is_none_or(|key| *key == one.key))
    }
}

/// How the first end sees the other's name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolution {
    pub(crate) name: String,
    /// `its hosts file`, `name server 10.88.0.1`.
    pub(crate) by: String,
    pub(crate) answers: Vec<IpAddr>,
    /// Why there are none.
    pub(crate) error: Option<String>,
    /// Right answers; empty: any.
    pub(crate) expected: Vec<IpAddr>,
    /// The name by which it is known to the first end.
    pub(crate) known_as: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct PolicyFacts {
    pub(crate) is_allowed: bool,
    /// `rule shop/web -> shop/db`.
    pub(crate) by: String,
    /// A command that lets it through.
    pub(crate) remedy: String,
}

#[derive(Clone, Debug)]
pub(crate) struct PeerFacts {
    pub(crate) mode: PeerTls,
    /// The caller is of the same app, so it has a certificate of its authority.
    pub(crate) is_of_app: bool,
    /// Connections are redirected to the halves.
    pub(crate) is_guarded: bool,
}

/// A TCP connection that was tried from the first end's network.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) to: SocketAddr,
    pub(crate) outcome: Outcome,
    /// Whose rule ended it, as the kernel told.
    pub(crate) dropped: Option<Dropped>,
    /// Rules of the older iptables are in force, which the kernel does not tell of.
    pub(crate) legacy_rules: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Connected,
    /// And closed by the other side at once.
    Closed,
    Refused,
    TimedOut,
    /// No way there, in the kernel's words.
    Unreachable(String),
    /// It could not be tried.
    Failed(String),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct RouteFacts {
    pub(crate) host: String,
    pub(crate) path: String,
    /// Where the proxy listens; empty: it does not run.
    pub(crate) listens: Vec<SocketAddr>,
    /// `shop/web/site`: the route that takes the request.
    pub(crate) route: Option<String>,
    /// Hosts that have routes.
    pub(crate) hosts: Vec<String>,
    /// What the route leads to, and the state of each: `ready`, or why it gets no request.
    pub(crate) backends: Vec<(String, Result<(), String>)>,
}
