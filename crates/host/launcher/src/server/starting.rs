//! Starting containers and processes in them: from request to answer.

use coppice_cgroup::CgroupError;

use super::delayed::{CLEANING, still_there};
use super::*;

impl Server {
    pub(super) fn start(
        &mut self,
        connection: u64,
        seq: u64,
        config: Box<ContainerConfig>,
        attach: bool,
    ) -> Result<(), LaunchError> {
        let peer = match attach {
            true => Some(self.attach_fd(connection)?),
            false => None,
        };
        if self.containers.contains_key(&config.id) || self.delayed.iter().any(|asked| asked.config.id == config.id) {
            return Err(LaunchError::Exists(config.id.clone()));
        }
        let (key, until) = (self.number(), Instant::now() + CLEANING);
        self.begin(Asked { key, connection, seq, config, peer, until })
    }

    /// Starts it, or has it wait: one that is started again may find the cgroup of its last run still there, under the
    /// same name.
    pub(super) fn begin(&mut self, asked: Asked) -> Result<(), LaunchError> {
        let config = &*asked.config;
        let log = Log::open(config.log.clone())
            .map_err(|e| setup("open the log", format!("{}: {e}", config.log.path.display())))?;
        let (child, ours) = streams(&config.process).map_err(|e| setup("standard streams", e))?;
        let has_remains = |remain: &Remains| remain.cgroup.as_ref().is_some_and(|c| c.id() == config.id.as_str());
        if self.remains.iter().any(has_remains) {
            self.sweep();
        }
        let (cgroup, words) = match self.cgroups.parent.create(config.id.as_str(), &limits(config)) {
            Err(CgroupError::Exists(_)) if Instant::now() < asked.until => {
                self.delay(asked);
                return Ok(());
            }
            Err(CgroupError::Exists(path)) => return Err(still_there(&path)),
            created => created.map_err(|e| setup("cgroup", e))?,
        };
        let mut words: Vec<String> = words.into_iter().map(|word| word.0).collect();
        let attachers = &mut self.attachers;
        let mut connect = |pid: u32, _: BorrowedFd<'_>| connect(attachers, &config.network, pid);
        let started = cgroup
            .join()
            .map_err(|e| StartFailure::setup("cgroup", e))
            .and_then(|join| coppice_container::start(&self.host, config, child, Some(&join), &mut connect));
        let mut starting = match started {
            Ok(starting) => starting,
            Err(failure) => {
                self.remains.push(Remains { cgroup: Some(cgroup), root: None, mounts: None });
                return Err(failure.into());
            }
        };
        words.append(&mut starting.words);
        let at = SystemClock.now();
        let (root, mounts) = (starting.root.take(), starting.mounts.take());
        let pid = starting.pid;
        let process = Process {
            terminal: config.process.terminal.is_some(),
            awaits_terminal: config.process.terminal.is_some(),
            log: Some(log),
            ..Process::new(config.id.clone(), &starting, ours, asked.peer).map_err(|e| setup("pidfd", e))?
        };
        self.containers.insert(
            config.id.clone(),
            Container {
                process: Some(asked.key),
                pid,
                started_at: at,
                exit: None,
                cgroup: Some(cgroup),
                root,
                mounts,
                ids: config.ids,
                memory_limited: config.limits.memory.is_some(),
            },
        );
        let network = Some(config.network.clone());
        let (connection, seq) = (asked.connection, asked.seq);
        self.expect(asked.key, process, Pending { starting, connection, seq, at, words, network })
    }

    /// Watches a process that is on its way.
    pub(super) fn expect(&mut self, key: u64, process: Process, pending: Pending) -> Result<(), LaunchError> {
        self.watch(key, &process);
        // A channel that cannot be watched would leave the start unanswered.
        self.poller
            .add(&pending.starting.channel, Source::Channel(key), EventFlags::IN)
            .map_err(|e| setup("watch the channel", e))?;
        self.processes.insert(key, process);
        self.pending.insert(key, pending);
        Ok(())
    }

    pub(super) fn exec(
        &mut self,
        connection: u64,
        seq: u64,
        id: &ContainerId,
        exec: u64,
        config: &coppice_container::ProcessConfig,
    ) -> Result<(), LaunchError> {
        let socket = self.attach_fd(connection)?;
        let container = self.containers.get(id).ok_or_else(|| LaunchError::NoContainer(id.clone()))?;
        let first = container.process.filter(|key| !self.pending.contains_key(key));
        let first =
            first.and_then(|key| self.processes.get(&key)).ok_or_else(|| LaunchError::NotRunning(id.clone()))?;
        if self.processes.values().any(|p| p.container == *id && p.exec == Some(exec)) {
            return Err(LaunchError::Refused(format!("container {id} has an exec {exec} already")));
        }
        let (child, ours) = streams(config).map_err(|e| setup("standard streams", e))?;
        let join = container.cgroup.as_ref().map(Cgroup::join).transpose().map_err(|e| setup("cgroup", e))?;
        let target =
            coppice_container::Target { pidfd: first.pidfd.as_fd(), ids: container.ids, cgroup: join.as_ref() };
        let started = coppice_container::exec(&self.host, &target, config, child);
        let mut starting = started.map_err(|failure| match failure {
            StartFailure::Ended => LaunchError::NotRunning(id.clone()),
            failure => failure.into(),
        })?;
        let words = std::mem::take(&mut starting.words);
        let process = Process {
            exec: Some(exec),
            terminal: config.terminal.is_some(),
            awaits_terminal: config.terminal.is_some(),
            ..Process::new(id.clone(), &starting, ours, Some(socket)).map_err(|e| setup("pidfd", e))?
        };
        let key = self.number();
        let at = SystemClock.now();
        self.expect(key, process, Pending { starting, connection, seq, at, words, network: None })
    }

    /// Registers everything of a process.
    pub(crate) fn watch(&mut self, key: u64, process: &Process) {
        // epoll_ctl fails here only for want of memory; the container would then run unobserved until the next
        // launcher finds it through the journal.
        let _ = self.poller.add(&process.pidfd, Source::End(key), EventFlags::IN);
        for (which, output) in process.outputs.iter().enumerate() {
            if let Some(output) = output {
                let _ = self.poller.add(&output.fd, Source::Output(key, which), EventFlags::IN);
            }
        }
        for (id, peer) in &process.peers {
            let _ = self.poller.add(peer.socket(), Source::Peer(key, *id), streams::interest(process, peer));
        }
    }

    pub(super) fn hear_child(&mut self, key: u64) {
        let Some(pending) = self.pending.get_mut(&key) else { return };
        let outcome = pending.starting.outcome();
        if std::mem::take(&mut pending.starting.connected) {
            if let Some(network) = &pending.network {
                pending.words.extend(settle(&mut self.attachers, network));
            }
            // Should it not hear this, its end is what comes next.
            let _ = pending.starting.settled();
        }
        if let Some(master) = pending.starting.terminal.take() {
            self.take_terminal(key, master);
        }
        if outcome == Outcome::Waiting {
            return;
        }
        let Some(pending) = self.pending.remove(&key) else { return };
        self.poller.remove(&pending.starting.channel, Source::Channel(key));
        let Some((container, exec)) = self.processes.get(&key).map(|p| (p.container.clone(), p.exec)) else { return };
        let reply = match outcome {
            Outcome::Failed(failure) => {
                pending.starting.end();
                let cgroup = self.containers.get(&container).and_then(|container| container.cgroup.as_ref());
                let short = exec.is_none() && cgroup.is_some_and(|cgroup| cgroup.oom_kills() > 0);
                let why = "making it needs more memory than its limit: give it more";
                let failure = if short { StartFailure::setup("set-up", why) } else { failure };
                self.undo(key, &container, exec);
                Reply::Error { error: failure.into() }
            }
            _ => {
                let pid = pending.starting.pid;
                if exec.is_none() {
                    let ticks = start_ticks(pid).unwrap_or(0);
                    let entry = Entry::Start { id: container, pid, ticks, at: pending.at };
                    // The journal cannot be written (disk full): the container runs, and this launcher knows it; only
                    // a launcher that replaces it after a kill -9 would have to find it by its cgroup.
                    let _ = self.journal.add(&entry);
                }
                Reply::Started { pid, at: pending.at, words: pending.words }
            }
        };
        self.say(pending.connection, &Message::Reply { seq: pending.seq, reply });
    }

    /// A start failed: forget everything about it.
    pub(super) fn undo(&mut self, key: u64, id: &ContainerId, exec: Option<u64>) {
        if let Some(process) = self.processes.remove(&key) {
            self.unwatch(key, &process);
        }
        if exec.is_none()
            && let Some(container) = self.containers.remove(id)
        {
            self.remains.push(Remains { cgroup: container.cgroup, root: container.root, mounts: container.mounts });
        }
    }

    pub(super) fn unwatch(&mut self, key: u64, process: &Process) {
        self.poller.remove(&process.pidfd, Source::End(key));
        for (which, output) in process.outputs.iter().enumerate() {
            if let Some(output) = output {
                self.poller.remove(&output.fd, Source::Output(key, which));
            }
        }
        if let Some(stdin) = &process.stdin {
            self.poller.remove(&stdin.fd, Source::Stdin(key));
        }
        for (id, peer) in &process.peers {
            self.poller.remove(peer.socket(), Source::Peer(key, *id));
        }
    }

    pub(super) fn take_terminal(&mut self, key: u64, master: OwnedFd) {
        // The child made it blocking; our copy shares the description, which only we use.
        let _ = rustix::fs::fcntl_setfl(&master, rustix::fs::OFlags::NONBLOCK);
        let Some(process) = self.processes.get_mut(&key) else { return };
        if let Ok(copy) = master.try_clone() {
            process.stdin = Some(Stdin { fd: copy, waiting: Default::default(), closing: false });
        }
        let _ = self.poller.add(&master, Source::Output(key, 0), EventFlags::IN);
        process.outputs[0] = Some(Output { fd: master, stream: Stream::Stdout, pending: Vec::new() });
        process.awaits_terminal = false;
        self.after_output(key, &[]);
    }
}

fn setup(step: &str, why: impl ToString) -> LaunchError {
    LaunchError::Setup { step: step.to_owned(), why: why.to_string() }
}

/// The child's ends and ours: stdin, stdout, stderr. With a terminal there are none yet.
pub(crate) fn streams(
    process: &coppice_container::ProcessConfig,
) -> Result<(Option<ChildStreams>, [Option<OwnedFd>; 3]), Errno> {
    if process.terminal.is_some() {
        return Ok((None, [None, None, None]));
    }
    let nonblocking = |fd: &OwnedFd| rustix::fs::fcntl_setfl(fd, rustix::fs::OFlags::NONBLOCK);
    let (out_ours, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (err_ours, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    nonblocking(&out_ours)?;
    nonblocking(&err_ours)?;
    let (stdin, in_ours) = match process.stdin {
        true => {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            nonblocking(&ours)?;
            (Some(theirs), Some(ours))
        }
        false => (None, None),
    };
    Ok((Some(ChildStreams { stdin, stdout, stderr }), [in_ours, Some(out_ours), Some(err_ours)]))
}

/// Gives a new network namespace its link to the node's bridge.
fn connect(attachers: &mut HashMap<String, (u32, Attacher)>, network: &Network, pid: u32) -> Result<(), StartFailure> {
    let (Network::Bridge { bridge, host_device, .. }, Some(address)) = (network, network.address()) else {
        return Ok(());
    };
    let failed = |e: &dyn std::fmt::Display| StartFailure::setup("network", e);
    let index = bridge_index(bridge).map_err(|e| failed(&format_args!("bridge {bridge}: {e}")))?;
    // A bridge that was made anew has another index.
    if attachers.get(bridge).is_none_or(|(known, _)| *known != index) {
        attachers.insert(bridge.clone(), (index, Attacher::open(index).map_err(|e| failed(&e))?));
    }
    let Some((_, attacher)) = attachers.get_mut(bridge) else { return Ok(()) };
    let host_end = LinkName::new(host_device.clone()).map_err(|e| failed(&e))?;
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| failed(&"no process"))?;
    attacher.attach(Netns::Pid(pid), &host_end, &address).map_err(|e| failed(&e))
}

/// Makes a link that its container has configured pass packets, or returns a sentence about that it may not.
fn settle(attachers: &mut HashMap<String, (u32, Attacher)>, network: &Network) -> Option<String> {
    let Network::Bridge { bridge, host_device, .. } = network else { return None };
    let (_, attacher) = attachers.get_mut(bridge)?;
    let settled = LinkName::new(host_device.clone()).and_then(|host_end| attacher.settle(&host_end, SETTLING));
    let why = match settled {
        Ok(true) => return None,
        Ok(false) => "the kernel has not brought its link up yet".to_owned(),
        Err(e) => e.to_string(),
    };
    Some(format!("the container's first packets may be lost, which costs it a second or so: {why}"))
}

fn bridge_index(name: &str) -> Result<u32, Errno> {
    use rustix::net::{AddressFamily, SocketType};
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::netdevice::name_to_index(&socket, name)
}

fn limits(config: &ContainerConfig) -> coppice_cgroup::CgroupLimits {
    let limits = &config.limits;
    coppice_cgroup::CgroupLimits {
        cpu: limits.cpu,
        cpu_weight: limits.cpu_weight,
        memory: limits.memory,
        pids: limits.pids,
        devices: DeviceRules { all: config.privileged, extra: Vec::new() },
        cpuset: None,
    }
}

impl From<StartFailure> for LaunchError {
    fn from(failure: StartFailure) -> Self {
        match failure {
            StartFailure::NotFound(program) => Self::NotFound(program),
            StartFailure::NotExecutable { program, why } => Self::NotExecutable { program, why },
            StartFailure::Setup { step, why } => Self::Setup { step, why },
            StartFailure::Ended => Self::Refused(failure.to_string()),
        }
    }
}

/// When a process began, in clock ticks since boot: field 22 of /proc/pid/stat.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may have spaces and parentheses itself.
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}
