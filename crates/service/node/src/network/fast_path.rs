//! The network's fast path: BPF programs on the bridge, where the kernel takes them. They do before the rules of nftables
//! what these do, faster, answer questions for names in the name server's place, and count who speaks to whom. Rules and
//! server stay behind them, so nothing depends on this: where a call fails, the programs are taken off.
//!
//! It refuses bridges whose frames pass IP's hooks (`br_netfilter`): rules redirect packets there before the bridge's own
//! device has seen them, and the programs would see answers to what nobody asked.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use coppice_bpf::{BpfError, BridgeInfo, Dataplane, Endpoint, Metrics, Settings};
use coppice_network::{Beyond, LinkName, Policy, Published, TrafficClasses, VirtualService};

use crate::doctor::FastPathState;
use crate::names::KernelNames;

/// What the programs work by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Policy with all members, denied pairs or not: members are counted by.
    pub(crate) policy: Policy,
    /// Those that nothing redirects.
    pub(crate) services: Vec<VirtualService>,
    pub(crate) classes: TrafficClasses,
    /// Containers that run, and the host's ends of their links.
    pub(crate) endpoints: BTreeMap<Ipv4Addr, LinkName>,
    /// Answered in the name server's place; `None`: those of before.
    pub(crate) names: Option<Arc<KernelNames>>,
    pub(crate) led: Led,
}

/// Published ports that are led into containers before the kernel's stack, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Led {
    pub(crate) published: Vec<Published>,
    pub(crate) beyond: Beyond,
}

pub(crate) struct FastPath {
    folder: PathBuf,
    /// Lead published ports, too.
    ports: bool,
    state: Mutex<State>,
}

enum State {
    /// Nobody has asked for it.
    Idle,
    /// The kernel is looking at the programs; this is what they are to work by.
    Loading(Box<Work>),
    Running(Box<Running>),
    /// It cannot be had, is not wanted, or was taken off.
    Off,
}

struct Running {
    dataplane: Dataplane,
    /// What they work by; `None`: whatever an earlier daemon told them.
    wanted: Option<Work>,
}

impl FastPath {
    /// `folder` is its own. Not `wanted`: what an earlier daemon attached is taken off with [`tell`](Self::tell).
    pub(crate) fn new(folder: PathBuf, ports: bool) -> Arc<Self> {
        Arc::new(Self { folder, ports, state: Mutex::new(State::Idle) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }

    /// Has the programs work by this; the first time, they are loaded in a thread of its own: the kernel takes a while to
    /// look at them.
    pub(crate) fn tell(self: &Arc<Self>, bridge: &BridgeInfo, wanted: Work) {
        let mut state = self.state();
        match &mut *state {
            State::Off => {}
            State::Loading(next) => **next = wanted,
            State::Running(running) => {
                if let Err(error) = running.work_by(wanted) {
                    let off = std::mem::replace(&mut *state, State::Off);
                    drop(state);
                    give_up(off, &error);
                }
            }
            State::Idle => {
                *state = State::Loading(Box::new(wanted));
                drop(state);
                let (path, bridge) = (self.clone(), bridge.clone());
                let thread = std::thread::Builder::new().name("fast path".into());
                coppice_linux::keep_large_blocks_apart();
                let load = move || {
                    path.load(&bridge);
                    coppice_linux::return_idle_memory();
                };
                if let Err(error) = thread.spawn(load) {
                    tracing::warn!(%error, "the network goes without its fast path");
                    *self.state() = State::Off;
                }
            }
        }
    }

    /// Has the programs lead these ports, if there are programs that work.
    pub(crate) fn lead(&self, led: Led) {
        let mut state = self.state();
        match &mut *state {
            State::Idle | State::Off => {}
            State::Loading(next) => next.led = led,
            State::Running(running) => {
                let Some(wanted) = running.wanted.clone().filter(|wanted| wanted.led != led) else { return };
                if let Err(error) = running.work_by(Work { led, ..wanted }) {
                    let off = std::mem::replace(&mut *state, State::Off);
                    drop(state);
                    give_up(off, &error);
                }
            }
        }
    }

    /// It is not wanted, or cannot work here: takes it off, that of an earlier daemon too.
    pub(crate) fn refuse(&self, bridge: &LinkName) {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Off) {
            State::Off => {}
            // Whoever loads it finds that it is off.
            State::Loading(_) => {}
            State::Idle if !self.folder.exists() => {}
            State::Idle => self.remove_of(bridge),
            State::Running(_) => {
                tracing::info!("the network goes without its fast path from here on");
                self.remove_of(bridge);
            }
        }
    }

    fn load(&self, bridge: &BridgeInfo) {
        let load = |ports| Dataplane::load(bridge, &self.folder, Settings { ports, ..Settings::default() });
        let loaded = load(self.ports).or_else(|error| {
            if !self.ports {
                return Err(error);
            }
            tracing::info!(%error, "published ports are left to the network's rules");
            load(false)
        });
        let mut state = self.state();
        let State::Loading(wanted) = &mut *state else { return self.remove_of(&bridge.name) };
        let wanted = std::mem::take(&mut **wanted);
        let started = loaded.and_then(|dataplane| {
            let mut running = Running { dataplane, wanted: None };
            running.work_by(wanted)?;
            for word in running.dataplane.attach()? {
                tracing::info!("{word}");
            }
            Ok(running)
        });
        match started {
            Ok(running) => *state = State::Running(Box::new(running)),
            Err(error) => {
                tracing::info!(%error, "the network goes without its fast path");
                *state = State::Off;
                // An older one that goes on would work by what is no longer so.
                self.remove_of(&bridge.name);
            }
        }
    }

    fn remove_of(&self, bridge: &LinkName) {
        if let Err(error) = Dataplane::remove(bridge, &self.folder) {
            tracing::warn!(%error, "cannot take the network's fast path off");
        }
    }

    /// Whether it works.
    pub(crate) fn in_force(&self) -> FastPathState {
        match &*self.state() {
            State::Running(_) => FastPathState::InForce,
            State::Idle | State::Loading(_) => FastPathState::Loading,
            State::Off => FastPathState::Refused,
        }
    }

    /// What was counted; `None` where there is none.
    pub(crate) fn metrics(&self) -> Option<Metrics> {
        match &*self.state() {
            State::Running(running) => {
                let read = running.dataplane.metrics();
                read.inspect_err(|error| tracing::warn!(%error, "the fast path's counters cannot be read")).ok()
            }
            _ => None,
        }
    }

    /// Takes it off for good (the node stops with all its containers).
    pub(crate) fn remove(&self) {
        if let State::Running(running) = std::mem::replace(&mut *self.state(), State::Off)
            && let Err(error) = running.dataplane.detach()
        {
            tracing::warn!(%error, "cannot take the network's fast path off");
        }
    }
}

impl Running {
    /// Endpoints first: a backend that is no endpoint is taken for one that is gone.
    fn work_by(&mut self, wanted: Work) -> Result<(), BpfError> {
        let before = self.wanted.take();
        let differs = |of: fn(&Work, &Work) -> bool| before.as_ref().is_none_or(|before| of(before, &wanted));
        if differs(|a, b| a.endpoints != b.endpoints) {
            let endpoint = |(address, link): (&Ipv4Addr, &LinkName)| Endpoint { address: *address, link: link.clone() };
            self.dataplane.set_endpoints(&wanted.endpoints.iter().map(endpoint).collect::<Vec<_>>())?;
        }
        if differs(|a, b| a.policy != b.policy) {
            self.dataplane.set_policy(&wanted.policy)?;
        }
        if differs(|a, b| a.classes != b.classes) {
            self.dataplane.set_classes(&wanted.classes)?;
        }
        if differs(|a, b| a.services != b.services) {
            self.dataplane.set_services(&wanted.services)?;
        }
        if differs(|a, b| a.led != b.led) {
            for word in self.dataplane.set_ports(&wanted.led.published, &wanted.led.beyond)? {
                tracing::info!("{word}");
            }
        }
        if let Some(names) = wanted.names.as_ref().filter(|_| differs(|a, b| a.names != b.names)) {
            self.dataplane.set_names(&names.answers, &names.views)?;
        }
        self.wanted = Some(wanted);
        Ok(())
    }
}

/// What the programs work by is not what holds: without them it does.
fn give_up(state: State, error: &BpfError) {
    tracing::warn!(%error, "the network's fast path is taken off: its rules do its work");
    if let State::Running(running) = state
        && let Err(error) = running.dataplane.detach()
    {
        tracing::error!(%error, "cannot take the network's fast path off");
    }
}
