//! Which backend each slot of a service's table belongs to: Maglev's consistent hash (Eisenbud and others, NSDI 2016,
//! section 3.4). Pure.
//!
//! Each backend has its own order of preference over all slots, a function of its address alone; in turns, each takes
//! the first of its order that is free. So all have equally many slots, give or take one, and when one comes or goes,
//! few of the others' slots change hands. Every balancer that hashes clients to slots alike, whatever it is made of,
//! sends them to the same backends.

use std::net::Ipv4Addr;

/// FNV-1a, of an address and a word that makes hashes differ.
fn hash(address: Ipv4Addr, salt: u32) -> u64 {
    let bytes = address.octets().into_iter().chain(salt.to_le_bytes());
    let folded =
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    // Neighbouring addresses differ only in the last bits of FNV's input: finish with SplitMix64's mixer.
    let mixed = (folded ^ folded >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The backend of each of `slots` slots; empty without backends. The order of `backends` does not matter, and one that
/// is named twice counts once. `slots` must be a prime, so that every order of preference has all of them; with more
/// backends than slots, some have none.
pub fn maglev(backends: &[Ipv4Addr], slots: u32) -> Vec<Ipv4Addr> {
    let mut backends = backends.to_vec();
    backends.sort_unstable();
    backends.dedup();
    if backends.is_empty() || slots == 0 {
        return Vec::new();
    }
    let slots = u64::from(slots);
    struct Order {
        next: u64,
        skip: u64,
    }
    let skips = |backend| if slots > 1 { hash(backend, 2) % (slots - 1) + 1 } else { 1 };
    let mut orders: Vec<Order> =
        backends.iter().map(|backend| Order { next: hash(*backend, 1) % slots, skip: skips(*backend) }).collect();
    let mut table: Vec<Option<Ipv4Addr>> = vec![None; slots as usize];
    let mut left = slots;
    for turn in (0..backends.len()).cycle() {
        if left == 0 {
            break;
        }
        let order = &mut orders[turn];
        while table[order.next as usize].is_some() {
            order.next = (order.next + order.skip) % slots;
        }
        table[order.next as usize] = Some(backends[turn]);
        left -= 1;
    }
    table.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SLOTS: u32 = 251;

    fn addresses(count: u32, seed: u32) -> Vec<Ipv4Addr> {
        // A full period over the lower half of a /16, so that none comes twice.
        (0..count).map(|n| Ipv4Addr::from_bits(0x0a58_0000 | (2 + (seed + n.wrapping_mul(4093)) % 32_000))).collect()
    }

    fn shares(table: &[Ipv4Addr]) -> BTreeMap<Ipv4Addr, usize> {
        let mut shares = BTreeMap::new();
        table.iter().for_each(|backend| *shares.entry(*backend).or_insert(0) += 1);
        shares
    }

    #[test]
    fn every_slot_has_a_backend_and_every_backend_an_equal_share_give_or_take_one() {
        for count in [1, 2, 3, 5, 16, 64, 250, 251] {
            for seed in 0..20 {
                let backends = addresses(count, seed * 977);
                let table = maglev(&backends, SLOTS);
                assert_eq!(table.len(), SLOTS as usize);
                let shares = shares(&table);
                assert_eq!(shares.len(), count as usize, "all have some");
                let (least, most) = (shares.values().min().unwrap(), shares.values().max().unwrap());
                assert!(most - least <= 1, "{count} backends: {least} to {most}");
            }
        }
    }

    #[test]
    fn a_backend_that_goes_gives_its_slots_away_and_few_of_the_others_change_hands() {
        let (mut kept, mut moved) = (0, 0);
        for count in [2, 3, 5, 10, 30] {
            for seed in 0..20 {
                let backends = addresses(count, seed * 977);
                let before = maglev(&backends, SLOTS);
                let after = maglev(&backends[1..], SLOTS);
                for (was, is) in before.iter().zip(&after).filter(|(was, _)| **was != backends[0]) {
                    *(if was == is { &mut kept } else { &mut moved }) += 1;
                }
                let back = maglev(&backends, SLOTS);
                assert_eq!(before, back, "one that returns finds its slots");
            }
        }
        // The paper's figures are below 10 % for tables a hundred times as large as there are backends; modulo would
        // move a half to nearly all.
        assert!(moved * 5 < kept, "{moved} slots changed hands and {kept} did not");
    }

    #[test]
    fn the_table_follows_from_the_set_of_backends_alone() {
        let backends = addresses(7, 3);
        let mut turned: Vec<Ipv4Addr> = backends.iter().rev().copied().collect();
        turned.push(backends[3]);
        assert_eq!(maglev(&backends, SLOTS), maglev(&turned, SLOTS));
        assert!(maglev(&[], SLOTS).is_empty());
        assert!(maglev(&backends, 0).is_empty());
        assert_eq!(maglev(&backends, 1).len(), 1);
        assert_eq!(shares(&maglev(&addresses(9, 0), 5)).len(), 5, "more backends than slots");
    }
}
