//! epoll with names: what became ready is told as a [`Source`], not as a number.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

/// What an fd in the poller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Listener,
    Connection(u64),
    /// A process's pidfd.
    End(u64),
    /// A starting process's channel.
    Channel(u64),
    Output(u64, usize),
    Stdin(u64),
    Peer(u64, u64),
    Lingering(u64),
    Cleaner(u64),
    /// The pipe that ends when a cleaner has removed its cgroups.
    Cleaned(u64),
}

pub(crate) struct Poller {
    epoll: rustix::fd::OwnedFd,
    next: u64,
    sources: HashMap<u64, Source>,
    tokens: HashMap<Source, u64>,
}

/// Most events taken in one turn, so that no loud container starves the rest.
const TURN: usize = 64;

impl Poller {
    pub(crate) fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, next: 0, sources: HashMap::new(), tokens: HashMap::new() })
    }

    pub(crate) fn add(&mut self, fd: impl AsFd, source: Source, flags: EventFlags) -> Result<(), Errno> {
        self.next += 1;
        epoll::add(&self.epoll, fd, EventData::new_u64(self.next), flags)?;
        self.sources.insert(self.next, source);
        self.tokens.insert(source, self.next);
        Ok(())
    }

    pub(crate) fn change(&mut self, fd: impl AsFd, source: Source, flags: EventFlags) {
        if let Some(token) = self.tokens.get(&source) {
            // Fails only for an fd that is not registered, which the map excludes.
            let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(*token), flags);
        }
    }

    /// Takes an fd out. To be called before it is closed: a copy in a forked child would keep it in the epoll.
    pub(crate) fn remove(&mut self, fd: impl AsFd, source: Source) {
        if let Some(token) = self.tokens.remove(&source) {
            self.sources.remove(&token);
            let _ = epoll::delete(&self.epoll, fd);
        }
    }

    /// Waits; a source may be removed by the handling of an earlier one of the same turn: see [`Self::has`].
    pub(crate) fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<(Source, EventFlags)>) -> Result<(), Errno> {
        let mut events = [epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; TURN];
        let timeout = timeout.map(|t| Timespec { tv_sec: t.as_secs().cast_signed(), tv_nsec: t.subsec_nanos().into() });
        ready.clear();
        let got = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok(got) => got,
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(e),
        };
        for event in &events[..got] {
            let (data, flags) = (event.data, event.flags);
            if let Some(source) = self.sources.get(&data.u64()) {
                ready.push((*source, flags));
            }
        }
        Ok(())
    }

    pub(crate) fn has(&self, source: Source) -> bool {
        self.tokens.contains_key(&source)
    }
}
