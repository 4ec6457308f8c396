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

impl SecretKind {
    /// What the kind has beside the secret itself.
    pub fn part(&self) -> Option<&'static str> {
        match self {
            Self::Random256 => None,
            Self::Password => Some("hash"),
            Self::Ed25519 => Some("public"),
            Self::Tls { .. } => Some("certificate"),
        }
    }
}

impl SecretTarget {
    /// Whether it is a variable's name, or a path and mode that a file can have.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Env(variable) => {
                let starts = variable.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
                let is_name = starts && variable.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
                if is_name { Ok(()) } else { Err(format!("{variable:?} is not a variable's name")) }
            }
            Self::File { path, mode, uid, gid } => {
                if path.is_empty() || path.ends_with('/') || path.contains(char::is_control) {
                    return Err(format!("{path:?} is not a file's path"));
                }
                if path.split('/').any(|part| part == "..") {
                    return Err(format!("{path:?} holds `..`"));
                }
                if *mode > 0o777 {
                    return Err(format!("{mode:o} is not the mode of a secret's file: 0 to 777"));
                }
                // The kernel takes 2^32-1 for "no change".
                if *uid == u32::MAX || *gid == u32::MAX { Err("no file has that owner".to_owned()) } else { Ok(()) }
            }
        }
    }
}

impl SecretUse {
    /// Where a file of `path` is in the container.
    pub fn absolute(path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", Self::DIRECTORY) }
    }

    /// Below which relative paths are.
    pub const DIRECTORY: &str = "/run/secrets";
    pub const DEFAULT_MODE: u32 = 0o400;
}
