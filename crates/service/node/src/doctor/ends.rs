//! Who is meant, on this node: services, instances, containers of no app, addresses, names of routes; and how they are.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use coppice_api::{ChildStatus, HealthState, SupervisorStatus};
use coppice_base::Name;
use coppice_network::{LinkName, link_now};
use coppice_route::table::{RouteTable, TableEntry};
use coppice_spec::{AppSpec, HealthProbe, NetworkMode, PeerTls, Protocol};

use super::asked::Asked;
use super::facts::{End, RouteFacts, ServiceFacts, Speaker, Target};
use super::{inside, sockets};
use crate::app::App;
use crate::container::{Container, Owner, Phase};
use crate::error::NodeError;
use crate::node::Node;
use crate::policies::Member;
use crate::view;

/// What a container calls its link.
const LINK: &str = "eth0";

/// A service or worker, and one instance of it where one was meant.
struct Found {
    app: Arc<App>,
    workload: Name,
    instance: Option<String>,
}

impl Node {
    /// Who is meant by `text` as the one that begins.
    pub(super) fn speaker(&self, text: &str) -> Result<Speaker, NodeError> {
        if text == "host" {
            return Ok(Speaker::Host);
        }
        if let Some(found) = self.find_workload(text, None)? {
            let ends = self.ends(&found);
            let meant = ends.into_iter().filter(|end| found.instance.as_ref().is_none_or(|key| *key == end.key));
            // One that can be asked, if there is one.
            let best = meant.min_by_key(|end| (!end.is_running, end.is_paused, !end.is_ready));
            let named =
                || format!("{}/{}", found.app.name, found.instance.as_deref().unwrap_or(found.workload.as_str()));
            let none = || End { name: named(), state: "without instances".to_owned(), ..End::default() };
            return Ok(Speaker::Container(self.seen_inside(best.unwrap_or_else(none))));
        }
        match self.containers.table.find(text) {
            Ok(container) => Ok(Speaker::Container(self.seen_inside(self.end_of(&container)))),
            Err(crate::table::LookupError::Ambiguous { .. }) => {
                Err(NodeError::Invalid(format!("{text} may be several containers: write more of its name or id")))
            }
            Err(_) => Err(NodeError::Invalid(format!(
                "nobody is called {text} here: write a service or instance ({}), a container, or `host` for this machine",
                listed(self.known_names())
            ))),
        }
    }

    /// Who is meant by what was asked for, seen from an app.
    pub(super) fn target(&self, asked: &Asked, from_app: Option<&str>) -> Result<Target, NodeError> {
        if let Some(path) = &asked.path {
            return Ok(Target::Route(self.route_facts(&asked.host, path)));
        }
        if let Ok(address) = asked.host.parse::<IpAddr>() {
            return Ok(self.target_at(address));
        }
        if let Some(found) = self.find_workload(&asked.host, from_app)? {
            return Ok(Target::Service(self.service_facts(&found)));
        }
        if let Ok(container) = self.containers.table.find(&asked.host) {
            return Ok(Target::Container(self.heard(self.end_of(&container))));
        }
        let route = self.route_facts(&asked.host, "/");
        if route.route.is_some() && asked.port.is_none_or(|port| route.listens.iter().any(|at| at.port() == port)) {
            return Ok(Target::Route(route));
        }
        Ok(Target::Name { name: asked.host.clone(), known: self.known_names() })
    }

    fn target_at(&self, address: IpAddr) -> Target {
        let network = &self.containers.network;
        let is = |own: Ipv4Addr| IpAddr::V4(own) == address || network.address6(own).map(IpAddr::V6) == Some(address);
        if network.gateway().is_some_and(is) || address.is_loopback() {
            return Target::Host(address);
        }
        let of_service = self.containers.traffic.each(|app, present| {
            let services = present.addresses.iter().filter(|(_, addresses)| addresses.contains(&address));
            services.map(|(service, _)| (app.clone(), service.clone())).collect()
        });
        let whole = |(app, workload): Member, instance: Option<String>| {
            let app = self.agent.get(app.as_str())?;
            Some(Target::Service(self.service_facts(&Found { app, workload, instance })))
        };
        if let Some(target) = of_service.into_iter().next().and_then(|member| whole(member, None)) {
            return target;
        }
        let all = self.containers.table.all();
        if let Some(container) = all.iter().find(|one| one.read(|record| record.address).is_some_and(is)) {
            let of_app = match &container.owner {
                Owner::App { app, workload, instance } => {
                    whole((app.clone(), workload.clone()), Some(instance.clone()))
                }
                Owner::AdHoc => None,
            };
            return of_app.unwrap_or_else(|| Target::Container(self.heard(self.end_of(container))));
        }
        let is_ours = match address {
            IpAddr::V4(address) => network.contains(address),
            IpAddr::V6(address) => network.subnet6().is_some_and(|subnet| subnet.ipv4(address).is_some()),
        };
        if is_ours { Target::Vacant(address) } else { Target::Address(address) }
    }

    /// `web`, `shop/web`, `web.shop`, `web-1`, `shop/web-1`, `0.web.shop`; `None`: nobody of an app.
    fn find_workload(&self, text: &str, from_app: Option<&str>) -> Result<Option<Found>, NodeError> {
        let text = text.strip_suffix(&format!(".{}", coppice_dns::DOMAIN)).unwrap_or(text);
        let in_app = |app: Arc<App>, name: &str| -> Option<Found> {
            let wanted = app.wanted();
            let (index, service) = match name.split_once('.') {
                Some((index, service)) => (Some(index.parse::<u32>().ok()?), service),
                None => (None, name),
            };
            if let Some((workload, _)) = wanted.spec().workloads().find(|(known, _)| known.as_str() == service) {
                let instance = index.map(|index| coppice_plan::instance_name(workload, index + 1));
                return Some(Found { workload: workload.clone(), instance, app });
            }
            let workload = app.workload_of(name)?;
            Some(Found { app, workload, instance: Some(name.to_owned()) })
        };
        if let Some((app, name)) = text.split_once('/') {
            return Ok(self.agent.get(app).and_then(|app| in_app(app, name)));
        }
        if let Some(found) = from_app.and_then(|app| in_app(self.agent.get(app)?, text)) {
            return Ok(Some(found));
        }
        let dotted = text.rsplit_once('.').and_then(|(name, app)| in_app(self.agent.get(app)?, name));
        if dotted.is_some() {
            return Ok(dotted);
        }
        let mut all: Vec<Found> = self.agent.all().into_iter().filter_map(|app| in_app(app, text)).collect();
        if all.len() > 1 {
            let apps = listed(all.iter().map(|found| format!("{}/{text}", found.app.name)).collect());
            return Err(NodeError::Invalid(format!("{text} may be several: write one of {apps}")));
        }
        Ok(all.pop())
    }

    fn known_names(&self) -> Vec<String> {
        let apps = self.agent.all();
        let of = apps.iter().flat_map(|app| {
            let wanted = app.wanted();
            wanted.spec().workloads().map(|(name, _)| format!("{}/{name}", app.name)).collect::<Vec<_>>()
        });
        of.collect()
    }

    /// All instances of what was found.
    fn ends(&self, found: &Found) -> Vec<End> {
        let status = view::app_status(&found.app);
        let mut all = Vec::new();
        children(&status.tree, &mut all);
        let of = all.into_iter().filter(|child| child.workload == found.workload.as_str());
        of.map(|child| {
            let container = self.containers.table.find(&format!("{}.{}", found.app.name, child.instance)).ok();
            let is_ready = self.containers.traffic.is_ready(&found.app.name, &found.workload, &child.instance);
            let network = found.app.wanted().spec().workload(found.workload.as_str()).map(|workload| workload.network);
            let phase = container.as_ref().map(|container| container.phase());
            End {
                name: format!("{}/{}", found.app.name, child.instance),
                key: child.instance.clone(),
                is_running: matches!(phase, Some(Phase::Running { .. })),
                is_paused: matches!(phase, Some(Phase::Running { paused: true, .. })),
                // Those without an address are told to nobody, and are ready all the same.
                is_ready: is_ready || (child.ready && network != Some(NetworkMode::Bridge)),
                state: match child.health {
                    HealthState::Unhealthy => "unhealthy".to_owned(),
                    HealthState::Starting => "not yet found well by its health check".to_owned(),
                    _ => child.state.clone(),
                },
                reason: child.reason.clone(),
                network: network.unwrap_or_default(),
                address: container.as_ref().and_then(|one| one.read(|record| record.address)),
                ..End::default()
            }
        })
        .collect()
    }

    /// A container of no app, or an instance that its app no longer knows.
    fn end_of(&self, container: &Container) -> End {
        let phase = container.phase();
        End {
            name: container.name(),
            key: container.name(),
            is_running: matches!(phase, Phase::Running { .. }),
            is_paused: matches!(phase, Phase::Running { paused: true, .. }),
            is_ready: phase.is_running(),
            state: match &phase {
                Phase::Created => "created, and never started".to_owned(),
                Phase::Starting => "starting".to_owned(),
                Phase::Running { .. } => "running".to_owned(),
                Phase::Exited { exit, lost, .. } => crate::container::exit_text(exit, *lost),
                Phase::Removed { .. } => "removed".to_owned(),
            },
            network: container.read(|record| record.spec.workload.network),
            address: container.read(|record| record.address),
            ..End::default()
        }
    }

    /// Those that run, on the bridge, of apps and of none.
    pub(super) fn running_ends(&self) -> Vec<End> {
        let all = self.containers.table.all();
        let running = all.iter().filter(|one| one.phase().pid().is_some());
        let ends = running.map(|one| {
            let end = self.end_of(one);
            match &one.owner {
                Owner::App { app, instance, .. } => {
                    End { name: format!("{app}/{instance}"), key: format!("{app}.{instance}"), ..end }
                }
                Owner::AdHoc => end,
            }
        });
        ends.filter(|end| end.network == NetworkMode::Bridge && end.address.is_some()).collect()
    }

    fn container_of(&self, end: &End) -> Option<Arc<Container>> {
        self.containers.table.find(&end.name).ok()
    }

    pub(super) fn pid_of(&self, end: &End) -> Option<u32> {
        self.container_of(end)?.phase().pid()
    }

    /// The app and workload it is of.
    pub(super) fn owner_of(&self, end: &End) -> Option<Member> {
        match &self.container_of(end)?.owner {
            Owner::App { app, workload, .. } => Some((app.clone(), workload.clone())),
            Owner::AdHoc => None,
        }
    }

    /// Where its hosts file and resolv.conf are.
    pub(super) fn etc_of(&self, end: &End) -> Option<PathBuf> {
        Some(self.root().container(&self.container_of(end)?.id).join("etc"))
    }

    /// With what is seen from its own network.
    fn seen_inside(&self, end: End) -> End {
        let Some(pid) = self.pid_of(&end).filter(|_| end.network == NetworkMode::Bridge) else { return end };
        let link =
            LinkName::new(LINK).ok().and_then(|name| inside::within(Some(pid), || link_now(&name).ok()).ok()??);
        let has_route = sockets::has_default_route(pid);
        // It may have ended meanwhile.
        let is_running = end.is_running && self.pid_of(&end) == Some(pid);
        End { link, has_route, is_running, ..end }
    }

    /// With where it listens.
    fn heard(&self, end: End) -> End {
        let listens = self.pid_of(&end).and_then(|pid| match end.network {
            // Everything of the host listens there, too.
            NetworkMode::Host | NetworkMode::None => None,
            NetworkMode::Bridge => sockets::listening(pid),
        });
        End { listens, ..end }
    }

    fn service_facts(&self, found: &Found) -> ServiceFacts {
        let wanted = found.app.wanted();
        let addresses = self.containers.traffic.virtual_addresses(&found.app.name, &found.workload);
        let headless = wanted.spec().services.get(&found.workload).is_some_and(|service| service.headless);
        let virtual_address = addresses.into_iter().find(IpAddr::is_ipv4).filter(|_| !headless);
        let balanced = self.containers.network.balanced().into_iter();
        let of_it = balanced.filter(|one| Some(IpAddr::V4(one.address)) == virtual_address);
        ServiceFacts {
            name: format!("{}/{}", found.app.name, found.workload),
            instance: found.instance.clone(),
            is_stopped: wanted.is_stopped(found.workload.as_str()),
            replicas: wanted.replicas(found.workload.as_str()),
            instances: self.ends(found).into_iter().map(|end| self.heard(end)).collect(),
            virtual_address,
            balanced: of_it.flat_map(|one| one.backends).collect(),
        }
    }

    /// `shop/web` as the state names it.
    pub(super) fn member(&self, name: &str) -> Option<Member> {
        let (app, workload) = name.split_once('/')?;
        Some((Name::new(app).ok()?, Name::new(workload).ok()?))
    }

    /// What `tls.peer` says; `None` where it says nothing.
    pub(super) fn peer_mode(&self, (app, service): &Member) -> Option<PeerTls> {
        let wanted = self.agent.get(app.as_str())?.wanted();
        let mode = wanted.spec().services.get(service)?.tls.as_ref()?.peer;
        (mode != PeerTls::Off).then_some(mode)
    }

    /// The port that is meant where none was written: published, asked by the health check, or the only one there is.
    pub(super) fn usual_port(&self, target: &Target) -> Option<u16> {
        let first = |end: &End| {
            let listens = end.listens.as_deref()?;
            let reached = listens.iter().find(|socket| !socket.ip().to_canonical().is_loopback());
            reached.or(listens.first()).map(SocketAddr::port)
        };
        match target {
            Target::Service(service) => {
                let (app, name) = self.member(&service.name)?;
                let wanted = self.agent.get(app.as_str())?.wanted();
                let spec = wanted.spec().services.get(&name);
                let published = spec.and_then(|spec| spec.ports.iter().find(|port| port.protocol == Protocol::Tcp));
                let probed = spec.and_then(|spec| match spec.health.as_ref()?.probe {
                    HealthProbe::Http { port, .. } | HealthProbe::Tcp { port } | HealthProbe::Grpc { port, .. } => {
                        Some(port)
                    }
                    HealthProbe::Exec { .. } | HealthProbe::Rpc { .. } | HealthProbe::Epmd { .. } => None,
                });
                let shown = || service.meant().find_map(first);
                published.map(|port| port.container).or(probed).or_else(shown)
            }
            Target::Container(end) => first(end),
            Target::Route(route) => route.listens.first().map(SocketAddr::port),
            _ => None,
        }
    }

    /// The name that is asked for from there, the name that would be right, and the right answers.
    pub(super) fn name_toward(
        &self,
        asked: &Asked,
        target: &Target,
        from: Option<&Member>,
    ) -> (String, Option<String>, Vec<IpAddr>) {
        let both = |address: Ipv4Addr| {
            [Some(IpAddr::V4(address)), self.containers.network.address6(address).map(IpAddr::V6)].into_iter().flatten()
        };
        let Target::Service(service) = target else { return (asked.host.clone(), None, Vec::new()) };
        let Some((app, name)) = self.member(&service.name) else { return (asked.host.clone(), None, Vec::new()) };
        let is_own = from.is_some_and(|(own, _)| *own == app);
        let short = service.instance.clone().unwrap_or_else(|| name.to_string());
        // Instances of other apps are known by their number.
        let number = service.instance.as_ref().and_then(|key| key.rsplit_once('-')?.1.parse::<u32>().ok());
        let right = match (is_own, number) {
            (true, _) => short.clone(),
            (false, Some(number)) => format!("{}.{name}.{app}", number.saturating_sub(1)),
            (false, None) => format!("{name}.{app}"),
        };
        let name = if asked.host.contains('/') { right.clone() } else { asked.host.clone() };
        let expected: Vec<IpAddr> = match (&service.instance, service.virtual_address) {
            (None, Some(IpAddr::V4(address))) => both(address).collect(),
            _ => service.meant().filter_map(|one| one.address).flat_map(both).collect(),
        };
        let known_as = (name != right).then_some(right);
        (name, known_as, expected)
    }

    fn route_facts(&self, host: &str, path: &str) -> RouteFacts {
        let traffic = &self.containers.traffic;
        let specs: Vec<Arc<crate::app::Wanted>> = traffic.each(|_, present| vec![present.wanted.clone()]);
        let entries = specs.iter().flat_map(|app| routes_of(app.spec()));
        let table = RouteTable::new(entries.collect()).ok();
        let found = table.as_ref().and_then(|table| table.find(host, path, "GET", |_, _| false));
        let mut backends = Vec::new();
        if let Some(entry) = found {
            let (app, service) = &entry.value;
            let of_proxy = traffic.metrics().0.unwrap_or_default().backends;
            let known = of_proxy.into_iter().filter(|one| one.app == *app && one.service == *service);
            backends.extend(known.map(|one| {
                let open = coppice_proxy::BreakerState::Open;
                let state = match () {
                    () if one.draining => Err("being stopped"),
                    () if !one.ready => Err("not ready"),
                    () if one.ejected => Err("ejected for its failures"),
                    () if one.breaker == open => Err("behind an open circuit breaker"),
                    () => Ok(()),
                };
                (one.instance, state.map_err(str::to_owned))
            }));
        }
        let hosts: BTreeMap<&String, ()> = table
            .iter()
            .flat_map(|table| table.entries())
            .flat_map(|entry| entry.spec.hosts.iter().map(|host| (host, ())))
            .collect();
        RouteFacts {
            host: host.to_owned(),
            path: path.to_owned(),
            listens: traffic.addresses(),
            route: found.map(|entry| entry.name.clone()),
            hosts: hosts.into_keys().cloned().collect(),
            backends,
        }
    }
}

fn routes_of(spec: &AppSpec) -> Vec<TableEntry<Member>> {
    let of = spec.services.iter().flat_map(|(name, service)| {
        service.routes.iter().map(move |route| TableEntry {
            name: format!("{}/{name}/{}", spec.name, route.name),
            spec: route.clone(),
            value: (spec.name.clone(), name.clone()),
        })
    });
    of.collect()
}

fn children<'s>(tree: &'s SupervisorStatus, into: &mut Vec<&'s ChildStatus>) {
    into.extend(&tree.children);
    tree.groups.iter().for_each(|group| children(group, into));
}

fn listed(names: Vec<String>) -> String {
    if names.is_empty() { "there are none".to_owned() } else { names.join(", ") }
}
