//! Virtual addresses of services: which one each has here, and what the bridge balances to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use coppice_base::Name;
use coppice_network::{LinkName, Policy, TrafficClass, TrafficClasses, VirtualService};
use coppice_spec::NetworkPriority;

use crate::containers::Containers;
use crate::network::Work;
use crate::traffic::Present;

impl Containers {
    /// Virtual addresses of `app`'s services, IPv4 first; none of those that have none, or before there is a bridge.
    pub(crate) fn virtual_addresses(&self, app: &coppice_state::App) -> BTreeMap<Name, Vec<IpAddr>> {
        let addresses = app.addresses.iter().filter_map(|(service, address)| {
            let (address, address6) = self.network.virtual_address(*address)?;
            let both = [Some(IpAddr::V4(address)), address6.map(IpAddr::V6)];
            Some((service.clone(), both.into_iter().flatten().collect()))
        });
        addresses.collect()
    }

    /// Answers names where containers run already: a daemon that returns need not wait for one to start.
    pub(crate) fn serve_names(&self) {
        if let Some(bridge) = self.network.on_bridge() {
            self.traffic.serve_names(bridge.gateway, self.network.prefix(), bridge.gateway6);
        }
    }

    /// `app` has this now. An address is guarded before it leads anywhere, and leads somewhere before its name is told.
    pub(crate) fn present(&self, app: &Name, present: Present) {
        let is_new = self.traffic.note(app, present);
        self.refresh_peers();
        if is_new {
            self.balance();
            self.traffic.tell();
        }
        self.refresh_fast_path();
    }

    /// `app` is no more.
    pub(crate) fn absent(&self, app: &Name) {
        self.traffic.remove(app);
        self.balance();
        self.refresh_fast_path();
    }

    fn balance(&self) {
        let mut services = self.traffic.each(|_, present| balanced(present));
        services.extend(self.untold());
        services.sort();
        if let Err(error) = self.network.balance(services) {
            tracing::warn!(%error, "virtual addresses lead where they led before");
        }
    }

    /// What an earlier daemon had balanced to, of apps that have not told this one what they have.
    fn untold(&self) -> Vec<VirtualService> {
        let Some(state) = self.policies.state() else { return self.network.balanced() };
        let untold = state.apps().filter(|(name, _)| !self.traffic.has(name));
        let addresses: BTreeSet<IpAddr> =
            untold.flat_map(|(_, app)| self.virtual_addresses(app).into_values().flatten()).collect();
        let mut kept = self.network.balanced();
        kept.retain(|service| addresses.contains(&IpAddr::V4(service.address)));
        kept
    }

    /// Tells the network's fast path who is where. Nothing before the state is known.
    fn refresh_fast_path(&self) {
        if let Some(policy) = self.policy() {
            self.tell_fast_path(policy);
        }
    }

    /// Nothing before there is a bridge.
    pub(crate) fn tell_fast_path(&self, policy: Policy) {
        if !self.network.has_bridge() {
            return;
        }
        // One that only starts has no link yet.
        let endpoints = self.table.all().into_iter().filter(|container| container.phase().pid().is_some());
        let endpoints = endpoints.filter_map(|container| {
            let home = container.read(|record| record.home.clone())?;
            Some((home.address, LinkName::new(home.link).ok()?))
        });
        let mut services = self.network.balanced();
        // Rules send connections to these elsewhere, and the fast path does not see rules.
        let guarded = self.traffic.peers().guarded();
        services.retain(|service| !guarded.contains(&IpAddr::V4(service.address)));
        let classes = self.classes();
        let names = self.traffic.kernel_names();
        self.network.tell_fast_path(Work {
            policy,
            services,
            classes,
            endpoints: endpoints.collect(),
            names,
            ..Work::default()
        });
    }

    /// Of containers that run or are about to.
    pub(crate) fn classes(&self) -> TrafficClasses {
        let classes = self.table.all().into_iter().filter_map(|container| {
            container.read(|record| {
                let class = match record.spec.workload.network_priority {
                    NetworkPriority::High => TrafficClass::High,
                    NetworkPriority::Low => TrafficClass::Low,
                    NetworkPriority::Normal => return None,
                };
                Some((record.address?, class))
            })
        });
        classes.collect()
    }
}

/// What connections to an app's services are balanced to: instances that are ready and stay.
fn balanced(present: &Present) -> Vec<VirtualService> {
    let services = present.addresses.iter().filter_map(|(service, addresses)| {
        let address = addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })?;
        let backends =
            present.own(service.as_str()).filter(|one| one.ready && !one.leaving).map(|one| one.address).collect();
        Some(VirtualService { address, backends })
    });
    services.collect()
}
