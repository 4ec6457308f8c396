//! The loop: one epoll, one thread, every event handled to its end without waiting for anyone.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coppice_base::{Clock, ContainerId, SystemClock, Timestamp};
use coppice_cgroup::{Cgroup, DeviceRules};
use coppice_container::{ChildStreams, ContainerConfig, Host, Network, Outcome, StartFailure, Starting};
use coppice_linux::{Wait, peer_uid, send_signal, wait_pidfd};
use coppice_network::{Address, Attacher, LinkName, Netns};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::clean::{Cgroups, Remains, clean};
use crate::connection::{Connection, Heard};
use crate::journal::{Entry, Journal};
use crate::log::{Log, Stream};
use crate::peer::{PATIENCE, Peer};
use crate::poll::{Poller, Source};
use crate::process::{Drained, Output, Process, STDIN_MAX, Stdin};
use crate::protocol::{Call, ContainerStatus, Event, Exit, LaunchError, Message, PROTOCOL, Reply, Request, StreamKind};
use crate::upgrade::{self, Saved, SavedContainer};

/// Cleaning waits for a quiet moment, but not for more remains than this.
const REMAINS_MAX: usize = 16;
/// How long a peer may take to read what is left when its process has ended.
const PARTING: Duration = Duration::from_secs(30);
/// How long remains wait for a quiet moment.
const QUIET: Duration = Duration::from_millis(20);

/// A container: running, or ended and not yet forgotten.
pub(crate) struct Container {
    pub process: Option<u64>,
    pub pid: u32,
    pub started_at: Timestamp,
    pub exit: Option<Exit>,
    pub cgroup: Option<Cgroup>,
    pub root: Option<OwnedFd>,
    pub ids: coppice_container::IdRange,
    pub memory_limited: bool,
}

/// A process whose program does not run yet.
struct Pending {
    starting: Starting,
    connection: u64,
    seq: u64,
    at: Timestamp,
    words: Vec<String>,
}

pub(crate) struct Server {
    pub poller: Poller,
    pub host: Host,
    pub listener: OwnedFd,
    pub cgroups: Cgroups,
    pub journal: Journal,
    pub since: Timestamp,
    pub containers: BTreeMap<ContainerId, Container>,
    pub processes: HashMap<u64, Process>,
    pending: HashMap<u64, Pending>,
    connections: HashMap<u64, Connection>,
    next: u64,
    remains: Vec<Remains>,
    cleaners: HashMap<u64, OwnedFd>,
    /// Peers whose process has ended and who have not read everything, and until when they may.
    lingering: HashMap<u64, (Peer, Instant)>,
    attachers: HashMap<String, (u32, Attacher)>,
    /// An upgrade that waits until no start is under way: who asked, and the binary.
    upgrade: Option<(u64, u64, PathBuf)>,
    own_uid: u32,
    shutdown: bool,
}

impl Server {
    pub(crate) fn new(
        poller: Poller,
        host: Host,
        listener: OwnedFd,
        cgroups: Cgroups,
        journal: Journal,
        since: Timestamp,
    ) -> Self {
        Self {
            poller,
            host,
            listener,
            cgroups,
            journal,
            since,
            containers: BTreeMap::new(),
            processes: HashMap::new(),
            pending: HashMap::new(),
            connections: HashMap::new(),
            next: 0,
            remains: Vec::new(),
            cleaners: HashMap::new(),
            lingering: HashMap::new(),
            attachers: HashMap::new(),
            upgrade: None,
            own_uid: rustix::process::getuid().as_raw(),
            shutdown: false,
        }
    }

    /// Serves until told to end.
    pub(crate) fn serve(&mut self, lock: &OwnedFd) -> Result<(), Errno> {
        let mut ready = Vec::new();
        while !self.shutdown {
            self.poller.wait(self.timeout(), &mut ready)?;
            if ready.is_empty() || self.remains.len() > REMAINS_MAX {
                self.sweep();
            }
            for (source, flags) in ready.drain(..) {
                if self.poller.has(source) {
                    self.handle(source, flags);
                }
            }
            self.drop_stuck_peers();
            if self.pending.is_empty()
                && let Some((connection, seq, binary)) = self.upgrade.take()
            {
                self.re_execute(lock, connection, seq, &binary);
            }
        }
        Ok(())
    }

    fn handle(&mut self, source: Source, flags: EventFlags) {
        match source {
            Source::Listener => self.accept(),
            Source::Connection(id) => self.converse(id, flags),
            Source::Channel(id) => self.hear_child(id),
            Source::End(id) => self.end(id),
            Source::Output(id, which) => self.output(id, which),
            Source::Stdin(id) => self.pump_stdin(id),
            Source::Peer(id, peer) => self.peer(id, peer, flags),
            Source::Lingering(id) => self.part(id),
            Source::Cleaner(id) => {
                if let Some(pidfd) = self.cleaners.remove(&id) {
                    self.poller.remove(&pidfd, source);
                    // Reaping a child that ended cannot fail; its status says nothing we need.
                    let _ = wait_pidfd(&pidfd);
                }
            }
        }
    }

    /// How long the loop may sleep.
    fn timeout(&self) -> Option<Duration> {
        let stuck = self.processes.values().filter_map(Process::behind).min();
        let patience = stuck.map(|since| (since + PATIENCE).saturating_duration_since(Instant::now()));
        let quiet = (!self.remains.is_empty()).then_some(QUIET);
        let parting = self.lingering.values().map(|(_, until)| until.saturating_duration_since(Instant::now())).min();
        patience.into_iter().chain(quiet).chain(parting).min()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    // Connections of the daemon.

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return };
        match peer_uid(&socket) {
            Ok(uid) if uid == self.own_uid || uid == 0 => {}
            _ => return,
        }
        let id = self.number();
        if self.poller.add(&socket, Source::Connection(id), EventFlags::IN).is_ok() {
            self.connections.insert(id, Connection::new(socket));
        }
    }

    fn converse(&mut self, id: u64, flags: EventFlags) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let mut alive = connection.flush();
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            alive &= connection.fill();
        }
        while let Some(connection) = self.connections.get_mut(&id) {
            match connection.next() {
                Heard::Call(call) => self.call(id, call),
                Heard::Nothing => break,
                Heard::End => alive = false,
            }
            if !alive {
                break;
            }
        }
        if alive { self.watch_connection(id) } else { self.hang_up(id) }
    }

    fn watch_connection(&mut self, id: u64) {
        if let Some(connection) = self.connections.get(&id) {
            let out = if connection.wants_out() { EventFlags::OUT } else { EventFlags::empty() };
            self.poller.change(connection.socket(), Source::Connection(id), EventFlags::IN | out);
        }
    }

    fn hang_up(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            self.poller.remove(connection.socket(), Source::Connection(id));
        }
    }

    fn say(&mut self, id: u64, message: &Message) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let before = connection.wants_out();
        if !connection.say(message) {
            self.hang_up(id);
        } else if connection.wants_out() != before {
            self.watch_connection(id);
        }
    }

    fn tell(&mut self, event: &Event) {
        let listening: Vec<u64> = self.connections.iter().filter(|(_, c)| c.events).map(|(id, _)| *id).collect();
        for id in listening {
            self.say(id, &Message::Event(event.clone()));
        }
    }

    fn call(&mut self, connection: u64, Call { seq, request }: Call) {
        let reply = match request {
            Request::Hello { protocol, events } => self.hello(connection, protocol, events),
            Request::Start { config, attach } => match self.start(connection, seq, &config, attach) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::Exec { id, exec, process } => match self.exec(connection, seq, &id, exec, &process) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Request::Signal { id, exec, signal, all } => self.signal(&id, exec, signal, all),
            Request::Resize { id, exec, size } => self
                .process_of(&id, exec)
                .and_then(|process| process.resize(size).map(|()| Reply::Done).map_err(LaunchError::Refused)),
            Request::Attach { id } => self.attach(connection, &id),
            Request::List => Ok(Reply::Containers { containers: self.list() }),
            Request::Forget { id } => self.forget(&id),
            Request::Upgrade { binary } => {
                self.upgrade = Some((connection, seq, binary));
                return;
            }
            Request::Shutdown { kill } => self.shut_down(kill),
        };
        let reply = reply.unwrap_or_else(|error| Reply::Error { error });
        self.say(connection, &Message::Reply { seq, reply });
    }

    fn hello(&mut self, connection: u64, protocol: u32, events: bool) -> Result<Reply, LaunchError> {
        if protocol != PROTOCOL {
            return Err(LaunchError::Protocol { launcher: PROTOCOL, daemon: protocol });
        }
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.events = events;
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Reply::Hello { protocol: PROTOCOL, pid: std::process::id(), version, since: self.since })
    }

    fn list(&self) -> Vec<ContainerStatus> {
        let starting = |c: &Container| c.process.is_some_and(|p| self.pending.contains_key(&p));
        self.containers
            .iter()
            .filter(|(_, c)| !starting(c))
            .map(|(id, c)| ContainerStatus { id: id.clone(), pid: c.pid, started_at: c.started_at, exit: c.exit })
            .collect()
    }

    fn process_of(&mut self, id: &ContainerId, exec: Option<u64>) -> Result<&mut Process, LaunchError> {
        let container = self.containers.get(id).ok_or_else(|| LaunchError::NoContainer(id.clone()))?;
        let first = container.process.ok_or_else(|| LaunchError::NotRunning(id.clone()))?;
        let key = match exec {
            None => Some(first),
            Some(_) => self.processes.iter().find(|(_, p)| p.container == *id && p.exec == exec).map(|(key, _)| *key),
        };
        key.and_then(|key| self.processes.get_mut(&key)).ok_or_else(|| LaunchError::NotRunning(id.clone()))
    }

    fn signal(&mut self, id: &ContainerId, exec: Option<u64>, signal: i32, all: bool) -> Result<Reply, LaunchError> {
        let refused = |e: &dyn std::fmt::Display| LaunchError::Refused(e.to_string());
        let process = self.process_of(id, exec)?;
        if !all {
            send_signal(&process.pidfd, signal).map_err(|e| refused(&e))?;
            return Ok(Reply::Done);
        }
        let cgroup = self.containers.get(id).and_then(|c| c.cgroup.as_ref());
        match cgroup {
            Some(cgroup) if signal == libc::SIGKILL => cgroup.kill_all().map_err(|e| refused(&e))?,
            Some(cgroup) => {
                for pid in cgroup.processes().map_err(|e| refused(&e))? {
                    // One that ended meanwhile has had its way.
                    let _ = coppice_linux::kill(pid.as_raw_pid().cast_unsigned(), signal);
                }
            }
            None => return Err(LaunchError::NotRunning(id.clone())),
        }
        Ok(Reply::Done)
    }

    fn forget(&mut self, id: &ContainerId) -> Result<Reply, LaunchError> {
        match self.containers.get(id) {
            None => Err(LaunchError::NoContainer(id.clone())),
            Some(container) if container.exit.is_none() => Err(LaunchError::StillRunning(id.clone())),
            Some(_) => {
                self.containers.remove(id);
                // Should the line be lost, the record comes back as an ended container, to be forgotten again.
                let _ = self.journal.add(&Entry::Forget { id: id.clone() });
                Ok(Reply::Done)
            }
        }
    }

    fn shut_down(&mut self, kill: bool) -> Result<Reply, LaunchError> {
        let running = self.containers.values().filter(|c| c.exit.is_none()).count();
        if running > 0 && !kill {
            return Err(LaunchError::Refused(format!("{running} containers are running")));
        }
        for process in self.processes.values() {
            // It may have ended by itself.
            let _ = send_signal(&process.pidfd, libc::SIGKILL);
        }
        self.reap_all();
        self.sweep();
        self.shutdown = true;
        Ok(Reply::Done)
    }

    /// Waits for everything that was killed, so that exits are journalled.
    fn reap_all(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        let mut ready = Vec::new();
        while !self.processes.is_empty() && Instant::now() < deadline {
            if self.poller.wait(Some(QUIET), &mut ready).is_err() {
                return;
            }
            for (source, flags) in ready.drain(..) {
                if matches!(source, Source::End(_) | Source::Channel(_) | Source::Output(..)) && self.poller.has(source)
                {
                    self.handle(source, flags);
                }
            }
        }
    }

    // Starting.

    fn start(&mut self, connection: u64, seq: u64, config: &ContainerConfig, attach: bool) -> Result<(), LaunchError> {
        let peer = match attach {
            true => Some(self.attach_fd(connection)?),
            false => None,
        };
        if self.containers.contains_key(&config.id) {
            return Err(LaunchError::Exists(config.id.clone()));
        }
        let log = Log::open(config.log.clone())
            .map_err(|e| setup("open the log", format!("{}: {e}", config.log.path.display())))?;
        let (child, ours) = streams(&config.process).map_err(|e| setup("standard streams", e))?;
        let (cgroup, words) =
            self.cgroups.parent.create(config.id.as_str(), &limits(config)).map_err(|e| setup("cgroup", e))?;
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
                self.remains.push(Remains { cgroup: Some(cgroup), root: None });
                return Err(failure.into());
            }
        };
        words.append(&mut starting.words);
        let at = SystemClock.now();
        let root = starting.root.take();
        let pid = starting.pid;
        let process = Process {
            terminal: config.process.terminal.is_some(),
            log: Some(log),
            ..Process::new(config.id.clone(), &starting, ours, peer).map_err(|e| setup("pidfd", e))?
        };
        let key = self.number();
        self.containers.insert(
            config.id.clone(),
            Container {
                process: Some(key),
                pid,
                started_at: at,
                exit: None,
                cgroup: Some(cgroup),
                root,
                ids: config.ids,
                memory_limited: config.limits.memory.is_some(),
            },
        );
        self.expect(key, process, Pending { starting, connection, seq, at, words })
    }

    /// Watches a process that is on its way.
    fn expect(&mut self, key: u64, process: Process, pending: Pending) -> Result<(), LaunchError> {
        self.watch(key, &process);
        // A channel that cannot be watched would leave the start unanswered.
        self.poller
            .add(&pending.starting.channel, Source::Channel(key), EventFlags::IN)
            .map_err(|e| setup("watch the channel", e))?;
        self.processes.insert(key, process);
        self.pending.insert(key, pending);
        Ok(())
    }

    fn exec(
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
            ..Process::new(id.clone(), &starting, ours, Some(socket)).map_err(|e| setup("pidfd", e))?
        };
        let key = self.number();
        self.expect(key, process, Pending { starting, connection, seq, at: SystemClock.now(), words })
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
            let _ = self.poller.add(peer.socket(), Source::Peer(key, *id), EventFlags::IN);
        }
    }

    fn hear_child(&mut self, key: u64) {
        let Some(pending) = self.pending.get_mut(&key) else { return };
        let outcome = pending.starting.outcome();
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
    fn undo(&mut self, key: u64, id: &ContainerId, exec: Option<u64>) {
        if let Some(process) = self.processes.remove(&key) {
            self.unwatch(key, &process);
        }
        if exec.is_none()
            && let Some(container) = self.containers.remove(id)
        {
            self.remains.push(Remains { cgroup: container.cgroup, root: container.root });
        }
    }

    fn unwatch(&mut self, key: u64, process: &Process) {
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

    fn take_terminal(&mut self, key: u64, master: OwnedFd) {
        // The child made it blocking; our copy shares the description, which only we use.
        let _ = rustix::fs::fcntl_setfl(&master, rustix::fs::OFlags::NONBLOCK);
        let Some(process) = self.processes.get_mut(&key) else { return };
        if let Ok(copy) = master.try_clone() {
            process.stdin = Some(Stdin { fd: copy, waiting: Default::default(), closing: false });
        }
        let _ = self.poller.add(&master, Source::Output(key, 0), EventFlags::IN);
        process.outputs[0] = Some(Output { fd: master, stream: Stream::Stdout, pending: Vec::new() });
    }

    // Streams.

    fn output(&mut self, key: u64, which: usize) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let mut gone = Vec::new();
        let drained = process.drain(which, Instant::now(), &mut gone);
        if let Drained::End = drained
            && let Some(output) = process.outputs[which].take()
        {
            self.poller.remove(&output.fd, Source::Output(key, which));
        }
        self.after_output(key, &gone);
    }

    fn after_output(&mut self, key: u64, gone: &[u64]) {
        for peer in gone {
            self.drop_peer(key, *peer);
        }
        let Some(process) = self.processes.get_mut(&key) else { return };
        for (id, peer) in &process.peers {
            self.poller.change(peer.socket(), Source::Peer(key, *id), interest(process, peer));
        }
        let paused = process.behind().is_some();
        if paused != process.paused {
            process.paused = paused;
            let flags = if paused { EventFlags::empty() } else { EventFlags::IN };
            for (which, output) in process.outputs.iter().enumerate() {
                if let Some(output) = output {
                    self.poller.change(&output.fd, Source::Output(key, which), flags);
                }
            }
        }
    }

    fn pump_stdin(&mut self, key: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let open = process.pump_stdin();
        let waits = process.stdin_waits() > 0;
        let source = Source::Stdin(key);
        if let Some(stdin) = &process.stdin {
            match (open, waits, self.poller.has(source)) {
                (true, true, false) => {
                    // Without it the input is written when the peer sends more.
                    let _ = self.poller.add(&stdin.fd, source, EventFlags::OUT);
                }
                (true, false, true) | (false, _, true) => self.poller.remove(&stdin.fd, source),
                _ => {}
            }
        }
        if !open {
            process.stdin = None;
        }
        for (id, peer) in &process.peers {
            self.poller.change(peer.socket(), Source::Peer(key, *id), interest(process, peer));
        }
    }

    fn attach_fd(&mut self, connection: u64) -> Result<OwnedFd, LaunchError> {
        let fd = self.connections.get_mut(&connection).and_then(Connection::take_fd);
        fd.ok_or_else(|| LaunchError::Refused("no attach fd came with the request".to_owned()))
    }

    fn attach(&mut self, connection: u64, id: &ContainerId) -> Result<Reply, LaunchError> {
        let socket = self.attach_fd(connection)?;
        let process = self.process_of(id, None)?;
        let peer = process.next_peer;
        process.next_peer += 1;
        process.peers.insert(peer, Peer::new(socket));
        let key = self.containers.get(id).and_then(|c| c.process).unwrap_or_default();
        if let Some(peer_fd) = self.processes.get(&key).and_then(|p| p.peers.get(&peer)) {
            self.poller
                .add(peer_fd.socket(), Source::Peer(key, peer), EventFlags::IN)
                .map_err(|e| LaunchError::Refused(e.to_string()))?;
        }
        Ok(Reply::Done)
    }

    fn peer(&mut self, key: u64, id: u64, flags: EventFlags) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Some(peer) = process.peers.get_mut(&id) else { return };
        let mut alive = peer.flush(Instant::now());
        if alive && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            alive = peer.fill();
        }
        let mut frames = Vec::new();
        loop {
            match peer.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(()) => {
                    alive = false;
                    break;
                }
            }
        }
        for (kind, body) in frames {
            match (kind, body.as_slice()) {
                (StreamKind::Stdin, bytes) => process.input(bytes),
                (StreamKind::Resize, &[r0, r1, c0, c1]) => {
                    let size = coppice_container::TerminalSize {
                        rows: u16::from_le_bytes([r0, r1]),
                        columns: u16::from_le_bytes([c0, c1]),
                    };
                    // A process without a terminal has no size; the frame means nothing to it.
                    let _ = process.resize(size);
                }
                (StreamKind::Signal, &[a, b, c, d]) => {
                    // A bad number or an ended process: nobody to tell on this stream.
                    let _ = send_signal(&process.pidfd, i32::from_le_bytes([a, b, c, d]));
                }
                _ => alive = false,
            }
        }
        if !alive {
            self.drop_peer(key, id);
        }
        self.pump_stdin(key);
        self.after_output(key, &[]);
    }

    fn drop_peer(&mut self, key: u64, id: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        if let Some(peer) = process.peers.remove(&id) {
            self.poller.remove(peer.socket(), Source::Peer(key, id));
        }
        // An exec has one client; when it goes away, so does its input.
        if process.exec.is_some() && process.peers.is_empty() {
            process.input(&[]);
            self.pump_stdin(key);
        }
    }

    fn drop_stuck_peers(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self.lingering.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((peer, _)) = self.lingering.remove(&id) {
                self.poller.remove(peer.socket(), Source::Lingering(id));
            }
        }
        let stuck: Vec<(u64, u64)> = self
            .processes
            .iter()
            .flat_map(|(key, process)| process.peers.iter().map(move |(id, peer)| (*key, *id, peer.stuck_since)))
            .filter(|(_, _, since)| since.is_some_and(|since| now.duration_since(since) >= PATIENCE))
            .map(|(key, id, _)| (key, id))
            .collect();
        for (key, id) in stuck {
            self.drop_peer(key, id);
            self.after_output(key, &[]);
        }
    }

    // Ends.

    fn end(&mut self, key: u64) {
        if self.pending.contains_key(&key) {
            // It ended before we heard that it began; what its channel says comes first.
            self.hear_child(key);
        }
        let Some(process) = self.processes.get_mut(&key) else { return };
        let (code, signal) = match wait_pidfd(&process.pidfd) {
            Ok(None) => return,
            Ok(Some(Wait::Exited(code))) => (code, None),
            Ok(Some(Wait::Killed(signal))) => (128u8.wrapping_add(signal as u8), Some(signal)),
            // Somebody else reaped our child, which cannot be; report the worst that is true.
            Err(_) => (137, Some(libc::SIGKILL)),
        };
        let now = Instant::now();
        let mut gone = Vec::new();
        for which in 0..process.outputs.len() {
            // Everyone in its pid namespace is dead, so what is in the pipes is all there will be. (After an exec,
            // others may live on and write for ever: then up to one pipe full.)
            for _ in 0..64 {
                if !matches!(process.drain(which, now, &mut gone), Drained::More) {
                    break;
                }
            }
            process.end_stream(which);
        }
        let Some(mut process) = self.processes.remove(&key) else { return };
        self.unwatch(key, &process);
        let oom = self
            .containers
            .get(&process.container)
            .and_then(|c| c.cgroup.as_ref().filter(|_| c.memory_limited))
            .is_some_and(|cgroup| cgroup.oom_kills() > 0);
        let exit = Exit { at: SystemClock.now(), code, signal, oom };
        let id = process.container.clone();
        let event = match process.exec {
            Some(exec) => Event::ExecExited { id, exec, exit },
            None => {
                // In memory it is known either way; see where starts are journalled.
                let _ = self.journal.add(&Entry::Exit { id: id.clone(), exit });
                if let Some(container) = self.containers.get_mut(&id) {
                    container.exit = Some(exit);
                    container.process = None;
                    let remains = Remains { cgroup: container.cgroup.take(), root: container.root.take() };
                    self.remains.push(remains);
                }
                Event::Exited { id, exit }
            }
        };
        self.farewell(&mut process, exit);
        self.tell(&event);
    }

    /// Tells attached peers of the end.
    fn farewell(&mut self, process: &mut Process, exit: Exit) {
        let text = serde_json::to_vec(&exit).unwrap_or_default();
        let now = Instant::now();
        for (_, mut peer) in std::mem::take(&mut process.peers) {
            if peer.say(StreamKind::Exit, &text, now) && peer.wants_out() {
                self.linger(peer);
            }
        }
    }

    /// Keeps a peer whose process has ended until it has read everything, or patience ends.
    fn linger(&mut self, peer: Peer) {
        let id = self.number();
        if self.poller.add(peer.socket(), Source::Lingering(id), EventFlags::OUT).is_ok() {
            self.lingering.insert(id, (peer, Instant::now() + PARTING));
        }
    }

    fn part(&mut self, id: u64) {
        let Some((peer, _)) = self.lingering.get_mut(&id) else { return };
        if (!peer.flush(Instant::now()) || !peer.wants_out())
            && let Some((peer, _)) = self.lingering.remove(&id)
        {
            self.poller.remove(peer.socket(), Source::Lingering(id));
        }
    }

    fn sweep(&mut self) {
        if self.remains.is_empty() {
            return;
        }
        let remains = std::mem::take(&mut self.remains);
        if let Some(pidfd) = clean(self.host.thread(), &self.cgroups, remains) {
            self.watch_cleaner(pidfd);
        }
    }
}

impl Server {
    /// Takes over what the journal knows of containers that have ended.
    pub(crate) fn remember(&mut self) {
        for (id, record) in self.journal.records() {
            if self.containers.contains_key(id) {
                continue;
            }
            let container = Container {
                process: None,
                pid: record.pid,
                started_at: record.at,
                exit: record.exit,
                cgroup: None,
                root: None,
                ids: coppice_container::IdRange::nth(0),
                memory_limited: false,
            };
            self.containers.insert(id.clone(), container);
        }
    }

    fn re_execute(&mut self, lock: &OwnedFd, connection: u64, seq: u64, binary: &Path) {
        self.sweep();
        for process in self.processes.values_mut() {
            if let Some(log) = &mut process.log {
                log.flush();
            }
        }
        let Some(asker) = self.connections.get(&connection).map(|c| c.socket().as_raw_fd()) else { return };
        let saved = self.save(lock, asker, seq);
        let why = upgrade::execute(binary, &saved);
        self.say(connection, &Message::Reply { seq, reply: Reply::Error { error: LaunchError::Refused(why) } });
    }

    fn save(&self, lock: &OwnedFd, asker: RawFd, seq: u64) -> Saved {
        let container = |(id, c): (&ContainerId, &Container)| SavedContainer {
            id: id.clone(),
            process: c.process,
            pid: c.pid,
            started_at: c.started_at,
            exit: c.exit,
            has_cgroup: c.cgroup.is_some(),
            root: c.root.as_ref().map(AsRawFd::as_raw_fd),
            ids: c.ids,
            memory_limited: c.memory_limited,
        };
        Saved {
            since: self.since,
            lock: lock.as_raw_fd(),
            listener: self.listener.as_raw_fd(),
            next: self.next,
            asker,
            seq,
            containers: self.containers.iter().map(container).collect(),
            processes: self.processes.iter().map(|(key, process)| process.save(*key)).collect(),
            lingering: self.lingering.iter().map(|(id, (peer, _))| peer.save(*id)).collect(),
            cleaners: self.cleaners.values().map(AsRawFd::as_raw_fd).collect(),
        }
    }

    /// Continues where the program before this one was.
    pub(crate) fn resume(&mut self, saved: Saved) {
        self.next = saved.next;
        for c in saved.containers {
            let cgroup = c.has_cgroup.then(|| self.cgroups.parent.open(c.id.as_str()).ok()).flatten();
            let container = Container {
                process: c.process,
                pid: c.pid,
                started_at: c.started_at,
                exit: c.exit,
                cgroup,
                root: c.root.map(upgrade::adopt),
                ids: c.ids,
                memory_limited: c.memory_limited,
            };
            self.containers.insert(c.id, container);
        }
        for saved in saved.processes {
            let key = saved.key;
            let process = Process::resume(saved);
            self.watch(key, &process);
            self.processes.insert(key, process);
            self.pump_stdin(key);
            self.after_output(key, &[]);
        }
        for peer in saved.lingering {
            self.linger(Peer::resume(peer));
        }
        for pidfd in saved.cleaners {
            self.watch_cleaner(upgrade::adopt(pidfd));
        }
        let mut asker = Connection::new(upgrade::adopt(saved.asker));
        // The daemon waits for this word and then connects anew; if it is gone, it will come back anyway.
        asker.say(&Message::Reply { seq: saved.seq, reply: Reply::Done });
    }

    fn watch_cleaner(&mut self, pidfd: OwnedFd) {
        let id = self.number();
        // An unwatched cleaner is a zombie until the launcher ends, no more.
        let _ = self.poller.add(&pidfd, Source::Cleaner(id), EventFlags::IN);
        self.cleaners.insert(id, pidfd);
    }
}

/// What is to be watched of a peer: its input unless the process has enough waiting, its output if some waits.
fn interest(process: &Process, peer: &Peer) -> EventFlags {
    let mut flags = EventFlags::empty();
    if process.stdin_waits() < STDIN_MAX {
        flags |= EventFlags::IN;
    }
    if peer.wants_out() {
        flags |= EventFlags::OUT;
    }
    flags
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
    let Network::Bridge { bridge, host_device, address, prefix, gateway } = network else { return Ok(()) };
    let failed = |e: &dyn std::fmt::Display| StartFailure::setup("network", e);
    let index = bridge_index(bridge).map_err(|e| failed(&format_args!("bridge {bridge}: {e}")))?;
    // A bridge that was made anew has another index.
    if attachers.get(bridge).is_none_or(|(known, _)| *known != index) {
        attachers.insert(bridge.clone(), (index, Attacher::open(index).map_err(|e| failed(&e))?));
    }
    let Some((_, attacher)) = attachers.get_mut(bridge) else { return Ok(()) };
    let host_end = LinkName::new(host_device.clone()).map_err(|e| failed(&e))?;
    let address = Address { ip: *address, prefix: *prefix, gateway: *gateway };
    let pid = Pid::from_raw(pid.cast_signed()).ok_or_else(|| failed(&"no process"))?;
    attacher.attach(Netns::Pid(pid), &host_end, &address).map_err(|e| failed(&e))
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

/// When a process began, in clock ticks since boot: field 22 of /proc/pid/stat.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may have spaces and parentheses itself.
    text.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
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
