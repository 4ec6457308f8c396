//! Maglev's table (Eisenbud et al., NSDI 2016, section 3.4): which backend a slot belongs to.
//!
//! Each backend has its own order of preference over all slots, by its address; they take turns at taking their next
//! free one. So all have equally many slots, within one, and when a backend comes or goes few slots of others change
//! hands: connections that are not known any more mostly find their way all the same.

use std::net::Ipv4Addr;

/// A prime, so that every step visits all slots; a hundred times ten backends. As in `programs/maps.h`.
pub(crate) const SLOTS: usize = 1021;

/// The slots' owners, as indices into `backends`; `None` when there is none.
pub(crate) fn table(backends: &[Ipv4Addr]) -> Option<[u16; SLOTS]> {
    let count = u16::try_from(backends.len()).ok().filter(|count| *count > 0 && usize::from(*count) <= SLOTS)?;
    // Whatever order they are named in.
    let mut order: Vec<u16> = (0..count).collect();
    order.sort_unstable_by_key(|&index| backends[usize::from(index)]);
    let mut walks: Vec<(u16, usize, usize)> = order
        .into_iter()
        .map(|index| {
            let hash = spread(backends[usize::from(index)]);
            (index, (hash >> 32) as usize % SLOTS, (hash & 0xffff_ffff) as usize % (SLOTS - 1) + 1)
        })
        .collect();
    let mut owners = [u16::MAX; SLOTS];
    let mut free = SLOTS;
    loop {
        for (index, at, step) in &mut walks {
            while owners[*at] != u16::MAX {
                *at = (*at + *step) % SLOTS;
            }
            owners[*at] = *index;
            free -= 1;
            if free == 0 {
                return Some(owners);
            }
        }
    }
}

/// FNV-1a and a finisher: addresses of one subnet differ in few bits.
fn spread(ip: Ipv4Addr) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    let mut hash = ip.octets().iter().fold(0xcbf2_9ce4_8422_2325, fold);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(count: u8) -> Vec<Ipv4Addr> {
        (2..2 + count).map(|last| Ipv4Addr::new(10, 88, 0, last)).collect()
    }

    #[test]
    fn every_backend_has_as_many_slots_as_the_others_within_one() {
        for count in [1, 2, 3, 7, 100] {
            let owners = table(&backends(count)).unwrap();
            let shares = (0..u16::from(count)).map(|of| owners.iter().filter(|owner| **owner == of).count());
            let (low, high) = shares.fold((SLOTS, 0), |(low, high), share| (low.min(share), high.max(share)));
            assert!(high - low <= 1, "{count} backends have between {low} and {high} slots");
        }
        assert!(table(&[]).is_none());
    }

    #[test]
    fn few_slots_change_hands_when_a_backend_goes_and_none_for_their_order() {
        let before = backends(10);
        let after: Vec<_> = before[..9].to_vec();
        let (old, new) = (table(&before).unwrap(), table(&after).unwrap());
        let moved = (0..SLOTS).filter(|&at| old[at] != 9 && old[at] != new[at]).count();
        assert!(moved < SLOTS / 5, "{moved} slots moved between backends that stayed");
        let reversed: Vec<_> = before.iter().rev().copied().collect();
        let other = table(&reversed).unwrap();
        assert!((0..SLOTS).all(|at| before[usize::from(old[at])] == reversed[usize::from(other[at])]));
    }
}
