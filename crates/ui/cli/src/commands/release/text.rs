//! Releases and rollouts as text.

use std::time::Duration;

use coppice_api::{ReleaseEntry, ReleaseFields, ReleaseStatus, ReleaseStep, RolloutDetail};
use coppice_base::Timestamp;

use crate::output::{Paint, Style, Table, ago, brief, moment, visible};

/// Characters of a cause in a table.
const CAUSE_MAX: usize = 60;

/// Completed, failed and remaining targets.
pub(crate) fn counts(fields: &ReleaseFields) -> String {
    format!("{}/{}/{}", fields.completed_targets, fields.failed_targets, fields.remaining_targets)
}

/// How long it took, or takes until now.
pub(crate) fn took(fields: &ReleaseFields, now: Timestamp) -> String {
    brief(fields.duration_ms.map_or_else(|| now.since(fields.created_at), Duration::from_millis))
}

/// `release 5 (uid 0, since 12s)`.
pub(crate) fn named(fields: &ReleaseFields, now: Timestamp) -> String {
    format!("release {} ({}, since {})", fields.number, visible(&fields.actor), brief(now.since(fields.created_at)))
}

/// `apply`, `rollback to 3`, `rollback to 3 with data`.
fn trigger(fields: &ReleaseFields) -> String {
    let to = fields.source_release.map_or_else(String::new, |number| format!(" to {number}"));
    format!("{}{to}{}", fields.trigger, if fields.with_data { " with data" } else { "" })
}

/// A table of releases, `*` at the one that is wanted now.
pub(crate) fn table(entries: &[&ReleaseEntry], now: Timestamp) -> String {
    let mut table =
        Table::new(&["", "RELEASE", "TRIGGER", "STATUS", "ROLLOUT", "CTRL", "C/F/R", "BY", "WHEN", "TOOK", "WHY"]);
    for entry in entries {
        let fields = &entry.fields;
        table.row(vec![
            if entry.is_current { "*" } else { "" }.to_owned(),
            fields.number.to_string(),
            trigger(fields),
            fields.status.clone(),
            fields.rollout_state.clone(),
            fields.rollout_control_state.clone(),
            counts(fields),
            fields.actor.clone(),
            ago(fields.created_at, now),
            took(fields, now),
            crate::output::shortened(fields.cause.as_deref().or(fields.message.as_deref()).unwrap_or("-"), CAUSE_MAX),
        ]);
    }
    table.render()
}

/// One release, with all that is known of it.
pub(crate) fn page(entry: &ReleaseEntry, style: &Style, now: Timestamp) -> String {
    let fields = &entry.fields;
    let mut text = format!(
        "{} {} {}\n",
        style.paint(Paint::Bold, &format!("release {} of {}", fields.number, visible(&entry.app))),
        style.paint(paint(fields), &visible(&fields.status)),
        style.paint(
            Paint::Dim,
            &format!(
                "{}, {}, by {}, {}, {}{}",
                entry.id,
                trigger(fields),
                visible(&fields.actor),
                moment(fields.created_at),
                if fields.has_ended() { "took " } else { "since " },
                took(fields, now),
            )
        ),
    );
    if let Some(message) = &fields.message {
        text.push_str(&format!("  {}\n", visible(message)));
    }
    for step in &entry.steps {
        text.push_str(&format!("  {} {}\n", style.paint(Paint::Dim, &moment(step.at)), visible(&step.what)));
    }
    text
}

fn paint(fields: &ReleaseFields) -> Paint {
    match fields.status.as_str() {
        "completed" => Paint::Green,
        "failed" | "partially_failed" | "rolled_back" => Paint::Red,
        "superseded" => Paint::Dim,
        _ => Paint::Yellow,
    }
}

/// What a status says of a rollout that goes on, or of the newest release where it did not come to stay; nothing else.
pub(crate) fn status_lines(status: &ReleaseStatus, style: &Style, now: Timestamp) -> String {
    let (fields, rollout) = (&status.newest, &status.rollout);
    let was_put_back = status.release_id != status.current_release.id;
    let goes_on = rollout.phase.is_some() && !fields.has_ended();
    if !goes_on && !was_put_back && !is_void(status) {
        return String::new();
    }
    let mut text = String::new();
    if goes_on {
        text.push_str(&format!(
            "  {} by {}, {}: {}\n",
            style.paint(Paint::Yellow, &format!("release {} {}", fields.number, visible(&fields.rollout_state))),
            visible(&fields.actor),
            took(fields, now),
            doing(rollout, fields),
        ));
        for candidate in &rollout.candidates {
            let side = if candidate.side == "old" { ", goes back" } else { "" };
            text.push_str(&format!(
                "    {} {}: try {}, {}{side}\n",
                style.paint(Paint::Yellow, "○"),
                visible(&candidate.instance),
                candidate.number,
                visible(&candidate.state)
            ));
        }
    } else {
        let ended = fields.ended_at.map_or_else(String::new, |at| format!(" {}", ago(at, now)));
        let line = format!("release {} {}", fields.number, visible(&fields.status).replace('_', " "));
        text.push_str(&format!("  {}{ended}\n", style.paint(Paint::Red, &line)));
    }
    if let Some(message) = &fields.message {
        text.push_str(&format!("    {}\n", visible(message)));
    }
    text
}

/// It was to be the app's first, and everything of it was taken away again.
fn is_void(status: &ReleaseStatus) -> bool {
    status.newest.status == "failed" && status.rollout.phase.is_some()
}

/// `rolling web, batch web-1, web-2, 2 of 5 done`.
fn doing(rollout: &RolloutDetail, fields: &ReleaseFields) -> String {
    let mut parts = Vec::new();
    let phase = match rollout.phase.as_deref().unwrap_or_default() {
        "snapshots" => "keeps what the volumes hold".to_owned(),
        "before" => "hooks before it".to_owned(),
        "data" => "switches data".to_owned(),
        "stages" => stage(rollout, "update"),
        "after" => "hooks after it".to_owned(),
        "removing" => "removes what it no longer has".to_owned(),
        "back" => format!("goes back, {}", stage(rollout, "way back")),
        "settling" => "goes back, waits for the release before to be ready".to_owned(),
        other => visible(other),
    };
    parts.push(phase);
    if !rollout.batch.is_empty() {
        parts.push(format!("batch {}", rollout.batch.iter().map(|name| visible(name)).collect::<Vec<_>>().join(", ")));
    }
    if let Some([passed, all]) = rollout.canary_steps {
        parts.push(format!("{passed} of {all} canary steps passed"));
    }
    let total = fields.completed_targets + fields.failed_targets + fields.remaining_targets;
    parts.push(format!("{} of {total} done", fields.completed_targets));
    if fields.failed_targets > 0 {
        parts.push(format!("{} failed", fields.failed_targets));
    }
    parts.join(", ")
}

fn stage(rollout: &RolloutDetail, what: &str) -> String {
    match (&rollout.strategy, &rollout.workload) {
        (Some(strategy), Some(workload)) if strategy != "tree" => {
            format!("{} {what} of {}", visible(strategy), visible(workload))
        }
        (_, Some(workload)) => format!("{what} of {}", visible(workload)),
        (_, None) => what.to_owned(),
    }
}

/// One step as `up` tells it.
pub(crate) fn step(number: u64, step: &ReleaseStep) -> String {
    format!("release {number}: {}\n", visible(&step.what))
}

/// Why a release did not come to stay, and what to do.
pub(crate) fn failure(entry: &ReleaseEntry, current: u64, style: &Style, now: Timestamp) -> String {
    let (fields, app) = (&entry.fields, visible(&entry.app));
    let cause = fields.cause.as_ref().map_or_else(String::new, |cause| format!(": {}", visible(cause)));
    let (what, help) = if fields.has_ended() {
        (
            format!("release {} of {app} {} after {}{cause}", fields.number, ended(fields), took(fields, now)),
            match current == fields.number {
                true => {
                    format!("nothing of it runs; `coppice history -v {app}` shows the steps, `coppice up` tries again")
                }
                false => format!(
                    "release {current} runs as before; `coppice history -v {app}` shows the steps, `coppice logs` what \
                     instances wrote"
                ),
            },
        )
    } else {
        (
            format!("release {} of {app} is blocked{cause}", fields.number),
            format!(
                "`coppice rollout resume {app}` goes on with it, `coppice rollout cancel {app}` goes back; until then it \
                 stays as `coppice status {app}` shows it"
            ),
        )
    };
    let mut text = format!("{} {what}\n", style.paint(Paint::Red, "error:"));
    for failure in &entry.rollout.failure_details {
        if fields.cause.as_deref() != Some(failure.message.as_str()) {
            text.push_str(&format!("  {}\n", visible(&failure.message)));
        }
    }
    text + &format!("{} {help}\n", style.paint(Paint::Cyan, "help:"))
}

/// That a release has not ended in time.
pub(crate) fn unfinished(entry: &ReleaseEntry, limit: Duration, style: &Style) -> String {
    let (fields, app) = (&entry.fields, visible(&entry.app));
    let message = fields.message.as_ref().map_or_else(String::new, |message| format!("; {}", visible(message)));
    format!(
        "{} release {} of {app} has not ended within {}: {}{message}\n{} it goes on: `coppice rollout status {app}` shows how far it \
         is, `coppice rollout cancel {app}` takes it back\n",
        style.paint(Paint::Red, "error:"),
        fields.number,
        coppice_base::DurationText(limit),
        doing(&entry.rollout, fields),
        style.paint(Paint::Cyan, "help:"),
    )
}

fn ended(fields: &ReleaseFields) -> &'static str {
    match fields.status.as_str() {
        "superseded" => "was superseded",
        // Before it had touched anything.
        "failed" => "failed",
        _ => "was rolled back",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use coppice_api::{CandidateDetail, FailureDetail};

    pub(crate) fn rolling() -> ReleaseEntry {
        let fields = ReleaseFields {
            number: 5,
            trigger: "apply".into(),
            status: "in_progress".into(),
            rollout_state: "rolling".into(),
            rollout_control_state: "active".into(),
            created_at: Timestamp(1_700_000_000_000),
            completed_targets: 1,
            remaining_targets: 2,
            actor: "uid 1000".into(),
            ..ReleaseFields::default()
        };
        let rollout = RolloutDetail {
            phase: Some("stages".into()),
            workload: Some("web".into()),
            strategy: Some("rolling".into()),
            batch: vec!["web-2".into()],
            candidates: vec![CandidateDetail {
                instance: "web-2".into(),
                number: 2,
                state: "starting".into(),
                side: "new".into(),
            }],
            ..RolloutDetail::default()
        };
        let step = |at, what: &str| ReleaseStep { at: Timestamp(at), what: what.into() };
        ReleaseEntry {
            id: "00000000000000a5".into(),
            app: "shop".into(),
            fields,
            rollout,
            is_current: true,
            steps: vec![step(1_700_000_000_000, "began"), step(1_700_000_001_500, "web-1 is replaced")],
            ..ReleaseEntry::default()
        }
    }

    fn rolled_back() -> ReleaseEntry {
        let mut entry = rolling();
        entry.fields.status = "rolled_back".into();
        entry.fields.rollout_state = "rolled_back".into();
        entry.fields.ended_at = Some(Timestamp(1_700_000_012_000));
        entry.fields.duration_ms = Some(12_000);
        entry.fields.cause = Some("web-1: readiness_timeout: not healthy within 2m".into());
        entry.fields.message = entry.fields.cause.clone();
        entry.rollout.phase = Some("ended".into());
        entry.rollout.failure_details = vec![FailureDetail {
            workload_kind: "service".into(),
            workload_name: "web".into(),
            reason: "readiness_timeout".into(),
            message: "web-1: readiness_timeout: not healthy within 2m".into(),
        }];
        entry
    }

    const NOW: Timestamp = Timestamp(1_700_000_060_000);

    #[test]
    fn history_is_a_line_for_each_release_with_who_when_how_long_and_why() {
        let mut back = rolling();
        back.is_current = false;
        back.fields.number = 4;
        back.fields.trigger = "rollback".into();
        back.fields.status = "completed".into();
        back.fields.rollout_state = "stable".into();
        back.fields.source_release = Some(2);
        back.fields.with_data = true;
        back.fields.duration_ms = Some(900);
        let entries = [rolled_back(), back];
        insta::assert_snapshot!(table(&entries.iter().collect::<Vec<_>>(), NOW), @r"
           RELEASE  TRIGGER                  STATUS       ROLLOUT      CTRL    C/F/R  BY        WHEN                TOOK   WHY
        *  5        apply                    rolled_back  rolled_back  active  1/0/2  uid 1000  About a minute ago  12s    web-1: readiness_timeout: not healthy within 2m
           4        rollback to 2 with data  completed    stable       active  1/0/2  uid 1000  About a minute ago  900ms  -
        ");
    }

    #[test]
    fn one_release_is_shown_with_every_step() {
        insta::assert_snapshot!(page(&rolling(), &Style::plain(), NOW), @r"
        release 5 of shop in_progress 00000000000000a5, apply, by uid 1000, 2023-11-14T22:13:20.000Z, since 60s
          2023-11-14T22:13:20.000Z began
          2023-11-14T22:13:21.500Z web-1 is replaced
        ");
    }

    fn status(entry: ReleaseEntry, current: &str) -> ReleaseStatus {
        ReleaseStatus {
            release_id: entry.id,
            newest: entry.fields,
            rollout: entry.rollout,
            current_release: coppice_api::ReleaseDetail { id: current.into(), ..Default::default() },
            ..ReleaseStatus::default()
        }
    }

    #[test]
    fn a_status_shows_a_rollout_that_goes_on_and_a_release_that_was_put_back() {
        insta::assert_snapshot!(status_lines(&status(rolling(), "00000000000000a5"), &Style::plain(), NOW), @r"
          release 5 rolling by uid 1000, 60s: rolling update of web, batch web-2, 1 of 3 done
            ○ web-2: try 2, starting
        ");
        insta::assert_snapshot!(status_lines(&status(rolled_back(), "00000000000000a4"), &Style::plain(), NOW), @r"
          release 5 rolled back 48 seconds ago
            web-1: readiness_timeout: not healthy within 2m
        ");
        let mut done = rolling();
        done.fields.status = "completed".into();
        assert_eq!(status_lines(&status(done, "00000000000000a5"), &Style::plain(), NOW), "");
    }

    #[test]
    fn a_release_that_did_not_stay_says_why_and_what_to_do() {
        insta::assert_snapshot!(failure(&rolled_back(), 4, &Style::plain(), NOW), @r"
        error: release 5 of shop was rolled back after 12s: web-1: readiness_timeout: not healthy within 2m
        help: release 4 runs as before; `coppice history -v shop` shows the steps, `coppice logs` what instances wrote
        ");
        let mut blocked = rolled_back();
        blocked.fields.status = "partially_failed".into();
        insta::assert_snapshot!(failure(&blocked, 5, &Style::plain(), NOW), @r"
        error: release 5 of shop is blocked: web-1: readiness_timeout: not healthy within 2m
        help: `coppice rollout resume shop` goes on with it, `coppice rollout cancel shop` goes back; until then it stays as `coppice status shop` shows it
        ");
    }

    #[test]
    fn a_release_that_takes_too_long_says_how_far_it_is() {
        insta::assert_snapshot!(unfinished(&rolling(), Duration::from_secs(90), &Style::plain()), @r"
        error: release 5 of shop has not ended within 1m30s: rolling update of web, batch web-2, 1 of 3 done
        help: it goes on: `coppice rollout status shop` shows how far it is, `coppice rollout cancel shop` takes it back
        ");
    }

    #[test]
    fn a_hostile_cause_cannot_steer_the_terminal() {
        let mut entry = rolled_back();
        entry.fields.cause = Some("x\n\x1b[2J".into());
        entry.fields.message = entry.fields.cause.clone();
        entry.steps[0].what = "\x1b[2J".into();
        let style = Style::plain();
        let texts = [failure(&entry, 4, &style, NOW), page(&entry, &style, NOW), table(&[&entry], NOW)];
        assert!(texts.iter().all(|text| !text.contains('\x1b')), "{texts:?}");
    }
}
