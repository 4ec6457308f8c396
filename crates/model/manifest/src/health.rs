//! `health` of a service.

use coppice_spec::{BeamSpec, HealthProbe, HealthSpec, WorkloadSpec};

use crate::diagnostic::{Report, quoted};
use crate::fields::Fields;
use crate::keys::HEALTH;

/// Which keys a probe type uses besides timing.
fn own_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "http" => &["port", "path"],
        "tcp" => &["port"],
        "grpc" => &["port", "service"],
        "rpc" => &["expression"],
        "epmd" => &[],
        _ => &["command"],
    }
}

/// The `health` table of a service; `None` when absent or wrong (reported).
pub(crate) fn read(service: &Fields<'_>, workload: &WorkloadSpec, report: &mut Report<'_>) -> Option<HealthSpec> {
    let entry = service.entry("health", report)?;
    let title = format!("{}.{}]", service.title.trim_end_matches(']'), entry.key);
    let fields = Fields::open(&entry.node, &HEALTH, title, report)?;
    let kind = fields.choice("type", report);
    if !fields.has("type") {
        let message = format!("{} has no `type`", fields.title);
        report.error(&entry.key_span, message, "add type = \"http\", \"tcp\", \"grpc\", \"exec\", \"rpc\" or \"epmd\"");
    }

    let port = fields.integer("port", report);
    let path = fields.text("path", report);
    let service_name = fields.text("service", report);
    let command = fields.words("command", report);
    let expression = fields.text("expression", report);
    let interval = fields.some_duration("interval", report);
    let timeout = fields.some_duration("timeout", report);
    let retries = fields.integer("retries", report);
    let start_period = fields.duration("start_period", report);

    let interval_or_default = interval.as_ref().map_or(HealthSpec::DEFAULT_INTERVAL, |found| found.value);
    let default_timeout = HealthSpec::DEFAULT_TIMEOUT.min(interval_or_default);
    if let Some(timeout) = timeout.as_ref().filter(|timeout| timeout.value >= interval_or_default) {
        let (longest, between) = (timeout.value, interval_or_default);
        report.warning(
            &timeout.span,
            format!("a probe may take as long ({longest}) as the time between probes ({between})"),
            "make `timeout` shorter than `interval`",
        );
    }
    if let Some(path) = &path
        && !(path.value.starts_with('/') && path.value.bytes().all(|c| c.is_ascii_graphic()))
    {
        let message = format!("health path {} is not a path", quoted(&path.value));
        report.error(&path.span, message, "start it with /, without blanks");
    }

    let kind = kind?.value;
    for name in
        ["port", "path", "service", "command", "expression"].into_iter().filter(|name| !own_keys(kind).contains(name))
    {
        if let Some(wrong) = fields.entry(name, report) {
            let message = format!("`{name}` has no meaning for health type {kind}");
            report.error(
                &wrong.key_span,
                message,
                match own_keys(kind) {
                    [] => format!("remove it; {kind} uses no other keys"),
                    keys => format!("remove it; {kind} uses: {}", keys.join(", ")),
                },
            );
        }
    }
    if let Some(&needs) = own_keys(kind).first()
        && kind != "rpc"
        && !fields.has(needs)
    {
        let help =
            if needs == "port" { "add the container's port, as in port = 8080" } else { "add command = [\"…\"]" };
        report.error(&entry.key_span, format!("health type {kind} needs `{needs}`"), help);
    }
    let node = workload.beam.as_ref().and_then(BeamSpec::short_name);
    match kind {
        "rpc" if workload.beam.is_none() && !service.has("release") => {
            let message = format!("health type rpc asks a release, and {} has none", service.title);
            report.error(&entry.key_span, message, "add release = \"shop.tar.gz\", or use another type");
        }
        "epmd" if node.is_none() && !service.has("node") => {
            let message = format!("health type epmd asks for a node's name, and {} has none", service.title);
            report.error(&entry.key_span, message, "add node = \"shop@web\", or use another type");
        }
        _ => {}
    }
    if kind == "exec"
        && command.as_ref().is_some_and(Vec::is_empty)
        && let Some(empty) = fields.entry("command", report)
    {
        report.error(&empty.node.span, "the health command is empty", "give a program and its arguments");
    }
    fields.finish();
    let port = port.and_then(|port| u16::try_from(port.value).ok());
    let probe = match kind {
        "http" => HealthProbe::Http { port: port?, path: path.map_or_else(|| "/".to_owned(), |path| path.value) },
        "tcp" => HealthProbe::Tcp { port: port? },
        "grpc" => HealthProbe::Grpc { port: port?, service: service_name.map_or_else(String::new, |name| name.value) },
        "rpc" => HealthProbe::Rpc { expression: expression.map(|found| found.value) },
        "epmd" => HealthProbe::Epmd { node: node?.to_owned() },
        _ => HealthProbe::Exec { command: command? },
    };
    Some(HealthSpec {
        probe,
        interval: interval_or_default,
        timeout: timeout.map_or(default_timeout, |found| found.value),
        retries: retries.map_or(HealthSpec::DEFAULT_RETRIES, |found| found.value.unsigned_abs() as u32),
        start_period: start_period.map_or(HealthSpec::DEFAULT_START_PERIOD, |found| found.value),
    })
}
