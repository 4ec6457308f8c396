//! What is written on a dataset: whose release it holds, and what else its keeper wants to find there again.
//!
//! Extended attributes of the directory's root, in the namespace that only the machine's root sees and sets: whoever is
//! root inside a container has the directory mounted and can neither read nor change them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

/// Before each key.
const PREFIX: &str = "trusted.coppice.";
/// Longest value, in bytes: what the smallest of the filesystems' limits leaves room for with many stamps.
const VALUE_MAX: usize = 1024;
/// Longest key, in bytes.
const KEY_MAX: usize = 64;
/// Room for the list of names: the kernel's own limit (`XATTR_LIST_MAX`).
const LIST_MAX: usize = 64 << 10;

/// Keys (`a-z`, `0-9`, `_`) and values (text).
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Stamps(BTreeMap<String, String>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    #[error("{0:?} is not a stamp's key: use 1 to {KEY_MAX} of a-z, 0-9 and '_'")]
    Key(String),
    #[error("the value of stamp {key} has {len} bytes: at most {VALUE_MAX} fit")]
    Value { key: String, len: usize },
}

impl Stamps {
    /// Adds one, or replaces its value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<(), StampError> {
        let (key, value) = (key.into(), value.into());
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if key.is_empty() || key.len() > KEY_MAX || !key.chars().all(inner) {
            return Err(StampError::Key(key));
        }
        if value.len() > VALUE_MAX {
            return Err(StampError::Value { key, len: value.len() });
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// These and `more`, which win.
    pub(crate) fn and(mut self, more: &Self) -> Self {
        self.0.extend(more.0.iter().map(|(key, value)| (key.clone(), value.clone())));
        self
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Those on an open directory. What is no text is left out.
    pub(crate) fn read(directory: impl AsFd) -> Result<Self, Errno> {
        let mut names = vec![0u8; LIST_MAX];
        let len = flistxattr(&directory, &mut names)?;
        let mut stamps = BTreeMap::new();
        for name in names[..len].split(|byte| *byte == 0).filter_map(|name| std::str::from_utf8(name).ok()) {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let mut value = vec![0u8; VALUE_MAX];
            let len = fgetxattr(&directory, name, &mut value)?;
            value.truncate(len);
            if let Ok(value) = String::from_utf8(value) {
                stamps.insert(key.to_owned(), value);
            }
        }
        Ok(Self(stamps))
    }

    /// Has an open directory carry these and no others.
    pub(crate) fn write(&self, directory: impl AsFd) -> Result<(), Errno> {
        for (key, _) in Self::read(&directory)?.iter().filter(|(key, _)| !self.0.contains_key(*key)) {
            fremovexattr(&directory, format!("{PREFIX}{key}"))?;
        }
        for (key, value) in self.iter() {
            fsetxattr(&directory, format!("{PREFIX}{key}"), value.as_bytes(), XattrFlags::empty())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_words_and_values_are_short() {
        let mut stamps = Stamps::default();
        stamps.set("release", "12").unwrap();
        stamps.set("release", "13").unwrap();
        stamps.set("deployed_by", "").unwrap();
        assert_eq!((stamps.get("release"), stamps.get("deployed_by"), stamps.get("x")), (Some("13"), Some(""), None));
        for bad in ["", "A", "a-b", "a.b", &"k".repeat(KEY_MAX + 1)] {
            assert_eq!(stamps.set(bad, "v"), Err(StampError::Key(bad.to_owned())));
        }
        let long = "v".repeat(VALUE_MAX + 1);
        assert_eq!(stamps.set("k", long), Err(StampError::Value { key: "k".into(), len: VALUE_MAX + 1 }));
    }
}
