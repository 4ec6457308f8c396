//! `up`: the app as its manifest says, and the way there.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use coppice_api::{AppStatus, ApplyRequest, ChildStatus, SupervisorStatus};
use coppice_base::{Clock, SystemClock};
use coppice_client::Client;
use coppice_spec::{AppSpec, PullPolicy};

use super::plan::{selections, show};
use super::{certificates, dev, tree};
use crate::args::{PullChoice, UpArgs};
use crate::commands::preview;
use crate::commands::release::follow::{self, Arrival, Doing};
use crate::error::{CommandError, CommandResult, FAILURE, eprint_all};
use crate::output::{Paint, Style, visible};
use crate::settings::Settings;
use crate::{daemon, login, place, release, terminal, transfer};

/// Between two looks while waiting.
const INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn run(settings: &Settings, args: UpArgs) -> CommandResult {
    if args.dev {
        return dev::run(settings, &args).await;
    }
    let apps = place::apps(settings, &args.manifest)?;
    let mut requests = Vec::new();
    for (mut spec, only) in selections(apps, &args.services)? {
        if args.pull == Some(PullChoice::Never) {
            for workload in workloads_mut(&mut spec) {
                workload.pull = PullPolicy::Never;
            }
        }
        requests.push(ApplyRequest { spec, only });
    }
    let client = daemon::client(settings).await?;
    release::send(settings, &client, requests.iter_mut().map(|request| &mut request.spec)).await?;
    if args.dry_run {
        return show(settings, &client, &requests).await;
    }
    let mut code = ExitCode::SUCCESS;
    for request in &requests {
        let ended = match &args.preview.preview {
            Some(name) => preview::up::run(settings, &client, request, name, &args).await,
            None => bring_up(settings, &client, request, &args).await,
        };
        // One that is refused keeps none of the others from coming up.
        let ended = match ended {
            Err(error) if requests.len() > 1 => error.report_of(request.spec.name.as_str(), &settings.stderr),
            ended => ended?,
        };
        if ended != ExitCode::SUCCESS {
            code = ended;
        }
    }
    Ok(code)
}

async fn bring_up(settings: &Settings, client: &Client, request: &ApplyRequest, args: &UpArgs) -> CommandResult {
    fetch(settings, client, &request.spec, args.pull).await?;
    let app = request.spec.name.as_str();
    let reply = follow::in_turn(client, app, client.apply(request)).await?;
    if args.detach {
        if settings.json {
            settings.print_json(&reply)?;
        } else if reply.changed {
            settings.print(&format!(
                "{app}: release {} is on its way; `coppice rollout status {app}` shows how far it is\n",
                reply.release
            ))?;
        } else {
            settings.print(&unchanged(app, reply.release))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !reply.changed {
        eprint_all(&unchanged(app, reply.release));
    }
    let deadline = Instant::now() + args.timeout;
    let arrival = settle(settings, client, app, reply.release, deadline, reply.changed).await?;
    if arrival.is_there() && arrival.failure(settings, args.timeout).is_none() {
        certificates::wait(settings, client, &request.spec, deadline).await?;
    }
    verdict(settings, &arrival, args.timeout)
}

fn unchanged(app: &str, release: u64) -> String {
    format!("{app}: nothing has changed since release {release}\n")
}

fn workloads_mut(spec: &mut AppSpec) -> impl Iterator<Item = &mut coppice_spec::WorkloadSpec> {
    let services = spec.services.values_mut().map(|service| &mut service.workload);
    services.chain(spec.workers.values_mut().map(|worker| &mut worker.workload))
}

/// Fetches, with progress, what only this side can: images whose registry wants the caller's password, and all of
/// them with `--pull always`. The node fetches the rest.
pub(in crate::commands) async fn fetch(
    settings: &Settings,
    client: &Client,
    spec: &AppSpec,
    pull: Option<PullChoice>,
) -> Result<(), CommandError> {
    let wanted = spec.workloads().filter(|(_, workload)| workload.pull != PullPolicy::Never);
    let images: BTreeSet<&str> = wanted.map(|(_, workload)| workload.image.as_str()).collect();
    for image in images {
        let always = pull == Some(PullChoice::Always);
        if always || login::is_configured_for(image) {
            transfer::pull(settings, client, image, always, false).await?;
        }
    }
    Ok(())
}

/// Looks until the release has come to its end and the app has settled, or time is up, showing the way, if there is one to
/// go.
pub(crate) async fn settle(
    settings: &Settings,
    client: &Client,
    app: &str,
    release: u64,
    deadline: Instant,
    changed: bool,
) -> Result<Arrival, CommandError> {
    let mut screen = Screen::new(settings);
    let mut release = follow::Release::new(release);
    let mut patience = Duration::ZERO;
    loop {
        let looked = Instant::now();
        // In this order: what is settled after the end is settled for good.
        let (doing, steps) = release.look(client, app, patience).await?;
        let status = client.app(app).await?;
        if changed && !steps.is_empty() {
            screen.clear();
            eprint_all(&steps);
        }
        let arrival = Arrival { status, release, doing };
        let is_there = arrival.is_there();
        if changed || !is_there {
            screen.show(&arrival.status);
        }
        if is_there || follow::is_over(deadline) {
            screen.clear();
            return Ok(arrival);
        }
        patience = match arrival.doing {
            Doing::OnTheWay => {
                // A daemon of an earlier version answers at once.
                tokio::time::sleep(patience.saturating_sub(looked.elapsed())).await;
                INTERVAL
            }
            Doing::AtOnce | Doing::Completed | Doing::Failed => {
                tokio::time::sleep(INTERVAL).await;
                Duration::ZERO
            }
        };
        release = arrival.release;
    }
}

/// Prints where the app is, says why when the release or the app is not where it should be, and the exit code.
pub(crate) fn verdict(settings: &Settings, arrival: &Arrival, limit: Duration) -> CommandResult {
    let status = &arrival.status;
    if settings.json {
        settings.print_json(status)?;
    } else {
        settings.print(&tree::render(status, false, &settings.stdout, SystemClock.now()))?;
    }
    if let Some(failure) = arrival.failure(settings, limit) {
        eprint_all(&failure);
        return Ok(ExitCode::from(FAILURE));
    }
    if arrival.was_followed() || arrival.is_there() && !matches!(status.state.as_str(), "failed" | "degraded") {
        return Ok(ExitCode::SUCCESS);
    }
    eprint_all(&failure(status, limit, &settings.stderr));
    Ok(ExitCode::from(FAILURE))
}

/// The reasons, one line each.
fn failure(status: &AppStatus, limit: Duration, style: &Style) -> String {
    let what = if status.settled {
        format!(
            "{} has {}",
            status.name,
            if status.state == "failed" { "failed" } else { "settled without all of it ready" }
        )
    } else {
        format!("{} has not settled within {}", status.name, coppice_base::DurationText(limit))
    };
    let why = status.reason.as_ref().map_or_else(String::new, |reason| format!(": {}", visible(reason)));
    let mut text = format!("{} {what}{why}\n", style.paint(Paint::Red, "error:"));
    for child in children(&status.tree) {
        let fine = child.ready || matches!(child.state.as_str(), "completed" | "stopped");
        if !fine {
            let reason = child.reason.as_ref().map_or_else(String::new, |reason| format!(", {}", visible(reason)));
            text.push_str(&format!("  {}: {}{reason}\n", visible(&child.instance), visible(&child.state)));
        }
    }
    text.push_str(&format!(
        "{} `coppice logs` shows what they wrote; the app is left as it is, `coppice down` removes it\n",
        style.paint(Paint::Cyan, "help:")
    ));
    text
}

pub(super) fn children(supervisor: &SupervisorStatus) -> Vec<&ChildStatus> {
    let mut all: Vec<&ChildStatus> = supervisor.children.iter().collect();
    all.extend(supervisor.groups.iter().flat_map(children));
    all
}

/// The way there: on a terminal a tree that renews itself, in a pipe one line per change.
struct Screen {
    style: Style,
    lines: usize,
    seen: BTreeMap<String, String>,
}

impl Screen {
    fn new(settings: &Settings) -> Self {
        Self { style: settings.stderr, lines: 0, seen: BTreeMap::new() }
    }

    fn show(&mut self, status: &AppStatus) {
        if self.style.terminal {
            let text = tree::render(status, false, &self.style, SystemClock.now());
            let size = terminal::standard_size();
            // Lines that would wrap or scroll could not be taken back.
            let rows = size.map_or(24, |size| usize::from(size.rows)).saturating_sub(1);
            let shown: Vec<&str> = text.lines().take(rows).collect();
            let again = self.back();
            let body: String = shown.iter().map(|line| format!("\x1b[2K{line}\n")).collect();
            // Line wrap off while drawing: a long line is cut, not folded.
            eprint_all(&format!("{again}\x1b[?7l{body}\x1b[?7h\x1b[J"));
            self.lines = shown.len();
        } else {
            eprint_all(&self.changes(status));
        }
    }

    fn changes(&mut self, status: &AppStatus) -> String {
        let mut text = String::new();
        for child in children(&status.tree) {
            let mut now = visible(&child.state);
            if child.ready && child.state == "running" {
                now.push_str(", ready");
            }
            if let Some(reason) = &child.reason {
                now.push_str(&format!(": {}", visible(reason)));
            }
            if self.seen.get(&child.instance) != Some(&now) {
                text.push_str(&format!("{} {now}\n", visible(&child.instance)));
                self.seen.insert(child.instance.clone(), now);
            }
        }
        text
    }

    fn back(&self) -> String {
        if self.lines == 0 { String::new() } else { format!("\x1b[{}A\r", self.lines) }
    }

    /// Takes the tree away: the last one is printed as the result.
    fn clear(&mut self) {
        if self.style.terminal && self.lines > 0 {
            eprint_all(&format!("{}\x1b[J", self.back()));
            self.lines = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::app::tree::tests::shop;

    #[test]
    fn a_failure_names_each_instance_that_is_down_and_why() {
        let mut app = shop();
        app.settled = true;
        app.state = "failed".into();
        insta::assert_snapshot!(failure(&app, Duration::from_secs(5), &Style::plain()), @r"
        error: shop has failed: db-1 is down
          db-1: backoff, exited with code 1
        help: `coppice logs` shows what they wrote; the app is left as it is, `coppice down` removes it
        ");
        app.settled = false;
        let text = failure(&app, Duration::from_secs(90), &Style::plain());
        assert!(text.starts_with("error: shop has not settled within 1m30s: db-1 is down\n"), "{text}");
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_change_and_none_twice() {
        let mut screen = Screen { style: Style::plain(), lines: 0, seen: BTreeMap::new() };
        insta::assert_snapshot!(screen.changes(&shop()), @r"
        migrate completed: exited with code 0
        web-1 running, ready
        db-1 backoff: exited with code 1
        ");
        assert_eq!(screen.changes(&shop()), "");
    }
}
