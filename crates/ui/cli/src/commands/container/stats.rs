//! `stats`: what containers use, as a table that renews itself.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use coppice_api::Stats;
use coppice_base::Bytes;

use crate::args::StatsArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::output::Table;
use crate::settings::Settings;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// A share of CPU needs two looks: the first answer is only the start to measure from.
pub(crate) async fn run(settings: &Settings, args: StatsArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let mut before = client.stats(&args.containers).await?;
    if settings.json && args.no_stream {
        settings.print_json(&before)?;
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = client.stats(&args.containers).await?;
        if settings.json {
            settings.print_json_line(&now)?;
        } else {
            let screen = settings.stdout.terminal && !args.no_stream;
            // Home, then clear to the end: the table renews itself in place.
            let clear = if screen { "\x1b[H\x1b[J" } else { "" };
            settings.print(&format!("{clear}{}", table(&before, &now)))?;
        }
        if args.no_stream {
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

fn table(before: &[Stats], now: &[Stats]) -> String {
    let before: HashMap<&str, &Stats> = before.iter().map(|stats| (stats.id.as_str(), stats)).collect();
    let mut table =
        Table::new(&["CONTAINER ID", "NAME", "CPU", "MEMORY / LIMIT", "MEM", "NET IN / OUT", "BLOCK IN / OUT", "PIDS"]);
    for stats in now {
        let limit = stats.memory_limit_bytes;
        table.row(vec![
            stats.id.get(..12).unwrap_or(&stats.id).to_owned(),
            stats.name.clone(),
            cpu_percent(before.get(stats.id.as_str()).copied(), stats),
            match limit {
                Some(limit) => format!("{} / {}", Bytes(stats.memory_bytes), Bytes(limit)),
                None => format!("{} / -", Bytes(stats.memory_bytes)),
            },
            match limit.filter(|limit| *limit > 0) {
                Some(limit) => format!("{:.1}%", stats.memory_bytes as f64 * 100.0 / limit as f64),
                None => "-".to_owned(),
            },
            format!("{} / {}", Bytes(stats.network_receive_bytes), Bytes(stats.network_send_bytes)),
            format!("{} / {}", Bytes(stats.io_read_bytes), Bytes(stats.io_write_bytes)),
            stats.pids.to_string(),
        ]);
    }
    table.render()
}

/// Of one CPU: two busy ones are 200 %.
fn cpu_percent(before: Option<&Stats>, now: &Stats) -> String {
    let Some(before) = before else { return "-".to_owned() };
    let wall_ms = now.at.0.saturating_sub(before.at.0);
    if wall_ms == 0 || now.cpu_usec < before.cpu_usec {
        return "-".to_owned();
    }
    format!("{:.1}%", (now.cpu_usec - before.cpu_usec) as f64 / (wall_ms as f64 * 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coppice_base::Timestamp;

    fn stats(at: u64, cpu_usec: u64, limit: Option<u64>) -> Stats {
        Stats {
            id: "0123456789abcdef".into(),
            name: "web-1".into(),
            at: Timestamp(at),
            cpu_usec,
            throttled_usec: 0,
            memory_bytes: 32 << 20,
            memory_peak_bytes: 0,
            memory_limit_bytes: limit,
            pids: 3,
            io_read_bytes: 1536,
            io_write_bytes: 0,
            network_receive_bytes: 10,
            network_send_bytes: 20,
            oom_kills: 0,
            memory_pressure: None,
            cpu_pressure: None,
            io_pressure: None,
        }
    }

    #[test]
    fn cpu_is_the_difference_over_the_time_between_two_looks() {
        let text = table(&[stats(1000, 5_000, None)], &[stats(2000, 1_505_000, Some(64 << 20))]);
        assert!(text.contains("150.0%") && text.contains("32MiB / 64MiB") && text.contains("50.0%"), "{text}");
    }

    #[test]
    fn a_new_container_or_a_restarted_one_has_no_share_yet() {
        assert_eq!(cpu_percent(None, &stats(1, 1, None)), "-");
        assert_eq!(cpu_percent(Some(&stats(1, 9, None)), &stats(2, 1, None)), "-");
        assert_eq!(cpu_percent(Some(&stats(2, 1, None)), &stats(2, 1, None)), "-");
    }
}
