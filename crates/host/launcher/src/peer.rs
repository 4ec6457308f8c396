//! Someone attached to a process's streams: frames of output to them, frames of input from them.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use coppice_linux::{receive, send};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::protocol::StreamKind;
use crate::upgrade::{SavedPeer, adopt};

/// Output kept for a peer beyond its socket's buffer. Above it the process is made to wait.
pub(crate) const OUT_MAX: usize = 256 * 1024;
/// How long a process waits for a peer that does not read, before the peer is dropped.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Longest input frame.
const FRAME_MAX: usize = 1 << 20;

pub(crate) struct Peer {
    socket: OwnedFd,
    input: Vec<u8>,
    output: VecDeque<u8>,
    /// Since when more than [`OUT_MAX`] is waiting.
    pub(crate) stuck_since: Option<Instant>,
}

impl Peer {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), output: VecDeque::new(), stuck_since: None }
    }

    /// The peer as another program of the same process goes on with it.
    pub(crate) fn save(&self, id: u64) -> SavedPeer {
        let output = self.output.iter().copied().collect();
        SavedPeer { id, fd: self.socket.as_raw_fd(), input: self.input.clone(), output }
    }

    pub(crate) fn resume(saved: SavedPeer) -> Self {
        let SavedPeer { fd, input, output, .. } = saved;
        Self { socket: adopt(fd), input, output: output.into(), stuck_since: None }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Adds a frame of output. False when the peer is gone.
    pub(crate) fn say(&mut self, kind: StreamKind, bytes: &[u8], now: Instant) -> bool {
        self.output.push_back(kind as u8);
        self.output.extend((bytes.len() as u32).to_le_bytes());
        self.output.extend(bytes);
        self.flush(now)
    }

    /// Sends what waits. False when the peer is gone.
    pub(crate) fn flush(&mut self, now: Instant) -> bool {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match send(&self.socket, front, &[], SendFlags::DONTWAIT) {
                Ok(sent) => {
                    self.output.drain(..sent);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        if self.output.len() <= OUT_MAX {
            self.stuck_since = None;
        } else if self.stuck_since.is_none() {
            self.stuck_since = Some(now);
        }
        if self.output.is_empty() && self.output.capacity() > 64 * 1024 {
            self.output = VecDeque::new();
        }
        true
    }

    pub(crate) fn wants_out(&self) -> bool {
        !self.output.is_empty()
    }

    /// Reads once. False at the end.
    pub(crate) fn fill(&mut self) -> bool {
        let mut buffer = [0u8; 16 * 1024];
        let mut refused = Vec::new();
        match receive(&self.socket, &mut buffer, &mut refused, RecvFlags::DONTWAIT) {
            Ok(0) => false,
            Ok(len) => {
                self.input.extend_from_slice(&buffer[..len]);
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// The next whole frame of input; `Err` is something that is not this protocol.
    pub(crate) fn next(&mut self) -> Result<Option<(StreamKind, Vec<u8>)>, ()> {
        let Some((head, _)) = self.input.split_first_chunk::<5>() else { return Ok(None) };
        let kind = StreamKind::from_byte(head[0]).ok_or(())?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if len > FRAME_MAX {
            return Err(());
        }
        if self.input.len() < 5 + len {
            return Ok(None);
        }
        let body = self.input[5..5 + len].to_vec();
        self.input.drain(..5 + len);
        if self.input.is_empty() && self.input.capacity() > 64 * 1024 {
            self.input = Vec::new();
        }
        Ok(Some((kind, body)))
    }
}
