//! Why a command did not apply.

use coppice_base::Name;
use coppice_spec::Party;
use serde::{Deserialize, Serialize};

use crate::{NodeId, RULES_MAX, ReleaseId, SEALED_MAX, SECRETS_MAX, SERVICE_ADDRESSES, UID_RANGES};

/// Why a command did not apply. The state is as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    #[error("the spec of app {app} is not valid: {}; nothing was changed", broken.join("; "))]
    InvalidSpec { app: Name, broken: Vec<String> },
    #[error(
        "app {app} is at release {}, not at {expected}: someone applied another one meanwhile; \
         look at it and apply again", or_none(.current)
    )]
    StaleRelease { app: Name, expected: ReleaseId, current: Option<ReleaseId> },
    #[error("there is an app {app} already, and it is not this preview of {of}; choose another name for the preview")]
    NotAPreview { app: Name, of: Name },
    #[error("release id {0} is taken; apply again with a new one")]
    ReleaseIdTaken(ReleaseId),
    #[error("there is no app {0}; `coppice status` lists those there are")]
    UnknownApp(Name),
    #[error("app {app} has no workload {workload}; `coppice status {app}` lists those it has")]
    UnknownWorkload { app: Name, workload: Name },
    #[error("{workload} of app {app} is a worker, which runs once: only services have replicas")]
    NotAService { app: Name, workload: Name },
    #[error("app {app} has no release {release}, or no longer; `coppice history {app}` lists those it has")]
    UnknownRelease { app: Name, release: ReleaseId },
    #[error("release {release} of app {app} has its verdict already, and the first stands")]
    VerdictGiven { app: Name, release: ReleaseId },
    #[error("release {release} of app {app} is superseded by applying a later one, never by a verdict")]
    OnlyReleasesSupersede { app: Name, release: ReleaseId },
    #[error("{workload} of release {release} of app {app} is pinned to another image already; apply a new release")]
    ImagePinned { app: Name, release: ReleaseId, workload: Name },
    #[error(
        "release {number} of app {app} is being rolled out; wait for its end, or end it with `coppice rollout cancel {app}`"
    )]
    RolloutInProgress { app: Name, number: u64 },
    #[error("app {app} cannot be recovered: {why}")]
    Unrecoverable { app: Name, why: String },
    #[error("release {release} of app {app} is not being rolled out")]
    NoRollout { app: Name, release: ReleaseId },
    #[error("there is no rule from {from} to {to}; `coppice policy list` lists those there are")]
    UnknownRule { from: Party, to: Party },
    #[error("there are {RULES_MAX} policy rules already; remove some, or name whole apps instead of their services")]
    TooManyRules,
    #[error("there is no secret {0}; `coppice secret ls` lists those there are")]
    UnknownSecret(Name),
    #[error(
        "there is no version {version} of secret {secret}, or no longer; `coppice secret history {secret}` lists those there \
         are, `coppice secret set {secret}` makes another"
    )]
    UnknownSecretVersion { secret: Name, version: u64 },
    #[error("version {version} of secret {secret} is not the next one: someone else set it meanwhile; try again")]
    SecretVersionTaken { secret: Name, version: u64 },
    #[error("the secrets are sealed with another key than this node has; nothing was changed")]
    OtherSecretKey,
    #[error("secrets were set or removed meanwhile; nothing was changed, try again")]
    SecretsChanged,
    #[error(
        "secret {secret} is used by {}: they would not start again, nor could be rolled back to; `--force` removes it all \
         the same", by.join(", ")
    )]
    SecretInUse { secret: Name, by: Vec<String> },
    #[error(
        "app {app} uses secret {secret}, which has no value: `coppice secret set {secret}`, or declare how it is made"
    )]
    SecretNotPinned { app: Name, secret: Name },
    #[error("app {app} does not use secret {secret}")]
    SecretNotUsed { app: Name, secret: Name },
    #[error("there are {SECRETS_MAX} secrets already; remove some")]
    TooManySecrets,
    #[error("the secrets would have more than {} MiB together; remove some, or keep large files in volumes", SEALED_MAX >> 20)]
    SecretsTooLarge,
    #[error(
        "all {UID_RANGES} uid ranges are in use; remove apps that are not needed with their volumes \
         (`coppice down --volumes`)"
    )]
    NoUidRange,
    #[error(
        "all {SERVICE_ADDRESSES} virtual addresses of services are in use; remove apps that are not needed, or make \
         services headless"
    )]
    NoServiceAddress,
    #[error(
        "the virtual addresses of services that are free were given up moments ago and may still be known as their last \
         owners'; apply again in {wait_s} s, or make services headless"
    )]
    ServiceAddressesRest { wait_s: u64 },
    #[error("there is no node {0}; `coppice node list` lists those there are")]
    UnknownNode(NodeId),
    #[error("node {0} is in the cluster already")]
    NodeExists(NodeId),
    #[error("node name {0} is taken; choose another")]
    NodeNameTaken(Name),
    #[error("node {0} is the last of the cluster and stays")]
    LastNode(NodeId),
}

fn or_none(release: &Option<ReleaseId>) -> String {
    release.map_or_else(|| "none".to_owned(), |id| id.to_string())
}
