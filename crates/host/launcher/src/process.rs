//! A process the launcher started (a container's first, or one that exec added): its streams and who is attached.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use coppice_base::ContainerId;
use coppice_container::{Starting, TerminalSize};
use rustix::io::Errno;

use crate::log::{Log, Stream};
use crate::peer::Peer;
use crate::protocol::StreamKind;
use crate::upgrade::{SavedLog, SavedOutput, SavedProcess, SavedStdin, adopt};

/// Input kept for a process that does not read; beyond it peers are not read either.
pub(crate) const STDIN_MAX: usize = 256 * 1024;
/// Bytes read from a stream in one turn.
const TURN: usize = 64 * 1024;
/// What a terminal takes as end of input.
const END_OF_TRANSMISSION: u8 = 4;

/// Our end of an output pipe, or the terminal's master.
pub(crate) struct Output {
    pub fd: OwnedFd,
    pub stream: Stream,
    /// The start of a line whose end has not come.
    pub pending: Vec<u8>,
}

/// Our end of the input pipe, or a copy of the terminal's master.
pub(crate) struct Stdin {
    pub fd: OwnedFd,
    pub waiting: VecDeque<u8>,
    pub closing: bool,
}

pub(crate) struct Process {
    pub container: ContainerId,
    pub exec: Option<u64>,
    pub pidfd: OwnedFd,
    pub outputs: [Option<Output>; 2],
    pub stdin: Option<Stdin>,
    pub terminal: bool,
    /// The child has yet to send its terminal: what peers say waits in their sockets until it has.
    pub awaits_terminal: bool,
    pub log: Option<Log>,
    pub peers: BTreeMap<u64, Peer>,
    pub next_peer: u64,
    /// Outputs are not read, because a peer does not.
    pub paused: bool,
}

/// What reading an output brought.
pub(crate) enum Drained {
    /// There may be more.
    More,
    /// Nothing for now.
    Empty,
    End,
}

impl Process {
    /// A process of `container` that was just started, with our ends of stdin, stdout, stderr.
    pub(crate) fn new(
        container: ContainerId,
        starting: &Starting,
        [stdin, stdout, stderr]: [Option<OwnedFd>; 3],
        peer: Option<OwnedFd>,
    ) -> std::io::Result<Self> {
        let output = |stream| move |fd| Output { fd, stream, pending: Vec::new() };
        Ok(Self {
            container,
            exec: None,
            pidfd: starting.pidfd.try_clone()?,
            outputs: [stdout.map(output(Stream::Stdout)), stderr.map(output(Stream::Stderr))],
            stdin: stdin.map(|fd| Stdin { fd, waiting: VecDeque::new(), closing: false }),
            terminal: false,
            awaits_terminal: false,
            log: None,
            next_peer: 1,
            peers: peer.into_iter().map(|socket| (0, Peer::new(socket))).collect(),
            paused: false,
        })
    }

    /// The process as another program of the same launcher goes on with it.
    pub(crate) fn save(&self, key: u64) -> SavedProcess {
        let output = |output: &Output| SavedOutput {
            fd: output.fd.as_raw_fd(),
            stream: output.stream,
            pending: output.pending.clone(),
        };
        let stdin = |stdin: &Stdin| SavedStdin {
            fd: stdin.fd.as_raw_fd(),
            waiting: stdin.waiting.iter().copied().collect(),
            closing: stdin.closing,
        };
        let log = |log: &Log| SavedLog {
            config: log.config().clone(),
            file: log.file().map(AsRawFd::as_raw_fd),
            dropped: log.dropped(),
        };
        SavedProcess {
            key,
            container: self.container.clone(),
            exec: self.exec,
            pidfd: self.pidfd.as_raw_fd(),
            outputs: [self.outputs[0].as_ref().map(output), self.outputs[1].as_ref().map(output)],
            stdin: self.stdin.as_ref().map(stdin),
            terminal: self.terminal,
            log: self.log.as_ref().map(log),
            peers: self.peers.iter().map(|(id, peer)| peer.save(*id)).collect(),
            next_peer: self.next_peer,
        }
    }

    pub(crate) fn resume(saved: SavedProcess) -> Self {
        let output = |o: SavedOutput| Output { fd: adopt(o.fd), stream: o.stream, pending: o.pending };
        let stdin = |s: SavedStdin| Stdin { fd: adopt(s.fd), waiting: s.waiting.into(), closing: s.closing };
        Self {
            container: saved.container,
            exec: saved.exec,
            pidfd: adopt(saved.pidfd),
            outputs: saved.outputs.map(|o| o.map(output)),
            stdin: saved.stdin.map(stdin),
            terminal: saved.terminal,
            // An upgrade waits for starts.
            awaits_terminal: false,
            log: saved.log.map(|log| Log::resume(log.config, log.file.map(adopt), log.dropped)),
            peers: saved.peers.into_iter().map(|peer| (peer.id, Peer::resume(peer))).collect(),
            next_peer: saved.next_peer,
            paused: false,
        }
    }

    /// Reads one turn of an output into the log and to the peers; peers that are gone are named.
    pub(crate) fn drain(&mut self, which: usize, now: Instant, gone: &mut Vec<u64>) -> Drained {
        let Some(output) = &mut self.outputs[which] else { return Drained::End };
        let mut buffer = [0u8; TURN];
        let got = match rustix::io::read(&output.fd, &mut buffer) {
            Ok(0) => return self.end_output(which),
            Ok(got) => got,
            Err(Errno::AGAIN) => return Drained::Empty,
            Err(Errno::INTR) => return Drained::More,
            // EIO is how a terminal says that nobody has it open any more.
            Err(_) => return self.end_output(which),
        };
        if let Some(log) = &mut self.log {
            log.take(output.stream, &buffer[..got], &mut output.pending);
            log.flush();
        }
        let kind = match output.stream {
            Stream::Stdout => StreamKind::Stdout,
            Stream::Stderr => StreamKind::Stderr,
        };
        for (id, peer) in &mut self.peers {
            if !peer.say(kind, &buffer[..got], now) {
                gone.push(*id);
            }
        }
        Drained::More
    }

    /// Writes what is left of a stream after which nothing comes.
    pub(crate) fn end_stream(&mut self, which: usize) {
        self.end_output(which);
    }

    fn end_output(&mut self, which: usize) -> Drained {
        if let (Some(output), Some(log)) = (&mut self.outputs[which], &mut self.log) {
            log.end(output.stream, &mut output.pending);
        }
        Drained::End
    }

    /// Is a peer so far behind that reading on would only fill memory?
    pub(crate) fn behind(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.stuck_since).min()
    }

    /// Takes input for the process.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        let terminal = self.terminal;
        let Some(stdin) = &mut self.stdin else { return };
        match bytes {
            [] if terminal => stdin.waiting.push_back(END_OF_TRANSMISSION),
            [] => stdin.closing = true,
            _ if stdin.closing => {}
            bytes => stdin.waiting.extend(bytes),
        }
    }

    /// Writes input that waits. False when the stream has to be closed.
    pub(crate) fn pump_stdin(&mut self) -> bool {
        let Some(stdin) = &mut self.stdin else { return true };
        while !stdin.waiting.is_empty() {
            let (front, _) = stdin.waiting.as_slices();
            match rustix::io::write(&stdin.fd, front) {
                Ok(n) => {
                    stdin.waiting.drain(..n);
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        !stdin.closing
    }

    pub(crate) fn stdin_waits(&self) -> usize {
        self.stdin.as_ref().map_or(0, |stdin| stdin.waiting.len())
    }

    pub(crate) fn resize(&self, size: TerminalSize) -> Result<(), String> {
        match (&self.outputs[0], self.terminal) {
            (Some(master), true) => {
                coppice_linux::set_size(master.fd.as_fd(), size.rows, size.columns).map_err(|e| e.to_string())
            }
            _ => Err("the process has no terminal".to_owned()),
        }
    }
}
