//! What is wrong with a text, where, and what to do about it; as text for people and JSON for editors.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Serialize;

use crate::source::Source;

/// Most findings kept for one text; the rest is only counted. Keeps a hostile megabyte from costing a gigabyte.
const FINDINGS_MAX: usize = 200;

/// Longest source line shown, in characters; longer ones are cut around the caret.
const LINE_SHOWN: usize = 120;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One finding. Lines and columns count from 1; columns are characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub file: String,
    pub line: usize,
    pub column: usize,
    /// First column after the marked text.
    pub end_column: usize,
    /// What is wrong and why.
    pub message: String,
    /// What to do about it.
    pub help: String,
    /// The line it is about, as written.
    pub source_line: String,
}

/// Every finding of one run, sorted by position. As an error it holds at least one [`Severity::Error`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Diagnostics {
    pub diagnostics: Vec<Diagnostic>,
    /// Findings beyond the first 200, which are not kept.
    pub left_out: usize,
}

impl Diagnostics {
    pub fn is_empty(&self) -> bool {
        self.diagnostics.is_empty()
    }

    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|d| d.severity == Severity::Error)
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|d| d.severity == Severity::Warning)
    }

    /// The findings as text, each with its source line and a caret; `colour` adds ANSI colours. Control
    /// characters of the source are shown as `�`, so a text cannot write to the terminal.
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for diagnostic in &self.diagnostics {
            diagnostic.render_to(&mut text, colour);
        }
        if self.left_out > 0 {
            text.push_str(&format!("and {} more\n", self.left_out));
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    fn render_to(&self, text: &mut String, colour: bool) {
        let paint = |code: &str, what: &str| match colour {
            true => format!("\x1b[{code}m{what}\x1b[0m"),
            false => what.to_owned(),
        };
        let (word, code) = match self.severity {
            Severity::Error => ("", "1;31"),
            Severity::Warning => ("warning: ", "1;33"),
        };
        let place = format!("{}:{}:{}:", printable(&self.file), self.line, self.column);
        let message = printable(&self.message);
        text.push_str(&format!("{} {}{message}\n", paint("1", &place), paint(code, word)));
        let (line, before, width) = self.window();
        let number = format!("{:5} |", self.line);
        text.push_str(&format!("{} {line}\n", paint("34", &number)));
        let caret = format!("{} {}", "^".repeat(width), printable(&self.help));
        text.push_str(&format!("{} {}{}\n", paint("34", "      |"), " ".repeat(before), paint(code, caret.trim_end())));
    }

    /// The part of the line that is shown, the characters before the caret, and the caret's width.
    fn window(&self) -> (String, usize, usize) {
        let line: Vec<char> = self.source_line.chars().map(printable_char).collect();
        let at = (self.column - 1).min(line.len());
        let width = (self.end_column - self.column).clamp(1, LINE_SHOWN);
        if line.len() <= LINE_SHOWN {
            return (line.into_iter().collect(), at, width);
        }
        let from = at.saturating_sub(LINE_SHOWN / 3);
        let to = (from + LINE_SHOWN).min(line.len());
        let mut shown: String = line[from..to].iter().collect();
        let mut before = at - from;
        if from > 0 {
            shown.insert(0, '…');
            before += 1;
        }
        if to < line.len() {
            shown.push('…');
        }
        (shown, before, width.min(to - at.min(to)).max(1))
    }
}

fn printable(text: &str) -> String {
    text.chars().map(printable_char).collect()
}

/// A tab becomes one blank (so that carets line up); control and text-direction characters become `�`.
fn printable_char(c: char) -> char {
    match c {
        '\t' => ' ',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// `` `text` `` for a message, cut when it is long.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("`{}…`", &text[..at]),
        None => format!("`{text}`"),
    }
}

/// Where findings about one text are gathered.
pub(crate) struct Report<'t> {
    pub(crate) source: &'t Source<'t>,
    found: Vec<Diagnostic>,
    errors: usize,
    more: usize,
    /// What a `when` leaves out (volumes as `volume NAME`), and where that stands.
    pub(crate) left_out: BTreeMap<String, Range<usize>>,
    /// The environment that is looked at beside the chosen one: of that only errors that are its own are told.
    pub(crate) beside: Option<String>,
}

impl<'t> Report<'t> {
    pub(crate) fn new(source: &'t Source<'t>) -> Self {
        Self { source, found: Vec::new(), errors: 0, more: 0, left_out: BTreeMap::new(), beside: None }
    }

    pub(crate) fn error(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(self.source, span, Severity::Error, message.into(), help.into());
    }

    pub(crate) fn warning(&mut self, span: &Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        self.add(self.source, span, Severity::Warning, message.into(), help.into());
    }

    /// An error in another file, such as an env file.
    pub(crate) fn error_in(&mut self, source: &Source<'_>, span: &Range<usize>, message: String, help: &str) {
        self.add(source, span, Severity::Error, message, help.to_owned());
    }

    /// Whether more findings would only be counted, so that work on their wording is lost.
    pub(crate) fn is_full(&self) -> bool {
        self.found.len() >= FINDINGS_MAX
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    fn add(&mut self, source: &Source<'_>, span: &Range<usize>, severity: Severity, message: String, help: String) {
        let place = source.place(span);
        let mut finding = Diagnostic {
            severity,
            file: place.file,
            line: place.line,
            column: place.column,
            end_column: place.column + place.width,
            message,
            help,
            source_line: place.line_text,
        };
        if let Some(environment) = &self.beside {
            if severity == Severity::Warning || self.found.contains(&finding) {
                return;
            }
            finding.message.push_str(&format!(" (with --env {environment})"));
        }
        if severity == Severity::Error {
            self.errors += 1;
        }
        if self.found.len() >= FINDINGS_MAX {
            self.more += 1;
            // An error is never hidden behind warnings: without one there would be no reason to fail.
            let hidden = severity == Severity::Error && self.errors == 1;
            if !hidden {
                return;
            }
        }
        if !self.found.contains(&finding) {
            self.found.push(finding);
        }
    }

    /// What was found, by file (the text's own first) and position.
    pub(crate) fn finish(mut self) -> Diagnostics {
        let main = &self.source.file;
        self.found.sort_by_key(|d| (d.file != *main, d.file.clone(), d.line, d.column, d.severity));
        Diagnostics { diagnostics: self.found, left_out: self.more }
    }
}
