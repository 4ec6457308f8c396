//! A plan and its steps.

use std::fmt;

use coppice_base::Name;
use coppice_spec::PortSpec;
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
    /// Stop it and start it with its new definition.
    ReplaceInstance {
        instance: String,
        workload: Name,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Its workload is no longer in the app (or became of another kind).
    Removed,
    Scaled {
        from: u32,
        to: u32,
    },
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
            | Self::PublishPort { .. } => StepKind::Create,
            Self::ChangeVolume { .. }
            | Self::ChangeSupervision { .. }
            | Self::ChangeTraffic { .. }
            | Self::ChangePolicy { .. }
            | Self::ReplaceInstance { .. }
            | Self::LeaveVolume { .. } => StepKind::Change,
            Self::UnpublishPort { .. } | Self::StopInstance { .. } | Self::RemoveVolume { .. } => StepKind::Remove,
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
            | Self::ReplaceInstance { changes, .. } => changes.iter().map(Change::to_string).collect(),
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
