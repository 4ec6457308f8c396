//! What is done with one message, however it came: the path all of them take.
//!
//! ```text
//! packet ─ rate ─ strict parser ─ zone ─┬─ answer
//!                      │ unusual        └─ cache ─┬─ answer
//!                      └ whole parser             └─ forward, unless as many wait as may
//! ```

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use crate::answer::{Verdict, answer};
use crate::cache::{Cache, Question};
use crate::forward::{Asked, Destination, Forwarder, Waiter};
use crate::limit::Limiter;
use crate::message::{Transport, bare, header_only};
use crate::metrics::Counters;
use crate::odd;
use crate::query::{Code, Key, Query, Reject, parse};
use crate::upstream::Pool;
use crate::zone::Zone;

/// What all threads of a server share.
pub(crate) struct Service {
    zone: RwLock<Arc<Zone>>,
    /// Grows with each change of `zone`, so that threads need not lock to see that there is none.
    version: AtomicU64,
    pub(crate) cache: Cache,
    pub(crate) limiter: Option<Limiter>,
    pub(crate) forwarder: Forwarder,
    pub(crate) pool: Pool,
}

/// A thread's own view and buffers.
pub(crate) struct Desk {
    zone: Arc<Zone>,
    version: u64,
    turn: u32,
    key: Key,
}

/// What to do after a message was looked at.
pub(crate) enum Outcome {
    /// The answer is in the buffer.
    Reply,
    /// Nothing is to be said.
    Silent,
    /// Others must be asked; give it to [`Service::forward`].
    Forward(Question, Query),
}

impl Service {
    pub(crate) fn new(zone: Zone, cache: Cache, limiter: Option<Limiter>, forwarder: Forwarder, pool: Pool) -> Self {
        Self { zone: RwLock::new(Arc::new(zone)), version: AtomicU64::new(1), cache, limiter, forwarder, pool }
    }

    /// Every message that is received after this returns is answered from `zone`.
    pub(crate) fn update(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(zone);
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn desk(&self) -> Desk {
        let version = self.version.load(Ordering::Acquire);
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner).clone();
        Desk { zone, version, turn: getrandom::u32().unwrap_or_default(), key: Key::new() }
    }

    /// Brings `desk` up to date. To be called after messages are received and before they are answered.
    pub(crate) fn refresh(&self, desk: &mut Desk) {
        if self.version.load(Ordering::Acquire) != desk.version {
            *desk = Desk { turn: desk.turn, ..self.desk() };
        }
    }

    /// Deals with `packet` from `client`.
    pub(crate) fn handle(
        &self,
        desk: &mut Desk,
        packet: &[u8],
        (client, transport, now): (IpAddr, Transport, Instant),
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> Outcome {
        if self.limiter.as_ref().is_some_and(|limiter| !limiter.admit(client, now)) {
            counters.limited.add(1);
            return Outcome::Silent;
        }
        let parsed = match parse(packet, &mut desk.key) {
            Err(Reject::Unusual(query)) => odd::judge(packet, query),
            other => other,
        };
        let query = match parsed {
            Ok(query) => query,
            Err(Reject::Code(code)) => {
                counters.malformed.add(1);
                header_only(out, packet, code);
                return Outcome::Reply;
            }
            Err(Reject::Silent | Reject::Unusual(_)) => {
                counters.dropped.add(1);
                return Outcome::Silent;
            }
        };
        desk.turn = desk.turn.wrapping_add(1);
        let verdict = answer(&desk.zone, (&query, packet, &desk.key), (client, transport), desk.turn, out);
        let counter = match verdict {
            Verdict::Answered => &counters.answered,
            Verdict::NoData => &counters.no_data,
            Verdict::NoName => &counters.no_name,
            Verdict::Refused => &counters.refused,
            Verdict::Truncated => &counters.truncated,
            Verdict::NotOurs => return self.ask_cache(desk, query, packet, (transport, now), counters, out),
        };
        counter.add(1);
        Outcome::Reply
    }

    fn ask_cache(
        &self,
        desk: &Desk,
        query: Query,
        packet: &[u8],
        (transport, now): (Transport, Instant),
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let question = Question::new(&desk.key, &query);
        if let Some((response, age_s)) = self.cache.get(&question, now) {
            counters.cache_hits.add(1);
            counters.truncated.add(u64::from(response.write((&query, packet), transport, age_s, out)));
            return Outcome::Reply;
        }
        // Who does not want recursion wants only what is here.
        if !query.recursion_desired {
            counters.refused.add(1);
            bare(out, &query, packet, Code::Refused);
            return Outcome::Reply;
        }
        counters.cache_misses.add(1);
        Outcome::Forward(question, query)
    }

    /// Has somebody else asked; a reply in `out` when nobody can be. True when there is one.
    pub(crate) fn forward(
        &self,
        (question, query): (Question, Query),
        packet: &[u8],
        destination: Destination,
        counters: &Counters,
        out: &mut Vec<u8>,
    ) -> bool {
        if self.pool.is_empty() {
            counters.refused.add(1);
            bare(out, &query, packet, Code::Refused);
            return true;
        }
        let packet = packet.get(..query.end).unwrap_or_default().to_vec();
        match self.forwarder.ask(question, Waiter { query, packet, destination }) {
            Ok(Asked::Sent) => false,
            Ok(Asked::Joined) => {
                counters.joined.add(1);
                false
            }
            Err(waiter) => {
                counters.overloaded.add(1);
                bare(out, &waiter.query, &waiter.packet, Code::ServFail);
                true
            }
        }
    }
}
