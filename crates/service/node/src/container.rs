//! One container as the node knows it: a record on disk, its live state, and who waits for it.
//!
//! ```text
//!   Created ──start──▶ Starting ──▶ Running ⇄ Paused
//!      ▲                  │            │
//!      └── start failed ──┘            ▼
//!            start ◀──────────────── Exited ──remove──▶ (gone)
//! ```
//!
//! The record is what a returning daemon reads; whether the process still runs it asks the launcher.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use coppice_api::{ContainerState, HealthState, PortDetail};
use coppice_base::{ContainerId, Name, Timestamp, signal_text};
use coppice_container::{IdRange, Network};
use coppice_launcher::protocol::Exit;
use coppice_spec::{PortSpec, Protocol, RunSpec};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Whose container it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// `coppice run` or `create`.
    AdHoc,
    /// An instance of an app.
    App { app: Name, workload: Name, instance: String },
}

impl Owner {
    pub fn app(&self) -> Option<&Name> {
        match self {
            Self::AdHoc => None,
            Self::App { app, .. } => Some(app),
        }
    }
}

/// An instance's place on the bridge, its own for as long as the instance exists, whatever restarts, also in another
/// definition: others may hold on to its address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    pub address: Ipv4Addr,
    /// The host's end of its last run's link, which the kernel may still have when the next run begins.
    pub link: String,
}

impl Home {
    /// Of a run on this network; ad-hoc containers have none.
    pub(crate) fn of(owner: &Owner, network: &Network) -> Option<Self> {
        match (owner, network) {
            (Owner::App { .. }, Network::Bridge { address, host_device, .. }) => {
                Some(Self { address: *address, link: host_device.clone() })
            }
            _ => None,
        }
    }
}

/// Which values of secrets a container was given; never the values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretVersions {
    pub files: BTreeMap<Name, u64>,
    pub env: BTreeMap<Name, u64>,
}

impl SecretVersions {
    fn is_empty(&self) -> bool {
        self.files.is_empty() && self.env.is_empty()
    }

    /// As a start gives them.
    pub(crate) fn at_start(pins: BTreeMap<Name, u64>) -> Self {
        Self { files: pins.clone(), env: pins }
    }
}

/// What is written to `container.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: ContainerId,
    pub name: String,
    pub owner: Owner,
    /// What was asked for. Ports have their host port filled in.
    pub spec: RunSpec,
    /// Config digest and manifest digest of the image.
    pub image_id: String,
    pub created_at: Timestamp,
    /// Which of the node's id ranges; see [`IdRange::nth`].
    pub range: u32,
    /// While it runs.
    pub address: Option<Ipv4Addr>,
    #[serde(default)]
    pub home: Option<Home>,
    pub phase: Phase,
    /// Fingerprint of an instance's definition; another one means that it is replaced. Empty for ad-hoc ones.
    #[serde(default)]
    pub revision: String,
    /// Versions of the secrets in its files, and those its environment was made with when it started.
    #[serde(default, skip_serializing_if = "SecretVersions::is_empty")]
    pub secrets: SecretVersions,
    /// What could not be had, from the last start.
    pub words: Vec<String>,
    #[serde(default)]
    pub place: Place,
    /// Which of the containers that were an instance, or were to be; see [`Record::endpoint`].
    #[serde(default)]
    pub run: u32,
    /// The node paused it, for as long as it copies what it writes to.
    #[serde(default)]
    pub is_copied: bool,
}

/// Which part a container has in an instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It is the instance (or of no app).
    #[default]
    Own,
    /// It is to be the instance when it has proved itself.
    Candidate,
    /// It was the instance, and finishes what it has begun.
    Leaving,
    /// It runs once, around a release.
    Hook { after: bool },
    /// It is a run of a cron.
    Cron,
    /// It is a run of a worker that somebody asked for.
    Run,
}

impl Record {
    /// What an instance is called towards the proxy, for the container's whole life.
    pub fn endpoint(&self) -> String {
        match &self.owner {
            Owner::App { instance, .. } if self.run > 0 => format!("{instance}~{}", self.run),
            Owner::App { instance, .. } => instance.clone(),
            Owner::AdHoc => self.name.clone(),
        }
    }

    pub fn ids(&self) -> IdRange {
        IdRange::nth(self.range)
    }

    pub fn ports(&self) -> Vec<PortDetail> {
        self.spec.ports.iter().map(port_detail).collect()
    }
}

pub(crate) fn port_detail(port: &PortSpec) -> PortDetail {
    PortDetail {
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        host: port.host,
        container: port.container,
        protocol: match port.protocol {
            Protocol::Tcp => "tcp".to_owned(),
            Protocol::Udp => "udp".to_owned(),
        },
    }
}

/// Where a container is in its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Created,
    /// Handed to the launcher; it has not answered yet.
    Starting,
    Running {
        pid: u32,
        started_at: Timestamp,
        paused: bool,
    },
    Exited {
        started_at: Option<Timestamp>,
        exit: Exit,
        /// The launcher died with it, or the machine restarted: nobody saw how it ended.
        #[serde(default)]
        lost: bool,
    },
    /// Removed: nothing of it is left, names and addresses are free.
    Removed {
        exit: Option<Exit>,
    },
}

impl Phase {
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. } | Self::Starting)
    }

    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    pub fn exit(&self) -> Option<Exit> {
        match self {
            Self::Exited { exit, .. } => Some(*exit),
            Self::Removed { exit } => *exit,
            _ => None,
        }
    }

    pub fn state(&self) -> ContainerState {
        match self {
            Self::Created => ContainerState::Created,
            Self::Starting | Self::Running { paused: false, .. } => ContainerState::Running,
            Self::Running { paused: true, .. } => ContainerState::Paused,
            Self::Exited { .. } | Self::Removed { .. } => ContainerState::Exited,
        }
    }
}

/// A container of this node. Shared by reference; its record changes under a short lock.
pub struct Container {
    pub id: ContainerId,
    pub owner: Owner,
    record: Mutex<Record>,
    health: Mutex<HealthState>,
    phase: watch::Sender<Phase>,
    /// Serialises start, stop and remove of this one container.
    pub(crate) doing: tokio::sync::Mutex<()>,
    /// Read while a process is added, written while all are frozen: a process that is frozen before its first step would
    /// not be heard of until the container is thawed.
    pub(crate) freezing: tokio::sync::RwLock<()>,
    /// Held while its record is written: the file says what the memory says, and not what it said before.
    pub(crate) writing: Mutex<()>,
    /// Set by an explicit stop or kill, so that an ad-hoc restart policy leaves it down.
    pub(crate) asked_down: std::sync::atomic::AtomicBool,
    /// The launcher still keeps its last exit, since the disk did not take it.
    pub(crate) exit_unkept: std::sync::atomic::AtomicBool,
}

impl Container {
    pub(crate) fn new(record: Record) -> Self {
        let health = if record.spec.health.is_some() { HealthState::Starting } else { HealthState::None };
        Self {
            id: record.id.clone(),
            owner: record.owner.clone(),
            phase: watch::Sender::new(record.phase.clone()),
            record: Mutex::new(record),
            health: Mutex::new(health),
            doing: tokio::sync::Mutex::default(),
            freezing: tokio::sync::RwLock::default(),
            writing: Mutex::default(),
            asked_down: std::sync::atomic::AtomicBool::new(false),
            exit_unkept: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// An instance's changes when another container takes its place.
    pub fn name(&self) -> String {
        self.read(|record| record.name.clone())
    }

    pub fn record(&self) -> Record {
        self.record.lock().expect("no panic holds this lock").clone()
    }

    pub fn read<T>(&self, look: impl FnOnce(&Record) -> T) -> T {
        look(&self.record.lock().expect("no panic holds this lock"))
    }

    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    pub fn health(&self) -> HealthState {
        *self.health.lock().expect("no panic holds this lock")
    }

    pub(crate) fn set_health(&self, health: HealthState) {
        *self.health.lock().expect("no panic holds this lock") = health;
    }

    /// Changes the record, and tells those who wait for a phase.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Record)) -> Record {
        let record = {
            let mut record = self.record.lock().expect("no panic holds this lock");
            change(&mut record);
            record.clone()
        };
        if *self.phase.borrow() != record.phase {
            self.phase.send_replace(record.phase.clone());
        }
        record
    }

    /// Resolves when the container's phase satisfies `wanted`.
    pub async fn when(&self, wanted: impl FnMut(&Phase) -> bool) -> Phase {
        let mut phases = self.phase.subscribe();
        let reached = phases.wait_for(wanted).await;
        reached.expect("the sender lives as long as self").clone()
    }

    /// Resolves with its exit once it runs no more. `None`: it was removed without having run.
    pub async fn ended(&self) -> Option<Exit> {
        self.when(|phase| phase.exit().is_some() || matches!(phase, Phase::Removed { .. })).await.exit()
    }
}

/// `exited with code 1`, `killed by signal 9 (KILL)`.
pub(crate) fn exit_text(exit: &Exit, lost: bool) -> String {
    match (lost, exit.oom, exit.signal) {
        (true, ..) => "lost: the launcher or the machine went down with it".to_owned(),
        (_, true, _) => "killed: out of memory".to_owned(),
        (_, _, Some(signal)) => format!("killed by {}", signal_text(signal)),
        _ => format!("exited with code {}", exit.code),
    }
}
