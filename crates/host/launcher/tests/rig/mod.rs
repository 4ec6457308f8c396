//! What the launcher's tests share: a busybox root, a launcher of their own, and a client of its socket.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use coppice_base::{Bytes, ContainerId, SystemRandom};
use coppice_container::{
    CgroupLimits, ContainerConfig, DEFAULT_CAPABILITIES, IdRange, LogConfig, Network, ProcessConfig, Rootfs, Seccomp,
};
use coppice_launcher::protocol::{Call, Event, Exit, LaunchError, Message, PROTOCOL, Reply, Request, StreamKind};

/// How long anything may take before the test fails; `COPPICE_TEST_SLOW` times as long where a machine is that slow.
pub fn deadline() -> Duration {
    let slow = std::env::var("COPPICE_TEST_SLOW").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    Duration::from_secs(30) * slow
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A root directory with a launcher at work.
pub struct Rig {
    pub directory: tempfile::TempDir,
    pub cgroup: String,
    launcher: std::cell::RefCell<Option<Child>>,
}

impl Rig {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("coppice-launcher-").tempdir().expect("a temporary directory");
        make_root(&directory.path().join("layer"));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("coppice-test-{}-{number}", std::process::id());
        let rig = Self { directory, cgroup, launcher: Default::default() };
        rig.start_launcher();
        rig
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn binary() -> PathBuf {
        match std::env::var_os("COPPICE_TEST_LAUNCHER") {
            Some(path) => path.into(),
            None => option_env!("CARGO_BIN_EXE_coppice-launcher-alone").map_or_else(beside_this, PathBuf::from),
        }
    }

    /// Starts the launcher, and waits until it listens.
    pub fn start_launcher(&self) {
        let socket = self.path().join("run/launcher.sock");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new(Self::binary()).arg(self.path()).arg(&self.cgroup).spawn().expect("the launcher runs");
        *self.launcher.borrow_mut() = Some(child);
        wait_for("the launcher's socket", || UnixStream::connect(&socket).is_ok());
    }

    pub fn launcher_pid(&self) -> u32 {
        self.launcher.borrow().as_ref().expect("a launcher").id()
    }

    /// kill -9.
    pub fn kill_launcher(&self) {
        if let Some(mut child) = self.launcher.borrow_mut().take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    pub fn connect(&self, events: bool) -> Daemon {
        let stream = UnixStream::connect(self.path().join("run/launcher.sock")).expect("connect");
        stream.set_read_timeout(Some(deadline())).expect("timeout");
        let mut daemon = Daemon { stream, seq: 0, waiting: Vec::new() };
        let reply = daemon.ask(Request::Hello { protocol: PROTOCOL, events });
        assert!(matches!(reply, Reply::Hello { .. }), "{reply:?}");
        daemon
    }

    /// A container that runs `args`, with everything at its usual value.
    pub fn config(&self, args: &[&str]) -> ContainerConfig {
        let id = ContainerId::generate(&mut SystemRandom);
        let scratch = self.path().join("scratch").join(id.as_str());
        std::fs::create_dir_all(&scratch).expect("scratch");
        std::fs::create_dir_all(self.path().join("log")).expect("log");
        let index = NEXT.fetch_add(1, Ordering::Relaxed) % 1000;
        ContainerConfig {
            hostname: "test".to_owned(),
            rootfs: Rootfs { layers: vec![self.path().join("layer")], scratch, read_only: false },
            ids: IdRange::nth(index),
            mounts: Vec::new(),
            process: process(args),
            limits: CgroupLimits::default(),
            network: Network::None,
            shm_size: Bytes(64 << 20),
            privileged: false,
            init: false,
            log: LogConfig { path: self.path().join("log").join(id.as_str()), max_size: Bytes(1 << 20), max_files: 3 },
            id,
        }
    }

    pub fn log(&self, config: &ContainerConfig) -> String {
        std::fs::read_to_string(&config.log.path).unwrap_or_default()
    }

    /// Runs a container to its end: exit and what it wrote, streams apart.
    pub fn run(&self, config: &ContainerConfig) -> Finished {
        let mut daemon = self.connect(true);
        let reply = daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false });
        assert!(matches!(reply, Reply::Started { .. }), "{reply:?}");
        let exit = daemon.exit_of(&config.id);
        let log = self.log(config);
        Finished { exit, stdout: lines_of(&log, "stdout"), stderr: lines_of(&log, "stderr") }
    }

    /// Runs a shell script in a usual container.
    pub fn sh(&self, script: &str) -> Finished {
        self.run(&self.config(&["/bin/sh", "-c", script]))
    }

    /// The error of a start that must fail.
    pub fn refused(&self, config: &ContainerConfig) -> LaunchError {
        let mut daemon = self.connect(false);
        match daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false }) {
            Reply::Error { error } => error,
            other => panic!("expected an error, got {other:?}"),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.launcher.borrow().is_some() && !std::thread::panicking() {
            let mut daemon = self.connect(false);
            daemon.ask(Request::Shutdown { kill: true });
            if let Some(mut child) = self.launcher.borrow_mut().take() {
                let _ = child.wait();
            }
        }
        self.kill_launcher();
        if let Ok(parent) = coppice_cgroup::Hierarchy::detect().and_then(|h| h.parent(&self.cgroup)) {
            for id in parent.list().unwrap_or_default() {
                if let Ok(cgroup) = parent.open(&id) {
                    let _ = cgroup.kill_all();
                    let _ = cgroup.remove();
                }
            }
            let _ = parent.remove();
        }
    }
}

pub struct Finished {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Its standard output, when it ended well.
    pub fn ok(&self) -> &str {
        assert_eq!(self.exit.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        &self.stdout
    }
}

/// The text of one stream of a log.
pub fn lines_of(log: &str, stream: &str) -> String {
    let mut text = String::new();
    for line in log.lines() {
        let mut fields = line.splitn(4, ' ');
        if let (Some(_), Some(of), Some(flag), Some(body)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
            && of == stream
        {
            text.push_str(body);
            if flag == "F" {
                text.push('\n');
            }
        }
    }
    text
}

pub fn process(args: &[&str]) -> ProcessConfig {
    ProcessConfig {
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: vec!["PATH=/bin:/usr/bin".to_owned()],
        cwd: "/".into(),
        user: String::new(),
        groups: Vec::new(),
        capabilities: DEFAULT_CAPABILITIES,
        no_new_privileges: true,
        seccomp: Seccomp::Default,
        rlimits: Vec::new(),
        terminal: None,
        stdin: false,
    }
}

/// A client of the launcher, as the node daemon is.
pub struct Daemon {
    pub stream: UnixStream,
    seq: u64,
    waiting: Vec<Message>,
}

impl Daemon {
    pub fn send(&mut self, request: Request, fd: Option<OwnedFd>) -> u64 {
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        self.send_fds(request, &fds)
    }

    fn send_fds(&mut self, request: Request, fds: &[BorrowedFd<'_>]) -> u64 {
        self.seq += 1;
        let body = serde_json::to_vec(&Call { seq: self.seq, request }).expect("json");
        let mut frame = (body.len() as u32).to_le_bytes().to_vec();
        frame.extend(body);
        let sent = coppice_linux::send(&self.stream, &frame, fds, rustix::net::SendFlags::empty()).expect("send");
        self.stream.write_all(&frame[sent..]).expect("send");
        self.seq
    }

    fn read(&mut self) -> Message {
        let mut head = [0u8; 4];
        self.stream.read_exact(&mut head).expect("a frame");
        let mut body = vec![0u8; u32::from_le_bytes(head) as usize];
        self.stream.read_exact(&mut body).expect("a body");
        serde_json::from_slice(&body).expect("a message")
    }

    pub fn next(&mut self) -> Message {
        if self.waiting.is_empty() { self.read() } else { self.waiting.remove(0) }
    }

    /// Sends a request and waits for its reply; events that come first are kept.
    pub fn ask(&mut self, request: Request) -> Reply {
        self.ask_with(request, None)
    }

    pub fn ask_with(&mut self, request: Request, fd: Option<OwnedFd>) -> Reply {
        let seq = self.send(request, fd);
        self.reply(seq)
    }

    /// Has the launcher hold `fds`, as if they were `count`.
    pub fn keep(&mut self, name: &str, fds: &[BorrowedFd<'_>], count: usize) -> Reply {
        let seq = self.send_fds(Request::Keep { name: name.to_owned(), fds: count as u32 }, fds);
        self.reply(seq)
    }

    /// What the launcher holds under `name`.
    pub fn kept(&mut self, name: &str) -> Vec<OwnedFd> {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let reply = self.ask_with(Request::Kept { name: name.to_owned() }, Some(theirs.into()));
        assert!(matches!(reply, Reply::Done), "{reply:?}");
        let mut fds = Vec::new();
        coppice_linux::receive(&ours, &mut [0; 1], &mut fds, rustix::net::RecvFlags::empty()).expect("receive");
        fds
    }

    fn reply(&mut self, seq: u64) -> Reply {
        loop {
            match self.read() {
                Message::Reply { seq: of, reply } if of == seq => return reply,
                other => self.waiting.push(other),
            }
        }
    }

    /// Starts a container that must start; its pid.
    pub fn start(&mut self, config: &ContainerConfig) -> u32 {
        match self.ask(Request::Start { config: Box::new(config.clone()), attach: false }) {
            Reply::Started { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for a container's end.
    pub fn exit_of(&mut self, id: &ContainerId) -> Exit {
        let known =
            self.waiting.iter().position(|m| matches!(m, Message::Event(Event::Exited { id: of, .. }) if of == id));
        if let Some(at) = known
            && let Message::Event(Event::Exited { exit, .. }) = self.waiting.remove(at)
        {
            return exit;
        }
        loop {
            match self.read() {
                Message::Event(Event::Exited { id: of, exit }) if of == *id => return exit,
                other => self.waiting.push(other),
            }
        }
    }
}

/// The client's end of an attach.
pub struct Attached {
    pub stream: UnixStream,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Attached {
    /// Our end, and the one to pass.
    pub fn pair() -> (Self, OwnedFd) {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        ours.set_read_timeout(Some(deadline())).expect("timeout");
        (Self { stream: ours, stdout: Vec::new(), stderr: Vec::new() }, theirs.into())
    }

    pub fn send(&mut self, kind: StreamKind, bytes: &[u8]) {
        let mut frame = vec![kind as u8];
        frame.extend((bytes.len() as u32).to_le_bytes());
        frame.extend(bytes);
        self.stream.write_all(&frame).expect("send");
    }

    /// Reads one frame; `None` at the end of the stream.
    pub fn frame(&mut self) -> Option<(StreamKind, Vec<u8>)> {
        let mut head = [0u8; 5];
        self.stream.read_exact(&mut head).ok()?;
        let mut body = vec![0u8; u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize];
        self.stream.read_exact(&mut body).ok()?;
        let kind = StreamKind::from_byte(head[0]).expect("a kind");
        match kind {
            StreamKind::Stdout => self.stdout.extend(&body),
            StreamKind::Stderr => self.stderr.extend(&body),
            _ => {}
        }
        Some((kind, body))
    }

    /// Reads to the exit.
    pub fn finish(&mut self) -> Exit {
        while let Some((kind, body)) = self.frame() {
            if kind == StreamKind::Exit {
                return serde_json::from_slice(&body).expect("an exit");
            }
        }
        panic!("the stream ended without an exit; so far {:?}", String::from_utf8_lossy(&self.stdout));
    }

    /// Reads until standard output has `text`.
    pub fn wait_stdout(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            assert!(self.frame().is_some(), "no {text:?} in {:?}", String::from_utf8_lossy(&self.stdout));
        }
    }
}

/// A root filesystem with busybox under its usual names and two users.
pub fn make_root(root: &Path) {
    let busybox = std::env::var("COPPICE_TEST_BUSYBOX").unwrap_or_else(|_| "/bin/busybox".to_owned());
    for directory in ["bin", "etc", "tmp", "root", "home/web"] {
        std::fs::create_dir_all(root.join(directory)).expect("mkdir");
    }
    std::fs::copy(&busybox, root.join("bin/busybox")).expect("busybox (set COPPICE_TEST_BUSYBOX)");
    let applets = Command::new(&busybox).arg("--list").output().expect("busybox --list").stdout;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:web:/home/web:/bin/sh\n")
        .expect("passwd");
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:102:\nlog:x:7:web\n").expect("group");
}

/// The launcher beside an example's binary.
fn beside_this() -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    own.ancestors().nth(2).expect("target folder").join("coppice-launcher-alone")
}

/// Polls until `condition` holds, at most [`deadline`].
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let (begun, deadline) = (Instant::now(), deadline());
    while !condition() {
        assert!(begun.elapsed() < deadline, "waited {deadline:?} for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Rig {
    /// Puts the probe (tests/probe/probe.c, built static) into the layer as `/probe`.
    pub fn add_probe(&self) {
        let target = self.path().join("layer/probe");
        if let Some(built) = std::env::var_os("COPPICE_TEST_PROBE") {
            std::fs::copy(built, target).expect("the probe of COPPICE_TEST_PROBE");
            return;
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/probe/probe.c");
        let gcc = Command::new("gcc").args(["-static", "-O1", "-o"]).arg(target).arg(source).status().expect("gcc");
        assert!(gcc.success(), "the probe did not compile");
    }

    /// Waits until nothing of any container is left: no cgroup, no mount on the host, no child of the launcher.
    pub fn nothing_left(&self) {
        let parent = coppice_cgroup::Hierarchy::detect().and_then(|h| h.parent(&self.cgroup)).expect("cgroups");
        wait_for("cgroups to go", || parent.list().expect("list").is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        assert!(!mounts.contains(&self.path().display().to_string()), "{mounts}");
        let children = format!("/proc/{0}/task/{0}/children", self.launcher_pid());
        wait_for("the launcher's children to go", || std::fs::read_to_string(&children).is_ok_and(|c| c.is_empty()));
    }
}

/// The reason of a failed set-up.
pub fn why(error: &LaunchError) -> String {
    match error {
        LaunchError::Setup { step, why } => format!("{step}: {why}"),
        other => panic!("expected a failed step, got {other:?}"),
    }
}
