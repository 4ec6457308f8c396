//! An app's supervision tree as text.

use std::time::Duration;

use coppice_api::{AppStatus, ChildStatus, HealthState, SupervisorStatus};
use coppice_base::Timestamp;

use crate::commands::{container::ps, release};
use crate::output::{Paint, Style, brief, moment, visible};

/// Most restarts whose causes are listed below an instance; the API has no more than it keeps anyway.
const HISTORY_SHOWN: usize = 10;

/// The whole status. `history`: the causes of restarts, not only their number.
pub(crate) fn render(app: &AppStatus, history: bool, style: &Style, now: Timestamp) -> String {
    let mut text = format!(
        "{} {} {}",
        style.paint(Paint::Bold, app.name.as_str()),
        style.paint(paint_of(&app.state), &visible(&app.state)),
        style.paint(Paint::Dim, &format!("release {}, {}", app.release, supervision(&app.tree))),
    );
    if let Some(reason) = &app.reason {
        text.push_str(&format!(": {}", visible(reason)));
    }
    text.push('\n');
    if let Some(preview) = &app.preview {
        text.push_str(&format!("preview of {} until {}\n", preview.of, moment(preview.until)));
    }
    text.push_str(&release::text::status_lines(&app.releases, style, now));
    let mut tree = Tree { text, style, now, history };
    tree.branches(&app.tree, "");
    tree.text
}

fn supervision(supervisor: &SupervisorStatus) -> String {
    format!(
        "{}, {}/{} restarts in {}",
        supervisor.strategy,
        supervisor.restarts_in_window,
        supervisor.max_restarts,
        brief(Duration::from_millis(supervisor.window_ms))
    )
}

struct Tree<'s> {
    text: String,
    style: &'s Style,
    now: Timestamp,
    history: bool,
}

impl Tree<'_> {
    fn branches(&mut self, supervisor: &SupervisorStatus, indent: &str) {
        let width = supervisor.children.iter().map(|child| child.instance.chars().count()).max().unwrap_or(0);
        let mut left = supervisor.groups.len() + supervisor.children.len();
        let mut limbs = || {
            left -= 1;
            if left == 0 { ("└─ ", "   ") } else { ("├─ ", "│  ") }
        };
        for child in &supervisor.children {
            let (limb, below) = limbs();
            self.child(child, width, &format!("{indent}{limb}"), &format!("{indent}{below}"));
        }
        for group in &supervisor.groups {
            let (limb, below) = limbs();
            let name = self.style.paint(Paint::Bold, &visible(&group.name));
            let about = self.style.paint(Paint::Dim, &supervision(group));
            self.text.push_str(&format!("{indent}{limb}{name} {about}\n"));
            self.branches(group, &format!("{indent}{below}"));
        }
    }

    fn child(&mut self, child: &ChildStatus, width: usize, limb: &str, below: &str) {
        let state = visible(&child.state);
        let mut parts = Vec::new();
        if matches!(child.state.as_str(), "running" | "starting" | "completed" | "stopped" | "failed") {
            parts.push(brief(self.now.since(child.since)));
        }
        match child.health {
            HealthState::None => {}
            HealthState::Starting => parts.push("health: starting".into()),
            HealthState::Healthy => parts.push("healthy".into()),
            HealthState::Unhealthy => parts.push("unhealthy".into()),
        }
        if let Some(reason) = &child.reason {
            parts.push(visible(reason));
        }
        if let Some(retry) = child.next_retry {
            parts.push(format!("next try in {}", brief(retry.since(self.now))));
        }
        if child.restarts > 0 {
            let times = if child.restarts == 1 { "restart" } else { "restarts" };
            parts.push(format!("{} {times}", child.restarts));
        }
        if let Some(address) = &child.address {
            parts.push(visible(address));
        }
        if !child.ports.is_empty() {
            parts.push(visible(&ps::ports(&child.ports)));
        }
        let line = format!(
            "{limb}{} {:width$}  {}  {}",
            mark(child, self.style),
            visible(&child.instance),
            self.style.paint(paint_of(&child.state), &format!("{state:9}")),
            parts.join(", "),
        );
        self.text.push_str(line.trim_end());
        self.text.push('\n');
        if self.history {
            let skipped = child.history.len().saturating_sub(HISTORY_SHOWN);
            for entry in &child.history[skipped..] {
                let line = format!("{} {}", moment(entry.at), visible(&entry.what));
                self.text.push_str(&format!("{below}    {}\n", self.style.paint(Paint::Dim, &line)));
            }
        }
    }
}

/// `●` ready or completed, `○` not yet, `✗` down.
fn mark(child: &ChildStatus, style: &Style) -> String {
    match child.state.as_str() {
        "failed" | "backoff" => style.paint(Paint::Red, "✗"),
        "completed" => style.paint(Paint::Green, "●"),
        _ if child.ready => style.paint(Paint::Green, "●"),
        "stopped" => style.paint(Paint::Dim, "○"),
        _ => style.paint(Paint::Yellow, "○"),
    }
}

fn paint_of(state: &str) -> Paint {
    match state {
        "ready" | "running" | "completed" => Paint::Green,
        "failed" | "backoff" | "degraded" => Paint::Red,
        "stopped" => Paint::Dim,
        _ => Paint::Yellow,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use coppice_api::{HistoryEntry, PortDetail};
    use coppice_base::Name;

    fn child(instance: &str, state: &str, ready: bool) -> ChildStatus {
        ChildStatus {
            instance: instance.into(),
            workload: "web".into(),
            image: "web:1".into(),
            state: state.into(),
            ready,
            health: HealthState::None,
            reason: None,
            since: Timestamp(1_700_000_000_000),
            next_retry: None,
            restarts: 0,
            history: vec![],
            container: None,
            container_state: None,
            pid: None,
            address: None,
            ports: vec![],
        }
    }

    pub(crate) fn shop() -> AppStatus {
        let mut web = child("web-1", "running", true);
        web.health = HealthState::Healthy;
        web.address = Some("10.88.0.3".into());
        web.ports = vec![PortDetail { host_ip: String::new(), host: 8080, container: 80, protocol: "tcp".into() }];
        web.restarts = 1;
        web.history = vec![HistoryEntry {
            at: Timestamp(1_700_000_000_000),
            what: "restarted: killed by signal 9 (KILL)".into(),
        }];
        let mut worker = child("migrate", "completed", false);
        worker.reason = Some("exited with code 0".into());
        let mut db = child("db-1", "backoff", false);
        db.reason = Some("exited with code 1".into());
        db.next_retry = Some(Timestamp(1_700_000_062_000));
        db.restarts = 4;
        let supervisor = |name: &str, strategy: &str, groups, children| SupervisorStatus {
            name: name.into(),
            strategy: strategy.into(),
            restarts_in_window: 1,
            max_restarts: 10,
            window_ms: 60_000,
            groups,
            children,
        };
        AppStatus {
            name: Name::new("shop").unwrap(),
            release: 3,
            applied_at: Timestamp(1_700_000_000_000),
            state: "degraded".into(),
            reason: Some("db-1 is down".into()),
            settled: false,
            tree: supervisor(
                "shop",
                "one_for_one",
                vec![supervisor("data", "rest_for_one", vec![], vec![db])],
                vec![worker, web],
            ),
            preview: None,
            releases: coppice_api::ReleaseStatus::default(),
        }
    }

    #[test]
    fn status_shows_the_tree_with_every_reason() {
        let now = Timestamp(1_700_000_060_000);
        insta::assert_snapshot!(render(&shop(), true, &Style::plain(), now), @r"
        shop degraded release 3, one_for_one, 1/10 restarts in 60s: db-1 is down
        ├─ ● migrate  completed  60s, exited with code 0
        ├─ ● web-1    running    60s, healthy, 1 restart, 10.88.0.3, *:8080->80/tcp
        │      2023-11-14T22:13:20.000Z restarted: killed by signal 9 (KILL)
        └─ data rest_for_one, 1/10 restarts in 60s
           └─ ✗ db-1  backoff    exited with code 1, next try in 2s, 4 restarts
        ");
    }

    #[test]
    fn a_hostile_reason_stays_on_its_line() {
        let mut app = shop();
        app.reason = Some("x\n\x1b[2J".into());
        assert!(!render(&app, false, &Style::plain(), Timestamp(0)).contains('\x1b'));
    }
}
