//! Which queue of a link packets that leave the machine wait in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::nft::Transaction;

/// A class of a container's traffic beyond the usual one. What it sends beyond the machine is marked on its way out: the
/// kernel's priority, by which a link's queueing discipline sorts (tc-prio(8)), and the type of service in the packet's
/// header, which the networks behind may go by. Both are the ones that belong together in ip(7) and Linux' own table for
/// forwarded packets (`ip_tos2prio`). Two bits of the header that are for congestion stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrafficClass {
    /// Before all else: the first band of `pfifo_fast` and `prio`.
    High,
    /// After all else: their last.
    Low,
}

impl TrafficClass {
    pub(crate) const ALL: [Self; 2] = [Self::High, Self::Low];

    /// `TC_PRIO_INTERACTIVE` and `TC_PRIO_BULK` of linux/pkt_sched.h.
    pub fn priority(self) -> u32 {
        match self {
            Self::High => 6,
            Self::Low => 2,
        }
    }

    /// `IPTOS_LOWDELAY` and `IPTOS_THROUGHPUT` of linux/ip.h.
    pub fn type_of_service(self) -> u8 {
        match self {
            Self::High => 0x10,
            Self::Low => 0x08,
        }
    }

    /// The set of those that are in it.
    pub(crate) fn set(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Low => "low",
        }
    }
}

/// Classes of containers by their address; the others' is the usual one.
pub type TrafficClasses = BTreeMap<Ipv4Addr, TrafficClass>;

/// What makes `before` into `after`.
pub(crate) fn change(transaction: &mut Transaction<'_>, before: &TrafficClasses, after: &TrafficClasses) {
    for class in TrafficClass::ALL {
        let of = |all: &TrafficClasses| -> BTreeSet<Vec<u8>> {
            all.iter().filter(|(_, of)| **of == class).map(|(address, _)| address.octets().to_vec()).collect()
        };
        let (had, has) = (of(before), of(after));
        transaction.delete_elements(class.set(), &had.difference(&has).cloned().collect::<Vec<_>>());
        transaction.add_keys(class.set(), &has.difference(&had).cloned().collect::<Vec<_>>());
    }
}
