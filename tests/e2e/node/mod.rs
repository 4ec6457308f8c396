//! A node of the test's own: its state directory, its network and mount namespace, its processes; all gone with it.
//!
//! The binary under test runs as people run it, through its command line; nothing here knows the inside of it, but for
//! the name of the node's cgroup, to see that nothing is left in it. A test that fails prints what the daemon and the
//! launcher had to say.
// A module of each test target, which uses the part of it that it needs.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod debian;
mod disk;
mod image;
mod output;
mod terminal;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

pub use debian::debian_root;
pub use image::busybox_tar;
pub use output::Output;
pub use terminal::Terminal;

/// Longer than anything here takes on a loaded machine of two cores; a wait that ends sooner by itself costs nothing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; panics with `what` when it does not in time.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {limit:?} in vain until {what}");
        std::thread::sleep(PAUSE);
    }
}

/// A state directory and a network of its own for `coppice`.
pub struct Node {
    /// The test's directory; the root is `r` in it.
    dir: PathBuf,
    /// Where the root is as the node sees it.
    root: PathBuf,
    holder: Child,
    /// Of every command, and so of the daemon.
    environment: Vec<(&'static str, PathBuf)>,
}

impl Node {
    /// A node with default settings. Nothing runs until a command starts it.
    pub fn new() -> Self {
        Self::prepare(None)
    }

    /// A node with this `node.toml`.
    pub fn with_settings(text: &str) -> Self {
        let node = Self::new();
        node.set(text);
        node
    }

    /// Its daemons die at the moments that are written into the file which is answered: see CONTRIBUTING.
    pub fn mortal(&mut self) -> PathBuf {
        let file = self.dir.join("death");
        self.environment.push(("COPPICE_TEST_DEATH", file.clone()));
        file
    }

    fn prepare(disk: Option<u64>) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Short: paths of sockets are at most 107 bytes.
        let name = format!("cp{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new("/tmp").join(name);
        std::fs::create_dir(&dir).expect("a directory for the test");
        let root = dir.join("r");
        std::fs::create_dir(&root).unwrap();
        let mut script = String::from("ip link set lo up && ");
        if let Some(size) = disk {
            script.push_str(&format!("mount -t tmpfs -o size={size},mode=711 small {} && ", root.display()));
        }
        script.push_str("echo ready && exec sleep infinity");
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut line = String::new();
        let _ = BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line);
        assert_eq!(line, "ready\n", "the test needs root and namespaces");
        Self { dir, root, holder, environment: Vec::new() }
    }

    /// Writes `node.toml`; a daemon reads it when it starts.
    pub fn set(&self, text: &str) {
        std::fs::write(self.see(&self.root.join("node.toml")), text).unwrap();
    }

    /// The state directory, as the node sees it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory for the test's own files, seen by test and node alike. Commands start in it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file into [`dir`](Self::dir).
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Where the test finds a path of the node's mount namespace.
    pub fn see(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), path.display()))
    }

    /// The node's network, as a file to enter it by.
    pub fn network(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/net", self.holder.id()))
    }

    // ── commands ────────────────────────────────────────────────────────────────────────────────────────────

    /// Any program in the node's namespaces, in [`dir`](Self::dir).
    pub fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        self.inside_as(&[], program)
    }

    /// The same, behind a program that changes something of the process first.
    fn inside_as(&self, before: &[&str], program: impl AsRef<OsStr>) -> Command {
        let words = before.iter().copied().chain(["nsenter", "--target"]).collect::<Vec<_>>();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(self.holder.id().to_string()).args(["--net", "--mount"]);
        command.arg(format!("--wdns={}", self.dir.display())).arg(program);
        command.env("NO_COLOR", "1").env_remove("COPPICE_ROOT").env("DOCKER_CONFIG", self.dir.join("docker"));
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// `coppice --root ROOT ARGS…`, not started yet, without standard input. Its process is coppice itself, so it
    /// can be killed.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.inside(env!("CARGO_BIN_EXE_coppice"));
        command.arg("--root").arg(&self.root).args(args).stdin(Stdio::null());
        command
    }

    /// Runs `coppice ARGS…` to its end.
    #[track_caller]
    pub fn coppice<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        Output::of(self.command(args))
    }

    /// Runs `coppice ARGS…` with this standard input.
    #[track_caller]
    pub fn coppice_fed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        Output::fed(self.command(args), input)
    }

    /// Runs `coppice ARGS…`, which must end with 0, and gives its trimmed standard output.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        self.coppice(args).succeeded().stdout.trim().to_owned()
    }

    /// Runs `coppice ARGS… --json`, which must end with 0, and reads what it prints.
    #[track_caller]
    pub fn json<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Value {
        let mut command = self.inside(env!("CARGO_BIN_EXE_coppice"));
        command.arg("--root").arg(&self.root).arg("--json").args(args).stdin(Stdio::null());
        Output::of(command).succeeded().json()
    }

    /// Starts `coppice ARGS…` in a terminal of its own.
    pub fn terminal<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Terminal {
        // The terminal becomes the session's controlling one before coppice takes the process over.
        let mut command = self.inside_as(&["setsid", "--ctty"], env!("CARGO_BIN_EXE_coppice"));
        command.arg("--root").arg(&self.root).args(args);
        Terminal::start(command)
    }

    // ── images and networks ─────────────────────────────────────────────────────────────────────────────────

    /// Imports busybox (all applets; users root and app, 1000:1000) and gives the image's name, `box`.
    #[track_caller]
    pub fn busybox_image(&self) -> &'static str {
        self.coppice([OsStr::new("import"), busybox_tar().as_os_str(), OsStr::new("box")]).succeeded();
        "box"
    }

    /// A node with the image `box`.
    #[track_caller]
    pub fn with_busybox() -> Self {
        let node = Self::new();
        node.busybox_image();
        node
    }

    /// A node with that image whose network has its fast path: frames on its bridge do not pass IP's hooks. This is its
    /// own network, so nobody else's sysctl.
    pub fn with_fast_path() -> Self {
        let node = Self::with_busybox();
        for family in ["ip", "ip6", "arp"] {
            let key = format!("net.bridge.bridge-nf-call-{family}tables");
            let mut sysctl = node.inside("sysctl");
            sysctl.args(["-q", "-e", "-w", &format!("{key}=0")]);
            Output::of(sysctl);
        }
        node
    }

    /// The body of `http://127.0.0.1:PORT/` as the node's machine sees it; none when it is not answered with 200
    /// within two seconds.
    pub fn http_get(&self, port: u16) -> Option<String> {
        self.http(&format!("http://127.0.0.1:{port}/"))
    }

    /// The body of any URL, as the node's machine sees it.
    pub fn http(&self, url: &str) -> Option<String> {
        let mut curl = self.inside("curl");
        curl.args(["--silent", "--fail", "--noproxy", "*", "--max-time", "2", url]).stdin(Stdio::null());
        let output = Output::of(curl);
        (output.code == 0).then_some(output.stdout)
    }

    // ── processes ───────────────────────────────────────────────────────────────────────────────────────────

    /// `coppice node status --json`; starts a daemon where none runs.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.ok(["node", "start"]);
        self.json(["node", "status"])
    }

    #[track_caller]
    pub fn daemon_pid(&self) -> u32 {
        u32::try_from(self.status()["pid"].as_u64().expect("a pid")).unwrap()
    }

    #[track_caller]
    pub fn launcher_pid(&self) -> u32 {
        u32::try_from(self.status()["launcher_pid"].as_u64().expect("a pid")).unwrap()
    }

    /// One container's or image's `inspect`.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> Value {
        let found = self.json(["inspect", name]);
        found.as_array().and_then(|list| list.first()).cloned().unwrap_or(found)
    }

    /// Waits until a container is in this state (`created`, `running`, `paused`, `exited`).
    #[track_caller]
    pub fn wait_for_state(&self, name: &str, state: &str) {
        wait_until(&format!("{name} is {state}"), PATIENCE, || self.inspect(name)["state"] == state);
    }

    /// Waits until a container's log has this text.
    #[track_caller]
    pub fn wait_for_log(&self, name: &str, text: &str) {
        wait_until(&format!("{name} logs {text:?}"), PATIENCE, || {
            let logs = self.coppice(["logs", name]);
            logs.stdout.contains(text) || logs.stderr.contains(text)
        });
    }

    /// Pids of the daemon and launcher of this node, and of commands on it.
    pub fn processes(&self) -> Vec<u32> {
        let root = self.root.as_os_str().as_encoded_bytes();
        let of_this_node = |pid: &u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|w| w == root))
        };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_this_node).collect()
    }

    /// Name of the cgroup that holds this node's containers, in every hierarchy.
    pub fn cgroup(&self) -> String {
        // From the path alone, as the daemon makes it.
        coppice_node::Root::prepare(&self.root).expect("the root can be prepared").cgroup()
    }

    /// Every directory of the node's cgroup, deepest first, in all hierarchies.
    pub fn cgroup_dirs(&self) -> Vec<PathBuf> {
        let name = self.cgroup();
        let mut dirs = Vec::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            below(&hierarchy.path().join(&name), &mut dirs);
        }
        below(&Path::new("/sys/fs/cgroup").join(&name), &mut dirs);
        dirs
    }

    fn say_logs(&self) {
        for name in ["node.log", "launcher.log"] {
            if let Ok(text) = std::fs::read_to_string(self.see(&self.root.join("log").join(name)))
                && !text.is_empty()
            {
                eprintln!("── {name} of the node ──\n{}", text.trim_end());
            }
        }
    }

    /// Every process in the node's network namespace but its holder. (One that is just starting has no command line
    /// to be known by, but it has a namespace.)
    fn inside_now(&self) -> Vec<u32> {
        let network = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let Some(own) = network(self.holder.id()) else { return self.processes() };
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != self.holder.id() && network(*pid).as_ref() == Some(&own)).collect()
    }

    /// Everything is killed: a node that stops in order would wait for commands that do not listen.
    fn clear_until_gone(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let inside = self.inside_now();
            for pid in &inside {
                kill(*pid, "KILL");
            }
            let dirs = self.cgroup_dirs();
            for dir in &dirs {
                for pid in std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
                    kill(pid.parse().unwrap_or_default(), "KILL");
                }
                let _ = std::fs::remove_dir(dir);
            }
            if Instant::now() >= deadline || (inside.is_empty() && self.cgroup_dirs().is_empty()) {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.say_logs();
        }
        self.clear_until_gone();
    }
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        below(&entry.path(), found);
    }
    found.push(dir.to_owned());
}

/// Sends a signal; a process that is gone already is fine.
pub fn kill(pid: u32, signal: &str) {
    if pid > 1 {
        let _ = Command::new("kill").args(["-s", signal, &pid.to_string()]).stderr(Stdio::null()).status();
    }
}

/// Whether a process is there: not yet a zombie, or one with threads that still hold what it had open.
pub fn is_alive(pid: u32) -> bool {
    let is_zombie = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_or(true, |stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])));
    !is_zombie || std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// Kills a process and waits until it is gone.
#[track_caller]
pub fn kill_and_wait(pid: u32, signal: &str) {
    kill(pid, signal);
    wait_until(&format!("process {pid} is gone after {signal}"), PATIENCE, || !is_alive(pid));
}

/// Name and niceness of each thread of a process (`man 5 proc_pid_stat`: the second and the nineteenth field).
#[track_caller]
pub fn threads(pid: u32) -> Vec<(String, i32)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    let of = |stat: String| {
        let (head, tail) = stat.rsplit_once(") ").unwrap();
        (head.split_once('(').unwrap().1.to_owned(), tail.split(' ').nth(16).unwrap().parse().unwrap())
    };
    stats.map(of).collect()
}
