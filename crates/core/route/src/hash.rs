//! A hash that is the same in every process and release, so that a client keeps its instance across restarts of the
//! proxy. Not for tables that hostile keys fill.

/// FNV-1a, 64 bits, then mixed: FNV alone leaves the high bits of short keys almost equal.
pub fn stable(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        // A separator that no byte is, so that ("a", "bc") and ("ab", "c") differ.
        hash = (hash ^ 0x1ff).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// The weight of `node` for `key` in rendezvous hashing.
pub fn rendezvous(key: u64, node: u64) -> u64 {
    mix(key ^ node.rotate_left(32))
}

/// The finisher of splitmix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_kept_apart_and_the_hash_never_changes_between_releases() {
        assert_ne!(stable(&[b"a", b"bc"]), stable(&[b"ab", b"c"]));
        assert_ne!(stable(&[b"", b"a"]), stable(&[b"a", b""]));
        assert_eq!(stable(&[b"GET", b"example.com", b"/"]), 5_447_812_494_111_761_692);
    }
}
