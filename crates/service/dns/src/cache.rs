//! Other servers' answers, kept as long as they say and as far as the memory set for it goes.
//!
//! Keyed by question. When full, what expired and then what was not asked for since it came goes first (a clock with
//! one hand). Pure: the time comes in.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::query::{Key, Query};
use crate::response::Response;

/// Parts with a lock of their own, so that threads seldom wait for each other.
const SHARDS: usize = 8;

/// What an answer depends on: name, type, and whether signatures and unchecked data are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Question {
    name: Box<[u8]>,
    pub(crate) qtype: u16,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

impl Question {
    pub(crate) fn new(key: &Key, query: &Query) -> Self {
        Self {
            name: key.as_slice().into(),
            qtype: query.qtype,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: query.checking_disabled,
        }
    }

    /// In lower-case wire form.
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    fn shard(&self) -> usize {
        // Any spread will do: the table below has its own keyed hash.
        self.name
            .iter()
            .fold(usize::from(self.qtype), |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)))
            % SHARDS
    }
}

struct Entry {
    response: Arc<Response>,
    since: Instant,
    asked: bool,
}

impl Entry {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < Duration::from_secs(u64::from(self.response.lifetime_s))
    }
}

#[derive(Default)]
struct Shard {
    entries: HashMap<Question, Entry>,
    /// Every key of `entries` once, oldest first.
    order: VecDeque<Question>,
    weight: usize,
}

/// Answers kept, in at most the bytes given.
pub(crate) struct Cache {
    shards: [Mutex<Shard>; SHARDS],
    shard_weight_max: usize,
}

fn weight(question: &Question, response: &Response) -> usize {
    // The key is in the table and in the queue.
    2 * (question.name.len() + size_of::<Question>()) + size_of::<Entry>() + response.weight()
}

impl Cache {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { shards: Default::default(), shard_weight_max: bytes / SHARDS }
    }

    fn shard(&self, question: &Question) -> std::sync::MutexGuard<'_, Shard> {
        self.shards[question.shard()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `question` and its age in whole seconds, if one is kept and still good at `now`.
    pub(crate) fn get(&self, question: &Question, now: Instant) -> Option<(Arc<Response>, u32)> {
        let mut shard = self.shard(question);
        let entry = shard.entries.get_mut(question).filter(|entry| entry.is_fresh(now))?;
        entry.asked = true;
        let age_s = now.saturating_duration_since(entry.since).as_secs();
        Some((entry.response.clone(), u32::try_from(age_s).unwrap_or(u32::MAX)))
    }

    /// Keeps `response` from `now` on, if it may be kept at all.
    pub(crate) fn put(&self, question: &Question, response: &Arc<Response>, now: Instant) {
        let own = weight(question, response);
        if response.lifetime_s == 0 || own > self.shard_weight_max {
            return;
        }
        let mut shard = self.shard(question);
        let entry = Entry { response: response.clone(), since: now, asked: false };
        match shard.entries.insert(question.clone(), entry) {
            Some(old) => shard.weight -= weight(question, &old.response),
            None => shard.order.push_back(question.clone()),
        }
        shard.weight += own;
        shard.shrink(self.shard_weight_max, now);
    }

    /// How many answers are kept, and bytes they take.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.shards.iter().fold((0, 0), |(count, bytes), shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (count + shard.entries.len() as u64, bytes + shard.weight as u64)
        })
    }

    /// Forgets everything: the servers asked are others now.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            *shard.lock().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
    }
}

impl Shard {
    fn shrink(&mut self, weight_max: usize, now: Instant) {
        while self.weight > weight_max {
            let Some(question) = self.order.pop_front() else { break };
            let Some(entry) = self.entries.get_mut(&question) else { continue };
            if entry.asked && entry.is_fresh(now) {
                // A second chance, once.
                entry.asked = false;
                self.order.push_back(question);
                continue;
            }
            self.weight -= weight(&question, &entry.response);
            self.entries.remove(&question);
        }
    }
}
