//! What was measured: rows with their spread, the goals beside them, and the table a person reads.

use std::collections::BTreeMap;
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
    /// What goals speak of, by part and name: `proxy`, `ratio_to_fastest_peer`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) ratios: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
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
    /// `ms`, `µs`, `per second`, `MB`, `MB/s`, `%`.
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
        let (rows, goals, skipped, ratios) = (Vec::new(), Vec::new(), Vec::new(), BTreeMap::new());
        Ok(Self { date, machine: Machine::read(), commit, rows, goals, skipped, ratios })
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

    /// Coppice's figure is at least `share` of the best peer's, where more is better. The ratio is kept as `key`.
    pub(crate) fn at_least_best(
        &mut self,
        key: (&'static str, &'static str),
        figure: &str,
        share: f64,
        peers: &[&str],
    ) {
        let best = self.of_peers(figure, peers).max_by(f64::total_cmp);
        self.against_best(key, figure, (">=", share), best, peers);
    }

    /// Coppice's figure is at most `share` of the best peer's, where less is better. The ratio is kept as `key`.
    pub(crate) fn at_most_best(&mut self, key: (&'static str, &'static str), figure: &str, share: f64, peers: &[&str]) {
        let best = self.of_peers(figure, peers).min_by(f64::total_cmp);
        self.against_best(key, figure, ("<=", share), best, peers);
    }

    fn of_peers(&self, figure: &str, peers: &[&str]) -> impl Iterator<Item = f64> {
        peers.iter().filter_map(|peer| self.median(figure, peer)).collect::<Vec<_>>().into_iter()
    }

    fn against_best(
        &mut self,
        (part, key): (&'static str, &'static str),
        figure: &str,
        (relation, share): (&str, f64),
        best: Option<f64>,
        peers: &[&str],
    ) {
        let (Some(ours), Some(best)) = (self.median(figure, "coppice"), best) else { return };
        let ratio = ours / best;
        self.ratio(part, key, ratio);
        let (sign, met) = if relation == ">=" { ("≥", ratio >= share) } else { ("≤", ratio <= share) };
        let best_of = if peers.len() > 1 { "the better of " } else { "" };
        self.goal(figure, format!("{sign} {share:.2} × {best_of}{}", peers.join(" and ")), ratio, met);
    }

    /// Keeps a figure that a goal speaks of under its name.
    pub(crate) fn ratio(&mut self, part: &'static str, key: &'static str, value: f64) {
        self.ratios.entry(part).or_default().insert(key, value);
    }

    /// Takes over what another run of the same program measured.
    pub(crate) fn join(&mut self, other: Report) {
        self.rows.extend(other.rows);
        self.goals.extend(other.goals);
        self.skipped.extend(other.skipped);
        self.ratios.extend(other.ratios);
    }

    /// One object. Where it is about one part alone, that part's ratios are keys of the object itself.
    pub(crate) fn json(&self, parts: &[String]) -> Result<String> {
        let mut object = serde_json::to_value(self)?;
        if let [part] = parts
            && let Some(ratios) = self.ratios.get(part.as_str())
        {
            object.as_object_mut().into_iter().for_each(|object| {
                object.remove("ratios");
                object.extend(ratios.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())));
            });
        }
        Ok(serde_json::to_string_pretty(&object)?)
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
        let (goals, skipped, ratios) = (Vec::new(), Vec::new(), BTreeMap::new());
        Report { date, machine, commit, rows, goals, skipped, ratios }
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
    fn the_best_peer_is_the_one_to_beat_and_the_ratio_to_it_a_key_of_the_object() {
        let rates = [("rate", "coppice", 90.0), ("rate", "nginx", 80.0), ("rate", "haproxy", 100.0)];
        let waits = [("wait", "coppice", 3.0), ("wait", "nginx", 2.0), ("wait", "haproxy", 6.0)];
        let mut report = report(&[rates, waits].concat());
        report.at_least_best(("proxy", "ratio_to_fastest_peer"), "rate", 1.0, &["nginx", "haproxy"]);
        report.at_least_best(("proxy", "ratio_to_nginx"), "rate", 1.0, &["nginx"]);
        report.at_most_best(("proxy", "wait_ratio"), "wait", 1.5, &["nginx", "haproxy"]);
        report.at_least_best(("proxy", "ratio_to_absent"), "rate", 1.0, &["absent"]);
        assert_eq!(report.goals.iter().map(|goal| goal.met).collect::<Vec<_>>(), [false, true, true]);
        let one: serde_json::Value = serde_json::from_str(&report.json(&["proxy".into()]).unwrap()).unwrap();
        assert_eq!((&one["ratio_to_fastest_peer"], &one["wait_ratio"]), (&0.9.into(), &1.5.into()));
        assert!(one["rows"].is_array() && one["ratio_to_absent"].is_null());
        let all: serde_json::Value = serde_json::from_str(&report.json(&[]).unwrap()).unwrap();
        assert_eq!(all["ratios"]["proxy"]["ratio_to_nginx"], 1.125);
    }

    /// Nothing is measured here: a machine that is busy with tests measures nothing. What was measured and committed is
    /// held to the goals, all of them.
    #[test]
    fn the_committed_figures_of_one_machine_meet_all_their_goals() {
        let committed: serde_json::Value =
            serde_json::from_str(include_str!("../../../bench/results/latest.json")).unwrap();
        let goals = committed["goals"].as_array().unwrap();
        assert_eq!(goals.len(), 10, "{goals:?}");
        assert!(goals.iter().all(|goal| goal["met"] == true), "{goals:#?}");
        assert_eq!(committed["skipped"].as_array().unwrap().len(), 0, "{}", committed["skipped"]);
    }

    /// Of a suite's committed run: how many goals there are, and which were missed. Nothing was skipped.
    fn committed(results: &str) -> (usize, Vec<String>) {
        let committed: serde_json::Value = serde_json::from_str(results).unwrap();
        assert_eq!(committed["skipped"].as_array().unwrap().len(), 0, "{}", committed["skipped"]);
        let goals = committed["goals"].as_array().unwrap();
        let missed = goals.iter().filter(|goal| goal["met"] != true);
        (goals.len(), missed.map(|goal| goal["figure"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn the_committed_figures_of_traffic_and_releases_meet_their_goals_but_for_those_the_readme_calls_missed() {
        const TRAFFIC: &str = "HTTP/1.1, 64 connections, p99";
        let traffic = committed(include_str!("../../../bench/results/traffic.json"));
        assert_eq!(traffic, (11, vec![TRAFFIC.to_owned()]));
        let releases = committed(include_str!("../../../bench/results/releases.json"));
        assert_eq!(releases, (7, Vec::new()));
        let readme = include_str!("../../../README.md");
        assert_eq!(readme.matches("**missed**").count(), 1);
    }

    #[test]
    fn the_committed_figures_of_releases_have_each_part_with_its_keys_and_as_the_goals_have_them() {
        let committed: serde_json::Value =
            serde_json::from_str(include_str!("../../../bench/results/releases.json")).unwrap();
        let keys = |of: &serde_json::Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let ratios = &committed["ratios"];
        let mut parts: Vec<&str> = super::super::releases::PARTS.iter().map(|(part, _)| *part).collect();
        parts.sort_unstable();
        assert_eq!(keys(ratios), parts);
        let goal = |figure: &str, goal: &str| {
            let mut goals = committed["goals"].as_array().unwrap().iter();
            let is_it = |one: &&serde_json::Value| {
                one["figure"].as_str().unwrap().starts_with(figure) && one["goal"].as_str().unwrap().starts_with(goal)
            };
            goals.find(is_it).unwrap()["got"].as_f64().unwrap()
        };
        let expected = [
            ("noop-up", vec![("ms_per_noop_up", goal("up again of 20", "≤ 50"))]),
            ("plan", vec![("ms_per_plan", goal("plan of 1,000", "≤ 100"))]),
            ("roll", vec![("failed_requests", goal("requests", "0")), ("overhead", goal("roll", "≤ 1.2") - 1.0)]),
            (
                "rollback",
                vec![
                    ("large_over_small", goal("rollback", "flat: ≤ 1.3")),
                    ("seconds_to_healthy", goal("rollback", "≤ 1000 ms") / 1e3),
                ],
            ),
            ("switch", vec![("ratio", goal("snapshot and switch", "≤ 2.00"))]),
        ];
        for (part, figures) in expected {
            assert_eq!(keys(&ratios[part]), figures.iter().map(|(key, _)| *key).collect::<Vec<_>>(), "{part}");
            for (key, got) in figures {
                let told = ratios[part][key].as_f64().unwrap();
                assert!((told - got).abs() < 1e-9, "{part} {key}: {told}, its goal has {got}");
            }
        }
    }

    #[test]
    fn a_machine_makes_a_file_name() {
        assert_eq!(report(&[]).machine_word(), "a-r-cpu-2c");
    }
}
