//! The parsed TOML as a plain tree: tables in source order, every value with its byte range; then `${VAR}` expanded, when
//! it is known what of the tree counts.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Report, quoted};
use crate::expand::{self, Why};
use crate::parse::{Input, NESTING_MAX};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Range<usize>,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// `expanded`: it held a `${…}`, so a number or boolean may be meant.
    Text {
        text: String,
        expanded: bool,
    },
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Date,
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// Already reported as wrong (or not known in a draft): nothing more is to be said about it.
    Unknown,
}

/// One key of a table, in source order.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) node: Node,
}

impl Value {
    /// The type as a person would call it, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text { .. } => "a string",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Boolean(_) => "a boolean",
            Self::Date => "a date",
            Self::List(_) => "an array",
            Self::Table(_) => "a table",
            Self::Unknown => "unknown",
        }
    }
}

/// The trees of the source's files, or nothing where TOML is broken (each mistake reported). Variables are still to be
/// expanded.
pub(crate) fn read(report: &mut Report<'_>) -> Option<Vec<Vec<Entry>>> {
    let source = report.source;
    let mut files = Vec::with_capacity(source.parts());
    let mut broken = false;
    for part in 0..source.parts() {
        let base = source.base(part);
        let (table, mut mistakes) = DeTable::parse_recoverable(source.part(part));
        mistakes.sort_by_key(|mistake| mistake.span().map(|span| span.start));
        broken |= !mistakes.is_empty();
        let unclosed = mistakes.iter().any(|mistake| mistake.message().contains("unclosed array"));
        let mut last_line = 0;
        for mistake in &mistakes {
            let span = moved(mistake.span().unwrap_or(0..0), base);
            let place = source.place(&span);
            // One mistake often breaks a rule or two more on its line.
            if place.line == last_line {
                continue;
            }
            last_line = place.line;
            let in_array = mistake.message().contains("missing comma between array elements");
            if unclosed && in_array && place.column == 1 {
                // All that follows is read as part of the array: only this first place says something.
                report.error(&span, "not valid TOML: an array above this line is not closed", "close it with `]`");
                break;
            }
            let (message, help) = syntax(mistake.message(), source.text.get(span.clone()).unwrap_or_default());
            report.error(&span, format!("not valid TOML: {message}"), help);
        }
        if mistakes.is_empty() {
            files.push(entries(table.into_inner(), 0, base, report));
        }
    }
    (!broken).then_some(files)
}

fn moved(span: Range<usize>, base: usize) -> Range<usize> {
    span.start + base..span.end + base
}

fn entries(table: DeTable<'_>, depth: usize, base: usize, report: &mut Report<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(table.len());
    for (key, value) in table {
        let key_span = moved(key.span(), base);
        let node = node(value, depth, base, report);
        entries.push(Entry { key: key.into_inner().into_owned(), key_span, node });
    }
    entries.sort_by_key(|entry| entry.key_span.start);
    entries
}

fn node(value: Spanned<DeValue<'_>>, depth: usize, base: usize, report: &mut Report<'_>) -> Node {
    let span = moved(value.span(), base);
    let depth = depth + 1;
    if depth > NESTING_MAX {
        report.error(&span, format!("tables and arrays are nested deeper than {NESTING_MAX}"), "flatten them");
        return Node { span, value: Value::Unknown };
    }
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text { text: text.into_owned(), expanded: false },
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                report.error(&span, "the integer is too large", "use a number below 2^63");
                Value::Unknown
            }
        },
        DeValue::Float(number) => match number.as_str().parse::<f64>() {
            Ok(number) => Value::Float(number),
            Err(_) => {
                report.error(&span, "the number cannot be read", "write it as in 0.5");
                Value::Unknown
            }
        },
        DeValue::Boolean(yes) => Value::Boolean(yes),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::List(items.into_iter().map(|item| node(item, depth, base, report)).collect()),
        DeValue::Table(table) => Value::Table(entries(table, depth, base, report)),
    };
    Node { span, value }
}

/// Puts the values of variables into every string; what cannot be is reported.
pub(crate) fn expand(entries: &mut [Entry], input: &Input<'_, '_>, report: &mut Report<'_>) {
    for entry in entries {
        expand_node(&mut entry.node, input, report);
    }
}

fn expand_node(node: &mut Node, input: &Input<'_, '_>, report: &mut Report<'_>) {
    match &mut node.value {
        Value::Text { text, .. } if text.contains(['$', '\0']) => {
            node.value = string(&std::mem::take(text), &node.span, input, report);
        }
        Value::List(items) => items.iter_mut().for_each(|item| expand_node(item, input, report)),
        Value::Table(entries) => expand(entries, input, report),
        _ => {}
    }
}

/// Broken references reported of one string; each costs a search through it.
const BROKEN_MAX: usize = 20;

fn string(text: &str, span: &Range<usize>, input: &Input<'_, '_>, report: &mut Report<'_>) -> Value {
    let done = expand::expand(text, |name| input.context.variable(name));
    let mut unknown = !done.broken.is_empty();
    for broken in done.broken.iter().take(BROKEN_MAX) {
        if input.draft && matches!(broken.why, Why::Unset { .. } | Why::Required { .. }) {
            continue;
        }
        let place = reference_span(text, broken.at, broken.length, span, &report.source.text);
        match &broken.why {
            Why::Unset { name } => report.error(
                &place,
                format!("variable {} is not set", quoted(name)),
                format!("set {name} in the environment, or give a default: ${{{name}:-default}}"),
            ),
            Why::Required { name, message } => {
                let why = if message.is_empty() { String::new() } else { format!(": {message}") };
                report.error(
                    &place,
                    format!("variable {} is required{why}", quoted(name)),
                    format!("set {name} to a non-empty value in the environment"),
                );
            }
            Why::Unclosed => report.error(
                &place,
                "`${` is never closed",
                "add the `}`, or write `$${` for the characters themselves",
            ),
            Why::BadName { name } => report.error(
                &place,
                format!("{} is not a variable name", quoted(name)),
                "use letters, digits and _, as in ${DB_HOST}; write `$${` for the characters themselves",
            ),
            Why::BadOperator { name, rest } => report.error(
                &place,
                format!("{} after variable {} is not understood", quoted(rest), quoted(name)),
                format!("write ${{{name}}}, ${{{name}:-default}} or ${{{name}:?message}}"),
            ),
        }
    }
    if done.text.contains('\0') {
        report.error(span, "the string holds a NUL character", "remove it: programs and files cannot be given one");
        unknown = true;
    }
    if unknown { Value::Unknown } else { Value::Text { text: done.text, expanded: done.any } }
}

/// Where the reference at `at` of the decoded `text` stands in the source. Escapes shift offsets, so it is
/// looked for by its own text; when escapes hide it, the whole string is meant.
fn reference_span(text: &str, at: usize, length: usize, span: &Range<usize>, source: &str) -> Range<usize> {
    let reference = &text[at..(at + length).min(text.len())];
    let before = text[..at].matches(reference).count();
    let raw = source.get(span.clone()).unwrap_or_default();
    match raw.match_indices(reference).nth(before) {
        Some((found, _)) => span.start + found..span.start + found + reference.len(),
        None => span.clone(),
    }
}

/// A TOML mistake in our words: what, and the fix. `text` is what the parser marks.
fn syntax(message: &str, text: &str) -> (String, String) {
    let word = text.trim();
    let value = ["invalid float", "invalid boolean", "string values must be quoted", "missing value"];
    if value.iter().any(|start| message.starts_with(start)) {
        let lower = word.to_ascii_lowercase();
        return match lower.as_str() {
            "" => ("the key has no value".to_owned(), "give a value: \"text\", 5, true or [..]".to_owned()),
            "true" | "false" => (format!("{} is not a value", quoted(word)), format!("write {lower}")),
            _ => {
                let help = format!("put it between double quotes: \"{}\"", word.trim_matches(['"', '\'']));
                (format!("{} is not a value", quoted(word)), help)
            }
        };
    }
    if message.starts_with("invalid unquoted key") && word.starts_with(':') {
        let help = "write key = value; for a Compose file use `coppice convert`";
        return ("a key is followed by `=`".to_owned(), help.to_owned());
    }
    let help = match message {
        _ if word == "]" => "remove this `]`",
        m if m.contains("duplicate key") => "remove one of the two, or merge them",
        m if m.contains("recursion limit") || m.contains("recurse") => {
            "flatten the tables and arrays: at most 64 levels are read"
        }
        m if m.contains("escape") => "write a backslash as \\\\, or use '…' where escapes have no meaning",
        m if m.contains("keys cannot be empty") => "write a key before the `=`",
        m if m.contains("unquoted key") => "put the key between double quotes",
        m if m.contains("key with no value") || m.contains("invalid key-value pair") => "write key = value",
        m if m.contains("leading zero") || m.contains("between digits") => "write the number plainly, as in 10",
        m if m.contains("extra comma") => "remove the comma, or put a value before it",
        m if m.contains("missing comma") => "put a `,` before this",
        m if m.contains("unclosed table") => "close the section's name with `]`",
        m if m.contains("unclosed array") => "close the array with `]`",
        m if m.contains("inline table") => "close the table with `}`",
        m if m.contains("expected newline") => "start a new line here",
        m if m.contains("basic string") || m.contains("literal string") => {
            "close the string with the quote it was opened with"
        }
        m if m.contains("date") || m.contains("time") => "put it between double quotes: no key takes a date",
        _ => "see https://toml.io for how TOML is written",
    };
    (message.to_owned(), help.to_owned())
}
