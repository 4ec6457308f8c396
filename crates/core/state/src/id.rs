//! Ids of commands, releases and nodes, image digests, and indexes of uid ranges.

use std::fmt;

use coppice_base::Random;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the id or digest it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{0:?} is not a command id (32 lower-case hex digits)")]
    Command(String),
    #[error("{0:?} is not a release id (16 lower-case hex digits)")]
    Release(String),
    #[error("{0:?} is not an image digest (sha256: and 64 lower-case hex digits)")]
    Digest(String),
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// Names one command for good, so that a retry is known as one. 128 random bits, made by whoever first
/// wants the command; printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u128);

impl CommandId {
    pub fn generate(random: &mut dyn Random) -> Self {
        Self(u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()))
    }

    pub fn parse(text: &str) -> Result<Self, IdError> {
        let number = is_hex(text, 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| IdError::Command(text.to_owned()))
    }
}

/// Names one release for good, across apps and clusters: snapshots of volumes carry it. 64 random bits,
/// printed as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReleaseId(pub u64);

impl ReleaseId {
    pub fn generate(random: &mut dyn Random) -> Self {
        Self(random.next_u64())
    }

    pub fn parse(text: &str) -> Result<Self, IdError> {
        let number = is_hex(text, 16).then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(Self).ok_or_else(|| IdError::Release(text.to_owned()))
    }
}

/// The content of an image: `sha256:` and 64 hex digits, of the manifest for one architecture.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl Digest {
    pub fn parse(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix("sha256:") {
            Some(hex) if is_hex(hex, 64) => Ok(Self(text.to_owned())),
            _ => Err(IdError::Digest(text.to_owned())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:032x}", self.0))
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:016x}", self.0))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

macro_rules! id_as_text {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
        impl std::str::FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
                ser.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(de)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

id_as_text!(CommandId);
id_as_text!(ReleaseId);
id_as_text!(Digest);

/// A machine of the cluster. Chosen when the node first starts; never used again after it is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which range of uids is an app's, counted from 0. Where ranges begin and how long they are is the node's
/// to say; that no two apps share one, and that a volume's files keep their owner, is decided here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UidRange(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let mut random = coppice_base::random::Seeded::new(1);
        let command = CommandId::generate(&mut random);
        assert_eq!(CommandId::parse(&command.to_string()), Ok(command));
        let release = ReleaseId::generate(&mut random);
        assert_eq!(ReleaseId::parse(&release.to_string()), Ok(release));
        assert_eq!(ReleaseId(7).to_string(), "0000000000000007");
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for bad in ["", "7", "+000000000000007", "000000000000000G", "../../../../etc/"] {
            assert_eq!(ReleaseId::parse(bad), Err(IdError::Release(bad.to_owned())));
            assert_eq!(CommandId::parse(bad), Err(IdError::Command(bad.to_owned())));
        }
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(Digest::parse(&digest).map(|d| d.to_string()), Ok(digest.clone()));
        for bad in [digest.to_uppercase(), digest.replace("sha256", "md5"), digest[..70].to_owned(), String::new()] {
            assert!(Digest::parse(&bad).is_err(), "{bad}");
        }
    }
}
