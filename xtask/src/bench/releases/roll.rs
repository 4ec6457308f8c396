//! A rolling release of ten replicas while requests go on: how many of those fail, and how much longer the roll takes than
//! the ten instances take to start.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::super::Plan;
use super::super::contenders::{Arena, IMAGE, Network};
use super::super::figures::{Report, Row};
use super::super::starts::once;
use super::{coppice, project};
use crate::shell;

const FIGURE: &str = "roll of 10 replicas under load, time over the sum of their starts";
const FAILED: &str = "requests that failed meanwhile";
const REPLICAS: usize = 10;
/// Most that the roll may take beyond the starts, of their sum.
const OVERHEAD: f64 = 0.2;

#[derive(Deserialize)]
struct Container {
    created_at: u64,
    name: String,
}

#[derive(Deserialize)]
struct Event {
    at: u64,
    action: String,
    id: Option<String>,
    name: Option<String>,
}

pub(super) fn measure(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    arena.coppice(Network::None)?;
    let folder = project(arena, "roll", &manifest(0))?;
    shell::output(&mut coppice(arena, &folder, &["up"])?)?;
    let (mut overheads, mut failures) = (Vec::new(), Vec::new());
    for round in 1..=plan.rounds(5, 1) {
        project(arena, "roll", &manifest(round))?;
        let mut load = Command::new("wrk");
        load.args(["-t1", "-c8", "-d8s", "-H", "Host: roll.example.com", "http://127.0.0.1/"]);
        let load = load.stdout(Stdio::piped()).spawn().context("cannot start wrk")?;
        let took = once(&mut coppice(arena, &folder, &["up"])?)?;
        let said = String::from_utf8_lossy(&load.wait_with_output()?.stdout).into_owned();
        failures.push(failed(&said)?);
        let starts = starts(arena, &folder)?;
        overheads.push((took - starts) / starts);
    }
    shell::output(&mut coppice(arena, &folder, &["down"])?)?;
    report.rows.push(Row::of(FIGURE, "coppice", "×", &overheads.iter().map(|over| 1.0 + over).collect::<Vec<_>>()));
    report.rows.push(Row::of(FAILED, "coppice", "requests", &failures));
    let most = failures.iter().copied().fold(0.0, f64::max);
    report.ratio("roll", "failed_requests", most);
    report.goal(FAILED, "0".to_owned(), most, most == 0.0);
    if let Some(median) = report.median(FIGURE, "coppice") {
        report.ratio("roll", "overhead", median - 1.0);
        report.goal(FIGURE, format!("≤ {}", 1.0 + OVERHEAD), median, median <= 1.0 + OVERHEAD);
    }
    Ok(())
}

/// Milliseconds from when each of the app's containers was made to when it was healthy, in all.
fn starts(arena: &Arena, folder: &std::path::Path) -> Result<f64> {
    let listed = shell::output(&mut coppice(arena, folder, &["ps", "--json", "--app", "roll"])?)?;
    let mut containers: Vec<Container> = serde_json::from_str(&listed)?;
    // Of the release before, the last are still leaving.
    containers.retain(|container| !container.name.contains(".was-"));
    let events = shell::output(&mut coppice(arena, folder, &["events", "--json", "--no-follow", "--since", "1m"])?)?;
    let events: Vec<Event> = events.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let mut sum = 0;
    let mut healthy: Vec<u64> = events.iter().filter(|event| event.action == "healthy").map(|event| event.at).collect();
    healthy.sort_unstable();
    let mut made: Vec<u64> = containers.iter().map(|container| container.created_at).collect();
    made.sort_unstable();
    if made.len() != REPLICAS || healthy.len() < REPLICAS {
        let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
        let seen = events.iter().filter_map(|event| event.name.as_deref().or(event.id.as_deref())).count();
        bail!("expected {REPLICAS} instances, found {names:?} and {seen} events of them");
    }
    // One after the other: the first that is healthy after one was made is that one.
    for at in made {
        let ready = healthy.iter().find(|ready| **ready >= at).context("an instance was never healthy")?;
        sum += ready - at;
    }
    Ok(sum as f64)
}

/// Requests that wrk says went wrong.
fn failed(said: &str) -> Result<f64> {
    if !said.contains("requests in") {
        bail!("wrk said {said:?}");
    }
    let numbers = |line: &str| -> f64 {
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<f64>().ok()).sum()
    };
    let wrong = said.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    Ok(wrong.map(|line| numbers(line.split(':').nth(1).unwrap_or_default())).sum())
}

fn manifest(version: usize) -> String {
    format!(
        "app = \"roll\"\n[service.web]\nimage = \"{IMAGE}\"\nreplicas = {REPLICAS}\n\
         command = [\"/bin/sh\", \"-c\", \"echo {version} > /tmp/index.html; exec /bin/busybox httpd -f -p 80 -h /tmp\"]\n\
         stop_signal = \"KILL\"\nhealth = {{ type = \"http\", port = 80, interval = \"100ms\" }}\n\
         http_proxy = {{ host = \"roll.example.com\" }}\n"
    )
}
