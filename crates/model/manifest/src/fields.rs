//! Reads one table of the manifest by its [`Section`]: unknown keys, wrong types and values out of bounds are
//! reported; what is right comes back typed. Reading never stops at a mistake.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use coppice_base::{Bytes, DurationText, MilliCpu, Name};

use crate::diagnostic::{Report, quoted};
use crate::keys::{self, Kind, Section};
use crate::shell_words::{self, Unclosed};
use crate::suggest::nearest;
use crate::tree::{Entry, Node, Value};

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

impl<T> Placed<T> {
    pub(crate) fn new(value: T, span: &Range<usize>) -> Self {
        Self { value, span: span.clone() }
    }
}

/// A table being read.
pub(crate) struct Fields<'n> {
    entries: &'n [Entry],
    section: &'static Section,
    /// As the user sees it, e.g. `[service.web]`.
    pub(crate) title: String,
    asked: RefCell<BTreeSet<&'static str>>,
}

impl<'n> Fields<'n> {
    /// The table in `node`, unknown keys reported. `None` when it is no table (reported).
    pub(crate) fn open(
        node: &'n Node,
        section: &'static Section,
        title: String,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        match &node.value {
            Value::Table(entries) => Some(Self::over(entries, section, title, report)),
            Value::Unknown => None,
            other => {
                let some = section.keys.first().map_or("key", |key| key.name);
                report.error(
                    &node.span,
                    format!("{title} must be a table, and this is {}", other.kind()),
                    match title.starts_with('[') {
                        true => format!("write {title} on a line of its own and its keys below, such as `{some} = …`"),
                        false => format!("write {{ {some} = … }}"),
                    },
                );
                None
            }
        }
    }

    pub(crate) fn over(
        entries: &'n [Entry],
        section: &'static Section,
        title: String,
        report: &mut Report<'_>,
    ) -> Self {
        for entry in entries.iter().filter(|entry| section.key(&entry.key).is_none()) {
            let what = if title.is_empty() { "section" } else { "key" };
            let place = if title.is_empty() { String::new() } else { format!(" in {title}") };
            let suggestion = if report.is_full() { None } else { nearest(&entry.key, section.names()) };
            let help = match (keys::advice(section, &entry.key), suggestion) {
                (Some(advice), _) => advice.to_owned(),
                (None, Some(near)) => format!("did you mean `{near}`?"),
                (None, None) => {
                    let known: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
                    format!("known here: {}", known.join(", "))
                }
            };
            report.error(&entry.key_span, format!("unknown {what} {}{place}", quoted(&entry.key)), help);
        }
        Self { entries, section, title, asked: RefCell::default() }
    }

    /// The entry of a key, under its name or its alias; both at once are an error.
    pub(crate) fn entry(&self, name: &'static str, report: &mut Report<'_>) -> Option<&'n Entry> {
        let key = self.key(name);
        let found = |wanted: &str| self.entries.iter().find(|entry| entry.key == wanted);
        let (own, other) = (found(name), key.alias.and_then(found));
        if let (Some(_), Some(other)) = (own, other) {
            report.error(
                &other.key_span,
                format!("`{}` is another name for `{name}`, and {} has both", other.key, self.title),
                "remove one of the two",
            );
        }
        own.or(other)
    }

    /// Whether the key is there, right or wrong.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|entry| self.section.key(&entry.key).is_some_and(|key| key.name == name))
    }

    /// Asserts (in debug builds) that every key of the section was asked for: a key in the table of keys that
    /// the parser forgets would be accepted and dropped.
    pub(crate) fn finish(self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let asked = self.asked.into_inner();
        let forgotten = self.section.keys.iter().map(|key| key.name).find(|name| !asked.contains(name));
        debug_assert_eq!(forgotten, None, "a key of {} is never read", self.title);
    }

    fn key(&self, name: &'static str) -> &'static keys::Key {
        if cfg!(debug_assertions) {
            self.asked.borrow_mut().insert(name);
        }
        self.section.key(name).unwrap_or_else(|| unreachable!("{name} is read but not in the table of keys"))
    }

    fn wrong(&self, entry: &Entry, wanted: &str, help: &str, report: &mut Report<'_>) {
        wrong_type(&entry.key, &entry.node, wanted, help, report);
    }

    pub(crate) fn text(&self, name: &'static str, report: &mut Report<'_>) -> Option<Placed<String>> {
        let entry = self.entry(name, report)?;
        match &entry.node.value {
            Value::Text { text, .. } => Some(Placed::new(text.clone(), &entry.node.span)),
            Value::Unknown => None,
            _ => {
                self.wrong(entry, "a string", "put it between double quotes", report);
                None
            }
        }
    }

    pub(crate) fn text_or_integer(&self, name: &'static str, report: &mut Report<'_>) -> Option<Placed<String>> {
        let entry = self.entry(name, report)?;
        match &entry.node.value {
            Value::Text { text, .. } => Some(Placed::new(text.clone(), &entry.node.span)),
            Value::Integer(number) => Some(Placed::new(number.to_string(), &entry.node.span)),
            Value::Unknown => None,
            _ => {
                self.wrong(entry, "a string or an integer", "put it between double quotes", report);
                None
            }
        }
    }

    pub(crate) fn boolean(&self, name: &'static str, report: &mut Report<'_>) -> Option<bool> {
        let entry = self.entry(name, report)?;
        match &entry.node.value {
            Value::Boolean(yes) => Some(*yes),
            Value::Text { text, expanded: true } if matches!(text.as_str(), "true" | "false") => Some(text == "true"),
            Value::Unknown => None,
            _ => {
                self.wrong(entry, "true or false", "write true or false, without quotes", report);
                None
            }
        }
    }

    pub(crate) fn integer(&self, name: &'static str, report: &mut Report<'_>) -> Option<Placed<i64>> {
        let entry = self.entry(name, report)?;
        let Kind::Integer { min, max } = self.key(name).kind else {
            unreachable!("{name} is read as an integer, which the table of keys does not say")
        };
        let number = match &entry.node.value {
            Value::Integer(number) => Some(*number),
            Value::Text { text, expanded: true } => text.trim().parse().ok(),
            Value::Unknown => return None,
            _ => None,
        };
        match number {
            Some(number) if (min..=max).contains(&number) => Some(Placed::new(number, &entry.node.span)),
            Some(number) => {
                let message = format!("`{}` is {number}, which is out of bounds", entry.key);
                report.error(&entry.node.span, message, format!("use a number from {min} to {max}"));
                None
            }
            None => {
                self.wrong(entry, "an integer", "write a whole number, without quotes", report);
                None
            }
        }
    }

    /// A duration: `"1m30s"`, or whole seconds.
    pub(crate) fn duration(&self, name: &'static str, report: &mut Report<'_>) -> Option<Placed<DurationText>> {
        let entry = self.entry(name, report)?;
        let help = "write seconds as a number, or text such as \"500ms\", \"10s\" or \"1m30s\"";
        let found = match &entry.node.value {
            Value::Integer(seconds) => u64::try_from(*seconds).ok().map(|s| DurationText(Duration::from_secs(s))),
            Value::Text { text, expanded } => match text.trim().parse::<u64>() {
                Ok(seconds) if *expanded => Some(DurationText(Duration::from_secs(seconds))),
                _ => text.parse().ok(),
            },
            Value::Unknown => return None,
            _ => {
                self.wrong(entry, "a duration", help, report);
                return None;
            }
        };
        match found.filter(|found| found.0 <= DURATION_MAX) {
            Some(found) => Some(Placed::new(found, &entry.node.span)),
            None => {
                let message = format!("`{}` is not a duration from 0 to 365 days", entry.key);
                report.error(&entry.node.span, message, help);
                None
            }
        }
    }

    /// A duration that is not zero.
    pub(crate) fn some_duration(&self, name: &'static str, report: &mut Report<'_>) -> Option<Placed<DurationText>> {
        let found = self.duration(name, report)?;
        if found.value.0.is_zero() {
            report.error(&found.span, format!("`{name}` cannot be zero"), "give a time such as \"10s\"");
            return None;
        }
        Some(found)
    }

    /// A size: `"512m"`, or bytes.
    pub(crate) fn size(&self, name: &'static str, report: &mut Report<'_>) -> Option<Placed<Bytes>> {
        let entry = self.entry(name, report)?;
        let help = "write \"512m\" or \"2g\" (powers of 1024), or bytes as a number";
        let found = match &entry.node.value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok().map(Bytes),
            Value::Text { text, .. } => text.parse().ok(),
            Value::Unknown => return None,
            _ => {
                self.wrong(entry, "a size", help, report);
                return None;
            }
        };
        // What does not fit a kernel's signed 64-bit counter is a mistake, not a limit.
        match found.filter(|bytes| bytes.0 > 0 && i64::try_from(bytes.0).is_ok()) {
            Some(found) => Some(Placed::new(found, &entry.node.span)),
            None => {
                report.error(&entry.node.span, format!("`{}` is not a size", entry.key), help);
                None
            }
        }
    }

    pub(crate) fn cpu(&self, name: &'static str, report: &mut Report<'_>) -> Option<MilliCpu> {
        let entry = self.entry(name, report)?;
        let help = "write cores, as in 0.5 or 2, or thousandths, as in \"500m\"; at most 1024";
        let found = match &entry.node.value {
            Value::Integer(cores) => cores.to_string().parse().ok(),
            Value::Float(cores) => cores.to_string().parse().ok(),
            Value::Text { text, .. } => text.parse().ok(),
            Value::Unknown => return None,
            _ => {
                self.wrong(entry, "an amount of CPU", help, report);
                return None;
            }
        };
        if found.is_none() {
            report.error(&entry.node.span, format!("`{}` is not an amount of CPU", entry.key), help);
        }
        found
    }

    /// A percentage, in thousandths of the whole.
    pub(crate) fn percent(&self, name: &'static str, report: &mut Report<'_>) -> Option<u32> {
        let entry = self.entry(name, report)?;
        let help = "write a number from 0 to 100 with at most one digit behind the point, as in 0.5";
        let text = match &entry.node.value {
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Text { text, expanded: true } => text.trim().to_owned(),
            Value::Unknown => return None,
            _ => {
                self.wrong(entry, "a number", help, report);
                return None;
            }
        };
        let (whole, tenth) = text.split_once('.').unwrap_or((&text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
        let found = (digits(whole) && digits(tenth) && tenth.len() == 1)
            .then(|| Some(whole.parse::<u32>().ok()?.checked_mul(10)? + tenth.parse::<u32>().ok()?))
            .flatten()
            .filter(|permille| *permille <= 1000);
        if found.is_none() {
            report.error(&entry.node.span, format!("`{}` is not a percentage", entry.key), help);
        }
        found
    }

    /// One of the key's words.
    pub(crate) fn choice(&self, name: &'static str, report: &mut Report<'_>) -> Option<Placed<&'static str>> {
        let Kind::Choice(words) = self.key(name).kind else {
            unreachable!("{name} is read as a choice, which the table of keys does not say")
        };
        let found = self.text(name, report)?;
        if let Some(word) = words.iter().copied().find(|word| *word == found.value) {
            return Some(Placed::new(word, &found.span));
        }
        let help = match nearest(&found.value, words.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write one of \"{}\"", words.join("\", \"")),
        };
        report.error(&found.span, format!("{} is not a value of `{name}`", quoted(&found.value)), help);
        None
    }

    /// A string, or an array of strings. `None`: absent or wholly wrong.
    pub(crate) fn texts(&self, name: &'static str, report: &mut Report<'_>) -> Option<Vec<Placed<String>>> {
        let entry = self.entry(name, report)?;
        match &entry.node.value {
            Value::Text { text, .. } => Some(vec![Placed::new(text.clone(), &entry.node.span)]),
            Value::List(items) => Some(strings(name, items, report)),
            Value::Unknown => None,
            _ => {
                self.wrong(entry, "an array of strings", "write [\"…\", \"…\"]", report);
                None
            }
        }
    }

    /// An argv: an array of strings, or one string that is split into words.
    pub(crate) fn words(&self, name: &'static str, report: &mut Report<'_>) -> Option<Vec<String>> {
        let entry = self.entry(name, report)?;
        match &entry.node.value {
            Value::List(items) => Some(strings(name, items, report).into_iter().map(|item| item.value).collect()),
            Value::Text { text, .. } => match shell_words::split(text) {
                Ok(split) => {
                    if let Some(only) = split.shell_only {
                        report.warning(
                            &entry.node.span,
                            format!("`{only}` is passed to the program as it is: no shell is run"),
                            "for a shell write [\"sh\", \"-c\", \"…\"]; else write an array",
                        );
                    }
                    Some(split.words)
                }
                Err(Unclosed::Quote(quote)) => {
                    let message = format!("`{name}` has a {quote} that is never closed");
                    report.error(&entry.node.span, message, "close the quote, or write an array [\"…\", \"…\"]");
                    None
                }
                Err(Unclosed::Backslash) => {
                    let message = format!("`{name}` ends in a backslash");
                    report.error(&entry.node.span, message, "remove it, or write an array [\"…\", \"…\"]");
                    None
                }
            },
            Value::Unknown => None,
            _ => {
                self.wrong(entry, "an array of strings", "write [\"program\", \"argument\"]", report);
                None
            }
        }
    }

    /// Key and value pairs: a table of scalars, or an array of `"key=value"`.
    pub(crate) fn pairs(&self, name: &'static str, report: &mut Report<'_>) -> Vec<(String, String)> {
        let Some(entry) = self.entry(name, report) else { return Vec::new() };
        let mut pairs: Vec<(String, String)> = Vec::new();
        match &entry.node.value {
            Value::Table(entries) => {
                for pair in entries {
                    if pair.key.is_empty() || pair.key.contains(['=', '\0']) {
                        let message = format!("{} cannot be a name in `{name}`", quoted(&pair.key));
                        report.error(&pair.key_span, message, "use a name without `=` that is not empty");
                    } else if let Some(value) = scalar(&pair.node, report) {
                        pairs.push((pair.key.clone(), value));
                    }
                }
            }
            Value::List(items) => {
                let mut seen = BTreeSet::new();
                for item in strings(name, items, report) {
                    match item.value.split_once('=') {
                        Some((key, value)) if !key.is_empty() => {
                            if !seen.insert(key.to_owned()) {
                                let message = format!("{} is set twice in `{name}`; the last one counts", quoted(key));
                                report.warning(&item.span, message, "remove one of the two");
                            }
                            pairs.push((key.to_owned(), value.to_owned()));
                        }
                        Some(_) => {
                            let message = format!("an entry of `{name}` has no name before the `=`");
                            report.error(&item.span, message, "write \"KEY=VALUE\"");
                        }
                        None => {
                            let message = format!("{} in `{name}` has no `=`", quoted(&item.value));
                            let key = item.value.trim();
                            let help = match crate::expand::is_variable_name(key) {
                                true => format!("write \"{key}=VALUE\", or \"{key}=${{{key}}}\" to hand yours on"),
                                false => "write \"KEY=VALUE\"".to_owned(),
                            };
                            report.error(&item.span, message, help);
                        }
                    }
                }
            }
            Value::Unknown => {}
            _ => {
                let help = format!("write {name} = {{ KEY = \"value\" }} or {name} = [\"KEY=value\"]");
                self.wrong(entry, "a table or an array of \"KEY=value\"", &help, report);
            }
        }
        pairs
    }
}

/// Longest accepted duration: a year; more is a slip of the unit.
const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);

/// A scalar as text: strings, numbers and booleans.
fn scalar(node: &Node, report: &mut Report<'_>) -> Option<String> {
    match &node.value {
        Value::Text { text, .. } => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(_) => Some(report.source.text[node.span.clone()].to_owned()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Unknown => None,
        other => {
            let message = format!("the value must be a string, and this is {}", other.kind());
            report.error(&node.span, message, "write it as one string between double quotes");
            None
        }
    }
}

/// The strings of an array; anything else in it is reported.
pub(crate) fn strings(name: &str, items: &[Node], report: &mut Report<'_>) -> Vec<Placed<String>> {
    let mut found = Vec::with_capacity(items.len());
    for item in items {
        match &item.value {
            Value::Text { text, .. } => found.push(Placed::new(text.clone(), &item.span)),
            Value::Unknown => {}
            other => {
                let message = format!("`{name}` takes strings, and this is {}", other.kind());
                report.error(&item.span, message, "put it between double quotes");
            }
        }
    }
    found
}

/// Reports a value of the wrong type.
pub(crate) fn wrong_type(key: &str, node: &Node, wanted: &str, help: &str, report: &mut Report<'_>) {
    report.error(&node.span, format!("`{key}` must be {wanted}, and this is {}", node.value.kind()), help);
}

/// A text as a [`Name`], or an error that says what a name is and offers one.
pub(crate) fn name(what: &str, text: &str, span: &Range<usize>, report: &mut Report<'_>) -> Option<Name> {
    match Name::new(text) {
        Ok(name) => Some(name),
        Err(_) => {
            let near = crate::starter::app_name(text);
            let rule = "use up to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit";
            let usable = !text.is_empty() && text.len() <= coppice_base::name::NAME_MAX;
            let help = if usable { format!("{rule}, as in \"{near}\"") } else { rule.to_owned() };
            report.error(span, format!("{} is not a name for {what}", quoted(text)), help);
            None
        }
    }
}
