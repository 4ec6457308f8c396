//! `[cron.X]`.

use std::ops::Range;

use coppice_base::Name;
use coppice_spec::{CronSpec, Missed, Overlap, Schedule, VolumeMount};

use crate::diagnostic::{Report, quoted};
use crate::fields::{Fields, Placed};
use crate::keys::CRON;
use crate::parse::Input;
use crate::tree::Entry;
use crate::workload::Body;

/// A cron as read, with the places later checks point at.
pub(crate) struct ReadCron {
    pub(crate) name: Name,
    pub(crate) key_span: Range<usize>,
    pub(crate) mounts: Vec<Placed<VolumeMount>>,
    pub(crate) uses: Vec<Placed<coppice_spec::SecretUse>>,
    pub(crate) spec: CronSpec,
}

pub(crate) fn read(entry: &Entry, name: Name, input: &Input<'_, '_>, report: &mut Report<'_>) -> Option<ReadCron> {
    let fields = Fields::open(&entry.node, &CRON, format!("[cron.{}]", entry.key), report)?;
    let body = Body::read(&fields, entry, input, report);
    let schedule = schedule(&fields, entry, report);
    let time_zone = time_zone(&fields, report);
    let overlap = match fields.choice("overlap", report).map(|found| found.value) {
        Some("queue") => Overlap::Queue,
        Some("replace") => Overlap::Replace,
        _ => Overlap::Skip,
    };
    let missed = match fields.choice("missed", report).map(|found| found.value) {
        Some("run_once") => Missed::RunOnce,
        _ => Missed::Skip,
    };
    let timeout = fields.some_duration("timeout", report).map(|found| found.value);
    let history = fields.integer("history", report).and_then(|found| u32::try_from(found.value).ok());
    fields.finish();
    let spec = CronSpec {
        workload: body.workload,
        schedule,
        time_zone,
        overlap,
        missed,
        timeout,
        history: history.unwrap_or(CronSpec::DEFAULT_HISTORY),
    };
    Some(ReadCron { name, key_span: entry.key_span.clone(), mounts: body.mounts, uses: body.uses, spec })
}

/// Exactly one of `every` and `schedule`. What is wrong is reported and stands for once a day.
fn schedule(fields: &Fields<'_>, entry: &Entry, report: &mut Report<'_>) -> Schedule {
    let every = fields.duration("every", report);
    let expression = fields.text("schedule", report);
    match (fields.has("every"), fields.has("schedule")) {
        (true, true) => {
            let message = format!("{} has both `every` and `schedule`", fields.title);
            report.error(&entry.key_span, message, "remove one of the two");
        }
        (false, false) => {
            let message = format!("{} does not say when it runs", fields.title);
            report.error(&entry.key_span, message, "add every = \"1h\", or schedule = \"30 4 * * *\"");
        }
        _ => {}
    }
    let (schedule, span, help) = match (every, expression) {
        (Some(every), _) => (Schedule::Every(every.value), every.span, "write it as in \"30s\" or \"1h\""),
        (None, Some(text)) => {
            let help = "write \"minute hour day month weekday\", as in \"30 4 * * mon-fri\"";
            (Schedule::Expression(text.value), text.span, help)
        }
        (None, None) => return Schedule::Expression("@daily".to_owned()),
    };
    if let Err(why) = schedule.check() {
        let what = match &schedule {
            Schedule::Every(_) => "`every`".to_owned(),
            Schedule::Expression(text) => quoted(text),
        };
        report.error(&span, format!("{what} cannot be kept to: {why}"), help);
    }
    schedule
}

fn time_zone(fields: &Fields<'_>, report: &mut Report<'_>) -> String {
    let default = CronSpec::DEFAULT_TIME_ZONE.to_owned();
    let Some(found) = fields.text("time_zone", report) else { return default };
    if !CronSpec::is_time_zone(&found.value) {
        let message = format!("{} is not a time zone", quoted(&found.value));
        report.error(&found.span, message, "write its IANA name, as in \"Europe/Berlin\" or \"UTC\"");
        return default;
    }
    if fields.has("every")
        && !fields.has("schedule")
        && let Some(entry) = fields.entry("time_zone", report)
    {
        let message = "`time_zone` has no meaning for `every`, which counts from one run to the next";
        report.warning(&entry.key_span, message, "remove it, or use `schedule`");
    }
    found.value
}
