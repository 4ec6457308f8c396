//! A small machine made of namespaces: mounts, processes, names and network of its own, on this machine's kernel.
//!
//! It reaches the network through slirp4netns, a program that carries its packets over ordinary sockets, so nothing of
//! this machine's network is changed. All that is mounted and all that runs goes with its first process; that one goes
//! with us, however we end, since the kernel kills it then (`setpriv --pdeathsig`, `unshare --kill-child`).

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// Where names are asked for inside: slirp4netns hands them on.
pub(crate) const NAME_SERVER: &str = "10.0.2.3";

/// What of this machine is shared with the small one, which sees it and leaves it as it is.
#[derive(Default)]
pub(crate) struct Shared<'a> {
    /// Build outputs, seen as `/root/coppice/target`.
    pub(crate) target: Option<&'a Path>,
    /// What cargo has fetched, seen as `/root/.cargo/registry`.
    pub(crate) registry: Option<&'a Path>,
}

/// A running one.
pub(crate) struct Machine {
    first: Child,
    network: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Machine {
    /// Runs `command` in the root filesystem at `root`, whose parent folder takes what is written to shared folders.
    pub(crate) fn start(root: &Path, shared: &Shared<'_>, command: &[&str]) -> Result<Self> {
        let none = Path::new("-");
        let mut first = dies_with_us();
        first.args(["unshare", "--mount", "--pid", "--uts", "--ipc", "--net", "--fork", "--kill-child"]);
        first.args(["--propagation", "private", "sh", "-c", include_str!("enter.sh"), "sh"]).arg(root);
        first.args([shared.target.unwrap_or(none), shared.registry.unwrap_or(none)]).args(command);
        let mut first = first
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start setpriv and unshare (package util-linux)")?;
        let mut said = BufReader::new(first.stdout.take().context("no output to read")?);
        let entered = expect(&mut said, "entered").context("cannot make namespaces: is this process root?");
        let network = entered.and_then(|()| Self::connect(&first));
        let network = match network {
            Ok(network) => network,
            Err(error) => {
                end(&mut first);
                return Err(error);
            }
        };
        let mut machine = Self { first, network, said };
        machine.first.stdin.take().context("no input to write")?.write_all(b"go\n").context("it ended at once")?;
        Ok(machine)
    }

    /// A network interface for the namespace that `first` is in.
    fn connect(first: &Child) -> Result<Child> {
        let mut slirp = dies_with_us();
        // One byte on descriptor 3 when it is ready; what else it says is for its developers.
        let carry = "exec slirp4netns --configure --mtu=65520 --disable-host-loopback --ready-fd=3 \"$0\" tap0 \
                     3>&1 >/dev/null 2>&1";
        let mut slirp = slirp
            .args(["sh", "-c", carry, &first.id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start slirp4netns")?;
        let mut ready = [0];
        let told = slirp.stdout.take().context("no output to read")?.read_exact(&mut ready);
        if told.is_err() {
            end(&mut slirp);
            bail!("slirp4netns made no network: is the package installed, and is there a /dev/net/tun?");
        }
        Ok(slirp)
    }

    /// Hands each line that it says to `line`, until it ends.
    pub(crate) fn follow(mut self, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
        let mut text = Vec::new();
        while self.said.read_until(b'\n', &mut text).context("cannot read what the machine says")? > 0 {
            line(String::from_utf8_lossy(&text).trim_end());
            text.clear();
        }
        self.first.wait().context("cannot wait for the machine")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        end(&mut self.first);
        end(&mut self.network);
    }
}

/// A command whose program the kernel kills when the thread that starts it ends.
fn dies_with_us() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    command
}

fn expect(said: &mut impl BufRead, word: &str) -> Result<()> {
    let mut line = String::new();
    said.read_line(&mut line)?;
    if line.trim() != word {
        bail!("it said {:?} instead of {word:?}", line.trim());
    }
    Ok(())
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::install::is_root;

    /// A root filesystem of busybox alone.
    fn busybox() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        for name in ["bin", "proc", "sys/fs/cgroup", "dev", "mnt", "root/coppice"] {
            fs::create_dir_all(root.join(name)).expect("a folder");
        }
        fs::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("the package busybox-static");
        for name in ["sh", "env", "umount"] {
            symlink("busybox", root.join("bin").join(name)).expect("a link");
        }
        folder
    }

    /// Waits until no process has `mark` in its command line.
    fn wait_gone(mark: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while let Some(pid) = running(mark) {
            assert!(Instant::now() < deadline, "process {pid} still runs");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn running(mark: &str) -> Option<String> {
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let own = std::process::id().to_string();
        pids.filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && *pid != own)
            .find(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| contains(&line, mark.as_bytes())))
    }

    fn contains(line: &[u8], mark: &[u8]) -> bool {
        line.windows(mark.len()).any(|window| window == mark)
    }

    #[test]
    fn a_machine_has_a_name_processes_and_a_network_of_its_own_and_its_end_is_told() {
        if !is_root() {
            return; // `cargo xtask verify` runs these without root; CI is root
        }
        let folder = busybox();
        let look = "busybox hostname; echo $$; busybox ip -4 addr show tap0; exit 7";
        let command = ["/bin/sh", "-c", look];
        let machine = Machine::start(&folder.path().join("root"), &Shared::default(), &command).expect("it starts");
        let mut said = String::new();
        let end = machine.follow(|line| said.push_str(&format!("{line}\n"))).expect("it ends");
        assert_eq!(end.code(), Some(7), "{said}");
        assert!(said.starts_with("bare\n1\n") && said.contains("10.0.2."), "{said}");
    }

    #[test]
    fn what_is_written_to_a_shared_folder_stays_in_the_machine() {
        if !is_root() {
            return;
        }
        let folder = busybox();
        let target = tempfile::tempdir().expect("a folder");
        fs::write(target.path().join("old"), "here\n").expect("a file");
        let shared = Shared { target: Some(target.path()), registry: None };
        let command =
            ["/bin/sh", "-c", "cd /root/coppice/target && read -r was < old && echo $was && echo there > old"];
        let machine = Machine::start(&folder.path().join("root"), &shared, &command).expect("it starts");
        let mut said = String::new();
        let end = machine.follow(|line| said.push_str(line)).expect("it ends");
        assert!(end.success() && said == "here", "{end}: {said}");
        assert_eq!(fs::read_to_string(target.path().join("old")).expect("a file"), "here\n");
    }

    #[test]
    fn a_machine_is_gone_when_who_started_it_is_killed() {
        if !is_root() {
            return;
        }
        let folder = busybox();
        let root = folder.path().join("root");
        let mark = format!("31{}", std::process::id());
        // The kernel's word goes by thread: a thread that ends without a word is killed, to its children.
        let own = mark.clone();
        let started = thread::spawn(move || {
            let nap = format!("echo up; busybox sleep {own}");
            let mut machine = Machine::start(&root, &Shared::default(), &["/bin/sh", "-c", &nap]).expect("it starts");
            expect(&mut machine.said, "up").expect("it runs");
            std::mem::forget(machine);
        });
        started.join().expect("it started");
        wait_gone(&mark);
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains(&*folder.path().to_string_lossy()), "{mounts}");
    }
}
