//! What a container uses and how much it has to wait for it; the kernel's texts, parsed.

use serde::{Deserialize, Serialize};

/// Use of resources since the cgroup was made; `None` where this machine does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_usec: Option<u64>,
    pub cpu_user_usec: Option<u64>,
    pub cpu_system_usec: Option<u64>,
    /// Time that the CPU limit made processes wait.
    pub throttled_usec: Option<u64>,
    /// Without file cache that can be dropped at once (inactive), as `docker stats` counts.
    pub memory_bytes: Option<u64>,
    pub memory_peak_bytes: Option<u64>,
    /// `None`: unlimited.
    pub memory_limit_bytes: Option<u64>,
    pub pids: Option<u64>,
    pub io_read_bytes: Option<u64>,
    pub io_write_bytes: Option<u64>,
    pub io_reads: Option<u64>,
    pub io_writes: Option<u64>,
    /// Processes killed because the memory limit was reached.
    pub oom_kills: Option<u64>,
}

/// Share of time, in hundredths of a percent, that at least one (`some`) or every (`full`) process waited, over the
/// last 10, 60 and 300 seconds, and the total in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PressureShare {
    pub avg10: u32,
    pub avg60: u32,
    pub avg300: u32,
    pub total_usec: u64,
}

/// Pressure stall information of a container (kernel: Documentation/accounting/psi).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    pub cpu_some: PressureShare,
    pub memory_some: PressureShare,
    pub memory_full: PressureShare,
    pub io_some: PressureShare,
    pub io_full: PressureShare,
}

impl PressureShare {
    /// The line of `text` that starts with `which`.
    pub(crate) fn read(text: &str, which: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(' '))?;
        let mut share = Self::default();
        for field in line.split(' ') {
            let (key, value) = field.split_once('=')?;
            match key {
                "avg10" => share.avg10 = hundredths(value)?,
                "avg60" => share.avg60 = hundredths(value)?,
                "avg300" => share.avg300 = hundredths(value)?,
                "total" => share.total_usec = value.parse().ok()?,
                _ => {}
            }
        }
        Some(share)
    }
}

/// `12.34` as 1234.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    let part: u32 = (part.len() == 2).then(|| part.parse().ok())??;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

/// The number after `key` in a file of `key value` lines.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The sum of `key=` over all devices of v2's `io.stat`.
pub(crate) fn io_sum(text: &str, key: &str) -> u64 {
    text.split_whitespace()
        .filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok())
        .fold(0, u64::saturating_add)
}

/// The sum over all devices of one kind of request in a file of v1's `blkio`, of lines `8:0 Read 4096`; `None` where no
/// device is counted, which may be for want of a counter.
pub(crate) fn blkio_sum(text: &str, kind: &str) -> Option<u64> {
    let counts = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (_device, of, count) = (words.next()?, words.next()?, words.next()?);
        (of == kind).then(|| count.parse::<u64>().ok())?
    });
    counts.reduce(u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_in_hundredths_of_a_percent() {
        let text =
            "some avg10=3.59 avg60=1.19 avg300=0.53 total=7357260\nfull avg10=0.00 avg60=0.00 avg300=100.00 total=1\n";
        let some = PressureShare::read(text, "some").unwrap();
        assert_eq!(some, PressureShare { avg10: 359, avg60: 119, avg300: 53, total_usec: 7_357_260 });
        assert_eq!(PressureShare::read(text, "full").unwrap().avg300, 10_000);
        assert_eq!(PressureShare::read("full avg10=x", "full"), None);
        assert_eq!(PressureShare::read("", "some"), None);
    }

    #[test]
    fn fields_match_whole_keys() {
        let text = "oom 3\noom_kill 2\noom_kill_group 9\n";
        assert_eq!(field(text, "oom_kill"), Some(2));
        assert_eq!(field(text, "oom_k"), None);
    }

    #[test]
    fn io_is_summed_over_devices() {
        let text = "8:0 rbytes=10 wbytes=1 rios=2\n8:16 rbytes=5 wbytes=2\n";
        assert_eq!(io_sum(text, "rbytes"), 15);
        assert_eq!(io_sum(text, "wbytes"), 3);
    }

    #[test]
    fn v1_counts_are_summed_over_devices_and_none_are_no_zero() {
        let text = "8:0 Read 10\n8:0 Write 4\n8:0 Total 14\n8:16 Read 5\n8:16 Total 5\nTotal 19\n";
        assert_eq!(blkio_sum(text, "Read"), Some(15));
        assert_eq!(blkio_sum(text, "Write"), Some(4));
        assert_eq!(blkio_sum("Total 0\n", "Read"), None);
        assert_eq!(blkio_sum("8:0 Read x\n\n8:0", "Read"), None);
    }
}
