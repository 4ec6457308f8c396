//! The names and published ports that lead to an app's instances.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use coppice_base::Name;
use coppice_spec::PortSpec;

use super::tree::revision;
use super::{App, Wanted, instances_of, workload_of};
use crate::container::Container;
use crate::network::Names;
use crate::root::replace_file;
use crate::traffic::{Here, Present};

/// Refreshes of what leads to an app: one at a time, and one that begins after several were asked for serves them all.
#[derive(Default)]
pub(super) struct Refreshes {
    asked: AtomicU64,
    /// How many of those asked for are served.
    served: tokio::sync::Mutex<u64>,
}

impl App {
    pub(super) fn port_owner(&self, service: &Name) -> String {
        format!("{}/{service}", self.name)
    }

    /// Claims the services' host ports; those chosen by the node are kept, so that they stay the same.
    pub(super) fn claim_ports(&self, wanted: &Wanted) {
        let spec = wanted.spec();
        let mut ports = self.ports.lock().expect("no panic holds this lock");
        let before = ports.clone();
        ports.retain(|service, _| {
            let keep = spec.services.get(service).is_some_and(|s| !s.ports.is_empty());
            if !keep {
                self.containers.network.release_ports(&self.port_owner(service));
            }
            keep
        });
        for (name, service) in spec.services.iter().filter(|(_, service)| !service.ports.is_empty()) {
            let asked = with_known_ports(&service.ports, ports.get(name));
            match self.containers.network.claim_ports(&self.port_owner(name), &asked) {
                Ok(chosen) => {
                    ports.insert(name.clone(), chosen);
                }
                Err(error) => {
                    ports.remove(name);
                    self.tell("fail", &format!("service {name} is not published: {error}"));
                }
            }
        }
        if *ports != before {
            let path = self.containers.root.app(self.name.as_str()).join("ports.json");
            let kept = serde_json::to_vec(&*ports).map_err(std::io::Error::other);
            if let Err(error) = kept.and_then(|bytes| replace_file(&path, &bytes)) {
                tracing::warn!(app = %self.name, %error, "cannot keep the chosen ports");
            }
        }
    }

    /// The first TCP port that the image of each service exposes, where the service publishes none and has routes.
    fn image_ports(&self, wanted: &Wanted) -> BTreeMap<Name, u16> {
        let routed = wanted.spec().services.iter().filter(|(_, service)| service.ports.is_empty());
        let port = routed.filter_map(|(name, service)| {
            let image = self.containers.images.resolve(&service.workload.image).ok().flatten()?;
            let ports = image.config.exposed_ports.iter().filter(|port| !port.ends_with("/udp"));
            let first = ports.filter_map(|port| port.trim_end_matches("/tcp").parse().ok()).min()?;
            Some((name.clone(), first))
        });
        if wanted.spec().services.values().all(|service| service.routes.is_empty()) {
            return BTreeMap::new();
        }
        port.collect()
    }

    /// Resolves when the proxy has nothing under way at an instance that is to be stopped, or after its stop timeout.
    pub(super) async fn drained(&self, instance: &str) {
        let wanted = self.wanted();
        let Some(workload) = workload_of(wanted.spec(), instance) else { return };
        let Some(service) = wanted.spec().services.get(&workload) else { return };
        let patience = service.workload.stop_timeout.0;
        let container = self.view(instance).container;
        let endpoint = container.map_or_else(|| instance.to_owned(), |c| c.read(|record| record.endpoint()));
        self.containers.traffic.drained(&self.name, &workload, &endpoint, patience).await;
    }

    /// Points names and published ports at the instances that are ready (or, where none is, those that run).
    pub(crate) async fn refresh_network(&self) {
        let mine = self.refreshes.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.refreshes.served.lock().await;
        if *served < mine {
            // Before anything is read: who asks from now on may have changed what was.
            let asked = self.refreshes.asked.load(Ordering::SeqCst);
            self.refresh_once();
            *served = asked;
        }
    }

    /// What the hosts files of the app say now.
    pub(super) fn names(&self) -> Arc<Names> {
        self.names.lock().expect("no panic holds this lock").clone()
    }

    fn refresh_once(&self) {
        let wanted = self.wanted();
        let mut names = Names::new();
        let mut weights = BTreeMap::new();
        let mut instances: BTreeMap<Name, Vec<Here>> = BTreeMap::new();
        let mut ready_of: BTreeMap<Name, Vec<Ipv4Addr>> = BTreeMap::new();
        for (name, _) in wanted.spec().workloads() {
            let (mut ready, mut up) = (Vec::new(), Vec::new());
            let weight = self.candidates.weight(name);
            let newest = weight.map(|_| revision(wanted.current(), name));
            let fresh = |container: &Container| {
                newest.as_ref().is_some_and(|newest| container.read(|record| record.revision == *newest))
            };
            for (index, instance) in (0..).zip(instances_of(&wanted, name)) {
                let slots = self.slots();
                let Some(slot) = slots.get(&instance) else { continue };
                let Some(container) = slot.container.clone().filter(|c| c.phase().is_running()) else { continue };
                let Some(address) = container.read(|record| record.address) else { continue };
                up.push(address);
                if slot.ready {
                    ready.push(address);
                }
                let leaving = slot.stop.as_ref().is_some_and(|stop| *stop.borrow());
                let here = Here {
                    instance: instance.clone(),
                    key: container.read(|record| record.endpoint()),
                    index,
                    address,
                    ready: slot.ready,
                    leaving,
                    beside: false,
                    fresh: weight.is_some() && fresh(&container),
                };
                instances.entry(name.clone()).or_default().push(here);
                if instance != name.as_str() {
                    names.insert(instance, vec![address]);
                }
            }
            for one in self.candidates.beside(name) {
                let Some(address) = one.container.read(|record| record.address) else { continue };
                if !one.container.phase().is_running() {
                    continue;
                }
                let is_fresh = fresh(&one.container);
                if one.leaving || (weight.is_some() && is_fresh) {
                    let here = Here {
                        instance: one.instance.clone(),
                        key: one.container.read(|record| record.endpoint()),
                        index: 0,
                        address,
                        ready: one.ready,
                        leaving: one.leaving,
                        beside: true,
                        fresh: is_fresh,
                    };
                    instances.entry(name.clone()).or_default().push(here);
                }
            }
            if let Some(weight) = weight {
                weights.insert(name.clone(), weight);
            }
            let answers = if ready.is_empty() { up } else { ready.clone() };
            if !answers.is_empty() {
                names.insert(name.to_string(), answers);
            }
            ready_of.insert(name.clone(), ready);
        }
        for name in wanted.spec().services.keys().filter(|name| !self.ports(name).is_empty()) {
            let ready = ready_of.get(name).map_or(&[][..], Vec::as_slice);
            if let Err(error) = self.containers.network.route(&self.port_owner(name), ready) {
                tracing::warn!(app = %self.name, service = %name, %error, "cannot publish its ports");
            }
        }
        let addresses = self.containers.virtual_addresses(&wanted);
        for (name, addresses) in &addresses {
            let of_hosts = addresses.iter().filter_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            });
            names.insert(name.to_string(), of_hosts.collect());
        }
        let image_ports = self.image_ports(&wanted);
        self.containers
            .present(&self.name, Present { wanted: wanted.clone(), instances, weights, image_ports, addresses });
        if *self.names() != names {
            let names = Arc::new(names);
            // First: one that has started meanwhile sees them, or is among those that run.
            *self.names.lock().expect("no panic holds this lock") = names.clone();
            let running = self.every_container().into_iter().filter(|container| container.phase().is_running());
            running.for_each(|container| self.containers.refresh_hosts(&container, &names));
        }
    }
}

/// The asked ports, with a host port of 0 filled in from what was chosen before.
fn with_known_ports(asked: &[PortSpec], known: Option<&Vec<PortSpec>>) -> Vec<PortSpec> {
    let fill = |port: &PortSpec| {
        let same = |old: &&PortSpec| {
            (old.host_ip, old.container, old.protocol) == (port.host_ip, port.container, port.protocol)
        };
        let before = known.into_iter().flatten().find(same).map(|old| old.host);
        PortSpec { host: if port.host == 0 { before.unwrap_or(0) } else { port.host }, ..*port }
    };
    asked.iter().map(fill).collect()
}
