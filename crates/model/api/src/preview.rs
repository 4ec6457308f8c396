//! Previews: a release beside the one that runs, for a time.

use coppice_base::{Bytes, MilliCpu, Name, Timestamp};
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Stand a preview of an app beside it, or update one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PreviewRequest {
    /// The app as the manifest says it.
    #[schema(value_type = Object)]
    pub spec: AppSpec,
    /// A label of a host name; the preview is the app `SPEC.NAME-NAME`.
    pub name: String,
    /// How long it stands from now on. `None`: a day.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// Thousandths of a processor that each instance gets at most. `None`: as the spec says; the smaller of the two holds.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    pub cpus: Option<MilliCpu>,
    /// Memory that each instance gets at most. `None`: as the spec says; the smaller of the two holds.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub memory: Option<Bytes>,
    /// Only these workloads and what they depend on; empty: all.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub only: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewReply {
    pub preview: PreviewSummary,
    /// False when what runs is as asked for already; its time is renewed all the same.
    pub changed: bool,
    /// What it does otherwise than the app would, or without; a sentence each.
    pub words: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewSummary {
    /// The app that it is.
    #[schema(value_type = String)]
    pub app: Name,
    /// The app beside which it stands.
    #[schema(value_type = String)]
    pub of: Name,
    #[schema(value_type = String)]
    pub name: Name,
    #[schema(value_type = u64)]
    pub until: Timestamp,
    pub release: u64,
    /// Like [`AppStatus::state`](crate::AppStatus).
    pub state: String,
    /// The host names that it answers for.
    pub hosts: Vec<String>,
}

/// What an app is a preview of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PreviewOf {
    #[schema(value_type = String)]
    pub of: Name,
    #[schema(value_type = String)]
    pub name: Name,
    #[schema(value_type = u64)]
    pub until: Timestamp,
}

/// What became of a preview that was promoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromoteReply {
    /// The app that has the release now.
    #[schema(value_type = String)]
    pub app: Name,
    pub release: u64,
    /// False when it was at that release already.
    pub changed: bool,
}
