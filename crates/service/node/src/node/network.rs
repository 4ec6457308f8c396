//! The network as it is: the bridge, and every service as others reach it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coppice_api::{
    BackendNetwork, BreakerState, BridgeStatus, CertificateNetwork, InstanceNetwork, NetworkStatus, RouteNetwork,
    ServiceNetwork,
};
use coppice_base::{Name, Timestamp};
use coppice_network::RulesNow;
use coppice_proxy::BackendSnapshot;
use coppice_spec::{PathMatch, PeerTls, ServiceSpec};
use coppice_state::State;

use super::Node;
use crate::container::port_detail;
use crate::doctor::FastPathState;
use crate::ingress::covers;
use crate::traffic::Present;

/// What is looked up for every service.
struct Around {
    backends: Vec<BackendSnapshot>,
    /// By domain.
    certificates: BTreeMap<String, Timestamp>,
    state: std::sync::Arc<State>,
}

impl Node {
    /// Blocking: asks the kernel about the bridge and its rules.
    pub fn network_status(&self) -> NetworkStatus {
        let traffic = &self.containers.traffic;
        let around = Around {
            backends: traffic.metrics().0.unwrap_or_default().backends,
            certificates: crate::metrics::certificates(&self.containers)
                .into_iter()
                .map(|one| (one.domain, one.not_after))
                .collect(),
            state: self.log.read(),
        };
        let services = traffic.each(|app, present| {
            let each = present.spec().services.iter();
            each.map(|(name, service)| self.service_network(app, name, service, present, &around)).collect()
        });
        NetworkStatus {
            bridge: self.bridge_status(),
            uplinks: uplinks(&std::fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default()),
            proxy: traffic.addresses().iter().map(ToString::to_string).collect(),
            services,
        }
    }

    fn bridge_status(&self) -> Option<BridgeStatus> {
        let network = &self.containers.network;
        let (bridge, survey) = (network.on_bridge()?, network.survey()?.ok());
        let fast_path_reason = match network.fast_path_state() {
            FastPathState::InForce => None,
            FastPathState::Loading => Some("its programs are being loaded"),
            FastPathState::NotWanted => Some("[network] bpf = false"),
            FastPathState::Hooked => Some("bridged frames pass IP's hooks (br_netfilter)"),
            FastPathState::Refused => Some("the kernel did not take it, or it failed: see the daemon's log"),
        };
        Some(BridgeStatus {
            name: bridge.name,
            up: survey.as_ref().and_then(|survey| survey.link).is_some_and(|link| link.is_raised),
            subnet: network.subnet(),
            gateway: bridge.gateway.to_string(),
            subnet6: network.subnet6().map(|subnet| subnet.to_string()),
            gateway6: bridge.gateway6.map(|gateway| gateway.to_string()),
            rules: match survey.map(|survey| survey.rules) {
                Some(RulesNow::Intact) => "intact",
                Some(RulesNow::Changed) => "changed",
                Some(RulesNow::Missing) => "missing",
                None => "unknown",
            }
            .to_owned(),
            fast_path: fast_path_reason.is_none(),
            fast_path_reason: fast_path_reason.map(str::to_owned),
            names: self.containers.traffic.has_names(),
        })
    }

    fn service_network(
        &self,
        app: &Name,
        name: &Name,
        service: &ServiceSpec,
        present: &Present,
        around: &Around,
    ) -> ServiceNetwork {
        let instances = present.instances.get(name).map_or(&[][..], Vec::as_slice).iter().map(|here| {
            let both = [Some(IpAddr::V4(here.address)), self.containers.network.address6(here.address).map(IpAddr::V6)];
            InstanceNetwork {
                instance: here.instance.clone(),
                addresses: both.into_iter().flatten().map(|address| address.to_string()).collect(),
                ready: here.ready,
                leaving: here.leaving,
            }
        });
        let virtual_addresses = present.addresses.get(name).filter(|_| !service.headless).into_iter().flatten();
        let backends: Vec<BackendNetwork> = around
            .backends
            .iter()
            .filter(|one| one.app == *app && one.service == *name)
            .map(|one| BackendNetwork {
                instance: one.instance.clone(),
                address: one.address.to_string(),
                ready: one.ready,
                draining: one.draining,
                ejected: one.ejected,
                breaker: match one.breaker {
                    coppice_proxy::BreakerState::Closed => BreakerState::Closed,
                    coppice_proxy::BreakerState::Open => BreakerState::Open,
                    coppice_proxy::BreakerState::HalfOpen => BreakerState::HalfOpen,
                },
            })
            .collect();
        let routes = service.routes.iter().map(|route| RouteNetwork {
            name: route.name.clone(),
            hosts: route.hosts.clone(),
            path: match &route.path {
                PathMatch::Exact(path) => format!("={path}"),
                PathMatch::Prefix(path) => path.clone(),
            },
            backends: backends.clone(),
        });
        let domains = service.tls.iter().flat_map(|tls| &tls.domains);
        let expiry = |domain: &String| {
            let shown = around.certificates.iter().find(|(of, _)| *of == domain || covers(of, domain));
            CertificateNetwork { domain: domain.clone(), not_after: shown.map(|(_, not_after)| *not_after) }
        };
        ServiceNetwork {
            app: app.clone(),
            service: name.clone(),
            virtual_addresses: virtual_addresses.map(ToString::to_string).collect(),
            headless: service.headless,
            names: vec![name.to_string(), format!("{name}.{app}"), format!("{name}.{app}.{}", coppice_dns::DOMAIN)],
            instances: instances.collect(),
            ports: self.containers.network.ports_of(&format!("{app}/{name}")).iter().map(port_detail).collect(),
            routes: routes.collect(),
            denied: denied(&around.state, app, name),
            peer_tls: match service.tls.as_ref().map(|tls| tls.peer).unwrap_or_default() {
                PeerTls::Off => "off",
                PeerTls::Warn => "warn",
                PeerTls::Require => "require",
            }
            .to_owned(),
            certificates: domains.map(expiry).collect(),
        }
    }
}

/// Who may not connect to a service.
fn denied(state: &State, app: &Name, service: &Name) -> Vec<String> {
    let mut denied = Vec::new();
    for (from, wanted) in state.apps() {
        let speakers =
            wanted.spec().workloads().filter(|(name, _)| !state.may_speak(Some((from, name)), (app, service)));
        denied.extend(speakers.map(|(name, _)| format!("{from}/{name}")));
    }
    if !state.may_speak(None, (app, service)) {
        denied.push("others".to_owned());
    }
    denied
}

/// Links with a default route, of the kernel's list (`/proc/net/route`: link, destination, gateway, flags, …).
fn uplinks(text: &str) -> Vec<String> {
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = rows.filter(|row| row.get(1) == Some(&"00000000") && row.get(7) == Some(&"00000000"));
    let mut links: Vec<String> = default.filter_map(|row| row.first().map(|link| (*link).to_owned())).collect();
    links.dedup();
    links
}

#[cfg(test)]
mod tests {
    use super::uplinks;

    #[test]
    fn links_with_a_default_route_are_uplinks() {
        let text = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                    eth0 00000000 010011AC 0003 0 0 0 00000000 0 0 0\n\
                    eth0 00000000 010011AC 0003 0 0 9 00000000 0 0 0\n\
                    wg0 00000000 00000000 0001 0 0 0 00000080 0 0 0\n\
                    cop1 0000580A 00000000 0001 0 0 0 0000FFFF 0 0 0\n";
        assert_eq!(uplinks(text), ["eth0"]);
        assert_eq!(uplinks(""), Vec::<String>::new());
    }
}
