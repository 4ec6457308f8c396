//! `[supervise]` and the supervision keys of `[group.X]`.

use coppice_spec::{Backoff, Strategy, SuperviseSpec};

use crate::diagnostic::Report;
use crate::fields::Fields;
use crate::keys::BACKOFF;

/// The supervision keys of a table, defaults filled in.
pub(crate) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> SuperviseSpec {
    let default = SuperviseSpec::default();
    let strategy = match fields.choice("strategy", report).map(|found| found.value) {
        Some("one_for_all") => Strategy::OneForAll,
        Some("rest_for_one") => Strategy::RestForOne,
        _ => Strategy::OneForOne,
    };
    let max_restarts = fields.integer("max_restarts", report);
    SuperviseSpec {
        strategy,
        max_restarts: max_restarts.map_or(default.max_restarts, |found| found.value.unsigned_abs() as u32),
        window: fields.some_duration("window", report).map_or(default.window, |found| found.value),
        backoff: backoff(fields, report),
    }
}

fn backoff(parent: &Fields<'_>, report: &mut Report<'_>) -> Backoff {
    let default = Backoff::default();
    let Some(entry) = parent.entry("backoff", report) else { return default };
    let title = format!("{}.backoff]", parent.title.trim_end_matches(']'));
    let Some(fields) = Fields::open(&entry.node, &BACKOFF, title, report) else { return default };
    let first = fields.some_duration("first", report);
    let max = fields.some_duration("max", report);
    let reset_after = fields.duration("reset_after", report);
    fields.finish();
    let found = Backoff {
        first: first.as_ref().map_or(default.first, |found| found.value),
        max: max.as_ref().map_or(default.max, |found| found.value),
        reset_after: reset_after.map_or(default.reset_after, |found| found.value),
    };
    if found.first > found.max {
        let span = first.as_ref().or(max.as_ref()).map_or(&entry.key_span, |found| &found.span);
        let message = format!("the first wait ({}) is longer than the longest ({})", found.first, found.max);
        report.error(span, message, "make `first` at most `max`");
    }
    found
}
