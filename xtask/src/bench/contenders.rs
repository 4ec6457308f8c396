//! Who runs, and how: each contender is a way to build the command that runs a program in a container of the same
//! root filesystem, and each is tried once before it may take part.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::processes::{background, until};
use crate::{shell, workspace};

/// The image's name at every contender.
pub(crate) const IMAGE: &str = "bench";

/// Which network a container gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Network {
    None,
    Bridge,
}

/// The prepared place: one root filesystem, daemons, and everything's paths.
pub(crate) struct Arena {
    /// On disk, below the target folder; emptied at the start of each run.
    pub(crate) folder: PathBuf,
    layer: PathBuf,
    release: PathBuf,
    containers_conf: PathBuf,
}

/// Makes the command that runs the words in a fresh container named by the number.
type Start = Box<dyn Fn(usize, &[&str]) -> Command>;

/// A program that runs containers.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    pub(crate) command: Start,
}

impl Arena {
    /// Shuts this process's namespaces off from the machine and makes the root filesystem.
    pub(crate) fn prepare() -> Result<Self> {
        let target = workspace::Metadata::read(&workspace::root())?.target_directory;
        let folder = target.join("bench");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        let layer = folder.join("rootfs");
        for part in ["bin", "dev", "etc", "proc", "sys", "tmp", "var"] {
            fs::create_dir_all(layer.join(part))?;
        }
        fs::copy("/usr/bin/busybox", layer.join("bin/busybox")).context("the package busybox-static is missing")?;
        for name in ["cat", "echo", "id", "sh", "sleep", "true"] {
            std::os::unix::fs::symlink("busybox", layer.join("bin").join(name))?;
        }
        isolate()?;
        let arena =
            Self { layer, release: target.join("release"), containers_conf: folder.join("containers.conf"), folder };
        shell::output(
            Command::new("tar")
                .arg("-cf")
                .arg(arena.tar())
                .args(["--owner=0", "--group=0"])
                .arg("-C")
                .arg(&arena.layer)
                .arg("."),
        )?;
        arena.configure_podman()?;
        Ok(arena)
    }

    pub(crate) fn tar(&self) -> PathBuf {
        self.folder.join("rootfs.tar")
    }

    /// The bare program; it has no network to offer, so it takes part in both as the floor.
    pub(crate) fn floor(&self) -> Result<Contender> {
        let scratch = self.made("floor")?;
        let (program, layer) = (self.release.join("coppice-floor"), self.layer.clone());
        tried("floor", move |_, words| {
            let mut command = Command::new(&program);
            command.arg(&layer).arg(&scratch).args(words);
            command
        })
    }

    /// `runc run` or `crun run` of a bundle whose root is the layer, read-only.
    pub(crate) fn runtime(
        &self,
        name: &'static str,
        program: &'static str,
        flags: &'static [&'static str],
    ) -> Result<Contender> {
        let bundle = self.made(name)?;
        let state = self.made(&format!("{name}-state"))?;
        if !bundle.join("config.json").exists() {
            shell::output(Command::new(program).arg("spec").current_dir(&bundle))?;
        }
        let config: Value = serde_json::from_str(&fs::read_to_string(bundle.join("config.json"))?)?;
        let layer = self.layer.clone();
        tried(name, move |number, words| {
            // The words are the same each time but for the burst, whose numbers each get a bundle of their own.
            let bundle = bundle.join(words.join("_").replace('/', "."));
            if !bundle.exists() {
                let mut config = config.clone();
                config["process"]["terminal"] = false.into();
                config["process"]["args"] = words.to_vec().into();
                config["root"]["path"] = layer.to_string_lossy().into();
                let _ = fs::create_dir_all(&bundle);
                let _ = fs::write(bundle.join("config.json"), config.to_string());
            }
            let mut command = Command::new(program);
            command.args(flags).arg("--root").arg(&state).arg("run").arg("-b").arg(&bundle).arg(format!("b{number}"));
            command
        })
    }

    /// `podman run --rm`, with a store of its own.
    pub(crate) fn podman(&self, network: Network) -> Result<Contender> {
        shell::output(self.podman_command().args(["import", "--quiet"]).arg(self.tar()).arg("localhost/bench"))?;
        let (store, conf) = (self.folder.join("podman"), self.containers_conf.clone());
        tried("podman", move |_, words| {
            let mut command = podman(&store, &conf);
            command.args(["run", "--rm"]);
            if network == Network::None {
                command.args(["--network", "none"]);
            }
            command.arg("localhost/bench").args(words);
            command
        })
    }

    pub(crate) fn podman_command(&self) -> Command {
        podman(&self.folder.join("podman"), &self.containers_conf)
    }

    /// `docker run --rm` with a daemon started here; it ends with our process namespace.
    pub(crate) fn docker(&self, network: Network) -> Result<Contender> {
        const SOCKET: &str = "unix:///run/docker.sock";
        let client = || {
            let mut command = Command::new("/usr/bin/docker");
            command.args(["-H", SOCKET]);
            command
        };
        if !shell::succeeds(client().arg("version")) {
            let mut daemon = Command::new("/usr/sbin/dockerd");
            daemon.args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid", "-H", SOCKET]);
            daemon.args(["--default-ulimit", "nofile=20000:20000"]).arg("--data-root").arg(self.folder.join("docker"));
            let _runs_on = background(&mut daemon, &self.folder.join("docker.log"))?;
            until("dockerd to answer", || shell::succeeds(client().arg("version")))?;
            shell::output(client().arg("import").arg(self.tar()).arg(IMAGE))?;
        }
        tried("docker", move |_, words| {
            let mut command = client();
            command.args(["run", "--rm"]);
            if network == Network::None {
                command.args(["--network", "none"]);
            }
            command.arg(IMAGE).args(words);
            command
        })
    }

    /// `coppice run --rm` on a node of its own, started by the first command.
    pub(crate) fn coppice(&self, network: Network) -> Result<Contender> {
        if !self.coppice_root().exists() {
            shell::output(self.coppice_command()?.args(["image", "import"]).arg(self.tar()).arg(IMAGE))?;
        }
        let (program, root) = (self.coppice_program()?, self.coppice_root());
        tried("coppice", move |_, words| {
            let mut command = coppice(&program, &root);
            let network = if network == Network::None { "none" } else { "bridge" };
            command.args(["run", "--rm", "--network", network, IMAGE]).args(words);
            command
        })
    }

    pub(crate) fn coppice_command(&self) -> Result<Command> {
        Ok(coppice(&self.coppice_program()?, &self.coppice_root()))
    }

    pub(crate) fn coppice_at(&self, root: &Path) -> Result<Command> {
        Ok(coppice(&self.coppice_program()?, root))
    }

    fn coppice_root(&self) -> PathBuf {
        self.folder.join("coppice")
    }

    fn coppice_program(&self) -> Result<PathBuf> {
        let program = self.release.join("coppice");
        if !program.exists() {
            bail!("there is no {}", program.display());
        }
        Ok(program)
    }

    fn made(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// Podman takes limits above our own as an error, so it is told what ours are.
    fn configure_podman(&self) -> Result<()> {
        let limits = fs::read_to_string("/proc/self/limits")?;
        let hard = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let word = line.split_whitespace().nth(1).unwrap_or("1024");
            if word == "unlimited" { "-1".to_owned() } else { word.to_owned() }
        };
        let (files, processes) = (hard("Max open files"), hard("Max processes"));
        let text = format!(
            "[network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"/run/podman-networks\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n\
             [containers]\ndefault_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n"
        );
        fs::write(&self.containers_conf, text).context("cannot write podman's configuration")
    }
}

fn podman(store: &Path, conf: &Path) -> Command {
    let mut command = Command::new("podman");
    command.env("CONTAINERS_CONF", conf).arg("--root").arg(store).args(["--runroot", "/run/podman"]);
    command
}

fn coppice(program: &Path, root: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(root);
    command
}

/// Loopback up, a private /run, and pure v1 groups where the machine is hybrid (crun refuses those).
fn isolate() -> Result<()> {
    shell::output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    shell::output(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    fs::create_dir_all("/run/lock")?;
    if Path::new("/sys/fs/cgroup/unified").exists() {
        shell::output(Command::new("umount").arg("/sys/fs/cgroup/unified"))?;
    }
    Ok(())
}

fn tried(name: &'static str, command: impl Fn(usize, &[&str]) -> Command + 'static) -> Result<Contender> {
    let said = shell::output(&mut command(0, &["/bin/echo", "ready"]))?;
    if said.trim() != "ready" {
        bail!("{name} ran `echo ready` and printed {said:?}");
    }
    Ok(Contender { name, command: Box::new(command) })
}
