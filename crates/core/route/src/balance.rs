//! Which instance of a service answers a request.
//!
//! Takes part: an instance that is ready by its probes, not draining, not tried already for this request, and let through
//! by its breaker. Among those a sticky key decides by rendezvous hashing (an instance that comes or goes moves only its
//! own share of clients); otherwise the less loaded of two random ones, which keeps queues short without anybody knowing
//! all of them. A half-open instance gets the one request that may prove it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use coppice_base::Timestamp;
use coppice_spec::BreakerSpec;

use crate::breaker::{Breaker, BreakerState};
use crate::hash;
use crate::outlier::Outlier;

/// What is known of one instance, shared by all threads.
#[derive(Debug)]
pub struct Instance {
    /// Equal for the same instance in every process: stickiness lives on it.
    pub id: u64,
    ready: AtomicBool,
    draining: AtomicBool,
    in_flight: AtomicU32,
    pub breaker: Breaker,
    pub outlier: Outlier,
}

impl AsRef<Instance> for Instance {
    fn as_ref(&self) -> &Instance {
        self
    }
}

impl Instance {
    /// `name` is unique among the service's instances.
    pub fn new(name: &str) -> Self {
        Self {
            id: hash::stable(&[name.as_bytes()]),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            breaker: Breaker::default(),
            outlier: Outlier::default(),
        }
    }

    /// What probes and the supervisor say.
    pub fn set(&self, ready: bool, draining: bool) {
        self.ready.store(ready, Ordering::Relaxed);
        // In one order with `enter`: see there.
        self.draining.store(draining, Ordering::SeqCst);
    }

    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub fn is_draining(&self) -> bool {
        // In one order with `leave`, so that of one that drains the last to leave knows that it drains.
        self.draining.load(Ordering::SeqCst)
    }

    /// Requests it is answering now. Once it drains and this is 0, no request comes any more.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Counts a request as in flight; false, and not counted, when the instance has begun to drain since it was chosen.
    /// First the count, then the question, both in one order with what `set` and `in_flight` do: whoever drains it and
    /// reads 0 can stop it, because a request that was chosen before and comes late is turned away here.
    #[must_use]
    pub fn enter(&self) -> bool {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        if self.draining.load(Ordering::SeqCst) {
            self.leave();
            return false;
        }
        true
    }

    pub fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }

    /// Reports an outcome: `ok` is an answer below 500.
    pub fn report(&self, ok: bool, now: Timestamp) {
        if ok {
            self.breaker.succeeded();
        } else {
            self.breaker.failed(now);
        }
        self.outlier.record(ok, now);
    }

    /// Whether new requests may go to it at all.
    pub fn takes_requests(&self) -> bool {
        self.is_ready() && !self.is_draining()
    }
}

/// How to choose.
#[derive(Clone, Copy, Debug)]
pub struct Picking<'a> {
    pub breaker: &'a BreakerSpec,
    pub now: Timestamp,
    /// Any number; two calls should have different ones.
    pub random: u64,
    /// A sticky key, already hashed.
    pub sticky: Option<u64>,
    /// The instance a sticky cookie names.
    pub wanted: Option<u64>,
    /// Ids that were tried for this request.
    pub tried: &'a [u64],
}

/// The choice among `instances`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    At(usize),
    /// Some instance could answer but each was tried: one more attempt may go to any of them.
    OnlyTried(usize),
    /// No instance is ready, or each one's breaker is open.
    None,
}

/// Chooses one of `instances`.
pub fn choose<T>(instances: &[T], how: Picking<'_>) -> Chosen
where
    T: std::ops::Deref,
    T::Target: AsRef<Instance>,
{
    let state = |instance: &Instance| instance.breaker.state(how.breaker, how.now);
    let tried = |instance: &Instance| how.tried.contains(&instance.id);
    let (mut healthy, mut ejected) = (0usize, 0usize);
    let mut again = None;
    for (at, instance) in instances.iter().enumerate() {
        let instance = instance.deref().as_ref();
        if !instance.takes_requests() {
            continue;
        }
        match state(instance) {
            BreakerState::Closed if tried(instance) => again = again.or(Some(at)),
            BreakerState::Closed => {
                healthy += 1;
                ejected += usize::from(instance.outlier.ejected(how.now));
            }
            BreakerState::HalfOpen if !tried(instance) && instance.breaker.begin_probe(how.breaker, how.now) => {
                return Chosen::At(at);
            }
            BreakerState::HalfOpen | BreakerState::Open => {}
        }
    }
    if healthy == 0 {
        return again.map_or(Chosen::None, Chosen::OnlyTried);
    }
    // More than half: then it is not the instances.
    let heed = ejected * 2 <= healthy;
    let takes = |instance: &Instance| {
        instance.takes_requests()
            && state(instance) == BreakerState::Closed
            && !tried(instance)
            && !(heed && instance.outlier.ejected(how.now))
    };
    let candidates =
        || instances.iter().map(|one| one.deref().as_ref()).enumerate().filter(|(_, instance)| takes(instance));
    if let Some(wanted) = how.wanted
        && let Some((at, _)) = candidates().find(|(_, instance)| instance.id == wanted)
    {
        return Chosen::At(at);
    }
    let best = match how.sticky {
        Some(key) => candidates().max_by_key(|(_, instance)| hash::rendezvous(key, instance.id)),
        None => {
            let count = candidates().count().max(1);
            let first = (how.random as u32 as usize) % count;
            let second = ((how.random >> 32) as usize) % count;
            let (a, b) = (candidates().nth(first), candidates().nth(second));
            match (a, b) {
                (Some(a), Some(b)) if b.1.in_flight() < a.1.in_flight() => Some(b),
                // Another thread may have drained one since they were counted.
                (a, b) => a.or(b).or_else(|| candidates().next()),
            }
        }
    };
    best.map_or(Chosen::None, |(at, _)| Chosen::At(at))
}
