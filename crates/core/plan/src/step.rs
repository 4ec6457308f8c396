//! A plan and its steps.

use std::fmt;

use coppice_base::Name;
use coppice_spec::{PortSpec, RolloutStrategy};
use serde::{Deserialize, Serialize};

use crate::change::{Change, shown};
use crate::fields;

/// Steps in the order in which they are done. Empty: nothing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub app: Name,
    pub steps: Vec<Step>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    CreateVolume {
        volume: Name,
        host_path: Option<String>,
    },
    ChangeVolume {
        volume: Name,
        changes: Vec<Change>,
    },
    PullImage {
        image: String,
        reason: PullReason,
    },
    UnpublishPort {
        service: Name,
        port: PortSpec,
    },
    StopInstance {
        instance: String,
        workload: Name,
        reason: StopReason,
    },
    ChangeSupervision {
        of: Subject,
        changes: Vec<Change>,
    },
    /// Its routes, certificates or name; its instances stay as they are.
    ChangeTraffic {
        service: Name,
        changes: Vec<Change>,
    },
    /// Who may speak to whom.
    ChangePolicy {
        changes: Vec<Change>,
    },
    StartInstance {
        instance: String,
        workload: Name,
        image: String,
    },
    ReplaceInstance {
        instance: String,
        workload: Name,
        changes: Vec<Change>,
        how: Replacement,
    },
    /// Where a rollback with data goes back to.
    SnapshotVolume {
        volume: Name,
        /// Whose work could not be taken back without it: what mounts it and is replaced or stopped, and workers and
        /// hooks, which may write through a service.
        workloads: Vec<Name>,
    },
    /// A worker that runs around the release.
    RunHook {
        worker: Name,
        when: HookWhen,
    },
    ChangeHook {
        worker: Name,
        changes: Vec<Change>,
    },
    /// How it goes to later releases; this one is already rolled out by it.
    ChangeRollout {
        service: Name,
        changes: Vec<Change>,
    },
    /// How many releases are kept, and the hooks around them.
    ChangeReleases {
        changes: Vec<Change>,
    },
    CreateCron {
        cron: Name,
        schedule: String,
    },
    /// From its next run on.
    ChangeCron {
        cron: Name,
        changes: Vec<Change>,
    },
    RemoveCron {
        cron: Name,
    },
    /// Which secrets are declared, and of which there are newer versions; values are never told.
    ChangeSecrets {
        changes: Vec<Change>,
    },
    PublishPort {
        service: Name,
        port: PortSpec,
    },
    /// The app no longer has it; its data stays.
    LeaveVolume {
        volume: Name,
    },
    /// With its data.
    RemoveVolume {
        volume: Name,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullReason {
    /// `pull = "always"`.
    Always,
    NotHere,
}

/// How an instance makes way for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// Stopped and started anew: a worker.
    Restart,
    Rolling,
    Canary,
    BlueGreen,
    Switch,
}

impl Replacement {
    /// Whether nobody answers for a moment.
    pub fn interrupts(self) -> bool {
        matches!(self, Self::Restart | Self::Switch)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Rolling => "rolling",
            Self::Canary => "canary",
            Self::BlueGreen => "blue_green",
            Self::Switch => "switch",
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Self::Restart => "restart: stopped, then started anew",
            Self::Rolling => "rolling: goes when its successor is ready",
            Self::Canary => "canary: goes when successors with some of the traffic have proved themselves",
            Self::BlueGreen => "blue_green: goes when all successors are ready",
            Self::Switch => "switch: stopped, then its successor starts on the same data",
        }
    }
}

impl From<RolloutStrategy> for Replacement {
    fn from(strategy: RolloutStrategy) -> Self {
        match strategy {
            RolloutStrategy::Rolling => Self::Rolling,
            RolloutStrategy::Canary => Self::Canary,
            RolloutStrategy::BlueGreen => Self::BlueGreen,
            RolloutStrategy::Switch => Self::Switch,
        }
    }
}

/// When a hook runs. (Those before a rollback are for rollbacks.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookWhen {
    BeforeDeploy,
    AfterDeploy,
}

/// What a step does to what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing that runs is touched.
    None,
    Starts,
    /// A successor takes its place; somebody answers all the time.
    Replaces,
    /// It is down for a moment.
    Interrupts,
    Stops,
}

/// What a step does to data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataEffect {
    Created,
    Snapshotted,
    /// Its place or properties; what is in it stays.
    Changed,
    /// It stays, and nothing of the app uses it any more.
    Left,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Its workload is no longer in the app (or became of another kind).
    Removed,
    Scaled {
        from: u32,
        to: u32,
    },
    /// Its worker is a hook now, and runs around releases only.
    Hook,
    /// The app goes down.
    Down,
}

/// What is supervised differently.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    App(Name),
    Group(Name),
    Workload(Name),
}

/// `+`, `~` or `-`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    Create,
    Change,
    Remove,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
}

impl Step {
    pub fn kind(&self) -> StepKind {
        match self {
            Self::CreateVolume { .. }
            | Self::PullImage { .. }
            | Self::StartInstance { .. }
            | Self::SnapshotVolume { .. }
            | Self::RunHook { .. }
            | Self::CreateCron { .. }
            | Self::PublishPort { .. } => StepKind::Create,
            Self::ChangeVolume { .. }
            | Self::ChangeSupervision { .. }
            | Self::ChangeTraffic { .. }
            | Self::ChangePolicy { .. }
            | Self::ReplaceInstance { .. }
            | Self::ChangeHook { .. }
            | Self::ChangeRollout { .. }
            | Self::ChangeReleases { .. }
            | Self::ChangeCron { .. }
            | Self::ChangeSecrets { .. }
            | Self::LeaveVolume { .. } => StepKind::Change,
            Self::UnpublishPort { .. }
            | Self::StopInstance { .. }
            | Self::RemoveCron { .. }
            | Self::RemoveVolume { .. } => StepKind::Remove,
        }
    }

    /// What kind of step it is, as in its serialized form.
    pub fn word(&self) -> &'static str {
        match self {
            Self::CreateVolume { .. } => "create_volume",
            Self::ChangeVolume { .. } => "change_volume",
            Self::PullImage { .. } => "pull_image",
            Self::UnpublishPort { .. } => "unpublish_port",
            Self::StopInstance { .. } => "stop_instance",
            Self::ChangeSupervision { .. } => "change_supervision",
            Self::ChangeTraffic { .. } => "change_traffic",
            Self::ChangePolicy { .. } => "change_policy",
            Self::StartInstance { .. } => "start_instance",
            Self::ReplaceInstance { .. } => "replace_instance",
            Self::SnapshotVolume { .. } => "snapshot_volume",
            Self::RunHook { .. } => "run_hook",
            Self::ChangeHook { .. } => "change_hook",
            Self::ChangeRollout { .. } => "change_rollout",
            Self::ChangeReleases { .. } => "change_releases",
            Self::CreateCron { .. } => "create_cron",
            Self::ChangeCron { .. } => "change_cron",
            Self::RemoveCron { .. } => "remove_cron",
            Self::ChangeSecrets { .. } => "change_secrets",
            Self::PublishPort { .. } => "publish_port",
            Self::LeaveVolume { .. } => "leave_volume",
            Self::RemoveVolume { .. } => "remove_volume",
        }
    }

    /// The service, worker or cron it is about, where it is about one.
    pub fn workload(&self) -> Option<&Name> {
        match self {
            Self::StopInstance { workload, .. }
            | Self::StartInstance { workload, .. }
            | Self::ReplaceInstance { workload, .. } => Some(workload),
            Self::UnpublishPort { service, .. }
            | Self::PublishPort { service, .. }
            | Self::ChangeTraffic { service, .. }
            | Self::ChangeRollout { service, .. } => Some(service),
            Self::RunHook { worker, .. } | Self::ChangeHook { worker, .. } => Some(worker),
            Self::CreateCron { cron, .. } | Self::ChangeCron { cron, .. } | Self::RemoveCron { cron } => Some(cron),
            Self::ChangeSupervision { of: Subject::Workload(name), .. } => Some(name),
            Self::ChangeSupervision { .. }
            | Self::CreateVolume { .. }
            | Self::ChangeVolume { .. }
            | Self::PullImage { .. }
            | Self::ChangePolicy { .. }
            | Self::SnapshotVolume { .. }
            | Self::ChangeReleases { .. }
            | Self::ChangeSecrets { .. }
            | Self::LeaveVolume { .. }
            | Self::RemoveVolume { .. } => None,
        }
    }

    pub fn effect(&self) -> Effect {
        match self {
            Self::StartInstance { .. } | Self::RunHook { .. } => Effect::Starts,
            Self::ReplaceInstance { how, .. } if how.interrupts() => Effect::Interrupts,
            Self::ReplaceInstance { .. } => Effect::Replaces,
            Self::StopInstance { .. } => Effect::Stops,
            _ => Effect::None,
        }
    }

    /// How an instance is replaced: the strategy, and what it means.
    pub fn how(&self) -> Option<(Replacement, &'static str)> {
        match self {
            Self::ReplaceInstance { how, .. } => Some((*how, how.sentence())),
            _ => None,
        }
    }

    /// The volume whose data it touches, and how.
    pub fn data(&self) -> Option<(&Name, DataEffect)> {
        match self {
            Self::CreateVolume { volume, .. } => Some((volume, DataEffect::Created)),
            Self::ChangeVolume { volume, .. } => Some((volume, DataEffect::Changed)),
            Self::SnapshotVolume { volume, .. } => Some((volume, DataEffect::Snapshotted)),
            Self::LeaveVolume { volume } => Some((volume, DataEffect::Left)),
            Self::RemoveVolume { volume } => Some((volume, DataEffect::Removed)),
            _ => None,
        }
    }

    /// The fields that change, one by one.
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::ChangeVolume { changes, .. }
            | Self::ChangeSupervision { changes, .. }
            | Self::ChangeTraffic { changes, .. }
            | Self::ChangePolicy { changes }
            | Self::ReplaceInstance { changes, .. }
            | Self::ChangeHook { changes, .. }
            | Self::ChangeRollout { changes, .. }
            | Self::ChangeReleases { changes }
            | Self::ChangeCron { changes, .. }
            | Self::ChangeSecrets { changes } => changes,
            _ => &[],
        }
    }

    /// What it is done to: `instance web-1`, `volume data`, `image redis:7`.
    pub fn target(&self) -> String {
        match self {
            Self::CreateVolume { volume, .. }
            | Self::ChangeVolume { volume, .. }
            | Self::LeaveVolume { volume }
            | Self::RemoveVolume { volume } => format!("volume {volume}"),
            Self::PullImage { image, .. } => format!("image {}", shown(image)),
            Self::UnpublishPort { service, port } | Self::PublishPort { service, port } => {
                format!("port {} of {service}", fields::port(port))
            }
            Self::StopInstance { instance, .. }
            | Self::StartInstance { instance, .. }
            | Self::ReplaceInstance { instance, .. } => format!("instance {instance}"),
            Self::SnapshotVolume { volume, .. } => format!("snapshot of volume {volume}"),
            Self::RunHook { worker, .. } | Self::ChangeHook { worker, .. } => format!("hook {worker}"),
            Self::ChangeRollout { service, .. } => format!("rollout of {service}"),
            Self::ChangeReleases { .. } => "releases".to_owned(),
            Self::CreateCron { cron, .. } | Self::ChangeCron { cron, .. } | Self::RemoveCron { cron } => {
                format!("cron {cron}")
            }
            Self::ChangeSecrets { .. } => "secrets".to_owned(),
            Self::ChangeTraffic { service, .. } => format!("traffic of {service}"),
            Self::ChangePolicy { .. } => "policy".to_owned(),
            Self::ChangeSupervision { of: Subject::App(name), .. } => format!("app {name}"),
            Self::ChangeSupervision { of: Subject::Group(name), .. } => format!("group {name}"),
            Self::ChangeSupervision { of: Subject::Workload(name), .. } => format!("supervision of {name}"),
        }
    }

    /// Why, one line each; empty where the target says it all.
    pub fn why(&self) -> Vec<String> {
        match self {
            Self::CreateVolume { host_path, .. } => {
                host_path.iter().map(|path| format!("at {}", shown(path))).collect()
            }
            Self::ChangeVolume { changes, .. }
            | Self::ChangeSupervision { changes, .. }
            | Self::ChangeTraffic { changes, .. }
            | Self::ChangePolicy { changes }
            | Self::ReplaceInstance { changes, .. }
            | Self::ChangeHook { changes, .. }
            | Self::ChangeRollout { changes, .. }
            | Self::ChangeReleases { changes }
            | Self::ChangeCron { changes, .. }
            | Self::ChangeSecrets { changes } => changes.iter().map(Change::to_string).collect(),
            Self::SnapshotVolume { workloads, .. } => {
                let names: Vec<&str> = workloads.iter().map(Name::as_str).collect();
                vec![format!("taken before {}", names.join(", "))]
            }
            Self::RunHook { when: HookWhen::BeforeDeploy, .. } => vec!["run before anything is changed".to_owned()],
            Self::RunHook { when: HookWhen::AfterDeploy, .. } => vec!["run when all is ready".to_owned()],
            Self::CreateCron { schedule, .. } => vec![shown(schedule)],
            Self::RemoveCron { .. } => vec!["no longer in the app".to_owned()],
            Self::StopInstance { workload, reason: StopReason::Hook, .. } => {
                vec![format!("{workload} is a hook now and runs around releases only")]
            }
            Self::PullImage { reason: PullReason::Always, .. } => vec!["pull = \"always\"".to_owned()],
            Self::PullImage { reason: PullReason::NotHere, .. } => vec!["not on this node".to_owned()],
            Self::StopInstance { workload, reason: StopReason::Removed, .. } => {
                vec![format!("{workload} is no longer in the app")]
            }
            Self::StopInstance { reason: StopReason::Scaled { from, to }, .. } => {
                vec![format!("replicas changed {from} -> {to}")]
            }
            Self::StopInstance { reason: StopReason::Down, .. } => vec!["the app goes down".to_owned()],
            Self::StartInstance { image, .. } => vec![format!("from {}", shown(image))],
            Self::LeaveVolume { .. } => vec!["no longer in the app; its data stays".to_owned()],
            Self::RemoveVolume { .. } => vec!["with its data".to_owned()],
            Self::UnpublishPort { .. } | Self::PublishPort { .. } => Vec::new(),
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "+",
            Self::Change => "~",
            Self::Remove => "-",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.target())?;
        let why = self.why();
        if !why.is_empty() {
            write!(f, ": {}", why.join("; "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    /// One line per step, reasons in a column of their own; then the sum.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "app {}: nothing to do", self.app);
        }
        writeln!(f, "app {}", self.app)?;
        let targets: Vec<String> = self.steps.iter().map(Step::target).collect();
        let width = targets.iter().map(|target| target.chars().count()).max().unwrap_or(0);
        for (step, target) in self.steps.iter().zip(&targets) {
            let why = step.why();
            let first = why.first().map_or("", String::as_str);
            writeln!(f, "{}", format!("  {} {target:width$}  {first}", step.kind()).trim_end())?;
            for more in why.iter().skip(1) {
                writeln!(f, "    {:width$}  {more}", "")?;
            }
        }
        let count = |kind| self.steps.iter().filter(|step| step.kind() == kind).count();
        let (create, change, remove) = (count(StepKind::Create), count(StepKind::Change), count(StepKind::Remove));
        write!(f, "{create} to create, {change} to change, {remove} to remove")
    }
}
