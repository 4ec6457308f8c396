//! Which fields of the parts of a spec differ. Each spec is taken apart without `..`, so that a field added to it
//! cannot be forgotten here.

use std::collections::BTreeMap;

use coppice_base::{DurationText, Name};
use coppice_spec::{
    AnalysisSpec, Backoff, BeamRelease, BeamSpec, BeamTool, CanaryStep, Condition, CronSpec, Dependency, FailureAction,
    GroupSpec, HealthProbe, HealthSpec, HooksSpec, Limits, Missed, MountSource, NetworkMode, OnExhausted, OnRotate,
    Overlap, Pair, PeerTls, PolicySpec, PortSpec, Protocol, PullPolicy, RestartPolicy, RolloutSpec, RouteSpec,
    Schedule, SecretKind, SecretSpec, SecretTarget, SecretUse, ServiceSpec, Strategy, SuperviseSpec, TlsSpec, Verdict,
    VolumeMount, VolumeSpec, WorkloadSpec,
};

use crate::change::{Change, Changes};

/// Fields that are fixed when a container is made: a change of one replaces the instance.
pub(crate) fn workload(old: &WorkloadSpec, new: &WorkloadSpec) -> Vec<Change> {
    let WorkloadSpec {
        image,
        pull,
        entrypoint,
        command,
        env,
        user,
        working_dir,
        volumes,
        tmpfs,
        depends_on: _, // supervision's
        limits,
        network,
        network_priority,
        stop_signal,
        stop_timeout,
        labels,
        read_only,
        cap_add,
        cap_drop,
        privileged,
        hostname,
        extra_hosts,
        init,
        secrets,
        beam,
    } = old;
    let mut changes = Changes::default();
    changes.value("image", image, &new.image, String::clone);
    changes.value("pull", pull, &new.pull, |policy| {
        match policy {
            PullPolicy::Always => "always",
            PullPolicy::Missing => "missing",
            PullPolicy::Never => "never",
        }
        .to_owned()
    });
    changes.option("entrypoint", entrypoint, &new.entrypoint, |all| words(all));
    changes.value("command", command, &new.command, |all| words(all));
    changes.table("env", env, &new.env, |_| None);
    changes.option("user", user, &new.user, String::clone);
    changes.option("working_dir", working_dir, &new.working_dir, String::clone);
    changes.value("volumes", volumes, &new.volumes, |mounts| list(mounts, mount));
    changes
        .table("tmpfs", tmpfs, &new.tmpfs, |size| Some(size.map_or("unlimited".to_owned(), |size| size.to_string())));
    self::limits(&mut changes, limits, &new.limits);
    changes.value("network", network, &new.network, |mode| {
        match mode {
            NetworkMode::Bridge => "bridge",
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
        }
        .to_owned()
    });
    changes.value("network_priority", network_priority, &new.network_priority, |of| of.as_str().to_owned());
    changes.option("stop_signal", stop_signal, &new.stop_signal, String::clone);
    changes.value("stop_timeout", stop_timeout, &new.stop_timeout, DurationText::to_string);
    changes.table("label", labels, &new.labels, |value| Some(value.clone()));
    changes.value("read_only", read_only, &new.read_only, bool::to_string);
    changes.value("cap_add", cap_add, &new.cap_add, |all| words(all));
    changes.value("cap_drop", cap_drop, &new.cap_drop, |all| words(all));
    changes.value("privileged", privileged, &new.privileged, bool::to_string);
    changes.option("hostname", hostname, &new.hostname, String::clone);
    changes.table("extra_hosts", extra_hosts, &new.extra_hosts, |address| Some(address.to_string()));
    changes.value("init", init, &new.init, bool::to_string);
    changes.value("secrets", secrets, &new.secrets, |all| list(all, secret));
    changes.option("release", beam, &new.beam, release);
    changes.0
}

fn limits(changes: &mut Changes, old: &Limits, new: &Limits) {
    let Limits { cpu, cpu_weight, memory, pids, nofile, shm_size } = old;
    changes.option("limits.cpu", cpu, &new.cpu, |cpu| cpu.to_string());
    changes.option("limits.cpu_weight", cpu_weight, &new.cpu_weight, u32::to_string);
    // Printed sizes are rounded; two that look the same are told in bytes.
    let (mut exact, rounded) = (false, |size: &coppice_base::Bytes| size.to_string());
    for (was, is) in [(memory, &new.memory), (shm_size, &new.shm_size)] {
        exact |= was != is && was.as_ref().map(rounded) == is.as_ref().map(rounded);
    }
    let size = |size: &coppice_base::Bytes| if exact { format!("{}B", size.0) } else { size.to_string() };
    changes.option("limits.memory", memory, &new.memory, size);
    changes.option("limits.pids", pids, &new.pids, u32::to_string);
    changes.option("limits.nofile", nofile, &new.nofile, u64::to_string);
    changes.option("limits.shm_size", shm_size, &new.shm_size, size);
}

/// A service's health check, which is part of its container's definition.
pub(crate) fn health(old: &Option<HealthSpec>, new: &Option<HealthSpec>) -> Vec<Change> {
    let mut changes = Changes::default();
    match (old, new) {
        (Some(old), Some(new)) => {
            let HealthSpec { probe: was, interval, timeout, retries, start_period } = old;
            changes.value("health", was, &new.probe, probe);
            changes.value("health.interval", interval, &new.interval, DurationText::to_string);
            changes.value("health.timeout", timeout, &new.timeout, DurationText::to_string);
            changes.value("health.retries", retries, &new.retries, u32::to_string);
            changes.value("health.start_period", start_period, &new.start_period, DurationText::to_string);
        }
        _ => changes.option("health", old, new, |health| probe(&health.probe)),
    }
    changes.0
}

/// What a supervisor reads of a workload.
pub(crate) fn supervision(old: (RestartPolicy, &[Dependency]), new: (RestartPolicy, &[Dependency])) -> Vec<Change> {
    let mut changes = Changes::default();
    changes.value("restart", &old.0, &new.0, |policy| {
        match policy {
            RestartPolicy::Always => "always",
            RestartPolicy::OnFailure => "on-failure",
            RestartPolicy::Never => "never",
        }
        .to_owned()
    });
    changes.value("depends_on", &old.1, &new.1, |all| list(all, dependency));
    changes.0
}

pub(crate) fn supervise(old: &SuperviseSpec, new: &SuperviseSpec) -> Vec<Change> {
    let mut changes = Changes::default();
    let SuperviseSpec { strategy, max_restarts, window, backoff: Backoff { first, max, reset_after } } = old;
    changes.value("supervise.strategy", strategy, &new.strategy, |strategy| {
        match strategy {
            Strategy::OneForOne => "one_for_one",
            Strategy::OneForAll => "one_for_all",
            Strategy::RestForOne => "rest_for_one",
        }
        .to_owned()
    });
    changes.value("supervise.max_restarts", max_restarts, &new.max_restarts, u32::to_string);
    changes.value("supervise.window", window, &new.window, DurationText::to_string);
    changes.value("supervise.backoff.first", first, &new.backoff.first, DurationText::to_string);
    changes.value("supervise.backoff.max", max, &new.backoff.max, DurationText::to_string);
    changes.value("supervise.backoff.reset_after", reset_after, &new.backoff.reset_after, DurationText::to_string);
    changes.0
}

pub(crate) fn group(old: &GroupSpec, new: &GroupSpec) -> Vec<Change> {
    let GroupSpec { supervise: was, members } = old;
    let mut changes = Changes(supervise(was, &new.supervise));
    changes.value("members", members, &new.members, |members| list(members, ToString::to_string));
    changes.0
}

/// What the proxy and the name server read of a service.
pub(crate) fn traffic(old: &ServiceSpec, new: &ServiceSpec) -> Vec<Change> {
    let ServiceSpec {
        workload: _, // the instances'
        replicas: _,
        ports: was_ports,
        restart: _, // supervision's
        health: _,
        routes: was_routes,
        tls: was_tls,
        headless: was_headless,
        rollout: _, // below
    } = old;
    let mut changes = Changes::default();
    let routes = |service: &ServiceSpec| -> BTreeMap<String, RouteSpec> {
        service.routes.iter().map(|route| (route.name.to_string(), route.clone())).collect()
    };
    changes.table("route", &routes(old), &routes(new), |route| Some(self::route(route)));
    // The first of both counts for more than the others.
    let names = |routes: &[RouteSpec]| routes.iter().map(|route| route.name.to_string()).collect::<Vec<_>>();
    let (was, is) = (names(was_routes), names(&new.routes));
    order(&mut changes, "order of routes", &was, &is);
    let ports = |ports: &[PortSpec]| ports.iter().map(port).collect::<Vec<_>>();
    order(&mut changes, "order of ports", &ports(was_ports), &ports(&new.ports));
    changes.option("tls", was_tls, &new.tls, tls);
    changes.value("headless", was_headless, &new.headless, bool::to_string);
    changes.0
}

/// The same things in another order.
fn order(changes: &mut Changes, field: &str, old: &[String], new: &[String]) {
    let sorted = |items: &[String]| {
        let mut items = items.to_vec();
        items.sort();
        items
    };
    if old != new && sorted(old) == sorted(new) {
        changes.value(field, &old.join(", "), &new.join(", "), String::clone);
    }
}

/// How a service goes to later releases.
pub(crate) fn rollout(old: &RolloutSpec, new: &RolloutSpec) -> Vec<Change> {
    let RolloutSpec {
        strategy,
        parallelism,
        max_surge,
        delay,
        ready_timeout,
        deadline,
        failure_action,
        canary,
        analysis: AnalysisSpec { max_errors_permille, max_p99, min_requests },
    } = old;
    let mut changes = Changes::default();
    changes.value("rollout.strategy", strategy, &new.strategy, |strategy| strategy.as_str().to_owned());
    changes.value("rollout.parallelism", parallelism, &new.parallelism, u32::to_string);
    changes.value("rollout.max_surge", max_surge, &new.max_surge, u32::to_string);
    changes.value("rollout.delay_between_batches", delay, &new.delay, DurationText::to_string);
    changes.value("rollout.health_check_timeout", ready_timeout, &new.ready_timeout, DurationText::to_string);
    changes.value("rollout.deadline", deadline, &new.deadline, DurationText::to_string);
    changes.value("rollout.failure_action", failure_action, &new.failure_action, |action| {
        match action {
            FailureAction::Rollback => "rollback",
            FailureAction::Pause => "pause",
        }
        .to_owned()
    });
    let step = |step: &CanaryStep| format!("{} at {} % for {}", step.instances, step.weight, step.duration);
    changes.value("rollout.canary", canary, &new.canary, |steps| list(steps, step));
    let percent = |permille: &u32| format!("{}.{}", permille / 10, permille % 10);
    let analysis = &new.analysis;
    changes.option("rollout.analysis.max_error_percent", max_errors_permille, &analysis.max_errors_permille, percent);
    changes.option("rollout.analysis.max_p99", max_p99, &analysis.max_p99, DurationText::to_string);
    changes.value("rollout.analysis.min_requests", min_requests, &analysis.min_requests, u64::to_string);
    changes.0
}

/// Everything of a cron; its image and environment count from its next run on.
pub(crate) fn cron(old: &CronSpec, new: &CronSpec) -> Vec<Change> {
    let CronSpec { workload: was, schedule: when, time_zone, overlap, missed, timeout, history } = old;
    let mut changes = Changes(workload(was, &new.workload));
    changes.value("depends_on", &was.depends_on, &new.workload.depends_on, |all| list(all, dependency));
    changes.value("schedule", when, &new.schedule, schedule);
    changes.value("time_zone", time_zone, &new.time_zone, String::clone);
    changes.value("overlap", overlap, &new.overlap, |overlap| {
        match overlap {
            Overlap::Skip => "skip",
            Overlap::Queue => "queue",
            Overlap::Replace => "replace",
        }
        .to_owned()
    });
    changes.value("missed", missed, &new.missed, |missed| {
        match missed {
            Missed::Skip => "skip",
            Missed::RunOnce => "run_once",
        }
        .to_owned()
    });
    changes.option("timeout", timeout, &new.timeout, DurationText::to_string);
    changes.value("history", history, &new.history, u32::to_string);
    changes.0
}

/// `every 1h`, or the expression.
pub(crate) fn schedule(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Every(apart) => format!("every {apart}"),
        Schedule::Expression(text) => text.clone(),
    }
}

/// How many releases are kept, and the hooks around them.
pub(crate) fn releases(old: (u32, &HooksSpec), new: (u32, &HooksSpec)) -> Vec<Change> {
    let HooksSpec { before_deploy, after_deploy, before_rollback } = old.1;
    let mut changes = Changes::default();
    changes.value("release.keep", &old.0, &new.0, u32::to_string);
    let names = |names: &Vec<Name>| list(names, ToString::to_string);
    changes.value("hooks.before_deploy", before_deploy, &new.1.before_deploy, names);
    changes.value("hooks.after_deploy", after_deploy, &new.1.after_deploy, names);
    changes.value("hooks.before_rollback", before_rollback, &new.1.before_rollback, names);
    changes.0
}

/// Which secrets are declared, and how they come to be.
pub(crate) fn secrets(old: &BTreeMap<Name, SecretSpec>, new: &BTreeMap<Name, SecretSpec>) -> Vec<Change> {
    let texts = |secrets: &BTreeMap<Name, SecretSpec>| -> BTreeMap<String, String> {
        let text = |SecretSpec { generate }: &SecretSpec| match generate {
            None => "set by hand".to_owned(),
            Some(SecretKind::Random256) => "random-256".to_owned(),
            Some(SecretKind::Password) => "password".to_owned(),
            Some(SecretKind::Ed25519) => "ed25519".to_owned(),
            Some(SecretKind::Tls { name }) => format!("tls for {name}"),
        };
        secrets.iter().map(|(name, secret)| (name.to_string(), text(secret))).collect()
    };
    let mut changes = Changes::default();
    changes.table("secret", &texts(old), &texts(new), |text| Some(text.clone()));
    changes.0
}

pub(crate) fn on_exhausted(old: OnExhausted, new: OnExhausted) -> Vec<Change> {
    let mut changes = Changes::default();
    changes.value("supervise.on_exhausted", &old, &new, |on| {
        match on {
            OnExhausted::Stay => "stay",
            OnExhausted::Rollback => "rollback",
        }
        .to_owned()
    });
    changes.0
}

/// Its names, and whom it asks for a certificate.
fn tls(tls: &TlsSpec) -> String {
    let peer = match tls.peer {
        PeerTls::Off => None,
        PeerTls::Warn => Some("peer = warn".to_owned()),
        PeerTls::Require => Some("peer = require".to_owned()),
    };
    tls.domains.iter().cloned().chain(peer).collect::<Vec<_>>().join(", ")
}

/// A route's conditions; what else changed of it is told as a change all the same.
fn route(route: &RouteSpec) -> String {
    route.conditions().collect::<Vec<_>>().join(", ")
}

pub(crate) fn policy(old: &PolicySpec, new: &PolicySpec) -> Vec<Change> {
    let PolicySpec { default, allow, deny } = old;
    let mut changes = Changes::default();
    let verdict = |verdict: &Verdict| {
        match verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        }
        .to_owned()
    };
    changes.value("policy.default", default, &new.default, verdict);
    for (field, was, is) in [("policy.allow", allow, &new.allow), ("policy.deny", deny, &new.deny)] {
        let rules = |pairs: &std::collections::BTreeSet<Pair>| -> BTreeMap<String, ()> {
            pairs.iter().map(|pair| (format!("{} -> {}", pair.from, pair.to), ())).collect()
        };
        changes.table(field, &rules(was), &rules(is), |()| None);
    }
    changes.0
}

pub(crate) fn labels(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Change> {
    let mut changes = Changes::default();
    changes.table("label", old, new, |value| Some(value.clone()));
    changes.0
}

pub(crate) fn volume(old: &VolumeSpec, new: &VolumeSpec) -> Vec<Change> {
    let VolumeSpec { host_path, labels: was, compression, quota, record_size } = old;
    let mut changes = Changes::default();
    changes.option("host_path", host_path, &new.host_path, String::clone);
    changes.option("compression", compression, &new.compression, |kind| kind.as_str().to_owned());
    changes.option("quota", quota, &new.quota, ToString::to_string);
    changes.option("record_size", record_size, &new.record_size, ToString::to_string);
    changes.0.extend(labels(was, &new.labels));
    changes.0
}

/// As people write it: `8080:80`, `127.0.0.1:53:53/udp`; a port the node chooses is `auto`.
pub(crate) fn port(port: &PortSpec) -> String {
    let PortSpec { host_ip, host, container, protocol } = port;
    let ip = match host_ip {
        Some(std::net::IpAddr::V6(ip)) => format!("[{ip}]:"),
        Some(ip) => format!("{ip}:"),
        None => String::new(),
    };
    let host = if *host == 0 { "auto".to_owned() } else { host.to_string() };
    let protocol = match protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "/udp",
    };
    format!("{ip}{host}:{container}{protocol}")
}

fn probe(probe: &HealthProbe) -> String {
    match probe {
        HealthProbe::Http { port, path } => format!("http :{port}{path}"),
        HealthProbe::Tcp { port } => format!("tcp :{port}"),
        HealthProbe::Grpc { port, service } => format!("grpc :{port} {service}").trim_end().to_owned(),
        HealthProbe::Exec { command } => format!("exec {}", words(command)),
        HealthProbe::Rpc { expression } => {
            format!("rpc {}", expression.as_deref().unwrap_or_default()).trim_end().to_owned()
        }
        HealthProbe::Epmd { node } => format!("epmd {node}"),
    }
}

fn dependency(dependency: &Dependency) -> String {
    let condition = match dependency.condition {
        Condition::Started => "started",
        Condition::Healthy => "healthy",
        Condition::Completed => "completed",
    };
    format!("{} {condition}", dependency.name)
}

fn mount(mount: &VolumeMount) -> String {
    let source = match &mount.source {
        MountSource::Volume(name) => name.as_str(),
        MountSource::Host(path) => path,
        MountSource::Anonymous => "(anonymous)",
    };
    format!("{source}:{}{}", mount.target, if mount.read_only { ":ro" } else { "" })
}

/// Which release, by its content, and as which node.
fn release(beam: &BeamSpec) -> String {
    let BeamSpec { release, node, cookie } = beam;
    let what = match release {
        BeamRelease::File(path) => path.clone(),
        BeamRelease::Packed { name, tool, sha256 } => {
            let tool = match tool {
                BeamTool::Mix => "mix",
                BeamTool::Rebar3 => "rebar3",
            };
            format!("{name} ({tool}) sha256:{sha256}")
        }
    };
    let node = node.as_ref().map_or_else(String::new, |node| format!(" as {node}"));
    let cookie = cookie.as_ref().map_or_else(String::new, |secret| format!(", cookie in {secret}"));
    format!("{what}{node}{cookie}")
}

/// Where a secret goes; its value is nowhere.
fn secret(one: &SecretUse) -> String {
    let part = one.part.as_ref().map_or(String::new(), |part| format!(".{part}"));
    let target = match &one.target {
        SecretTarget::Env(variable) => format!("${variable}"),
        SecretTarget::File { path, mode, uid, gid } => format!("{path} {mode:04o} {uid}:{gid}"),
    };
    let rotated = match &one.on_rotate {
        OnRotate::Nothing => "nothing".to_owned(),
        OnRotate::Restart => "restart".to_owned(),
        OnRotate::Signal(signal) => format!("signal {signal}"),
    };
    format!("{}{part}:{target} ({rotated} on rotation)", one.secret)
}

/// A command line; words that would not read back as one are quoted.
fn words(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        let plain = !word.is_empty() && !word.chars().any(|c| c.is_whitespace() || c.is_control() || c == '"');
        if plain { word.clone() } else { format!("{word:?}") }
    });
    format!("[{}]", quoted.collect::<Vec<_>>().join(" "))
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    if items.is_empty() { "none".to_owned() } else { items.iter().map(text).collect::<Vec<_>>().join(", ") }
}
