//! What a release is made of, back into the manifest: rollouts, crons, hooks, secrets.

use coppice_base::Name;
use coppice_spec::{
    AnalysisSpec, AppSpec, BeamRelease, BeamSpec, CanaryStep, CronSpec, FailureAction, Missed, OnRotate, Overlap,
    RolloutSpec, RolloutStrategy, Schedule, SecretKind, SecretTarget, SecretUse, ServiceSpec, WorkloadSpec,
};

use super::{labels, text};
use crate::toml_text::{Document, array, array_of, quote};

/// A service's rollout, where it is not what it would be anyway.
pub(super) fn rollout(document: &mut Document, section: &[&str], service: &ServiceSpec) {
    let spec = &service.rollout;
    let strategy = RolloutStrategy::default_of(&service.workload, service.replicas);
    let default = RolloutSpec { strategy, ..RolloutSpec::default() };
    if *spec == default {
        return;
    }
    let section = [section, &["rollout"]].concat();
    document.section(&section);
    document.line("strategy", &quote(spec.strategy.as_str()));
    document.line("parallelism", &spec.parallelism.to_string());
    document.line("max_surge", &spec.max_surge.to_string());
    for (name, value, default) in [
        ("delay_between_batches", spec.delay, default.delay),
        ("health_check_timeout", spec.ready_timeout, default.ready_timeout),
        ("deadline", spec.deadline, default.deadline),
    ] {
        if value != default {
            document.line(name, &quote(&value.to_string()));
        }
    }
    if spec.failure_action == FailureAction::Pause {
        document.line("failure_action", &quote("pause"));
    }
    if !spec.canary.is_empty() {
        let step = |step: &CanaryStep| {
            let CanaryStep { instances, weight, duration } = step;
            format!("{{ instances = {instances}, weight = {weight}, duration = \"{duration}\" }}")
        };
        document.line("canary", &array_of(&spec.canary.iter().map(step).collect::<Vec<_>>()));
    }
    let AnalysisSpec { max_errors_permille, max_p99, min_requests } = &spec.analysis;
    if spec.analysis != AnalysisSpec::default() {
        document.section(&[&section[..], &["analysis"]].concat());
        if let Some(most) = max_errors_permille {
            document.line("max_error_percent", &format!("{}.{}", most / 10, most % 10));
        }
        if let Some(longest) = max_p99 {
            document.line("max_p99", &quote(&longest.to_string()));
        }
        document.line("min_requests", &min_requests.to_string());
    }
}

/// A release that a manifest names. One that is packed is the workload's image, and is written as that alone.
pub(super) fn file(beam: Option<&BeamSpec>) -> Option<(&BeamSpec, &str)> {
    match beam {
        Some(beam @ BeamSpec { release: BeamRelease::File(path), .. }) => Some((beam, path)),
        _ => None,
    }
}

/// The release's tarball, its node's name, and where its cookie is.
pub(super) fn beam(document: &mut Document, beam: Option<&BeamSpec>) {
    let Some((beam, path)) = file(beam) else { return };
    document.line("release", &text(path));
    if let Some(node) = &beam.node {
        document.line("node", &text(node));
    }
    if let Some(cookie) = &beam.cookie {
        document.line("cookie", &format!("{{ secret = {} }}", quote(cookie.as_str())));
    }
}

/// The `secrets` of a workload, on one line of its section.
pub(super) fn uses(document: &mut Document, spec: &WorkloadSpec) {
    // `cookie` says it already.
    let cookie = file(spec.beam.as_ref()).and_then(|(beam, _)| beam.cookie_use());
    let uses: Vec<&SecretUse> = spec.secrets.iter().filter(|one| Some(*one) != cookie.as_ref()).collect();
    if uses.is_empty() {
        return;
    }
    let one = |one: &&SecretUse| {
        let mut keys = vec![format!("secret = {}", quote(one.secret.as_str()))];
        keys.extend(one.part.iter().map(|part| format!("part = {}", quote(part.as_str()))));
        match &one.target {
            SecretTarget::Env(variable) => keys.push(format!("env = {}", text(variable))),
            SecretTarget::File { path, mode, uid, gid } => {
                keys.push(format!("file = {}", text(path)));
                keys.push(format!("mode = \"{mode:04o}\""));
                keys.push(format!("owner = \"{uid}:{gid}\""));
            }
        }
        match &one.on_rotate {
            OnRotate::Restart => {}
            OnRotate::Nothing => keys.push("on_rotate = \"nothing\"".to_owned()),
            OnRotate::Signal(signal) => keys.push(format!("on_rotate = {}", quote(&format!("signal:{signal}")))),
        }
        format!("{{ {} }}", keys.join(", "))
    };
    document.line("secrets", &array_of(&uses.iter().map(one).collect::<Vec<_>>()));
}

/// The keys of a cron beside its workload's.
pub(super) fn cron(document: &mut Document, spec: &CronSpec) {
    match &spec.schedule {
        Schedule::Every(apart) => document.line("every", &quote(&apart.to_string())),
        Schedule::Expression(expression) => document.line("schedule", &text(expression)),
    }
    if spec.time_zone != CronSpec::DEFAULT_TIME_ZONE {
        document.line("time_zone", &text(&spec.time_zone));
    }
    match spec.overlap {
        Overlap::Skip => {}
        Overlap::Queue => document.line("overlap", &quote("queue")),
        Overlap::Replace => document.line("overlap", &quote("replace")),
    }
    if spec.missed == Missed::RunOnce {
        document.line("missed", &quote("run_once"));
    }
    if let Some(timeout) = spec.timeout {
        document.line("timeout", &quote(&timeout.to_string()));
    }
    if spec.history != CronSpec::DEFAULT_HISTORY {
        document.line("history", &spec.history.to_string());
    }
}

/// `[release]`, `[hooks]` and `[secret.*]`.
pub(super) fn app(document: &mut Document, app: &AppSpec) {
    if app.keep != AppSpec::of(app.name.clone()).keep {
        document.section(&["release"]);
        document.line("keep", &app.keep.to_string());
    }
    let hooks = &app.hooks;
    if hooks.names().next().is_some() {
        document.section(&["hooks"]);
        for (name, workers) in [
            ("before_deploy", &hooks.before_deploy),
            ("after_deploy", &hooks.after_deploy),
            ("before_rollback", &hooks.before_rollback),
        ] {
            if !workers.is_empty() {
                document.line(name, &array(&workers.iter().map(Name::as_str).collect::<Vec<_>>()));
            }
        }
    }
    for (name, secret) in &app.secrets {
        document.section(&["secret", name.as_str()]);
        let kind = match &secret.generate {
            None => continue,
            Some(SecretKind::Random256) => "random-256",
            Some(SecretKind::Password) => "password",
            Some(SecretKind::Ed25519) => "ed25519",
            Some(SecretKind::Tls { .. }) => "tls",
        };
        document.line("generate", &quote(kind));
        if let Some(SecretKind::Tls { name }) = &secret.generate {
            document.line("name", &text(name));
        }
    }
}

/// A volume's labels and properties.
pub(super) fn volume(document: &mut Document, section: &[&str], volume: &coppice_spec::VolumeSpec) {
    if let Some(compression) = volume.compression {
        document.line("compression", &quote(compression.as_str()));
    }
    for (name, size) in [("quota", volume.quota), ("record_size", volume.record_size)] {
        if let Some(size) = size {
            document.line(name, &size.0.to_string());
        }
    }
    labels(document, section, &volume.labels);
}
