//! Counters: one set for each thread, so that counting costs no exchange between processors; summed when read.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What a server has done since it started. All but `cache_*` only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Metrics {
            $($(#[$doc])* pub $name: u64,)*
            /// Answers of other servers kept now.
            pub cache_entries: u64,
            /// Bytes they take.
            pub cache_bytes: u64,
        }

        /// One thread's counters, on cache lines of their own.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Metrics {
            pub(crate) fn sum<'a>(all: impl Iterator<Item = &'a Counters>) -> Self {
                let mut sum = Self::default();
                for counters in all {
                    $(sum.$name += counters.$name.0.load(Ordering::Relaxed);)*
                }
                sum
            }
        }
    };
}

counters! {
    /// Packets that came over UDP.
    udp_queries,
    /// Messages that came over TCP.
    tcp_queries,
    /// Answers with records of our own names.
    answered,
    /// Answers that a name of ours has nothing of the type.
    no_data,
    /// Answers that a name of ours does not exist.
    no_name,
    /// Refusals: transfers, "any", unknown classes and versions, recursion without an upstream.
    refused,
    /// Answers that asked to come over TCP.
    truncated,
    /// Malformed queries answered so.
    malformed,
    /// Packets not answered: too short, or themselves responses.
    dropped,
    /// Questions over their client's rate, not answered.
    limited,
    /// Questions for others, answered from the cache.
    cache_hits,
    /// Questions for others that were not in the cache.
    cache_misses,
    /// Questions that waited for an equal one already on its way.
    joined,
    /// Questions for others turned away because too many were on their way.
    overloaded,
    /// Questions sent to upstream servers, each try counted.
    upstream_queries,
    /// Tries without an answer in time, or whose connection failed.
    upstream_timeouts,
    /// Messages from upstream servers that were no answer to the question, or malformed.
    upstream_rejected,
    /// Tries that the upstream server answered with a failure.
    upstream_failed,
    /// Questions for others that no upstream server answered.
    unresolved,
    /// TCP connections taken.
    tcp_connections,
    /// TCP connections closed at once: too many.
    tcp_refused,
}

/// One number that grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
