//! Names people choose and ids the program makes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::random::Random;

/// Longest accepted name: a DNS label (RFC 1035, 2.3.4), because service names become host names.
pub const NAME_MAX: usize = 63;

/// A name for an app, service, worker, volume, group or container: 1 to 63 characters of `a-z`, `0-9`,
/// `-`, `_` and `.`, the first a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is not a [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name cannot be empty")]
    Empty,
    #[error("name {0:?} is longer than {NAME_MAX} characters")]
    TooLong(String),
    #[error("name {name:?} has {bad:?}: use a-z, 0-9, '-', '_' and '.', starting with a letter or digit")]
    BadCharacter { name: String, bad: char },
}

impl Name {
    /// Checks `text` and takes it as a name.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > NAME_MAX {
            return Err(NameError::TooLong(text));
        }
        for (at, c) in text.chars().enumerate() {
            let inner = c.is_ascii_lowercase() || c.is_ascii_digit();
            if !(inner || (at > 0 && matches!(c, '-' | '_' | '.'))) {
                return Err(NameError::BadCharacter { name: text, bad: c });
            }
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(de)?).map_err(serde::de::Error::custom)
    }
}

/// A container's id: 16 lower-case hex digits (64 random bits), unique on a node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ContainerId(String);

/// A text that is not 16 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a container id (16 hex digits)")]
pub struct ContainerIdError(pub String);

impl ContainerId {
    /// Hex digits in an id.
    pub const LEN: usize = 16;

    /// A new id from 64 random bits.
    pub fn generate(random: &mut dyn Random) -> Self {
        Self(format!("{:016x}", random.next_u64()))
    }

    pub fn parse(text: &str) -> Result<Self, ContainerIdError> {
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() == Self::LEN && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ContainerIdError(text.to_owned()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as docker prints ids in tables.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(de)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_in_lower_case() {
        assert!(Name::new("web-1.a_b").is_ok());
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert!(matches!(Name::new("-a"), Err(NameError::BadCharacter { bad: '-', .. })));
        assert!(matches!(Name::new("Web"), Err(NameError::BadCharacter { bad: 'W', .. })));
        assert!(matches!(Name::new("a/b"), Err(NameError::BadCharacter { bad: '/', .. })));
        assert!(matches!(Name::new("a".repeat(64)), Err(NameError::TooLong(_))));
    }

    #[test]
    fn container_ids_read_back_what_they_print() {
        let id = ContainerId::generate(&mut crate::random::Seeded::new(7));
        assert_eq!(ContainerId::parse(id.as_str()), Ok(id.clone()));
        assert_eq!(id.short().len(), 12);
        assert!(ContainerId::parse("../../etc/passwd").is_err());
    }
}
