//! The loop: one epoll, one thread, every event handled to its end without waiting for anyone.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coppice_base::{Clock, ContainerId, SystemClock, Timestamp};
use coppice_cgroup::{Cgroup, DeviceRules};
use coppice_container::{ChildStreams, ContainerConfig, Host, Network, Outcome, StartFailure, Starting};
use coppice_linux::{Wait, peer_uid, send_signal, wait_pidfd};
use coppice_network::{Attacher, LinkName, Netns};
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::clean::{Cgroups, Cleaner, Remains, clean};
use crate::connection::{Connection, Heard};
use crate::journal::{Entry, Journal};
use crate::log::{Log, Stream};
use crate::peer::{PATIENCE, Peer};
use crate::poll::{Poller, Source};
use crate::process::{Drained, Output, Process, STDIN_MAX, Stdin};
use crate::protocol::{Call, ContainerStatus, Event, Exit, LaunchError, Message, PROTOCOL, Reply, Request, StreamKind};
use crate::upgrade::{self, Saved, SavedContainer};

mod delayed;
mod ending;
mod keeping;
mod resuming;
mod starting;
mod streams;

use delayed::Asked;
pub(crate) use starting::start_ticks;

/// Cleaning waits for a quiet moment, but not for more remains than this.
const REMAINS_MAX: usize = 16;
/// How long a peer may take to read what is left when its process has ended.
const PARTING: Duration = Duration::from_secs(30);
/// How long remains wait for a quiet moment.
const QUIET: Duration = Duration::from_millis(20);
/// How long a start on a kernel before Linux 6.8 holds everything up, at most, for its link to come up.
const SETTLING: Duration = Duration::from_millis(20);

/// A container: running, or ended and not yet forgotten.
pub(crate) struct Container {
    pub process: Option<u64>,
    pub pid: u32,
    pub started_at: Timestamp,
    pub exit: Option<Exit>,
    pub cgroup: Option<Cgroup>,
    pub root: Option<OwnedFd>,
    /// See [`Starting::mounts`]. Not passed on to a next program: the exit then takes the mounts down.
    pub mounts: Option<OwnedFd>,
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
    /// What is settled once the process has configured it; an exec has none of its own.
    network: Option<Network>,
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
    cleaners: HashMap<u64, Cleaner>,
    /// Starts that wait for a cleaner.
    delayed: Vec<Asked>,
    /// Peers whose process has ended and who have not read everything, and until when they may.
    lingering: HashMap<u64, (Peer, Instant)>,
    attachers: HashMap<String, (u32, Attacher)>,
    /// Lists that wait for starts which were asked for before them: who asked, and the starts.
    lists: Vec<(u64, u64, Vec<u64>)>,
    /// An upgrade that waits until no start is under way: who asked, and the binary.
    upgrade: Option<(u64, u64, PathBuf)>,
    /// What is held for the next daemon, by name.
    kept: BTreeMap<String, Vec<OwnedFd>>,
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
            delayed: Vec::new(),
            lingering: HashMap::new(),
            attachers: HashMap::new(),
            lists: Vec::new(),
            upgrade: None,
            kept: BTreeMap::new(),
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
            self.begin_overdue();
            self.answer_lists();
            if self.pending.is_empty()
                && self.delayed.is_empty()
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
                self.hear_cgroups_gone(id);
                if let Some(cleaner) = self.cleaners.remove(&id) {
                    self.poller.remove(&cleaner.pidfd, source);
                    // Reaping a child that ended cannot fail; its status says nothing we need.
                    let _ = wait_pidfd(&cleaner.pidfd);
                }
                self.begin_delayed();
            }
            Source::Cleaned(id) => {
                self.hear_cgroups_gone(id);
                self.begin_delayed();
            }
        }
    }

    /// How long the loop may sleep.
    fn timeout(&self) -> Option<Duration> {
        let stuck = self.processes.values().filter_map(Process::behind).min();
        let patience = stuck.map(|since| (since + PATIENCE).saturating_duration_since(Instant::now()));
        let quiet = (!self.remains.is_empty()).then_some(QUIET);
        let parting = self.lingering.values().map(|(_, until)| until.saturating_duration_since(Instant::now())).min();
        let delayed = self.delayed.iter().map(|asked| asked.until.saturating_duration_since(Instant::now())).min();
        patience.into_iter().chain(quiet).chain(parting).chain(delayed).min()
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
            Request::Start { config, attach } => match self.start(connection, seq, config, attach) {
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
            Request::List => {
                // A daemon that was killed may have asked for starts that are not read yet, or under way: the one
                // that comes after it must hear of them, or they would run unknown to anybody.
                let earlier: Vec<u64> = self.connections.keys().copied().filter(|id| *id < connection).collect();
                for id in earlier {
                    self.converse(id, EventFlags::IN);
                }
                let delayed = self.delayed.iter().map(|asked| asked.key);
                self.lists.push((connection, seq, self.pending.keys().copied().chain(delayed).collect()));
                self.answer_lists();
                return;
            }
            Request::Forget { id } => self.forget(&id),
            Request::Keep { name, fds } => self.keep(connection, name, fds),
            Request::Kept { name } => self.hand_out(connection, &name),
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
        let version = crate::VERSION.to_owned();
        Ok(Reply::Hello { protocol: PROTOCOL, pid: std::process::id(), version, since: self.since, keeps: true })
    }

    fn answer_lists(&mut self) {
        let under_way =
            |key: &u64| self.pending.contains_key(key) || self.delayed.iter().any(|asked| asked.key == *key);
        let is_due = |(_, _, starts): &mut (u64, u64, Vec<u64>)| !starts.iter().any(under_way);
        let due: Vec<_> = self.lists.extract_if(.., is_due).collect();
        for (connection, seq, _) in due {
            let reply = Reply::Containers { containers: self.list() };
            self.say(connection, &Message::Reply { seq, reply });
        }
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
        let running = self.containers.values().filter(|c| c.exit.is_none()).count() + self.delayed.len();
        if running > 0 && !kill {
            return Err(LaunchError::Refused(format!("{running} containers are running")));
        }
        self.refuse_delayed();
        for process in self.processes.values() {
            // It may have ended by itself.
            let _ = send_signal(&process.pidfd, libc::SIGKILL);
        }
        self.reap_all();
        self.sweep();
        for Cleaner { pidfd, .. } in self.cleaners.values() {
            // What takes longer goes on without us.
            let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
            let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&patience));
        }
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
}
