//! Trees put together: the files of one manifest, and an environment's changes over what it changes.

use crate::diagnostic::Report;
use crate::tree::{Entry, Node, Value};

/// Sections whose tables are named by the user: two files may each bring some.
const NAMED: &[&str] = &["service", "worker", "cron", "group", "volume", "secret"];

/// The files' sections as one manifest, each file's `include` apart from the first's left out. What two files say is an
/// error with both places.
pub(crate) fn join(files: Vec<Vec<Entry>>, report: &mut Report<'_>) -> Vec<Entry> {
    let mut files = files.into_iter();
    let mut whole = files.next().unwrap_or_default();
    for file in files {
        let sections = file.into_iter().filter(|entry| entry.key != "include").collect();
        unite(&mut whole, sections, "", report);
    }
    whole
}

fn unite(into: &mut Vec<Entry>, from: Vec<Entry>, path: &str, report: &mut Report<'_>) {
    for entry in from {
        let path = if path.is_empty() { entry.key.clone() } else { format!("{path}.{}", entry.key) };
        let Some(other) = into.iter_mut().find(|other| other.key == entry.key) else {
            into.push(entry);
            continue;
        };
        match (&mut other.node.value, entry.node.value) {
            (Value::Table(mine), Value::Table(theirs)) if holds_named(&path) => unite(mine, theirs, &path, report),
            _ => {
                let message = format!("`{path}` is there already ({})", report.source.whereabouts(&other.key_span));
                report.error(&entry.key_span, message, "remove or rename one of the two");
            }
        }
    }
}

/// Whether the table at `path` only holds tables that the user names: `service`, `env`, `env.prod.service`, `app.shop`.
fn holds_named(path: &str) -> bool {
    let parts: Vec<&str> = path.split('.').collect();
    let parts = match parts[..] {
        ["env"] | ["env", _] => return true,
        ["env", _, ref rest @ ..] => rest,
        ref all => all,
    };
    match parts {
        ["app"] | ["app", _] => true,
        ["app", _, kind] | [kind] => NAMED.contains(kind),
        _ => false,
    }
}

/// `base` changed by `over`: tables are merged key by key, anything else is replaced.
pub(crate) fn overlay(base: &[Entry], over: &[Entry]) -> Vec<Entry> {
    let mut whole = base.to_vec();
    for entry in over {
        match whole.iter_mut().find(|other| other.key == entry.key) {
            None => whole.push(entry.clone()),
            Some(other) => match (&other.node.value, &entry.node.value) {
                (Value::Table(mine), Value::Table(theirs)) => {
                    let value = Value::Table(overlay(mine, theirs));
                    other.node = Node { span: other.node.span.clone(), value };
                }
                _ => *other = entry.clone(),
            },
        }
    }
    whole
}
