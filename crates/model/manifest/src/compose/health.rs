//! `healthcheck` of a Compose service.

use super::ledger::{Ledger, Map};
use super::reasons;
use super::yaml::{Node, Value};
use crate::toml_text::{array, quote};

/// Compose's own defaults, which are not ours.
const INTERVAL: &str = "30s";
const TIMEOUT: &str = "30s";

/// The lines of `[service.X.health]`, or nothing (listed) where it cannot be said.
pub(super) fn convert(node: &Node, path: &str, ledger: &mut Ledger<'_>) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    let Some(map) = Map::open(node, path, ledger) else { return lines };
    let off = map.take("disable").is_some_and(|(_, node)| node.boolean() == Some(true));
    let test = map.take("test");
    let none = test.as_ref().is_some_and(
        |(_, node)| matches!(&node.value, Value::List(items) if items.first().and_then(Node::text) == Some("NONE")),
    );
    if off || none {
        let why = "the health check of an image cannot be switched off in this version";
        ledger.leave(path, &node.span, why);
        return lines;
    }
    let Some((test_path, test)) = test else {
        let why = "without `test` it only changes the timing of the image's own check; write the whole check";
        ledger.leave(path, &node.span, why);
        return lines;
    };
    let Some(command) = command(test, &test_path, ledger) else {
        ledger.leave(path, &node.span, "its `test` is not carried, so neither is the rest");
        return lines;
    };
    lines.push(("type", quote("exec")));
    lines.push(("command", array(&command)));
    for (theirs, ours, default) in [
        ("interval", "interval", Some(INTERVAL)),
        ("timeout", "timeout", Some(TIMEOUT)),
        ("start_period", "start_period", None),
    ] {
        let written = map.take(theirs).and_then(|(path, node)| duration(node, &path, ledger));
        if let Some(text) = written.or(default.map(str::to_owned)) {
            lines.push((ours, quote(&text)));
        }
    }
    if let Some((path, node)) = map.take("retries") {
        let why = "is not a number from 1 to 1000";
        let valid = |text: &str| text.parse::<u32>().is_ok_and(|n| (1..=1000).contains(&n));
        if let Some(text) = ledger.checked(node, &path, why, valid) {
            lines.push(("retries", number(&text)));
        }
    }
    map.finish(reasons::other, ledger);
    lines
}

fn command(test: &Node, path: &str, ledger: &mut Ledger<'_>) -> Option<Vec<String>> {
    let shell = |text: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), text];
    if let Value::Scalar { .. } = &test.value {
        return ledger.text(test, path).map(shell);
    }
    let Value::List(items) = &test.value else {
        ledger.leave(path, &test.span, "a text or a list was expected here");
        return None;
    };
    let words = ledger.texts(test, path);
    if words.len() != items.len() {
        return None; // what is wrong with a word is listed already
    }
    match words.split_first() {
        Some((first, rest)) if first == "CMD" && !rest.is_empty() => Some(rest.to_vec()),
        Some((first, [text])) if first == "CMD-SHELL" => Some(shell(text.clone())),
        _ => {
            ledger.leave(path, &test.span, "a test starts with CMD (and a program), CMD-SHELL (and one text) or NONE");
            None
        }
    }
}

/// A duration both sides know; Compose's fractions and microseconds are listed.
pub(super) fn duration(node: &Node, path: &str, ledger: &mut Ledger<'_>) -> Option<String> {
    let valid = |text: &str| text == "0" || text.parse::<coppice_base::DurationText>().is_ok();
    let text = ledger.checked(node, path, "is not a duration of whole d, h, m, s and ms", valid)?;
    Some(if text == "0" { "0s".to_owned() } else { text })
}

/// A number as TOML: bare, or quoted where it is a variable.
pub(super) fn number(text: &str) -> String {
    if text.contains("${") { quote(text) } else { text.to_owned() }
}
