//! Secrets: what there is, never what it is, but where it is asked for by name.

use std::fmt;

use coppice_base::{Name, Timestamp};
use coppice_spec::SecretKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A value in base64. Not shown in logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretText(..)")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretSummary {
    #[schema(value_type = String)]
    pub name: Name,
    /// What the newest version was made as: `random-256`, `password`, `ed25519`, `tls`; `None`: it was given.
    pub kind: Option<String>,
    /// The newest one.
    pub version: u64,
    /// How many there are.
    pub versions: usize,
    /// Tells values from each other and says nothing else; another one after the key was changed.
    pub fingerprint: String,
    /// When the newest version came to be.
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    /// Who set it: `uid 0`.
    pub by: String,
    /// Workloads of current releases that use it.
    pub used_by: Vec<SecretUser>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretUser {
    #[schema(value_type = String)]
    pub app: Name,
    #[schema(value_type = String)]
    pub workload: Name,
    /// The version that the release runs with.
    pub version: u64,
    /// `env DB_PASSWORD` or `file /run/secrets/db`.
    pub target: String,
    /// What a rotation does to it: `restart`, `signal HUP` or `nothing`.
    pub on_rotate: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretVersionSummary {
    pub version: u64,
    pub kind: Option<String>,
    pub fingerprint: String,
    #[schema(value_type = u64)]
    pub created_at: Timestamp,
    pub by: String,
    /// Releases that run with it or can be gone back to: `shop release 3`.
    pub pinned_by: Vec<String>,
}

/// A new version; with neither, what the newest one was made as is made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecretRequest {
    pub value: Option<SecretText>,
    /// Make it: `"random-256"`, `"password"`, `"ed25519"` or `{"tls": {"name": "db.example"}}`.
    #[schema(value_type = Option<Object>)]
    pub generate: Option<SecretKind>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretReply {
    #[schema(value_type = String)]
    pub name: Name,
    pub version: u64,
    /// After a rotation: who has the new value, and what was done so that it uses it. After a set: who has an older one
    /// until its next `up`.
    pub users: Vec<SecretUser>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretValue {
    #[schema(value_type = String)]
    pub name: Name,
    pub version: u64,
    pub value: SecretText,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RekeyRequest {
    /// Leave the old key beside the new one: backups from before are sealed with it.
    pub keep_old: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RekeyReply {
    pub secrets: usize,
    /// Sealed anew.
    pub versions: usize,
    /// Where the old key is; `None`: it is gone.
    pub old_key: Option<String>,
}

/// How a secret is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretState {
    Ok,
    /// It has no value.
    Unset,
    /// An instance runs without the file it is to have.
    FileMissing,
    /// An instance has another value than its release is to run with.
    Drift,
    /// It does not open, or an instance's file cannot be read.
    ReadError,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretCheck {
    #[schema(value_type = String)]
    pub name: Name,
    pub state: SecretState,
    /// What is wrong, and where; empty where nothing is.
    pub detail: String,
}
