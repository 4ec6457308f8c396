//! What a container may use.

use coppice_base::{Bytes, MilliCpu};
use serde::{Deserialize, Serialize};

use crate::device::DeviceRules;

/// The limits of one container; `None` is unlimited. Memory is limited without swap: pages past the limit are
/// reclaimed or a process is killed, never swapped out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    pub cpu: Option<MilliCpu>,
    /// 1 to 10000, 100 is normal (v2's scale).
    pub cpu_weight: Option<u32>,
    pub memory: Option<Bytes>,
    pub pids: Option<u32>,
    /// Fixed at creation.
    pub devices: DeviceRules,
    /// CPUs as the kernel writes lists, `0-2,4`. Fixed at creation to some or none; the list itself can change.
    pub cpuset: Option<String>,
}

/// Length of the period a CPU quota is for, in microseconds (the kernel's default).
pub(crate) const CPU_PERIOD_US: u64 = 100_000;
/// Smallest quota the kernel takes (`min_cfs_quota_period`), in microseconds.
const CPU_QUOTA_MIN_US: u64 = 1_000;

/// Microseconds per period that `cpu` is, and whether that is more than asked because less cannot be had.
pub(crate) fn cpu_quota_us(cpu: MilliCpu) -> (u64, bool) {
    let quota_us = u64::from(cpu.0) * CPU_PERIOD_US / 1000;
    (quota_us.max(CPU_QUOTA_MIN_US), quota_us < CPU_QUOTA_MIN_US)
}

/// v1's `cpu.shares` (2 to 262144, 1024 is normal) for a v2 weight.
pub(crate) fn cpu_shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 / 100).clamp(2, 262_144)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_the_share_of_the_period_and_never_below_what_the_kernel_takes() {
        assert_eq!(cpu_quota_us(MilliCpu(500)), (50_000, false));
        assert_eq!(cpu_quota_us(MilliCpu(2000)), (200_000, false));
        assert_eq!(cpu_quota_us(MilliCpu(10)), (1_000, false));
        assert_eq!(cpu_quota_us(MilliCpu(1)), (1_000, true));
    }

    #[test]
    fn a_normal_weight_is_normal_shares() {
        assert_eq!(cpu_shares(100), 1024);
        assert_eq!(cpu_shares(1), 10);
        assert_eq!(cpu_shares(10_000), 102_400);
    }
}
