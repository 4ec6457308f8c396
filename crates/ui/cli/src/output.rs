//! How text for people looks, and the style messages are written in.
//!
//! - Results go to standard output, everything about the doing (progress, warnings, errors) to standard error.
//! - Errors: `error: ` and one sentence in lower case without a full stop, naming the thing and the reason; then
//!   `help: ` with the next step where there is one. Warnings: `warning: `. Notes on what was done: plain sentences.
//! - With `--json` an error is one line of JSON instead, `{"error":{"message":…,"help":…}}`, the last on standard error;
//!   standard output has a whole value or nothing.
//! - Tables as docker's: upper-case heads, left-aligned, two spaces between columns, nothing after the last.
//! - Ages and sizes are rounded for people; `--json` prints the API's own values, in arrays where there can be several.
//! - Colour only on a terminal, never with `NO_COLOR`, and never as the only carrier of a meaning.
//! - Text that containers and images choose is shown with control characters made visible: a name cannot move the
//!   cursor. (`logs`, `run`, `exec` and `attach` pass output through as it is, as a terminal would get it.)

use std::fmt::Write;
use std::time::Duration;

use coppice_base::Timestamp;

/// What one output stream can show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) color: bool,
    pub(crate) terminal: bool,
    /// Errors are said as JSON.
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
    Dim,
    Bold,
}

impl Style {
    pub(crate) fn plain() -> Self {
        Self { color: false, terminal: false, json: false }
    }

    pub(crate) fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Red => "31",
            Paint::Green => "32",
            Paint::Yellow => "33",
            Paint::Blue => "34",
            Paint::Magenta => "35",
            Paint::Cyan => "36",
            Paint::Dim => "2",
            Paint::Bold => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Rows under heads.
pub(crate) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| visible(cell)).collect());
    }

    pub(crate) fn render(&self) -> String {
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        let lines = std::iter::once(&heads).chain(&self.rows);
        let mut widths = vec![0; self.heads.len()];
        for line in lines.clone() {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for line in lines {
            let mut rendered = String::new();
            for (at, cell) in line.iter().enumerate() {
                if at > 0 {
                    rendered.push_str("  ");
                }
                // Writing to a String cannot fail.
                let _ = write!(rendered, "{cell:width$}", width = widths[at]);
            }
            text.push_str(rendered.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `text` with control characters written as escapes.
pub(crate) fn visible(text: &str) -> String {
    if !text.chars().any(is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_control(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Control characters, and the ones that reorder text on a terminal.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first `max` characters, the last one `…` when something is left out.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A duration in its largest unit, as docker words it: `5 seconds`, `About an hour`.
pub(crate) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let plural = |n: u64, unit: &str| if n == 1 { format!("1 {unit}") } else { format!("{n} {unit}s") };
    match seconds {
        0 => "Less than a second".to_owned(),
        1..60 => plural(seconds, "second"),
        60..120 => "About a minute".to_owned(),
        120..3600 => plural(seconds / 60, "minute"),
        3600..7200 => "About an hour".to_owned(),
        7200..172_800 => plural(seconds / 3600, "hour"),
        172_800..1_209_600 => plural(seconds / 86_400, "day"),
        1_209_600..5_184_000 => plural(seconds / 604_800, "week"),
        5_184_000..63_072_000 => plural(seconds / 2_592_000, "month"),
        _ => plural(seconds / 31_536_000, "year"),
    }
}

/// How long ago `then` was.
pub(crate) fn ago(then: Timestamp, now: Timestamp) -> String {
    format!("{} ago", spoken(now.since(then)))
}

/// A duration in few characters: `850ms`, `42s`, `3m`, `5h`, `2d`.
pub(crate) fn brief(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{}ms", duration.as_millis()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A moment as RFC 3339 in UTC with milliseconds.
pub(crate) fn moment(at: Timestamp) -> String {
    i64::try_from(at.0)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| at.0.to_string(), |time| format!("{time:.3}"))
}

/// The first 12 hex digits of an image id, without `sha256:`.
pub(crate) fn short_digest(digest: &str) -> &str {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_two_space_gutters_and_no_trailing_blanks() {
        let mut table = Table::new(&["NAME", "STATE", "PORTS"]);
        table.row(vec!["web-1".into(), "running".into(), String::new()]);
        table.row(vec!["a".into(), "exited".into(), "80->80/tcp".into()]);
        assert_eq!(table.render(), "NAME   STATE    PORTS\nweb-1  running\na      exited   80->80/tcp\n");
    }

    #[test]
    fn a_containers_words_cannot_steer_the_terminal() {
        let mut table = Table::new(&["COMMAND"]);
        table.row(vec!["\x1b[2J\u{202e}evil\n".into()]);
        assert_eq!(table.render(), "COMMAND\n\\u{1b}[2J\\u{202e}evil\\n\n");
    }

    #[test]
    fn ages_are_rounded_to_one_unit() {
        let of = |seconds| spoken(Duration::from_secs(seconds));
        assert_eq!(of(0), "Less than a second");
        assert_eq!(of(1), "1 second");
        assert_eq!(of(90), "About a minute");
        assert_eq!(of(600), "10 minutes");
        assert_eq!(of(3700), "About an hour");
        assert_eq!(of(3 * 86_400), "3 days");
        assert_eq!(of(21 * 86_400), "3 weeks");
        assert_eq!(brief(Duration::from_millis(850)), "850ms");
        assert_eq!(brief(Duration::from_secs(7300)), "2h");
        assert_eq!(moment(Timestamp(1_700_000_000_123)), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn colour_is_written_only_where_it_was_allowed() {
        assert_eq!(Style::plain().paint(Paint::Red, "x"), "x");
        assert_eq!(Style { color: true, terminal: true, json: false }.paint(Paint::Red, "x"), "\x1b[31mx\x1b[0m");
    }
}
