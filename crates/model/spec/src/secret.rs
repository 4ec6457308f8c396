//! Secrets of an app: how they come to be, and how its workloads get them. Values are never in a spec.

use coppice_base::Name;
use serde::{Deserialize, Serialize};

/// A secret that the app declares. One that nobody declares, but a workload uses, has to be set by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSpec {
    /// Made by the node when there is none yet. `None`: set by hand (`coppice secret set`).
    pub generate: Option<SecretKind>,
}

/// What the node can make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKind {
    /// 256 random bits, as 64 hex digits.
    Random256,
    /// A password; beside it its hash, as the secret's part `hash`.
    Password,
    /// A key pair; the secret is the private key (PKCS #8, PEM), its part `public` the public one.
    Ed25519,
    /// A self-signed certificate for a name; the secret is the private key, its part `certificate` the certificate.
    Tls { name: String },
}

/// A workload's use of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    pub secret: Name,
    /// `None`: the secret itself; else one of its kind's other parts (`hash`, `public`, `certificate`).
    pub part: Option<Name>,
    pub target: SecretTarget,
    pub on_rotate: OnRotate,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretTarget {
    /// An environment variable.
    Env(String),
    /// A file on a tmpfs that only this container has. `path` is absolute; a relative one is below `/run/secrets`.
    File { path: String, mode: u32, uid: u32, gid: u32 },
}

/// What happens to instances that run when the secret gets a new value. Files have it by then; environments get it with
/// the next start only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRotate {
    /// Nothing: it reads the file anew by itself.
    Nothing,
    /// They are replaced, as in a rollout.
    #[default]
    Restart,
    /// A signal's name without SIG, or its number.
    Signal(String),
}

impl SecretUse {
    /// Below which relative paths are.
    pub const DIRECTORY: &str = "/run/secrets";
    pub const DEFAULT_MODE: u32 = 0o400;
}
