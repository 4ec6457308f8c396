//! A body of 1 GB from the backend to a client, and what the proxy's memory does meanwhile.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Ground, LARGE, ready, servers, take_turns};
use crate::bench::Plan;
use crate::bench::figures::{Report, Row};

const FIGURE: &str = "1 GB body";
/// What is flat: the buffers of one exchange, and what the allocator rounds up.
const FLAT_MB: f64 = 4.0;

pub(super) fn measure(ground: &Ground, plan: &Plan, report: &mut Report) -> Result<()> {
    let mut contenders = servers::proxies(ground, 1024);
    contenders.insert(0, ("backend alone", servers::direct(ground)));
    let contenders = ready(FIGURE, contenders, report);
    let (mut first, mut peaks) = (vec![None; contenders.len()], vec![0.0f64; contenders.len()]);
    let [rates] = take_turns(&contenders, plan.rounds(7, 2), |contender| {
        let place = contenders.iter().position(|one| one.name == contender.name).unwrap_or_default();
        let before = contender.service.processes().memory_mb()?.1;
        first[place].get_or_insert(before);
        let (rate, peak) = fetch(contender)?;
        peaks[place] = peaks[place].max(peak);
        Ok([rate])
    })?;
    let (memory, growth) = (&format!("{FIGURE}, peak memory"), &format!("{FIGURE}, memory gained"));
    for (place, contender) in contenders.iter().enumerate() {
        report.rows.push(Row::of(FIGURE, contender.name, "MB/s", &rates[place]));
    }
    let gained = |place: usize| peaks[place] - first[place].unwrap_or(peaks[place]);
    let proxies = || contenders.iter().enumerate().filter(|(_, one)| one.name != "backend alone");
    report.rows.extend(proxies().map(|(place, one)| Row::of(memory, one.name, "MB", &[peaks[place]])));
    report.rows.extend(proxies().map(|(place, one)| Row::of(growth, one.name, "MB", &[gained(place)])));
    report.at_least_best(("body", "ratio_to_nginx"), FIGURE, 0.9, &["nginx"]);
    if let Some(gained) = report.median(growth, "coppice") {
        report.ratio("body", "memory_gained_mb", gained);
        report.goal(growth, format!("≤ {FLAT_MB} MB"), gained, gained <= FLAT_MB);
    }
    Ok(())
}

/// Megabytes (10⁶) a second, and the most memory that was seen.
fn fetch(contender: &servers::Contender) -> Result<(f64, f64)> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "-o", "/dev/null", "-w", "%{size_download} %{time_total}"])
        .arg(contender.url("/large"));
    let mut child = curl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start curl")?;
    let mut peak = 0.0f64;
    while child.try_wait()?.is_none() {
        peak = peak.max(contender.service.processes().memory_mb()?.1);
        thread::sleep(Duration::from_millis(50));
    }
    let done = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stdout);
    let (bytes, seconds) = said.split_once(' ').with_context(|| format!("curl printed {said:?}"))?;
    if !done.status.success() || bytes.parse() != Ok(LARGE) {
        bail!("the body did not arrive: {} {said}", done.status);
    }
    Ok((LARGE as f64 / 1e6 / seconds.parse::<f64>()?, peak))
}
