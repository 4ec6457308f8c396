//! What a user wants, validated: the [`AppSpec`] and its parts.
//!
//! A spec is plain data with every default filled in. It is what the log carries and what a release records,
//! so it has no positions, no comments and no `Option` that means "use the default"; an `Option` here means the
//! image (or nobody) decides. The manifest crate turns text into a spec; nothing else builds one but tests.
//! Collections are ordered so that equal specs serialize to equal bytes.

mod app;
mod beam;
mod check;
mod cron;
mod expression;
mod health;
mod policy;
mod rollout;
mod route;
mod run;
mod secret;
mod supervise;
mod tls;
mod workload;

pub use app::{
    AppSpec, Compression, GroupSpec, HooksSpec, OnExhausted, ServiceSpec, VolumeSpec, WORKLOADS_MAX, WorkerSpec,
};
pub use beam::{BeamRelease, BeamSpec, BeamTool, is_release_name};
pub use cron::{CronSpec, Missed, Overlap, Schedule};
pub use expression::{Expression, ExpressionError};
pub use health::{HealthProbe, HealthSpec};
pub use policy::{Pair, Party, PartyError, PolicySpec, Verdict};
pub use rollout::{AnalysisSpec, CanaryStep, FailureAction, RolloutSpec, RolloutStrategy};
pub use route::{
    BackendProtocol, BreakerSpec, Cidr, CidrError, PathMatch, RateLimit, RetrySpec, RouteAction, RouteSpec,
    RouteTimeouts, Sticky,
};
pub use run::RunSpec;
pub use secret::{OnRotate, SecretKind, SecretSpec, SecretTarget, SecretUse};
pub use supervise::{Backoff, RestartPolicy, Strategy, SuperviseSpec};
pub use tls::{AcmeChallenge, AcmeDirectory, AcmeSpec, DnsProvider, DnsProviderKind, PeerTls, TlsSpec};
pub use workload::{
    Condition, Dependency, Limits, MountSource, NetworkMode, NetworkPriority, PortSpec, Protocol, PullPolicy,
    VolumeMount, WorkloadSpec,
};
