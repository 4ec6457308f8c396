//! `[service.X.rollout]`.

use coppice_spec::{AnalysisSpec, CanaryStep, FailureAction, RolloutSpec, RolloutStrategy, WorkloadSpec};

use crate::diagnostic::Report;
use crate::fields::{Fields, Placed, wrong_type};
use crate::keys::{ANALYSIS, CANARY_STEP, ROLLOUT};
use crate::tree::Value;

/// How a service of so many `replicas` is rolled out, with or without a table that says so.
pub(crate) fn read(
    service: &Fields<'_>,
    workload: &WorkloadSpec,
    replicas: u32,
    report: &mut Report<'_>,
) -> RolloutSpec {
    let default = RolloutSpec { strategy: RolloutStrategy::default_of(workload, replicas), ..RolloutSpec::default() };
    let Some(entry) = service.entry("rollout", report) else { return default };
    let title = format!("{}.rollout]", service.title.trim_end_matches(']'));
    let Some(fields) = Fields::open(&entry.node, &ROLLOUT, title, report) else { return default };
    let written = fields.choice("strategy", report);
    let strategy = written.as_ref().map_or(default.strategy, |found| match found.value {
        "canary" => RolloutStrategy::Canary,
        "blue_green" => RolloutStrategy::BlueGreen,
        "switch" => RolloutStrategy::Switch,
        _ => RolloutStrategy::Rolling,
    });
    if let Some(written) = written.as_ref().filter(|_| strategy != RolloutStrategy::Switch)
        && RolloutStrategy::one_at_a_time(workload, replicas)
    {
        let message = format!(
            "with strategy = \"{}\" the old and the new instance run at once, with the same {}",
            written.value,
            if workload.network == coppice_spec::NetworkMode::Host { "ports of the host" } else { "volume" },
        );
        report.warning(&written.span, message, "write strategy = \"switch\" unless the program can share it");
    }
    let number = |found: Option<Placed<i64>>| found.and_then(|found| u32::try_from(found.value).ok());
    let parallelism = number(fields.integer("parallelism", report)).unwrap_or(default.parallelism);
    let max_surge = number(fields.integer("max_surge", report)).unwrap_or(parallelism);
    let delay = fields.duration("delay_between_batches", report).map_or(default.delay, |found| found.value);
    let ready_timeout = fields.duration("health_check_timeout", report);
    let deadline = fields.some_duration("deadline", report);
    let failure_action = match fields.choice("failure_action", report).map(|found| found.value) {
        Some("pause") => FailureAction::Pause,
        _ => FailureAction::Rollback,
    };
    // A strategy that is not one is reported: nothing is said of what it would need.
    let is_known = written.is_some() || !fields.has("strategy");
    let canary = canary(&fields, strategy, replicas, is_known, report);
    let analysis = analysis(&fields, strategy, is_known, report);
    let limit = deadline.as_ref().map_or(default.deadline, |found| found.value);
    let watched = canary.iter().map(|step| step.duration.0).sum();
    if limit.0 <= watched {
        let span = deadline.as_ref().map_or(&entry.key_span, |found| &found.span);
        let message = format!(
            "the canary's steps take {} in all, and the deadline is {limit}",
            coppice_base::DurationText(watched)
        );
        report.error(span, message, "give `deadline` more time than the steps take");
    }
    fields.finish();
    RolloutSpec {
        strategy,
        parallelism,
        max_surge,
        delay,
        ready_timeout: ready_timeout.map_or(default.ready_timeout, |found| found.value),
        deadline: limit,
        failure_action,
        canary,
        analysis,
    }
}

fn canary(
    rollout: &Fields<'_>,
    strategy: RolloutStrategy,
    replicas: u32,
    is_known: bool,
    report: &mut Report<'_>,
) -> Vec<CanaryStep> {
    let default = if strategy == RolloutStrategy::Canary { vec![CanaryStep::DEFAULT] } else { Vec::new() };
    let Some(entry) = rollout.entry("canary", report) else { return default };
    if strategy != RolloutStrategy::Canary && is_known {
        let message = format!("`canary` has no meaning for strategy {}", strategy.as_str());
        report.error(&entry.key_span, message, "remove it, or write strategy = \"canary\"");
    }
    let form = "write [{ instances = 1, weight = 10, duration = \"30s\" }]";
    let items = match &entry.node.value {
        Value::List(items) => items,
        Value::Unknown => return default,
        _ => {
            wrong_type("canary", &entry.node, "an array of steps", form, report);
            return default;
        }
    };
    if items.is_empty() {
        report.error(&entry.node.span, "a canary has at least one step", form);
        return default;
    }
    let mut steps: Vec<CanaryStep> = Vec::new();
    for (at, item) in items.iter().enumerate() {
        let title = format!("step {} of `canary`", at + 1);
        let Some(fields) = Fields::open(item, &CANARY_STEP, title, report) else { continue };
        let instances = fields.integer("instances", report);
        let weight = fields.integer("weight", report);
        let duration = fields.duration("duration", report);
        for (name, example) in [("instances", "1"), ("weight", "10"), ("duration", "\"30s\"")] {
            if !fields.has(name) {
                let message = format!("{} has no `{name}`", fields.title);
                report.error(&item.span, message, format!("add {name} = {example}"));
            }
        }
        fields.finish();
        let (Some(instances), Some(weight), Some(duration)) = (instances, weight, duration) else { continue };
        let step = CanaryStep {
            instances: instances.value.unsigned_abs() as u32,
            weight: weight.value.unsigned_abs() as u8,
            duration: duration.value,
        };
        if step.instances > replicas.max(1) {
            let message = format!("a step of {} instances, and the service has {replicas}", step.instances);
            report.error(&instances.span, message, "use at most `replicas`");
        }
        if let Some(before) = steps.last() {
            if step.weight < before.weight {
                let message = format!("the weight goes down from {} to {}", before.weight, step.weight);
                report.error(&weight.span, message, "order the steps by weight");
            }
            if step.instances < before.instances {
                let message = format!("the instances go down from {} to {}", before.instances, step.instances);
                report.error(&instances.span, message, "order the steps by instances");
            }
        }
        steps.push(step);
    }
    steps
}

fn analysis(rollout: &Fields<'_>, strategy: RolloutStrategy, is_known: bool, report: &mut Report<'_>) -> AnalysisSpec {
    let default = AnalysisSpec::default();
    let Some(entry) = rollout.entry("analysis", report) else { return default };
    if strategy != RolloutStrategy::Canary && is_known {
        let message = format!("`analysis` has no meaning for strategy {}", strategy.as_str());
        report.error(&entry.key_span, message, "remove it, or write strategy = \"canary\"");
    }
    let title = format!("{}.analysis]", rollout.title.trim_end_matches(']'));
    let Some(fields) = Fields::open(&entry.node, &ANALYSIS, title, report) else { return default };
    let errors = fields.percent("max_error_percent", report);
    let p99 = fields.some_duration("max_p99", report);
    let p99_ms = fields.integer("max_p99_ms", report);
    if let (Some(_), Some(other)) = (&p99, &p99_ms) {
        report.error(&other.span, "`max_p99_ms` and `max_p99` say the same", "remove one of the two");
    }
    let in_milliseconds =
        p99_ms.map(|found| coppice_base::DurationText(std::time::Duration::from_millis(found.value.unsigned_abs())));
    let min_requests = fields.integer("min_requests", report);
    fields.finish();
    AnalysisSpec {
        max_errors_permille: errors.map_or(default.max_errors_permille, Some),
        max_p99: p99.map(|found| found.value).or(in_milliseconds),
        min_requests: min_requests.map_or(default.min_requests, |found| found.value.unsigned_abs()),
    }
}
