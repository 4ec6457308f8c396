//! A connection of the node daemon: frames in, frames out, fds beside them. Never blocks the loop: what the daemon
//! does not read is kept up to a bound, and then the connection ends (the journal and `List` have everything).

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coppice_linux::{receive, send};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::protocol::{Call, FRAME_MAX, Message};

/// Bytes of replies kept for a daemon that does not read.
const OUT_MAX: usize = 32 << 20;
/// Fds received and not yet claimed by a frame.
const FDS_MAX: usize = 64;

pub(crate) struct Connection {
    socket: OwnedFd,
    input: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    output: VecDeque<u8>,
    pub(crate) events: bool,
}

/// What reading brought.
pub(crate) enum Heard {
    Call(Call),
    /// No whole frame yet.
    Nothing,
    /// The end, or something that is not this protocol.
    End,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, input: Vec::new(), fds: VecDeque::new(), output: VecDeque::new(), events: false }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads once what is there; false at the end.
    pub(crate) fn fill(&mut self) -> bool {
        let mut buffer = [0u8; 16 * 1024];
        let mut fds = Vec::new();
        match receive(&self.socket, &mut buffer, &mut fds, RecvFlags::DONTWAIT) {
            Ok(0) => false,
            Ok(len) => {
                self.input.extend_from_slice(&buffer[..len]);
                self.fds.extend(fds);
                self.fds.len() <= FDS_MAX
            }
            Err(Errno::AGAIN | Errno::INTR) => true,
            Err(_) => false,
        }
    }

    /// The next whole call of what was read.
    pub(crate) fn next(&mut self) -> Heard {
        let Some((head, _)) = self.input.split_first_chunk::<4>() else { return Heard::Nothing };
        let len = u32::from_le_bytes(*head);
        if len > FRAME_MAX {
            return Heard::End;
        }
        let end = 4 + len as usize;
        if self.input.len() < end {
            return Heard::Nothing;
        }
        let call = serde_json::from_slice(&self.input[4..end]);
        self.input.drain(..end);
        if self.input.is_empty() && self.input.capacity() > 64 * 1024 {
            self.input = Vec::new();
        }
        call.map_or(Heard::End, Heard::Call)
    }

    /// The fd that came with the current call.
    pub(crate) fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// Sends a message, or keeps it. False when the connection has to end.
    pub(crate) fn say(&mut self, message: &Message) -> bool {
        // Serialising our own types to memory cannot fail.
        let body = serde_json::to_vec(message).unwrap_or_default();
        if self.output.len() + body.len() > OUT_MAX {
            return false;
        }
        self.output.extend((body.len() as u32).to_le_bytes());
        self.output.extend(body);
        self.flush()
    }

    /// Sends what is kept. False when the connection has to end.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.output.is_empty() {
            let (front, _) = self.output.as_slices();
            match send(&self.socket, front, &[], SendFlags::DONTWAIT) {
                Ok(sent) => {
                    self.output.drain(..sent);
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        true
    }

    pub(crate) fn wants_out(&self) -> bool {
        !self.output.is_empty()
    }
}
