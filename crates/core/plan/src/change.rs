//! One field's change, as data and as text.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A field that differs between two specs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// As in the manifest: `image`, `limits.memory`, `env PASSWORD`.
    pub field: String,
    pub edit: Edit,
}

/// What became of the field. `None` values are not told because they may be secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    Added(Option<String>),
    Removed(Option<String>),
    Changed(Option<(String, String)>),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = shown(&self.field);
        match &self.edit {
            Edit::Added(Some(to)) => write!(f, "{field} added {}", shown(to)),
            Edit::Added(None) => write!(f, "{field} added"),
            Edit::Removed(Some(from)) => write!(f, "{field} removed, was {}", shown(from)),
            Edit::Removed(None) => write!(f, "{field} removed"),
            Edit::Changed(Some((from, to))) => write!(f, "{field} changed {} -> {}", shown(from), shown(to)),
            Edit::Changed(None) => write!(f, "{field} changed"),
        }
    }
}

/// Text that cannot move the cursor or break the line, whatever a manifest says.
pub(crate) fn shown(text: &str) -> String {
    match text {
        "" => "\"\"".to_owned(),
        text if text.chars().any(char::is_control) => format!("{text:?}"),
        text => text.to_owned(),
    }
}

/// Collects changes field by field.
#[derive(Default)]
pub(crate) struct Changes(pub(crate) Vec<Change>);

impl Changes {
    /// A field that always has a value.
    pub(crate) fn value<T: PartialEq>(&mut self, field: &str, old: &T, new: &T, text: impl Fn(&T) -> String) {
        if old != new {
            self.push(field.to_owned(), Edit::Changed(Some((text(old), text(new)))));
        }
    }

    /// A field that may be absent.
    pub(crate) fn option<T: PartialEq>(
        &mut self,
        field: &str,
        old: &Option<T>,
        new: &Option<T>,
        text: impl Fn(&T) -> String,
    ) {
        match (old, new) {
            (Some(old), None) => self.push(field.to_owned(), Edit::Removed(Some(text(old)))),
            (None, Some(new)) => self.push(field.to_owned(), Edit::Added(Some(text(new)))),
            (Some(old), Some(new)) => self.value(field, old, new, text),
            (None, None) => {}
        }
    }

    /// A table: one change per key, told as `field key`.
    pub(crate) fn table<V: PartialEq>(
        &mut self,
        field: &str,
        old: &BTreeMap<String, V>,
        new: &BTreeMap<String, V>,
        text: impl Fn(&V) -> Option<String>,
    ) {
        for (key, was) in old {
            let field = format!("{field} {key}");
            match new.get(key) {
                None => self.push(field, Edit::Removed(text(was))),
                Some(is) if is != was => {
                    // What reads the same and differs in something untold is told as changed, no more.
                    self.push(field, Edit::Changed(text(was).zip(text(is)).filter(|(was, is)| was != is)));
                }
                Some(_) => {}
            }
        }
        for (key, is) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
            self.push(format!("{field} {key}"), Edit::Added(text(is)));
        }
    }

    fn push(&mut self, field: String, edit: Edit) {
        self.0.push(Change { field, edit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_a_manifest_do_not_reach_the_terminal() {
        let evil = Change { field: "label \u{1b}[2J".into(), edit: Edit::Added(Some("a\r\nb\u{7}".into())) };
        assert!(!evil.to_string().chars().any(char::is_control), "{evil}");
    }

    #[test]
    fn a_changed_field_says_from_what_to_what() {
        let mut changes = Changes::default();
        changes.value("image", &"redis:6", &"redis:7", |text| (*text).to_owned());
        changes.option("user", &Some("root"), &None, |text| (*text).to_owned());
        let texts: Vec<String> = changes.0.iter().map(Change::to_string).collect();
        assert_eq!(texts, ["image changed redis:6 -> redis:7", "user removed, was root"]);
    }
}
