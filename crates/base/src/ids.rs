//! Ranges of user and group ids: what a container's ids are on the host.

use serde::{Deserialize, Serialize};

/// The container's ids 0..`count` are the host's `first`..`first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    pub first: u32,
    pub count: u32,
}

impl IdRange {
    /// Ids per range: what images expect (nobody is 65534).
    pub const COUNT: u32 = 65_536;
    /// First host id handed out: above what distributions give to users and subuids (524288 + n·65536 is
    /// systemd's container range start; 1879048192 its end of foreign use), below 2³¹.
    pub const BASE: u32 = 0x1000_0000;
    /// After the last.
    const END: u32 = 0x8000_0000;

    /// The `index`th range.
    pub fn nth(index: u32) -> Self {
        Self { first: Self::BASE + index * Self::COUNT, count: Self::COUNT }
    }

    /// The range that has a host's id; `None` where containers have none such.
    pub fn having(id: u32) -> Option<Self> {
        (Self::BASE..Self::END).contains(&id).then(|| Self::nth((id - Self::BASE) / Self::COUNT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_in_one_range_or_in_none() {
        for index in [0, 1, 7, 28_671] {
            let range = IdRange::nth(index);
            assert_eq!(IdRange::having(range.first), Some(range));
            assert_eq!(IdRange::having(range.first + range.count - 1), Some(range));
        }
        for id in [0, 999, 65_535, 524_288, IdRange::BASE - 1, 1 << 31, u32::MAX] {
            assert_eq!(IdRange::having(id), None, "{id}");
        }
    }
}
