//! What was measured: rows with their spread, the goals beside them, and the table a person reads.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::Result;
use serde::Serialize;

use crate::shell;

/// A complete run, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// UTC, `2026-11-21`.
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) commit: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) skipped: Vec<Skipped>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mb: u64,
    pub(crate) kernel: String,
    pub(crate) cgroup: &'static str,
}

/// One contender's figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What was measured, e.g. `start to exit, no network`.
    pub(crate) figure: String,
    pub(crate) contender: String,
    /// `ms`, `per second`, `MB`, `%`.
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    pub(crate) p10: f64,
    pub(crate) p90: f64,
    pub(crate) rounds: usize,
}

/// A goal and what became of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Goal {
    pub(crate) figure: String,
    /// e.g. `≤ 1.2 × crun`.
    pub(crate) goal: String,
    /// The ratio or value the goal is about.
    pub(crate) got: f64,
    pub(crate) met: bool,
}

/// What could not be measured, and why.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Skipped {
    pub(crate) what: String,
    pub(crate) why: String,
}

impl Row {
    /// Percentiles of the samples, which may not be empty.
    pub(crate) fn of(figure: &str, contender: &str, unit: &'static str, samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (figure, contender) = (figure.to_owned(), contender.to_owned());
        let at = |share| percentile(&sorted, share);
        Self { figure, contender, unit, median: at(0.5), p10: at(0.1), p90: at(0.9), rounds: sorted.len() }
    }
}

/// The value at `share` of the sorted samples, between neighbours in proportion.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

impl Report {
    pub(crate) fn new(commit: String) -> Result<Self> {
        let date = shell::output(Command::new("date").args(["-u", "+%F"]))?.trim().to_owned();
        let (rows, goals, skipped) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { date, machine: Machine::read(), commit, rows, goals, skipped })
    }

    pub(crate) fn skip(&mut self, what: impl Into<String>, why: impl Into<String>) {
        let skipped = Skipped { what: what.into(), why: why.into() };
        eprintln!("skipped {}: {}", skipped.what, skipped.why);
        self.skipped.push(skipped);
    }

    pub(crate) fn median(&self, figure: &str, contender: &str) -> Option<f64> {
        self.rows.iter().find(|row| row.figure == figure && row.contender == contender).map(|row| row.median)
    }

    /// Coppice's figure is at most `share` of the contender's.
    pub(crate) fn at_most(&mut self, figure: &str, share: f64, contender: &str) {
        if let (Some(ours), Some(theirs)) = (self.median(figure, "coppice"), self.median(figure, contender)) {
            self.goal(figure, format!("≤ {share:.2} × {contender}"), ours / theirs, ours <= share * theirs);
        }
    }

    pub(crate) fn goal(&mut self, figure: &str, goal: String, got: f64, met: bool) {
        self.goals.push(Goal { figure: figure.to_owned(), goal, got, met });
    }

    /// The machine in one word, for a file name.
    pub(crate) fn machine_word(&self) -> String {
        let word = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let text: String = format!("{} {}c", self.machine.cpu, self.machine.cores).chars().map(word).collect();
        text.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
    }

    pub(crate) fn table(&self) -> String {
        let machine = &self.machine;
        let mut out = format!(
            "{}, {} cores, {} MB, Linux {}, cgroup {}, commit {}, {}\n",
            machine.cpu, machine.cores, machine.memory_mb, machine.kernel, machine.cgroup, self.commit, self.date
        );
        let mut figure = "";
        for row in &self.rows {
            if row.figure != figure {
                figure = &row.figure;
                let _ = writeln!(out, "\n{figure} ({})", row.unit);
            }
            let ratio = match self.median(figure, "coppice") {
                Some(ours) if row.contender != "coppice" => format!("coppice is {:.2} ×", ours / row.median),
                _ => String::new(),
            };
            let (name, median, p10, p90) = (&row.contender, row.median, row.p10, row.p90);
            let _ = writeln!(out, "  {name:<30} {median:>9.2}  [{p10:.2} … {p90:.2}]  {ratio}");
        }
        if !self.goals.is_empty() {
            out.push_str("\ngoals\n");
        }
        for goal in &self.goals {
            let word = if goal.met { "met   " } else { "missed" };
            let _ = writeln!(out, "  {word} {}: {} (got {:.2})", goal.figure, goal.goal, goal.got);
        }
        for skipped in &self.skipped {
            let _ = writeln!(out, "  skipped {}: {}", skipped.what, skipped.why);
        }
        out
    }
}

impl Machine {
    fn read() -> Self {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let cgroup = if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) { "v2" } else { "v1" };
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mb: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cgroup,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn report(rows: &[(&str, &str, f64)]) -> Report {
        let rows = rows.iter().map(|(figure, contender, value)| Row::of(figure, contender, "ms", &[*value])).collect();
        let machine = Machine { cpu: "A (R) CPU".into(), cores: 2, memory_mb: 1, kernel: "6".into(), cgroup: "v1" };
        let (date, commit) = ("2026-01-02".into(), "abc".into());
        Report { date, machine, commit, rows, goals: Vec::new(), skipped: Vec::new() }
    }

    #[test]
    fn a_row_tells_the_median_and_the_spread() {
        let row = Row::of("f", "c", "ms", &[5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((row.median, row.p10, row.p90, row.rounds), (3.0, 1.4, 4.6, 5));
    }

    #[test]
    fn a_goal_is_met_or_missed_by_the_ratio_of_the_medians() {
        let mut report = report(&[("start", "coppice", 6.0), ("start", "crun", 5.0), ("start", "runc", 20.0)]);
        report.at_most("start", 1.1, "crun");
        report.at_most("start", 0.5, "runc");
        report.at_most("start", 1.0, "absent");
        assert_eq!(report.goals.iter().map(|goal| goal.met).collect::<Vec<_>>(), [false, true]);
        assert!(report.table().contains("missed start: ≤ 1.10 × crun (got 1.20)"), "{}", report.table());
    }

    #[test]
    fn a_machine_makes_a_file_name() {
        assert_eq!(report(&[]).machine_word(), "a-r-cpu-2c");
    }
}
