//! Capability names, the default set, and what `cap_add`, `cap_drop` and `privileged` make of it.

/// A name that is no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a capability: use a name from capabilities(7), as in NET_ADMIN, or ALL")]
pub struct UnknownCapability(pub String);

/// Names by number (linux/capability.h, up to CAP_CHECKPOINT_RESTORE = 40).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

pub(crate) const fn bit(number: u32) -> u64 {
    1 << number
}

pub const CAP_SYS_ADMIN: u64 = bit(21);
pub const CAP_SYS_PTRACE: u64 = bit(19);
pub const CAP_SYS_CHROOT: u64 = bit(18);

/// What a container gets unless told otherwise: docker's set without NET_RAW (ping works through
/// `ping_group_range`), MKNOD (devices are given, never made), AUDIT_WRITE and SETFCAP. Listed: CHOWN, DAC_OVERRIDE,
/// FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, SYS_CHROOT.
pub const DEFAULT_CAPABILITIES: u64 =
    bit(0) | bit(1) | bit(3) | bit(4) | bit(5) | bit(6) | bit(7) | bit(8) | bit(10) | bit(18);

/// Every capability this program knows.
pub const ALL_CAPABILITIES: u64 = bit(NAMES.len() as u32) - 1;

/// The set for a container. Names are case-insensitive, with or without `CAP_`; `ALL` is every one; drops are
/// applied after additions, but `drop = ALL` first, so that "drop ALL, add X" gives X.
pub fn capabilities(add: &[String], drop: &[String], privileged: bool) -> Result<u64, UnknownCapability> {
    let added = add.iter().try_fold(0, |set, name| Ok(set | parse(name)?))?;
    let dropped = drop.iter().try_fold(0, |set, name| Ok(set | parse(name)?))?;
    if privileged {
        return Ok(ALL_CAPABILITIES);
    }
    if dropped == ALL_CAPABILITIES {
        return Ok(added);
    }
    Ok((DEFAULT_CAPABILITIES | added) & !dropped)
}

/// Names of a set, in the kernel's order.
pub fn capability_names(set: u64) -> Vec<&'static str> {
    (0..).zip(NAMES).filter(|(n, _)| set & bit(*n) != 0).map(|(_, name)| name).collect()
}

fn parse(name: &str) -> Result<u64, UnknownCapability> {
    let upper = name.trim().to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if short == "ALL" {
        return Ok(ALL_CAPABILITIES);
    }
    let number = NAMES.iter().position(|&known| known == short).ok_or_else(|| UnknownCapability(name.to_owned()))?;
    Ok(bit(number as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<u64, UnknownCapability> {
        let own = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        capabilities(&own(add), &own(drop), false)
    }

    #[test]
    fn the_default_set_is_exactly_the_documented_one() {
        let documented = [
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "SETGID",
            "SETUID",
            "SETPCAP",
            "NET_BIND_SERVICE",
            "SYS_CHROOT",
        ];
        assert_eq!(capability_names(DEFAULT_CAPABILITIES), documented);
        assert_eq!(set(&[], &[]), Ok(DEFAULT_CAPABILITIES));
    }

    #[test]
    fn additions_and_drops_are_read_as_docker_reads_them() {
        assert_eq!(set(&["net_admin"], &["CAP_CHOWN"]), Ok((DEFAULT_CAPABILITIES | bit(12)) & !bit(0)));
        assert_eq!(set(&["KILL"], &["ALL"]), Ok(bit(5)));
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]), Ok(ALL_CAPABILITIES & !CAP_SYS_ADMIN));
        assert_eq!(set(&["NET_ADMNI"], &[]), Err(UnknownCapability("NET_ADMNI".into())));
        assert_eq!(capabilities(&[], &[], true), Ok(ALL_CAPABILITIES));
    }
}
