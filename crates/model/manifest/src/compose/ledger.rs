//! Book-keeping of a conversion: every key of the Compose file is taken (and written) or listed as left out.
//!
//! A mapping is read through a [`Map`], which knows what was taken from it and, when it is done, lists the rest. So a
//! key that nobody thought of is listed too.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use serde::Serialize;

use super::variables;
use super::yaml::{Key, Node, Value};
use crate::source::Source;

/// Something of a Compose file that the manifest does not say, or says a little differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// As in `services.web.networks` or `services.web.ports[2]`.
    pub path: String,
    /// Where it stands in the Compose file, from 1.
    pub line: usize,
    /// Why, and what to do instead.
    pub why: String,
}

pub(super) struct Ledger<'t> {
    source: &'t Source<'t>,
    left_out: Vec<LeftOut>,
}

impl<'t> Ledger<'t> {
    pub(super) fn new(source: &'t Source<'t>) -> Self {
        Self { source, left_out: Vec::new() }
    }

    pub(super) fn leave(&mut self, path: &str, span: &Range<usize>, why: impl Into<String>) {
        let line = self.source.place(span).line;
        self.left_out.push(LeftOut { path: path.to_owned(), line, why: why.into() });
    }

    /// All that was left out, by line.
    pub(super) fn finish(mut self) -> Vec<LeftOut> {
        self.left_out.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
        self.left_out.dedup();
        self.left_out
    }

    /// A scalar in our variable syntax; `None` (listed) when it is none or cannot be said.
    pub(super) fn text(&mut self, node: &Node, path: &str) -> Option<String> {
        let Some(text) = node.text() else {
            if !node.is_null() {
                self.leave(path, &node.span, "a single value was expected here");
            }
            return None;
        };
        match variables::convert(text) {
            Ok(kept) => {
                for note in kept.notes {
                    self.leave(path, &node.span, note);
                }
                Some(kept.text)
            }
            Err(why) => {
                self.leave(path, &node.span, why);
                None
            }
        }
    }

    /// A scalar that `valid` accepts, or one with a variable (which only the day of use can tell).
    pub(super) fn checked(
        &mut self,
        node: &Node,
        path: &str,
        why: &str,
        valid: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let text = self.text(node, path)?;
        if text.contains("${") || valid(&text) {
            return Some(text);
        }
        self.leave(path, &node.span, format!("`{text}` {why}"));
        None
    }

    pub(super) fn boolean(&mut self, node: &Node, path: &str) -> Option<String> {
        if let Some(yes) = node.boolean() {
            return Some(yes.to_string());
        }
        let text = self.text(node, path)?;
        if text.contains("${") {
            return Some(crate::toml_text::quote(&text));
        }
        self.leave(path, &node.span, "it is not true or false");
        None
    }

    /// The items of a list, or a single scalar as a list of one, each with its path.
    pub(super) fn items<'n>(&mut self, node: &'n Node, path: &str) -> Vec<(String, &'n Node)> {
        match &node.value {
            Value::List(items) => items.iter().enumerate().map(|(at, item)| (format!("{path}[{at}]"), item)).collect(),
            Value::Scalar { .. } if node.is_null() => Vec::new(),
            Value::Scalar { .. } => vec![(path.to_owned(), node)],
            Value::Map(_) => {
                self.leave(path, &node.span, "a list was expected here");
                Vec::new()
            }
        }
    }

    /// Every item as text.
    pub(super) fn texts(&mut self, node: &Node, path: &str) -> Vec<String> {
        let items = self.items(node, path);
        items.into_iter().filter_map(|(path, item)| self.text(item, &path)).collect()
    }

    /// `KEY: value` or `- KEY=value`, in order; the last of a key counts.
    pub(super) fn pairs(&mut self, node: &Node, path: &str) -> Vec<Pair> {
        let mut pairs: Vec<Pair> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut add = |key: String, value: Option<String>, span: &Range<usize>| {
            if !seen.insert(key.clone()) {
                pairs.retain(|pair| pair.key != key);
            }
            pairs.push(Pair { key, value, span: span.clone() });
        };
        if let Value::Map(entries) = &node.value {
            for (key, value) in entries {
                let path = format!("{path}.{}", key.text);
                if value.is_null() {
                    add(key.text.clone(), None, &key.span);
                } else if let Some(text) = self.text(value, &path) {
                    add(key.text.clone(), Some(text), &key.span);
                }
            }
            return pairs;
        }
        for (path, item) in self.items(node, path) {
            let Some(text) = self.text(item, &path) else { continue };
            let (key, value) = text.split_once('=').map_or((text.as_str(), None), |(key, value)| (key, Some(value)));
            if key.contains('$') || key.is_empty() {
                self.leave(&path, &item.span, "a name cannot hold a variable or be empty");
            } else {
                add(key.to_owned(), value.map(str::to_owned), &item.span);
            }
        }
        pairs
    }
}

/// A key of `environment` or `labels`; no value where only the key is written.
pub(super) struct Pair {
    pub(super) key: String,
    pub(super) value: Option<String>,
    pub(super) span: Range<usize>,
}

/// A mapping being read.
pub(super) struct Map<'n> {
    pub(super) path: String,
    pub(super) span: Range<usize>,
    pairs: &'n [(Key, Node)],
    taken: RefCell<BTreeSet<usize>>,
}

impl<'n> Map<'n> {
    /// The mapping in `node`; nothing (null) is an empty one. Anything else is listed.
    pub(super) fn open(node: &'n Node, path: &str, ledger: &mut Ledger<'_>) -> Option<Self> {
        let pairs: &[(Key, Node)] = match &node.value {
            Value::Map(pairs) => pairs,
            _ if node.is_null() => &[],
            _ => {
                ledger.leave(path, &node.span, "a mapping was expected here");
                return None;
            }
        };
        Some(Self { path: path.to_owned(), span: node.span.clone(), pairs, taken: RefCell::default() })
    }

    /// The value of a key, which is thereby dealt with; the caller writes it or lists it.
    pub(super) fn take(&self, key: &str) -> Option<(String, &'n Node)> {
        let at = self.pairs.iter().position(|(seen, _)| seen.text == key)?;
        self.taken.borrow_mut().insert(at);
        Some((self.child(key), &self.pairs[at].1))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.pairs.iter().any(|(seen, node)| seen.text == key && !node.is_null())
    }

    /// Every pair, all dealt with.
    pub(super) fn take_all(&self) -> impl Iterator<Item = (&'n Key, &'n Node)> {
        self.taken.borrow_mut().extend(0..self.pairs.len());
        self.pairs.iter().map(|(key, node)| (key, node))
    }

    pub(super) fn child(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Lists what nobody took, with `why` for each key.
    pub(super) fn finish(self, why: impl Fn(&str) -> String, ledger: &mut Ledger<'_>) {
        let taken = self.taken.borrow();
        for (at, (key, _)) in self.pairs.iter().enumerate() {
            if !taken.contains(&at) {
                ledger.leave(&self.child(&key.text), &key.span, why(&key.text));
            }
        }
    }
}
