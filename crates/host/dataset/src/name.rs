//! What datasets and snapshots are called: file names, each exactly as given.

use std::fmt;
use std::path::PathBuf;

use coppice_base::Name;

const SNAPSHOT_MAX: usize = SnapshotName::MAX;

/// A volume's dataset: of an app, or of none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetName {
    pub app: Option<Name>,
    pub volume: Name,
}

impl DatasetName {
    /// Below the store's root.
    pub(crate) fn path(&self) -> PathBuf {
        let app = self.app.as_ref().map_or(NO_APP, Name::as_str);
        PathBuf::from(app).join(self.volume.as_str())
    }
}

/// The folder of volumes that are of no app; no app is called so.
pub(crate) const NO_APP: &str = "_node";

impl fmt::Display for DatasetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.app {
            Some(app) => write!(f, "{app}/{}", self.volume),
            None => self.volume.fmt(f),
        }
    }
}

/// What a snapshot is called: 1 to 128 of `a-z`, `A-Z`, `0-9`, `-`, `_`, `.` and `:`, the first a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a snapshot's name: use 1 to {SNAPSHOT_MAX} of letters, digits, '-', '_', '.' and ':', beginning with a letter or digit"
)]
pub struct NameError(String);

impl SnapshotName {
    /// Longest name, in bytes.
    pub const MAX: usize = 128;

    /// Checks `text` and takes it as a name.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        let fits = text.len() <= SNAPSHOT_MAX && text.chars().all(inner);
        if fits && text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            Ok(Self(text))
        } else {
            Err(NameError(text))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SnapshotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_name_is_a_file_name_that_no_shell_or_option_parser_takes_for_something_else() {
        for good in ["r1", "release-12", "2026-11-21T10:00:00Z", "A.b_c"] {
            assert_eq!(SnapshotName::new(good).unwrap().as_str(), good);
        }
        let long = "a".repeat(SNAPSHOT_MAX + 1);
        for bad in ["", "-r", ".", "..", "../x", "a/b", "a b", "a@b", "é", ".hidden", &long] {
            assert_eq!(SnapshotName::new(bad), Err(NameError(bad.to_owned())));
        }
    }

    #[test]
    fn volumes_of_no_app_are_where_no_apps_are() {
        let of = |app: Option<&str>| DatasetName {
            app: app.map(|app| Name::new(app).unwrap()),
            volume: Name::new("data").unwrap(),
        };
        assert_eq!((of(Some("shop")).to_string(), of(None).to_string()), ("shop/data".into(), "data".into()));
        assert_eq!(of(None).path(), PathBuf::from("_node/data"));
        assert!(Name::new(NO_APP).is_err());
    }
}
