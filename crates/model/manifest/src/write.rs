//! A spec back into `coppice.toml`: every value written out, in the order of the table of keys.

mod release;
mod route;
mod tls;

use std::collections::BTreeMap;

use coppice_base::Name;
use coppice_spec::{
    AppSpec, Backoff, Condition, HealthProbe, HealthSpec, Limits, MountSource, NetworkMode, OnExhausted, PolicySpec,
    PortSpec, Protocol, PullPolicy, RestartPolicy, Strategy, SuperviseSpec, Verdict, WorkloadSpec,
};

use crate::toml_text::{Document, array, array_of, literal, quote};

/// A manifest that parses (in any directory, whatever its variables) into this spec. Values that are the default are
/// left out. A read-only anonymous volume, which the manifest cannot say, is written as a writable one.
pub fn to_toml(app: &AppSpec) -> String {
    let mut document = Document::default();
    document.section(&["app"]);
    document.line("name", &quote(app.name.as_str()));
    labels(&mut document, &["app"], &app.labels);
    if app.supervise != SuperviseSpec::default() || app.on_exhausted != OnExhausted::default() {
        document.section(&["supervise"]);
        if app.on_exhausted == OnExhausted::Rollback {
            document.line("on_exhausted", &quote("rollback"));
        }
        supervise(&mut document, &["supervise"], &app.supervise);
    }
    release::app(&mut document, app);
    for (name, group) in &app.groups {
        let section = ["group", name.as_str()];
        document.section(&section);
        document.line("members", &array(&group.members.iter().map(Name::as_str).collect::<Vec<_>>()));
        supervise(&mut document, &section, &group.supervise);
    }
    for (name, service) in &app.services {
        let section = ["service", name.as_str()];
        document.section(&section);
        workload(&mut document, &service.workload);
        if service.replicas != 1 {
            document.line("replicas", &service.replicas.to_string());
        }
        if !service.ports.is_empty() {
            document.line("ports", &array(&service.ports.iter().map(port).collect::<Vec<_>>()));
        }
        if service.restart != RestartPolicy::Always {
            document.line("restart", restart(service.restart));
        }
        if service.headless {
            document.line("headless", "true");
        }
        tables(&mut document, &section, &service.workload);
        if let Some(spec) = &service.health {
            document.section(&["service", name.as_str(), "health"]);
            health(&mut document, spec);
        }
        release::rollout(&mut document, &section, service);
        route::routes(&mut document, &section, &service.routes);
        if let Some(spec) = &service.tls {
            tls::tls(&mut document, &section, spec);
        }
    }
    for (name, worker) in &app.workers {
        let section = ["worker", name.as_str()];
        document.section(&section);
        workload(&mut document, &worker.workload);
        if worker.restart != RestartPolicy::Never {
            document.line("restart", restart(worker.restart));
        }
        tables(&mut document, &section, &worker.workload);
    }
    for (name, cron) in &app.crons {
        let section = ["cron", name.as_str()];
        document.section(&section);
        workload(&mut document, &cron.workload);
        release::cron(&mut document, cron);
        tables(&mut document, &section, &cron.workload);
    }
    for (name, volume) in &app.volumes {
        let section = ["volume", name.as_str()];
        document.section(&section);
        if let Some(path) = &volume.host_path {
            document.line("driver", &quote("host"));
            document.line("path", &quote(&literal(path)));
        }
        release::volume(&mut document, &section, volume);
    }
    policy(&mut document, &app.policy);
    document.finish()
}

fn policy(document: &mut Document, spec: &PolicySpec) {
    if *spec == PolicySpec::default() {
        return;
    }
    document.section(&["policy"]);
    if spec.default == Verdict::Deny {
        document.line("default", &quote("deny"));
    }
    for (name, pairs) in [("allow", &spec.allow), ("deny", &spec.deny)] {
        if !pairs.is_empty() {
            let pairs: Vec<String> = pairs.iter().map(|pair| format!("{} -> {}", pair.from, pair.to)).collect();
            document.line(name, &array(&pairs));
        }
    }
}

fn text(text: &str) -> String {
    quote(&literal(text))
}

fn texts<T: AsRef<str>>(items: &[T]) -> String {
    array(&items.iter().map(|item| literal(item.as_ref())).collect::<Vec<_>>())
}

fn labels(document: &mut Document, section: &[&str], labels: &BTreeMap<String, String>) {
    pairs(document, section, "labels", labels);
}

fn pairs(document: &mut Document, section: &[&str], name: &str, pairs: &BTreeMap<String, String>) {
    if pairs.is_empty() {
        return;
    }
    document.section(&[section, &[name]].concat());
    for (key, value) in pairs {
        document.line(key, &text(value));
    }
}

fn supervise(document: &mut Document, section: &[&str], spec: &SuperviseSpec) {
    let strategy = match spec.strategy {
        Strategy::OneForOne => "one_for_one",
        Strategy::OneForAll => "one_for_all",
        Strategy::RestForOne => "rest_for_one",
    };
    document.line("strategy", &quote(strategy));
    document.line("max_restarts", &spec.max_restarts.to_string());
    document.line("window", &quote(&spec.window.to_string()));
    if spec.backoff != Backoff::default() {
        document.section(&[section, &["backoff"]].concat());
        document.line("first", &quote(&spec.backoff.first.to_string()));
        document.line("max", &quote(&spec.backoff.max.to_string()));
        document.line("reset_after", &quote(&spec.backoff.reset_after.to_string()));
    }
}

/// The keys of a workload that are not tables.
fn workload(document: &mut Document, spec: &WorkloadSpec) {
    let default = WorkloadSpec::of("");
    document.line("image", &text(&spec.image));
    match spec.pull {
        PullPolicy::Missing => {}
        PullPolicy::Always => document.line("pull", &quote("always")),
        PullPolicy::Never => document.line("pull", &quote("never")),
    }
    if !spec.command.is_empty() {
        document.line("command", &texts(&spec.command));
    }
    if let Some(entrypoint) = &spec.entrypoint {
        document.line("entrypoint", &texts(entrypoint));
    }
    if !spec.volumes.is_empty() {
        let mounts = spec.volumes.iter().map(|mount| match &mount.source {
            MountSource::Anonymous => mount.target.clone(),
            MountSource::Volume(name) => format!("{name}:{}{}", mount.target, if mount.read_only { ":ro" } else { "" }),
            MountSource::Host(path) => format!("{path}:{}{}", mount.target, if mount.read_only { ":ro" } else { "" }),
        });
        document.line("volumes", &texts(&mounts.collect::<Vec<_>>()));
    }
    if !spec.tmpfs.is_empty() {
        let mounts = spec.tmpfs.iter().map(|(path, size)| match size {
            Some(size) => format!("{path}:size={}", size.0),
            None => path.clone(),
        });
        document.line("tmpfs", &texts(&mounts.collect::<Vec<_>>()));
    }
    if !spec.depends_on.is_empty() {
        let dependencies = spec.depends_on.iter().map(|dependency| {
            let condition = match dependency.condition {
                Condition::Started => "started",
                Condition::Healthy => "healthy",
                Condition::Completed => "completed",
            };
            quote(&format!("{}:{condition}", dependency.name))
        });
        document.line("depends_on", &array_of(&dependencies.collect::<Vec<_>>()));
    }
    for (name, value) in [
        ("user", &spec.user),
        ("working_dir", &spec.working_dir),
        ("stop_signal", &spec.stop_signal),
        ("hostname", &spec.hostname),
    ] {
        if let Some(value) = value {
            document.line(name, &text(value));
        }
    }
    if spec.stop_timeout != default.stop_timeout {
        document.line("stop_timeout", &quote(&spec.stop_timeout.to_string()));
    }
    match spec.network {
        NetworkMode::Bridge => {}
        NetworkMode::Host => document.line("network", &quote("host")),
        NetworkMode::None => document.line("network", &quote("none")),
    }
    if spec.network_priority != default.network_priority {
        document.line("network_priority", &quote(spec.network_priority.as_str()));
    }
    for (name, value) in [("read_only", spec.read_only), ("privileged", spec.privileged), ("init", spec.init)] {
        if value {
            document.line(name, "true");
        }
    }
    release::beam(document, spec.beam.as_ref());
    release::uses(document, spec);
    for (name, value) in [("cap_add", &spec.cap_add), ("cap_drop", &spec.cap_drop)] {
        if !value.is_empty() {
            document.line(name, &array(value));
        }
    }
}

/// The keys of a workload that are tables; they end the section.
fn tables(document: &mut Document, section: &[&str], spec: &WorkloadSpec) {
    // What follows from the release is not written twice.
    let mut env = spec.env.clone();
    let given = release::file(spec.beam.as_ref()).map(|(beam, _)| beam.env()).unwrap_or_default();
    env.retain(|variable, value| given.get(variable) != Some(value));
    pairs(document, section, "env", &env);
    if spec.limits != Limits::default() {
        document.section(&[section, &["limits"]].concat());
        let limits = &spec.limits;
        if let Some(cpu) = limits.cpu {
            document.line("cpu", &quote(&format!("{}m", cpu.0)));
        }
        let numbers = [
            ("cpu_weight", limits.cpu_weight.map(u64::from)),
            ("memory", limits.memory.map(|bytes| bytes.0)),
            ("pids", limits.pids.map(u64::from)),
            ("nofile", limits.nofile),
            ("shm_size", limits.shm_size.map(|bytes| bytes.0)),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                document.line(name, &number.to_string());
            }
        }
    }
    labels(document, section, &spec.labels);
    let hosts = spec.extra_hosts.iter().map(|(name, address)| (name.clone(), address.to_string())).collect();
    pairs(document, section, "extra_hosts", &hosts);
}

fn port(port: &PortSpec) -> String {
    let ip = match port.host_ip {
        None => String::new(),
        Some(std::net::IpAddr::V4(ip)) => format!("{ip}:"),
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:"),
    };
    let host = match (port.host, ip.is_empty()) {
        (0, true) => String::new(),
        (0, false) => ":".to_owned(),
        (host, _) => format!("{host}:"),
    };
    let protocol = if port.protocol == Protocol::Udp { "/udp" } else { "" };
    format!("{ip}{host}{}{protocol}", port.container)
}

fn restart(policy: RestartPolicy) -> &'static str {
    match policy {
        RestartPolicy::Always => "\"always\"",
        RestartPolicy::OnFailure => "\"on-failure\"",
        RestartPolicy::Never => "\"never\"",
    }
}

fn health(document: &mut Document, spec: &HealthSpec) {
    match &spec.probe {
        HealthProbe::Http { port, path } => {
            document.line("type", &quote("http"));
            document.line("port", &port.to_string());
            document.line("path", &text(path));
        }
        HealthProbe::Tcp { port } => {
            document.line("type", &quote("tcp"));
            document.line("port", &port.to_string());
        }
        HealthProbe::Grpc { port, service } => {
            document.line("type", &quote("grpc"));
            document.line("port", &port.to_string());
            document.line("service", &text(service));
        }
        HealthProbe::Exec { command } => {
            document.line("type", &quote("exec"));
            document.line("command", &texts(command));
        }
        HealthProbe::Rpc { expression } => {
            document.line("type", &quote("rpc"));
            if let Some(expression) = expression {
                document.line("expression", &text(expression));
            }
        }
        HealthProbe::Epmd { node: _ } => document.line("type", &quote("epmd")), // the workload's
    }
    document.line("interval", &quote(&spec.interval.to_string()));
    document.line("timeout", &quote(&spec.timeout.to_string()));
    document.line("retries", &spec.retries.to_string());
    document.line("start_period", &quote(&spec.start_period.to_string()));
}
