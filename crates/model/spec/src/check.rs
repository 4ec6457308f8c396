//! What must hold of the parts of a spec that only meet when a release is made: rollouts, crons, hooks, secrets and the
//! properties of volumes. Part of [`AppSpec::check`].

use std::collections::BTreeSet;

use coppice_base::Name;

use crate::beam;
use crate::{AppSpec, CronSpec, HealthProbe, OnRotate, SecretKind, SecretTarget, SecretUse, VolumeSpec, WorkloadSpec};

/// Every broken rule as one sentence.
pub(crate) fn releases(app: &AppSpec, broken: &mut Vec<String>) {
    for (name, service) in &app.services {
        let asks_release =
            service.health.as_ref().is_some_and(|health| matches!(health.probe, HealthProbe::Rpc { .. }));
        if asks_release && service.workload.beam.is_none() {
            broken.push(format!("service {name} has a health check that asks a release (rpc), and has no release"));
        }
        let clauses = service.rollout.check(service.replicas);
        broken.extend(clauses.into_iter().map(|clause| format!("service {name} cannot be rolled out: {clause}")));
        secrets(app, "service", name, &service.workload, broken);
        beam::check("service", name.as_str(), &service.workload, broken);
    }
    for (name, worker) in &app.workers {
        secrets(app, "worker", name, &worker.workload, broken);
        beam::check("worker", name.as_str(), &worker.workload, broken);
    }
    for (name, cron) in &app.crons {
        if app.workload(name.as_str()).is_some() {
            broken.push(format!("{name} is both a cron and a service or worker"));
        }
        if !cron.workload.depends_on.is_empty() {
            broken.push(format!("cron {name} depends on something: its runs begin at their times"));
        }
        if let Err(why) = cron.schedule.check() {
            broken.push(format!("cron {name} has a schedule that cannot be kept to: {why}"));
        }
        if !CronSpec::is_time_zone(&cron.time_zone) {
            broken.push(format!("cron {name}: {:?} is not a time zone", cron.time_zone));
        }
        if cron.timeout.is_some_and(|timeout| timeout.0.is_zero()) {
            broken.push(format!("cron {name} has a timeout of zero"));
        }
        if !(1..=CronSpec::HISTORY_MAX).contains(&cron.history) {
            broken.push(format!("cron {name} remembers {} runs: 1 to {} can be", cron.history, CronSpec::HISTORY_MAX));
        }
        secrets(app, "cron", name, &cron.workload, broken);
        beam::check("cron", name.as_str(), &cron.workload, broken);
    }
    hooks(app, broken);
    for (name, volume) in &app.volumes {
        let VolumeSpec { host_path, labels: _, compression, quota, record_size } = volume;
        let is_set = compression.is_some() || quota.is_some() || record_size.is_some();
        if host_path.is_some() && is_set {
            broken.push(format!("volume {name} is a directory of the host, which has no properties"));
        }
        if quota.is_some_and(|quota| quota.0 == 0) {
            broken.push(format!("volume {name} has a quota of zero"));
        }
        let is_record = |bytes: u64| VolumeSpec::RECORD_SIZE.contains(&bytes) && bytes.is_power_of_two();
        if record_size.is_some_and(|size| !is_record(size.0)) {
            broken.push(format!("volume {name}: its record size is not a power of two from 512 to 1 MiB"));
        }
    }
    for (name, secret) in &app.secrets {
        if let Some(SecretKind::Tls { name: host }) = &secret.generate
            && (host.is_empty() || host.len() > 253 || host.contains(|c: char| c.is_whitespace() || c.is_control()))
        {
            broken.push(format!("secret {name}: {host:?} is not a name for a certificate"));
        }
    }
    if app.keep > AppSpec::KEEP_MAX {
        broken.push(format!("keep is {}, and at most {} releases are kept", app.keep, AppSpec::KEEP_MAX));
    }
}

fn hooks(app: &AppSpec, broken: &mut Vec<String>) {
    for (hook, names) in [
        ("before_deploy", &app.hooks.before_deploy),
        ("after_deploy", &app.hooks.after_deploy),
        ("before_rollback", &app.hooks.before_rollback),
    ] {
        let mut seen = BTreeSet::new();
        for name in names {
            if !app.workers.contains_key(name.as_str()) {
                broken.push(format!("{hook} names {name}, which is not a worker of the app"));
            }
            if !seen.insert(name) {
                broken.push(format!("{hook} names {name} twice"));
            }
        }
    }
    for (name, workload) in app.workloads() {
        for dependency in workload.depends_on.iter().filter(|on| app.hooks.contains(on.name.as_str())) {
            broken
                .push(format!("{name} depends on {}, which is a hook and runs only around a release", dependency.name));
        }
    }
    for (group, spec) in &app.groups {
        for member in spec.members.iter().filter(|member| app.hooks.contains(member.as_str())) {
            broken.push(format!("group {group} has {member}, which is a hook and not supervised"));
        }
    }
}

fn secrets(app: &AppSpec, kind: &str, name: &Name, workload: &WorkloadSpec, broken: &mut Vec<String>) {
    let (mut variables, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for one in &workload.secrets {
        let SecretUse { secret, part, target, on_rotate } = one;
        if let Err(why) = target.check() {
            broken.push(format!("{kind} {name}, secret {secret}: {why}"));
        }
        match target {
            SecretTarget::Env(variable) => {
                if workload.env.contains_key(variable) || !variables.insert(variable.clone()) {
                    broken.push(format!("{kind} {name} sets {variable} twice"));
                }
            }
            SecretTarget::File { path, .. } => {
                let path = SecretUse::absolute(path);
                if path.trim_end_matches('/') == SecretUse::DIRECTORY {
                    broken.push(format!("{kind} {name}: secret {secret} is to be a file in {path}, not to be that"));
                }
                let covers = |target: &str| {
                    let target = std::path::Path::new(target);
                    target.starts_with(SecretUse::DIRECTORY) && std::path::Path::new(&path).starts_with(target)
                };
                let mounts = workload.volumes.iter().map(|mount| &mount.target).chain(workload.tmpfs.keys());
                if let Some(target) = mounts.filter(|target| **target != path).find(|target| covers(target)) {
                    broken.push(format!("{kind} {name} has a mount at {target}, over its secret {secret}"));
                }
                let is_mounted = workload.volumes.iter().any(|mount| mount.target == path);
                if is_mounted || workload.tmpfs.contains_key(&path) || !paths.insert(path.clone()) {
                    broken.push(format!("{kind} {name} has two files or mounts at {path}"));
                }
            }
        }
        if let Some(part) = part
            && let Some(declared) = app.secrets.get(secret)
            && declared.generate.as_ref().and_then(SecretKind::part) != Some(part.as_str())
        {
            broken.push(format!("{kind} {name} uses part {part} of secret {secret}, which has none of this name"));
        }
        if let OnRotate::Signal(signal) = on_rotate
            && (signal.is_empty() || !signal.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-')))
        {
            broken.push(format!("{kind} {name}, secret {secret}: {signal:?} is not a signal"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use coppice_base::{Bytes, DurationText};

    use super::*;
    use crate::{
        CanaryStep, HooksSpec, Missed, Overlap, RestartPolicy, RolloutSpec, RolloutStrategy, Schedule, SecretSpec,
        ServiceSpec, WorkerSpec,
    };

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn app() -> AppSpec {
        let cron = CronSpec {
            workload: WorkloadSpec::of("x"),
            schedule: Schedule::Expression("@daily".into()),
            time_zone: CronSpec::DEFAULT_TIME_ZONE.into(),
            overlap: Overlap::Skip,
            missed: Missed::Skip,
            timeout: None,
            history: CronSpec::DEFAULT_HISTORY,
        };
        let hook = WorkerSpec { workload: WorkloadSpec::of("x"), restart: RestartPolicy::Never };
        let mut web = ServiceSpec::of(WorkloadSpec::of("x"));
        web.workload.env = BTreeMap::from([("TAKEN".to_owned(), "1".to_owned())]);
        AppSpec {
            services: BTreeMap::from([(name("web"), web)]),
            workers: BTreeMap::from([(name("hook"), hook)]),
            crons: BTreeMap::from([(name("nightly"), cron)]),
            hooks: HooksSpec { before_deploy: vec![name("hook")], ..HooksSpec::default() },
            volumes: BTreeMap::from([(name("data"), VolumeSpec::default())]),
            secrets: BTreeMap::from([(name("pw"), SecretSpec { generate: Some(SecretKind::Password) })]),
            ..AppSpec::of(name("app"))
        }
    }

    fn secret(target: SecretTarget) -> SecretUse {
        SecretUse { secret: name("pw"), part: None, target, on_rotate: OnRotate::Restart }
    }

    fn file(path: &str) -> SecretTarget {
        SecretTarget::File { path: path.into(), mode: SecretUse::DEFAULT_MODE, uid: 0, gid: 0 }
    }

    #[test]
    fn what_a_release_is_made_of_is_checked_rule_by_rule() {
        assert_eq!(app().check(), Vec::<String>::new());
        type Break = fn(&mut AppSpec);
        let broken: &[(&str, Break)] = &[
            ("parallelism is 0", |app| web(app).rollout.parallelism = 0),
            ("max_surge is 0", |app| web(app).rollout.max_surge = 0),
            ("deadline is zero", |app| web(app).rollout.deadline = DurationText(Duration::ZERO)),
            ("a canary has no step", |app| web(app).rollout.strategy = RolloutStrategy::Canary),
            ("steps for another strategy", |app| web(app).rollout.canary = vec![CanaryStep::DEFAULT]),
            ("weight is not from 1", |app| canary(app, &[(1, 0)])),
            ("more than the service has", |app| canary(app, &[(2, 5)])),
            ("goes back behind", |app| canary(app, &[(1, 5), (1, 4)])),
            ("deadline comes before", |app| {
                canary(app, &[(1, 5)]);
                web(app).rollout.deadline = DurationText(Duration::from_secs(30));
            }),
            ("both a cron and a service", |app| {
                let cron = app.crons["nightly"].clone();
                app.crons.insert(name("web"), cron);
            }),
            ("schedule that cannot be kept", |app| cron(app).schedule = Schedule::Expression("* *".into())),
            ("less than a second", |app| cron(app).schedule = Schedule::Every(DurationText(Duration::ZERO))),
            ("is not a time zone", |app| cron(app).time_zone = "../x".into()),
            ("timeout of zero", |app| cron(app).timeout = Some(DurationText(Duration::ZERO))),
            ("remembers 0 runs", |app| cron(app).history = 0),
            ("mounts volume gone", |app| {
                let source = crate::MountSource::Volume(name("gone"));
                let mount = crate::VolumeMount { source, target: "/x".into(), read_only: false };
                cron(app).workload.volumes.push(mount);
            }),
            ("not a worker of the app", |app| app.hooks.after_deploy = vec![name("web")]),
            ("names hook twice", |app| app.hooks.before_rollback = vec![name("hook"), name("hook")]),
            ("is a hook and runs only", |app| {
                let on = crate::Dependency { name: name("hook"), condition: crate::Condition::Completed };
                web(app).workload.depends_on = vec![on];
            }),
            ("a hook and not supervised", |app| {
                let group =
                    crate::GroupSpec { supervise: crate::SuperviseSpec::default(), members: vec![name("hook")] };
                app.groups.insert(name("g"), group);
            }),
            ("has no properties", |app| {
                let volume = app.volumes.get_mut("data").unwrap();
                (volume.host_path, volume.quota) = (Some("/x".into()), Some(Bytes(1)));
            }),
            ("power of two", |app| app.volumes.get_mut("data").unwrap().record_size = Some(Bytes(1000))),
            ("sets TAKEN twice", |app| uses(app, &[SecretTarget::Env("TAKEN".into())])),
            ("sets A twice", |app| uses(app, &[SecretTarget::Env("A".into()), SecretTarget::Env("A".into())])),
            ("two files or mounts at /run/secrets/pw", |app| uses(app, &[file("pw"), file("/run/secrets/pw")])),
            ("a mount at /run/secrets, over its secret pw", |app| {
                uses(app, &[file("pw")]);
                web(app).workload.tmpfs.insert("/run/secrets".into(), None);
            }),
            ("to be a file in /run/secrets", |app| uses(app, &[file("/run/secrets")])),
            ("not a variable", |app| uses(app, &[SecretTarget::Env("1=".into())])),
            ("holds `..`", |app| uses(app, &[file("../etc/passwd")])),
            ("part public", |app| {
                uses(app, &[file("pw")]);
                web(app).workload.secrets[0].part = Some(name("public"));
            }),
            ("not a signal", |app| {
                uses(app, &[file("pw")]);
                web(app).workload.secrets[0].on_rotate = OnRotate::Signal(String::new());
            }),
            ("not a name for a certificate", |app| {
                let tls = SecretSpec { generate: Some(SecretKind::Tls { name: String::new() }) };
                app.secrets.insert(name("cert"), tls);
            }),
            ("keep is 1001", |app| app.keep = 1001),
        ];
        for (part, breaks) in broken {
            let mut app = app();
            breaks(&mut app);
            let found = app.check();
            assert!(found.iter().any(|rule| rule.contains(part)), "{part}: {found:?}");
        }
    }

    fn web(app: &mut AppSpec) -> &mut ServiceSpec {
        app.services.get_mut("web").unwrap()
    }

    fn cron(app: &mut AppSpec) -> &mut CronSpec {
        app.crons.get_mut("nightly").unwrap()
    }

    fn canary(app: &mut AppSpec, steps: &[(u32, u8)]) {
        let steps = steps.iter().map(|&(instances, weight)| CanaryStep { instances, weight, ..CanaryStep::DEFAULT });
        web(app).rollout =
            RolloutSpec { strategy: RolloutStrategy::Canary, canary: steps.collect(), ..RolloutSpec::default() };
    }

    fn uses(app: &mut AppSpec, targets: &[SecretTarget]) {
        web(app).workload.secrets = targets.iter().cloned().map(secret).collect();
    }
}
