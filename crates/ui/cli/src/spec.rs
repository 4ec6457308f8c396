//! From the flags of `run` and `create` to the spec a node gets.

use std::collections::BTreeMap;
use std::path::Path;

use coppice_base::DurationText;
use coppice_spec::{HealthProbe, HealthSpec, PullPolicy, RunSpec, WorkloadSpec};

use crate::args::values::Env;
use crate::args::{NewContainerArgs, PullChoice};
use crate::error::CommandError;

/// The container `args` describe. `variable` looks a name up in the caller's environment.
pub(crate) fn of(
    args: NewContainerArgs,
    remove: bool,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<RunSpec, CommandError> {
    let mut words = args.words.into_iter();
    let image = words.next().expect("clap requires one word");
    let mut command: Vec<String> = words.collect();
    let mut env = BTreeMap::new();
    for file in &args.env_file {
        read_env_file(file, &variable, &mut env)?;
    }
    for Env(key, value) in args.env {
        if let Some(value) = value.or_else(|| variable(&key)) {
            env.insert(key, value);
        }
    }
    let entrypoint = match args.entrypoint.as_deref() {
        None => None,
        Some("") => Some(Vec::new()),
        Some(program) => Some(vec![program.to_owned()]),
    };
    // As with docker, another entry point does not get the image's CMD for arguments: with nothing typed, the whole
    // command goes into the entry point, because an empty `command` means "the image's".
    let entrypoint = match entrypoint {
        Some(mut program) if !program.is_empty() => {
            program.append(&mut command);
            Some(program)
        }
        other => other,
    };
    if args.restart != coppice_spec::RestartPolicy::Never && remove {
        return Err(CommandError::usage("--rm and --restart cannot both be given", "leave one of them out"));
    }
    let mut workload = WorkloadSpec::of(image);
    workload.pull = match args.pull {
        PullChoice::Always => PullPolicy::Always,
        PullChoice::Missing => PullPolicy::Missing,
        PullChoice::Never => PullPolicy::Never,
    };
    workload.entrypoint = entrypoint;
    workload.command = command;
    workload.env = env;
    workload.user = args.user;
    workload.working_dir = args.workdir;
    let mut targets = std::collections::BTreeSet::new();
    for target in args.volume.iter().map(|mount| &mount.target).chain(args.tmpfs.iter().map(|tmpfs| &tmpfs.0)) {
        if !targets.insert(target.clone()) {
            return Err(CommandError::usage(
                format!("two mounts on {target}"),
                "each --volume and --tmpfs needs a place of its own",
            ));
        }
    }
    workload.volumes = args.volume;
    workload.tmpfs = args.tmpfs.into_iter().map(|tmpfs| (tmpfs.0, tmpfs.1)).collect();
    workload.limits.cpu = args.cpus;
    workload.limits.cpu_weight = args.cpu_weight;
    workload.limits.memory = args.memory;
    workload.limits.pids = args.pids;
    workload.limits.nofile = args.ulimit.last().map(|limit| limit.0);
    workload.limits.shm_size = args.shm_size;
    workload.network = args.network.into();
    workload.stop_signal = args.stop_signal;
    if let Some(timeout) = args.stop_timeout {
        workload.stop_timeout = DurationText(timeout);
    }
    workload.labels = args.label.into_iter().map(|label| (label.0, label.1)).collect();
    workload.read_only = args.read_only;
    workload.cap_add = args.cap_add;
    workload.cap_drop = args.cap_drop;
    workload.privileged = args.privileged;
    workload.hostname = args.hostname;
    workload.extra_hosts = args.add_host.into_iter().map(|line| (line.0, line.1)).collect();
    workload.init = args.init;
    let health = args.health_cmd.map(|command| HealthSpec {
        probe: HealthProbe::Exec { command: vec!["/bin/sh".to_owned(), "-c".to_owned(), command] },
        interval: args.health_interval.map_or(HealthSpec::DEFAULT_INTERVAL, DurationText),
        timeout: args.health_timeout.map_or(HealthSpec::DEFAULT_TIMEOUT, DurationText),
        retries: args.health_retries.unwrap_or(HealthSpec::DEFAULT_RETRIES),
        start_period: args.health_start_period.map_or(HealthSpec::DEFAULT_START_PERIOD, DurationText),
    });
    Ok(RunSpec {
        name: args.name,
        workload,
        ports: args.publish.into_iter().flat_map(|ports| ports.0).collect(),
        restart: args.restart,
        health,
        remove,
        tty: args.tty,
        interactive: args.interactive,
    })
}

/// Lines of `KEY=VALUE` (taken as they are, quotes and all, as docker does), `KEY` for the caller's value, `#` for a
/// comment.
pub(crate) fn read_env_file(
    path: &Path,
    variable: &impl Fn(&str) -> Option<String>,
    into: &mut BTreeMap<String, String>,
) -> Result<(), CommandError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        CommandError::usage(
            format!("cannot read --env-file {}: {error}", path.display()),
            "check its path and that it is text",
        )
    })?;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match crate::args::values::env(line) {
            Ok(Env(key, value)) => {
                if let Some(value) = value.or_else(|| variable(&key)) {
                    into.insert(key, value);
                }
            }
            Err(error) => {
                return Err(CommandError::Usage {
                    what: format!("{}:{}:1: {error}", path.display(), number + 1),
                    help: None,
                });
            }
        }
    }
    Ok(())
}
