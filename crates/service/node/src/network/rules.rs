//! What the bridge carries out beside published ports: policy and virtual addresses. Kept in a file, so that a daemon that
//! returns goes on with them from its first moment, and nothing is open meanwhile that was closed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coppice_bpf::BridgeInfo;
use coppice_network::{Beyond, Drops, LinkName, Policy, Published, StaleDatagrams, TrafficClasses, VirtualService};
use coppice_state::ServiceAddress;
use serde::{Deserialize, Serialize};

use super::fast_path::Led;
use super::{NetworkError, NodeNetwork, Routes, Work, rules_file};
use crate::root::replace_file;

/// Between two readings of all that the kernel tracks, which takes 40 ms of a processor.
const FORGET_PAUSE: Duration = Duration::from_millis(500);

/// Flows that a thread is about to have the kernel forget.
#[derive(Default)]
pub(super) struct Forgetting {
    next: Option<StaleDatagrams>,
    last: Option<Instant>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    pub(super) policy: Policy,
    pub(super) services: Vec<VirtualService>,
    #[serde(default)]
    pub(super) classes: TrafficClasses,
}

impl Rules {
    /// Those a daemon before this one kept; none where it kept none.
    pub(super) fn kept(file: &Path) -> Self {
        std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn keep(&self, file: &Path) {
        let written = serde_json::to_vec(self).map_err(std::io::Error::other);
        if let Err(error) = written.and_then(|bytes| replace_file(file, &bytes)) {
            tracing::warn!(%error, "cannot keep the network's rules: the next daemon begins without them");
        }
    }
}

impl NodeNetwork {
    /// Has the bridge enforce this; before there is one, as soon as there is. Nothing happens when it does already.
    pub(crate) fn enforce(&self, policy: Policy) -> Result<(), NetworkError> {
        let mut rules = self.rules.lock().expect("no panic holds this lock");
        if rules.policy == policy {
            return Ok(());
        }
        self.on_the_bridge(|bridge| bridge.set_policy(&policy))?;
        rules.policy = policy;
        rules.keep(&rules_file(&self.kept));
        Ok(())
    }

    /// Has what these containers send beyond the machine wait in its class, in the same way.
    pub(crate) fn classify(&self, classes: TrafficClasses) -> Result<(), NetworkError> {
        let mut rules = self.rules.lock().expect("no panic holds this lock");
        if rules.classes == classes {
            return Ok(());
        }
        self.on_the_bridge(|bridge| bridge.set_classes(&classes))?;
        rules.classes = classes;
        rules.keep(&rules_file(&self.kept));
        Ok(())
    }

    /// Has the bridge balance connections to these virtual addresses, in the same way.
    pub(crate) fn balance(&self, services: Vec<VirtualService>) -> Result<(), NetworkError> {
        let mut rules = self.rules.lock().expect("no panic holds this lock");
        if rules.services == services {
            return Ok(());
        }
        let mut stale = None;
        self.on_the_bridge(|bridge| bridge.set_services(&services).map(|flows| stale = flows))?;
        if let Some(stale) = stale {
            self.forget_soon(stale);
        }
        rules.services = services;
        rules.keep(&rules_file(&self.kept));
        Ok(())
    }

    /// Has a thread forget these flows; of several that wait, the last stands for all. The first is forgotten at once, and
    /// while instances come and go, one after the other, the kernel's whole table is not read for each.
    fn forget_soon(&self, stale: StaleDatagrams) {
        let waiting = Arc::clone(&self.stale);
        let since = {
            let mut waiting = waiting.lock().expect("no panic holds this lock");
            if waiting.next.replace(stale).is_some() {
                return;
            }
            waiting.last.map(|last| last.elapsed())
        };
        let forget = move || {
            std::thread::sleep(since.map_or(Duration::ZERO, |since| FORGET_PAUSE.saturating_sub(since)));
            // While one is forgotten another may come: it has a thread of its own then.
            let stale = {
                let mut waiting = waiting.lock().expect("no panic holds this lock");
                waiting.last = Some(Instant::now());
                waiting.next.take()
            };
            if let Some(Err(error)) = stale.map(|stale| stale.forget()) {
                tracing::warn!(%error, "datagrams may go to an instance that has left, until their senders pause");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("datagrams".to_owned()).spawn(forget) {
            self.stale.lock().expect("no panic holds this lock").next = None;
            tracing::warn!(%error, "datagrams may go to an instance that has left, until their senders pause");
        }
    }

    /// What connections are balanced to.
    pub(crate) fn balanced(&self) -> Vec<VirtualService> {
        self.rules.lock().expect("no panic holds this lock").services.clone()
    }

    /// Has the fast path work by this, where there is one.
    pub(crate) fn tell_fast_path(&self, mut wanted: Work) {
        let Some(joined) = self.bridge.get() else { return };
        let Ok(name) = LinkName::new(self.bridge_name()) else { return };
        if self.bpf && !self.is_hooked() {
            let bridge = BridgeInfo { name, subnet: joined.subnet, subnet6: joined.subnet6 };
            // Locked until it is told: what is told last is what holds.
            let routed = self.routed.lock().expect("no panic holds this lock");
            wanted.led = self.led(&routed);
            self.fast_path.tell(&bridge, wanted);
        } else {
            self.fast_path.refuse(&name);
        }
    }

    /// Has the fast path lead the ports that are routed now, by the links and addresses that the machine has now.
    pub(crate) fn lead_ports(&self) {
        if self.xdp {
            self.lead(&self.routed.lock().expect("no panic holds this lock"));
        }
    }

    pub(super) fn lead(&self, routed: &BTreeMap<String, Routes>) {
        if self.xdp {
            self.fast_path.lead(self.led(routed));
        }
    }

    /// Nothing where the links cannot be read: the rules lead what is published.
    fn led(&self, routed: &BTreeMap<String, Routes>) -> Led {
        if !self.xdp {
            return Led::default();
        }
        let mut index = 0;
        let looked = self.on_the_bridge(|bridge| {
            index = bridge.index();
            Ok(())
        });
        let beyond = match looked.and_then(|()| Ok(Beyond::look(index)?)) {
            Ok(beyond) => beyond,
            Err(error) => {
                tracing::warn!(%error, "published ports are left to the network's rules");
                return Led::default();
            }
        };
        let ports = routed.values().flatten();
        let published = ports.map(|(key, backends)| Published { key: *key, backends: backends.clone() }).collect();
        Led { published, beyond }
    }

    pub(crate) fn has_bridge(&self) -> bool {
        self.bridge.get().is_some()
    }

    /// Bits of the subnet; 0 without a bridge.
    pub(crate) fn prefix(&self) -> u8 {
        self.bridge.get().map_or(0, |joined| joined.subnet.prefix())
    }

    /// Whether rules see packets before the bridge's own device does: what rules redirect does not come by it then.
    pub(super) fn is_hooked(&self) -> bool {
        let mut hooked = false;
        let looked = self.on_the_bridge(|bridge| {
            hooked = bridge.is_hooked();
            Ok(())
        });
        looked.is_err() || hooked
    }

    /// Takes the fast path off where it has come to see half of what happens.
    pub(crate) fn follow_hooks(&self) {
        if self.is_hooked()
            && let Ok(name) = LinkName::new(self.bridge_name())
        {
            self.fast_path.refuse(&name);
        }
    }

    /// What the fast path counted; `None` where there is none.
    pub(crate) fn counted(&self) -> Option<coppice_bpf::Metrics> {
        self.fast_path.metrics()
    }

    fn on_the_bridge(
        &self,
        act: impl FnOnce(&mut coppice_network::Bridge) -> Result<(), coppice_network::NetworkError>,
    ) -> Result<(), NetworkError> {
        let Some(joined) = self.bridge.get() else { return Ok(()) };
        match joined.bridge.lock().expect("no panic holds this lock").as_mut() {
            Some(bridge) => Ok(act(bridge)?),
            None => Ok(()),
        }
    }

    /// Packets that the policy has dropped, by pair.
    pub(crate) fn drops(&self) -> Result<Drops, NetworkError> {
        let mut drops = Drops::default();
        self.on_the_bridge(|bridge| {
            drops = bridge.drops()?;
            Ok(())
        })?;
        Ok(drops)
    }

    /// A service's virtual address here, and the IPv6 one that belongs to it; `None` without a bridge, and in a subnet
    /// that is too small for it.
    pub(crate) fn virtual_address(&self, service: ServiceAddress) -> Option<(Ipv4Addr, Option<Ipv6Addr>)> {
        let joined = self.bridge.get()?;
        let range = joined.subnet.services();
        // The first is the range's own name, and the last may be the bridge's broadcast address.
        let address = Ipv4Addr::from_bits(range.network().to_bits().checked_add(service.0)?.checked_add(1)?);
        let fits = range.contains(address) && address != range.broadcast();
        fits.then(|| (address, self.address6(address)))
    }
}
