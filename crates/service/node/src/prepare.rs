//! From what was asked and what the image says to what the launcher is told. Pure: no file is read or written.

use std::path::{Path, PathBuf};

use coppice_base::{Bytes, ContainerId};
use coppice_container::{
    CgroupLimits, ContainerConfig, IdRange, LogConfig, Mount, MountSource as KernelSource, Network, ProcessConfig,
    Rlimit, Rootfs, Seccomp, TerminalSize, UnknownCapability, capabilities,
};
use coppice_image::ImageConfig;
use coppice_spec::{HealthProbe, HealthSpec, MountSource, RunSpec, VolumeMount};

use crate::secrets::Delivery;
use crate::signal::{TERM, UnknownSignal, parse_signal};

/// PATH of a container whose image sets none (docker's).
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// /dev/shm when nobody says (docker's).
const DEFAULT_SHM: Bytes = Bytes(64 << 20);

/// RLIMIT_NOFILE (asm-generic/resource.h).
const RLIMIT_NOFILE: u32 = 7;

/// Why a container cannot be made from this spec and image.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error("image {0} names no command: add one after the image's name")]
    NoCommand(String),
    #[error(transparent)]
    Signal(#[from] UnknownSignal),
    #[error(transparent)]
    Capability(#[from] UnknownCapability),
    #[error("privileged containers are not allowed on this node: set containers.allow_privileged = true in {0}")]
    Privileged(PathBuf),
    #[error("{what} {path:?} must be an absolute path without `..`")]
    Path { what: &'static str, path: String },
    #[error("a word of the {0} has a NUL byte")]
    Nul(&'static str),
}

/// What the node gives a container.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) id: ContainerId,
    pub(crate) hostname: String,
    pub(crate) layers: Vec<PathBuf>,
    /// `<root>/containers/<id>`.
    pub(crate) dir: PathBuf,
    pub(crate) ids: IdRange,
    pub(crate) network: Network,
    /// Each mount's directory or file on the host, in the order of [`volumes`].
    pub(crate) sources: Vec<KernelSource>,
    pub(crate) log_max_size: Bytes,
    pub(crate) log_max_files: u32,
    pub(crate) allow_privileged: Result<(), PathBuf>,
    pub(crate) default_pids: u32,
    pub(crate) default_nofile: Option<u64>,
    pub(crate) size: Option<TerminalSize>,
    pub(crate) secrets: Delivery,
}

/// Files the node generates for a container, in its `etc/`.
pub(crate) const GENERATED: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// The argument list: entrypoint and command, the spec's before the image's. An entrypoint in the spec drops the
/// image's command, as docker does.
pub(crate) fn arguments(spec: &RunSpec, image: &ImageConfig) -> Result<Vec<String>, PrepareError> {
    let workload = &spec.workload;
    let entrypoint = workload.entrypoint.as_ref().unwrap_or(&image.entrypoint);
    let command = match (&workload.entrypoint, workload.command.is_empty()) {
        (_, false) => &workload.command[..],
        (None, true) => &image.cmd[..],
        (Some(_), true) => &[],
    };
    let args: Vec<String> = entrypoint.iter().chain(command).cloned().collect();
    match args.first() {
        Some(program) if !program.is_empty() => Ok(args),
        _ => Err(PrepareError::NoCommand(workload.image.clone())),
    }
}

/// The environment: a PATH, the image's, the spec's; later ones win. TERM for a terminal.
pub(crate) fn environment(spec: &RunSpec, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if spec.tty {
        env.push("TERM=xterm".to_owned());
    }
    let mut set = |entry: String| {
        let key = entry.split('=').next().unwrap_or_default();
        match env.iter_mut().find(|old| old.split('=').next() == Some(key)) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
    };
    image.env.iter().filter(|entry| entry.contains('=')).cloned().for_each(&mut set);
    spec.workload.env.iter().map(|(key, value)| format!("{key}={value}")).for_each(&mut set);
    env
}

/// The signal that asks the container to stop.
pub(crate) fn stop_signal(spec: &RunSpec, image: &ImageConfig) -> Result<i32, UnknownSignal> {
    match spec.workload.stop_signal.as_ref().or(image.stop_signal.as_ref()) {
        Some(text) => parse_signal(text),
        None => Ok(TERM),
    }
}

/// The mounts that need a directory or file on the host: the spec's volumes, then the image's VOLUMEs that no
/// mount of the spec covers (anonymous).
pub(crate) fn volumes(spec: &RunSpec, image: &ImageConfig) -> Vec<VolumeMount> {
    let mut mounts = spec.workload.volumes.clone();
    for path in &image.volumes {
        let covered = |target: &str| target.trim_end_matches('/') == path.trim_end_matches('/');
        if !mounts.iter().any(|m| covered(&m.target)) && !spec.workload.tmpfs.keys().any(|target| covered(target)) {
            mounts.push(VolumeMount { source: MountSource::Anonymous, target: path.clone(), read_only: false });
        }
    }
    mounts
}

/// The health check: the spec's, else the image's HEALTHCHECK.
pub(crate) fn health(spec: &RunSpec, image: &ImageConfig) -> Option<HealthSpec> {
    if spec.health.is_some() {
        return spec.health.clone();
    }
    let check = image.healthcheck.as_ref()?;
    let command = match check.test.split_first() {
        Some((kind, command)) if kind == "CMD" && !command.is_empty() => command.to_vec(),
        // One line; buildah writes it as its words.
        Some((kind, line)) if kind == "CMD-SHELL" && !line.is_empty() => {
            let mut shell =
                if image.shell.is_empty() { vec!["/bin/sh".into(), "-c".into()] } else { image.shell.clone() };
            shell.push(line.join(" "));
            shell
        }
        _ => return None,
    };
    // Docker's defaults for what the image leaves open.
    let or = |value: std::time::Duration, default_s| {
        let default = std::time::Duration::from_secs(default_s);
        coppice_base::DurationText(if value.is_zero() { default } else { value })
    };
    Some(HealthSpec {
        probe: HealthProbe::Exec { command },
        interval: or(check.interval, 30),
        timeout: or(check.timeout, 30),
        retries: if check.retries == 0 { 3 } else { check.retries },
        start_period: coppice_base::DurationText(check.start_period),
    })
}

/// All of it.
pub(crate) fn prepare(spec: &RunSpec, image: &ImageConfig, given: Given) -> Result<ContainerConfig, PrepareError> {
    let workload = &spec.workload;
    if workload.privileged
        && let Err(settings) = &given.allow_privileged
    {
        return Err(PrepareError::Privileged(settings.clone()));
    }
    stop_signal(spec, image)?;
    let args = arguments(spec, image)?;
    let mut env = environment(spec, image, &given.hostname);
    given.secrets.add_to(&mut env);
    for (what, list) in [("command", &args), ("environment", &env)] {
        if list.iter().any(|word| word.contains('\0')) {
            return Err(PrepareError::Nul(what));
        }
    }
    let cwd = match workload.working_dir.as_deref().unwrap_or(&image.working_dir) {
        "" => PathBuf::from("/"),
        path => absolute("working directory", path)?,
    };
    let mut mounts = Vec::new();
    for name in GENERATED {
        mounts.push(Mount {
            target: Path::new("/etc").join(name),
            read_only: false,
            source: KernelSource::Generated { path: given.dir.join("etc").join(name) },
        });
    }
    for (target, size) in &workload.tmpfs {
        mounts.push(Mount {
            target: absolute("tmpfs", target)?,
            read_only: false,
            source: KernelSource::Tmpfs { size: *size },
        });
    }
    mounts.extend(given.secrets.mount());
    for (volume, source) in volumes(spec, image).iter().zip(given.sources) {
        mounts.push(Mount { target: absolute("mount target", &volume.target)?, read_only: volume.read_only, source });
    }
    // A mount over another one's inside comes later.
    mounts.sort_by_key(|mount| mount.target.components().count());
    let nofile = workload.limits.nofile.or(given.default_nofile);
    let rlimits = nofile.map(|n| Rlimit { resource: RLIMIT_NOFILE, soft: n, hard: n });
    Ok(ContainerConfig {
        hostname: given.hostname,
        rootfs: Rootfs { layers: given.layers, scratch: given.dir.join("scratch"), read_only: workload.read_only },
        ids: given.ids,
        mounts,
        process: ProcessConfig {
            args,
            env,
            cwd,
            user: workload.user.clone().unwrap_or_else(|| image.user.clone()),
            groups: Vec::new(),
            capabilities: capabilities(&workload.cap_add, &workload.cap_drop, workload.privileged)?,
            no_new_privileges: !workload.privileged,
            seccomp: if workload.privileged { Seccomp::Unconfined } else { Seccomp::Default },
            rlimits: rlimits.into_iter().collect(),
            terminal: spec.tty.then(|| given.size.unwrap_or(TerminalSize { rows: 24, columns: 80 })),
            stdin: spec.interactive,
        },
        limits: CgroupLimits {
            cpu: workload.limits.cpu,
            cpu_weight: workload.limits.cpu_weight,
            memory: workload.limits.memory,
            pids: Some(workload.limits.pids.unwrap_or(given.default_pids)),
        },
        network: given.network,
        shm_size: workload.limits.shm_size.unwrap_or(DEFAULT_SHM),
        privileged: workload.privileged,
        init: workload.init,
        log: LogConfig {
            path: given.dir.join("log/container.log"),
            max_size: given.log_max_size,
            max_files: given.log_max_files,
        },
        id: given.id,
    })
}

/// The host name: the spec's, else the container's name.
pub(crate) fn hostname(spec: &RunSpec, name: &str) -> String {
    spec.workload.hostname.clone().unwrap_or_else(|| name.to_owned())
}

fn absolute(what: &'static str, path: &str) -> Result<PathBuf, PrepareError> {
    let ok =
        path.starts_with('/') && !path.contains('\0') && !Path::new(path).components().any(|c| c.as_os_str() == "..");
    if ok { Ok(PathBuf::from(path)) } else { Err(PrepareError::Path { what, path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use coppice_spec::{RestartPolicy, WorkloadSpec};

    use super::*;

    fn spec() -> RunSpec {
        RunSpec {
            name: None,
            workload: WorkloadSpec::of("img"),
            ports: Vec::new(),
            restart: RestartPolicy::Never,
            health: None,
            remove: false,
            tty: false,
            interactive: false,
        }
    }

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            env: vec!["PATH=/img".into(), "A=1".into(), "broken".into()],
            volumes: vec!["/data".into()],
            ..ImageConfig::default()
        }
    }

    fn given() -> Given {
        Given {
            id: ContainerId::parse("00000000000000aa").unwrap(),
            hostname: "web".into(),
            layers: vec!["/l".into()],
            dir: "/r/containers/x".into(),
            ids: IdRange::nth(0),
            network: Network::None,
            sources: vec![KernelSource::Bind { path: "/v".into() }],
            log_max_size: Bytes(1 << 20),
            log_max_files: 2,
            allow_privileged: Err("/r/node.toml".into()),
            default_pids: 100,
            default_nofile: None,
            size: None,
            secrets: Delivery::default(),
        }
    }

    #[test]
    fn entrypoint_and_command_combine_as_docker_does() {
        let args = |change: fn(&mut WorkloadSpec)| {
            let mut spec = spec();
            change(&mut spec.workload);
            arguments(&spec, &image()).map(|args| args.join(" "))
        };
        assert_eq!(args(|_| ()).unwrap(), "/entry serve");
        assert_eq!(args(|w| w.command = vec!["x".into()]).unwrap(), "/entry x");
        assert_eq!(args(|w| w.entrypoint = Some(vec!["/e".into()])).unwrap(), "/e");
        let both = args(|w| (w.entrypoint, w.command) = (Some(vec![]), vec!["sh".into()]));
        assert_eq!(both.unwrap(), "sh");
        assert!(matches!(args(|w| w.entrypoint = Some(vec![])), Err(PrepareError::NoCommand(_))));
    }

    #[test]
    fn the_specs_environment_wins_over_the_images() {
        let mut spec = spec();
        spec.workload.env.insert("A".into(), "2".into());
        spec.tty = true;
        assert_eq!(environment(&spec, &image(), "h"), ["PATH=/img", "HOSTNAME=h", "TERM=xterm", "A=2"]);
    }

    #[test]
    fn an_image_volume_gets_an_anonymous_mount_unless_the_spec_covers_it() {
        assert_eq!(volumes(&spec(), &image())[0].source, MountSource::Anonymous);
        let mut covered = spec();
        covered.workload.tmpfs.insert("/data/".into(), None);
        assert!(volumes(&covered, &image()).is_empty());
    }

    #[test]
    fn privileged_is_refused_unless_the_node_allows_it() {
        let mut spec = spec();
        spec.workload.privileged = true;
        assert!(matches!(prepare(&spec, &image(), given()), Err(PrepareError::Privileged(_))));
        let allowed = Given { allow_privileged: Ok(()), ..given() };
        let config = prepare(&spec, &image(), allowed).unwrap();
        assert_eq!(config.process.seccomp, Seccomp::Unconfined);
        assert!(!config.process.no_new_privileges);
    }

    #[test]
    fn relative_paths_and_dots_are_refused() {
        for bad in ["x", "/a/../b", "/a\0"] {
            let mut spec = spec();
            spec.workload.working_dir = Some(bad.into());
            assert!(prepare(&spec, &image(), given()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_image_healthcheck_becomes_an_exec_probe() {
        let mut image = image();
        let check = |test: &[&str]| coppice_image::ImageHealthcheck {
            test: test.iter().map(|word| (*word).to_owned()).collect(),
            ..Default::default()
        };
        image.healthcheck = Some(check(&["CMD-SHELL", "curl -f x"]));
        let health = health(&spec(), &image).unwrap();
        assert_eq!(
            health.probe,
            HealthProbe::Exec { command: vec!["/bin/sh".into(), "-c".into(), "curl -f x".into()] }
        );
        assert_eq!(health.interval.to_string(), "30s");
        image.healthcheck = Some(check(&["CMD-SHELL", "curl", "-f", "x"]));
        assert_eq!(super::health(&spec(), &image).unwrap().probe, health.probe, "as buildah writes it");
        image.healthcheck = Some(check(&["NONE"]));
        assert_eq!(super::health(&spec(), &image), None);
    }
}
