//! Netlink by hand: messages built into one buffer, sent in one system call, answers read until the last is
//! acknowledged (netlink(7); layouts of `linux/netlink.h`). The kernel handles what is sent before `send` returns,
//! so an exchange is two system calls whatever the number of messages.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const REPLACE: u16 = 0x100;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;
pub(crate) const DUMP: u16 = 0x300;
const NESTED: u16 = 0x8000;

const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;

const HEADER: usize = 16;

/// Messages to be sent together.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Where each message starts.
    starts: Vec<usize>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::with_capacity(1024), starts: Vec::with_capacity(8) }
    }

    /// Starts a message of `kind` with its family's fixed header.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> &mut Self {
        self.close();
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]); // length, set when the message is closed
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]); // sequence, set when sent; port 0: the kernel fills it in
        self.bytes.extend_from_slice(fixed);
        self.pad();
        self
    }

    /// Asks for an acknowledgement of the last message.
    pub(crate) fn acknowledge(&mut self) {
        if let Some(&start) = self.starts.last() {
            let flags = u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]]) | ACK;
            self.bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        }
    }

    fn close(&mut self) {
        if let Some(&start) = self.starts.last() {
            let length = (self.bytes.len() - start) as u32;
            self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        // Values here are names, addresses and set elements, all far below 64 KiB.
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = [0u8; 128];
        let value = &value.as_bytes()[..value.len().min(127)];
        bytes[..value.len()].copy_from_slice(value);
        self.attr(kind, &bytes[..=value.len()])
    }

    /// A number in the host's order, as rtnetlink has them.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub(crate) fn optional_u32(&mut self, kind: u16, value: Option<u32>) -> &mut Self {
        if let Some(value) = value {
            self.u32(kind, value);
        }
        self
    }

    /// A number in network order, as nftables has them.
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// An attribute that holds what `fill` adds.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes that are not an attribute: the fixed header inside a nest.
    pub(crate) fn raw(&mut self, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }
}

/// A netlink socket of one protocol in the network namespace it was opened in, and for good.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A message read, without its header.
pub(crate) struct Answer<'a> {
    pub(crate) kind: u16,
    pub(crate) body: &'a [u8],
}

/// Batches above this get a larger send buffer (the kernel's usual one is 208 KiB, `net.core.wmem_default`).
const SEND_USUAL: usize = 100 * 1024;
/// The kernel answers dumps in chunks of up to 32 KiB.
const RECEIVE_SIZE: usize = 32 * 1024;

impl Socket {
    pub(crate) fn route() -> Result<Self> {
        Self::open(None, 0)
    }

    pub(crate) fn netfilter() -> Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER), 0)
    }

    /// `groups`: bits of the multicast groups to hear.
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> Result<Self> {
        let flags = if groups == 0 { SocketFlags::CLOEXEC } else { SocketFlags::CLOEXEC | SocketFlags::NONBLOCK };
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        if groups != 0 {
            rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        }
        Ok(Self { fd, sequence: 0, buffer: Vec::new() })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The port that the kernel names in what it tells others of this socket's doings; 0 before it has sent anything.
    pub(crate) fn port(&self) -> Result<u32> {
        let name = rustix::net::getsockname(&self.fd)?;
        Ok(SocketAddrNetlink::try_from(name)?.pid())
    }

    fn send(&mut self, batch: &mut Batch) -> Result<u32> {
        batch.close();
        let first = self.sequence + 1;
        for &start in &batch.starts {
            self.sequence += 1;
            batch.bytes[start + 8..start + 12].copy_from_slice(&self.sequence.to_ne_bytes());
        }
        if batch.bytes.len() > SEND_USUAL {
            rustix::net::sockopt::set_socket_send_buffer_size_force(&self.fd, 2 * batch.bytes.len())?;
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        rustix::io::retry_on_intr(|| rustix::net::sendto(&self.fd, &batch.bytes, SendFlags::empty(), &kernel))?;
        Ok(first)
    }

    fn receive(&mut self) -> Result<usize> {
        if self.buffer.is_empty() {
            self.buffer = vec![0; RECEIVE_SIZE];
        }
        let (read, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty()))?;
        Ok(read)
    }

    /// Sends `batch`, whose message `last` must ask for an [`ACK`], and waits until that came. The first failure
    /// is returned. Messages after it may have been carried out (rtnetlink does, nftables does not).
    pub(crate) fn exchange_until(&mut self, batch: &mut Batch, last: usize) -> Result<()> {
        self.converse(batch, last, |_| {})
    }

    /// [`Self::exchange`], giving every answer to `each`.
    pub(crate) fn exchange_with(&mut self, batch: &mut Batch, each: impl FnMut(Answer<'_>)) -> Result<()> {
        let last = batch.starts.len().saturating_sub(1);
        self.converse(batch, last, each)
    }

    fn converse(&mut self, batch: &mut Batch, last: usize, mut each: impl FnMut(Answer<'_>)) -> Result<()> {
        let first = self.send(batch)?;
        let last = first + last as u32;
        let mut failure: Option<Errno> = None;
        loop {
            let read = self.receive()?;
            for (kind, sequence, body) in messages(&self.buffer[..read]) {
                if !(first..=last).contains(&sequence) {
                    continue;
                }
                if kind != TYPE_ERROR {
                    each(Answer { kind, body });
                    continue;
                }
                let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                if code != 0 && failure.is_none() {
                    failure = Some(Errno::from_raw_os_error(-code));
                }
                if sequence == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// [`Self::exchange_until`] the batch's last message.
    pub(crate) fn exchange(&mut self, batch: &mut Batch) -> Result<()> {
        let last = batch.starts.len().saturating_sub(1);
        self.exchange_until(batch, last)
    }

    /// Sends one question (a dump, or a get with [`ACK`]) and gives every answer to `each`.
    pub(crate) fn ask(&mut self, batch: &mut Batch, mut each: impl FnMut(Answer<'_>)) -> Result<()> {
        let sequence = self.send(batch)?;
        loop {
            let read = self.receive()?;
            for (kind, of, body) in messages(&self.buffer[..read]) {
                if of != sequence {
                    continue;
                }
                match kind {
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => {
                        let code = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                        return if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code)) };
                    }
                    _ => each(Answer { kind, body }),
                }
            }
        }
    }

    /// Gives everything that waits on a socket with groups to `each`. What came too fast is lost.
    pub(crate) fn hear(&mut self, mut each: impl FnMut(Answer<'_>)) -> Result<()> {
        loop {
            match self.receive() {
                Ok(read) => messages(&self.buffer[..read]).for_each(|(kind, _, body)| each(Answer { kind, body })),
                Err(Errno::NOBUFS) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Reads away everything that waits on a socket with groups; true when there was something (or too much) that the socket
    /// of port `but` did not do.
    pub(crate) fn drain(&mut self, but: Option<u32>) -> Result<bool> {
        let mut any = false;
        loop {
            match self.receive() {
                Ok(read) => any |= doers(&self.buffer[..read]).any(|doer| Some(doer) != but),
                Err(Errno::NOBUFS) => any = true,
                Err(Errno::AGAIN) => return Ok(any),
                Err(errno) => return Err(errno),
            }
        }
    }
}

/// The port of who had each message sent.
fn doers(mut bytes: &[u8]) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let doer = u32::from_ne_bytes(header[12..16].try_into().ok()?);
        bytes = bytes.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
        Some(doer)
    })
}

/// Type, sequence and body of each message in what was received.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(header[4..6].try_into().ok()?);
        let sequence = u32::from_ne_bytes(header[8..12].try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}

/// Type and value of each attribute of `bytes`.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back() {
        let mut batch = Batch::new();
        batch.message(16, ACK, &[1, 2, 3, 4]).text(3, "lo").nest(18, |b| {
            b.u32(1, 7).attr(2, &[9]);
        });
        batch.close();
        let (kind, _, body) = messages(&batch.bytes).next().unwrap();
        assert_eq!(kind, 16);
        let found: Vec<_> = attributes(&body[4..]).collect();
        assert_eq!(found[0], (3, b"lo\0".as_slice()));
        let inner: Vec<_> = attributes(found[1].1).collect();
        assert_eq!(inner, [(1, 7u32.to_ne_bytes().as_slice()), (2, [9].as_slice())]);
    }

    #[test]
    fn cut_or_lying_lengths_end_the_reading() {
        for bytes in [&[][..], &[1], &[0; 16], &[255; 20], &[16, 0, 0, 0, 1]] {
            assert!(messages(bytes).count() <= 1);
            assert!(attributes(bytes).take(100).count() <= 1);
        }
    }
}
