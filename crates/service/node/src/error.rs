//! What an operation on containers can fail with, and how the API says it.

use std::path::PathBuf;

use coppice_api::{ApiError, ErrorKind};
use coppice_launcher::protocol::LaunchError;
use coppice_log::{OpenError, ProposeError, StorageError};

use crate::certificates::CertificatesError;
use crate::ingress::IngressError;
use crate::launcher::LauncherError;
use crate::network::NetworkError;
use crate::peer::PeerTlsError;
use crate::prepare::PrepareError;
use crate::secrets::SecretsError;
use crate::signal::UnknownSignal;
use crate::table::{ClaimError, LookupError};

/// Why something asked of a node was not done. The message says whether and what changed.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Signal(#[from] UnknownSignal),
    #[error(transparent)]
    Launcher(#[from] LauncherError),
    #[error(transparent)]
    Network(Box<NetworkError>),
    #[error(transparent)]
    Ingress(Box<IngressError>),
    #[error(transparent)]
    Certificates(Box<CertificatesError>),
    #[error(transparent)]
    Peer(Box<PeerTlsError>),
    #[error("container {0} is running")]
    Running(String),
    #[error("container {0} is not running: `coppice start {0}` starts it")]
    NotRunning(String),
    #[error("container {0} is paused: `coppice unpause {0}` first")]
    Paused(String),
    #[error("a process is being added to container {0}, which takes long: it is not paused; try again")]
    Adding(String),
    #[error("container {0} is running: stop it first, or remove it with --force")]
    RemoveRunning(String),
    #[error(
        "container {name} is an instance of app {app}, which would bring it back: use `coppice stop` or `coppice down`"
    )]
    OfApp { name: String, app: String },
    #[error(
        "the rollout of release {release} of {app} rests: `coppice rollout resume {app}` goes on with it, `coppice rollout cancel \
         {app}` goes back"
    )]
    RolloutBlocked { app: String, release: u64 },
    #[error(
        "release {release} of {app} {what}: `coppice history {app}` says why; its preview {preview} stays as it is"
    )]
    NotPromoted { app: String, release: u64, what: &'static str, preview: String },
    #[error("image {0:?} is not on this node: pull it (`coppice pull {0}`), or import one")]
    NoImage(String),
    #[error(transparent)]
    Image(Box<coppice_image::ResolveError>),
    #[error("cannot pull {reference}: {source}")]
    Pull { reference: String, source: Box<coppice_image::PullError> },
    #[error("image {image} is in use by {}: remove that first (`coppice rm`)", users.join(", "))]
    ImageInUse { image: String, users: Vec<String> },
    #[error("{0} does not exist in the container")]
    NoPath(PathBuf),
    #[error("bind source {0} does not exist: make it first, or use a named volume")]
    NoBindSource(PathBuf),
    #[error("{what}: {source}{}", room(source))]
    Disk { what: String, source: std::io::Error },
    #[error("the app's spec is not valid: {}", .0.join("; "))]
    Spec(Vec<String>),
    #[error(transparent)]
    Volume(Box<coppice_dataset::DatasetError>),
    #[error("volume {volume} is used by {}: {why}; `coppice stop` it first", by.join(", "))]
    VolumeInUse { volume: String, by: Vec<String>, why: &'static str },
    #[error("no app {0:?}: `coppice apps` lists those there are")]
    NoApp(String),
    #[error("app {app} has no workload or instance {target:?}; it has {}", known.join(", "))]
    NoWorkload { app: String, target: String, known: Vec<String> },
    #[error("{worker} of {app} is not run: {why}")]
    NoWorkerRun { app: String, worker: String, why: String },
    #[error("no run of {cron} of {app}: {why}")]
    NoRun { app: String, cron: String, why: coppice_cron::Refusal },
    #[error("{0}")]
    Rejected(Box<coppice_state::Rejection>),
    #[error("cannot write the log: {0}")]
    Log(String),
    #[error("cannot write the log: {0}")]
    LogFull(String),
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Secrets(Box<SecretsError>),
    #[error(transparent)]
    Cgroup(Box<coppice_cgroup::CgroupError>),
    #[error(transparent)]
    Backup(Box<crate::node::BackupError>),
}

impl From<ProposeError> for NodeError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Rejected(rejection) => rejection.into(),
            ProposeError::Unavailable(OpenError::Storage(StorageError::Full { .. })) => {
                Self::LogFull(error.to_string())
            }
            error => Self::Log(error.to_string()),
        }
    }
}

impl From<coppice_dataset::DatasetError> for NodeError {
    fn from(error: coppice_dataset::DatasetError) -> Self {
        Self::Volume(Box::new(error))
    }
}

/// The next step, where there is no room.
fn room(source: &std::io::Error) -> &'static str {
    if source.kind() == std::io::ErrorKind::StorageFull {
        ": free some space on the disk of the node's root"
    } else {
        ""
    }
}

fn volume_kind(error: &coppice_dataset::DatasetError) -> ErrorKind {
    use coppice_dataset::{DatasetError, StreamError};
    match error {
        DatasetError::NoDataset(_) | DatasetError::NoSnapshot { .. } => ErrorKind::NotFound,
        DatasetError::Exists(_) | DatasetError::SnapshotExists { .. } => ErrorKind::Conflict,
        error if error.is_full() => ErrorKind::NoSpace,
        DatasetError::Stream { source: StreamError::NoBase(_), .. } => ErrorKind::Conflict,
        DatasetError::Stream { .. } | DatasetError::Send { .. } => ErrorKind::Invalid,
        DatasetError::Attachment { .. }
        | DatasetError::NoZfs { .. }
        | DatasetError::Zfs { .. }
        | DatasetError::ZfsHangs { .. }
        | DatasetError::Occupied { .. }
        | DatasetError::MountedElsewhere { .. }
        | DatasetError::Io { .. }
        | DatasetError::Syscall { .. } => ErrorKind::Internal,
    }
}

impl NodeError {
    pub(crate) fn disk(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Disk { what: what.into(), source }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Lookup(LookupError::Unknown(_))
            | Self::NoApp(_)
            | Self::NoWorkload { .. }
            | Self::NoImage(_)
            | Self::NoPath(_) => ErrorKind::NotFound,
            Self::Lookup(LookupError::Ambiguous { .. })
            | Self::Prepare(_)
            | Self::Signal(_)
            | Self::Spec(_)
            | Self::NoBindSource(_)
            | Self::Image(_)
            | Self::Invalid(_) => ErrorKind::Invalid,
            Self::Claim(_)
            | Self::Running(_)
            | Self::NotRunning(_)
            | Self::Paused(_)
            | Self::Adding(_)
            | Self::RemoveRunning(_)
            | Self::OfApp { .. }
            | Self::RolloutBlocked { .. }
            | Self::NotPromoted { .. }
            | Self::ImageInUse { .. }
            | Self::VolumeInUse { .. }
            | Self::NoRun { .. }
            | Self::NoWorkerRun { .. }
            | Self::Rejected(_) => ErrorKind::Conflict,
            Self::Volume(error) => volume_kind(error),
            Self::Network(error) => error.kind(),
            Self::Ingress(error) => error.kind(),
            Self::Certificates(error) => error.kind(),
            Self::Peer(error) => error.kind(),
            Self::Secrets(error) => error.kind(),
            Self::Backup(error) => error.kind(),
            Self::Launcher(LauncherError::Refused(refused)) => match refused {
                LaunchError::NotFound(_) | LaunchError::NotExecutable { .. } | LaunchError::Setup { .. } => {
                    ErrorKind::CannotStart
                }
                LaunchError::NoContainer(_) => ErrorKind::NotFound,
                LaunchError::Refused(_) | LaunchError::Protocol { .. } => ErrorKind::Internal,
                LaunchError::NotRunning(_) | LaunchError::StillRunning(_) | LaunchError::Exists(_) => {
                    ErrorKind::Conflict
                }
            },
            Self::Launcher(_) => ErrorKind::Unavailable,
            Self::Pull { .. } => ErrorKind::Upstream,
            Self::Disk { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            Self::LogFull(_) => ErrorKind::NoSpace,
            Self::Disk { .. } | Self::Log(_) | Self::Cgroup(_) => ErrorKind::Internal,
        }
    }

    /// The exit code `coppice run` ends with (docker's): 127 not found, 126 not executable, 125 the rest.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Launcher(LauncherError::Refused(LaunchError::NotFound(_))) => 127,
            Self::Launcher(LauncherError::Refused(LaunchError::NotExecutable { .. })) => 126,
            _ => 125,
        }
    }
}

macro_rules! boxed_from {
    ($($variant:ident($error:ty)),+ $(,)?) => {$(
        impl From<$error> for NodeError {
            fn from(error: $error) -> Self {
                Self::$variant(Box::new(error))
            }
        }
    )+};
}

boxed_from!(
    Image(coppice_image::ResolveError),
    Rejected(coppice_state::Rejection),
    Network(NetworkError),
    Ingress(IngressError),
    Certificates(CertificatesError),
    Peer(PeerTlsError),
    Secrets(SecretsError),
    Cgroup(coppice_cgroup::CgroupError),
    Backup(crate::node::BackupError),
);

impl From<NodeError> for ApiError {
    fn from(error: NodeError) -> Self {
        let exit_code = Some(error.exit_code());
        Self { kind: error.kind(), message: error.to_string(), exit_code }
    }
}
