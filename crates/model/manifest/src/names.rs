//! Closed lists of words a manifest may use: signals, capabilities, policies.

/// Words for a service's `restart`; the last two are yoq's.
pub(crate) const RESTART_WORDS: &[&str] = &["always", "on-failure", "never", "on_failure", "none"];

/// Words for a worker's `restart`.
pub(crate) const WORKER_RESTART_WORDS: &[&str] = &["never", "on-failure", "on_failure", "none"];

/// Words for a policy's `default`.
pub(crate) const POLICY_WORDS: &[&str] = &["allow", "deny"];

/// Words for a route's `protocol`.
pub(crate) const BACKEND_WORDS: &[&str] = &["http1", "h2c"];

/// Words for `tls.peer`.
pub(crate) const PEER_WORDS: &[&str] = &["off", "warn", "require"];

/// Words for `tls.acme.challenge`.
pub(crate) const CHALLENGE_WORDS: &[&str] = &["http-01", "tls-alpn-01", "dns-01"];

/// Words for `supervise.on_exhausted`.
pub(crate) const EXHAUSTED_WORDS: &[&str] = &["stay", "rollback"];

/// Words for `rollout.strategy`.
pub(crate) const ROLLOUT_WORDS: &[&str] = &["rolling", "canary", "blue_green", "switch"];

/// Words for `rollout.failure_action`.
pub(crate) const FAILURE_WORDS: &[&str] = &["rollback", "pause"];

/// Words for a cron's `overlap`.
pub(crate) const OVERLAP_WORDS: &[&str] = &["skip", "queue", "replace"];

/// Words for a cron's `missed`.
pub(crate) const MISSED_WORDS: &[&str] = &["skip", "run_once"];

/// Words for a secret's `generate`.
pub(crate) const SECRET_WORDS: &[&str] = &["random-256", "password", "ed25519", "tls"];

/// Words for a volume's `compression`.
pub(crate) const COMPRESSION_WORDS: &[&str] = &["off", "lz4", "zstd", "gzip"];

/// Words for `tls.acme.dns.provider`.
pub(crate) const DNS_WORDS: &[&str] = &["cloudflare", "route53", "gcloud", "exec"];

/// Signals by name (signal(7)), without SIG. Real-time ones are written `RTMIN+n` and `RTMAX-n`.
const SIGNALS: &[&str] = &[
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "IOT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
    "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH",
    "IO", "POLL", "PWR", "SYS", "RTMIN", "RTMAX",
];

/// Capabilities (capabilities(7), Linux 6.x), without `CAP_`, and `ALL`.
pub(crate) const CAPABILITIES: &[&str] = &[
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// `SIGTERM`, `term`, `15`, `RTMIN+3` → the spec's form (`TERM`, `15`, `RTMIN+3`); `Err` is the nearest signal.
pub(crate) fn signal(text: &str) -> Result<String, Option<&'static str>> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = name.parse::<u8>() {
        return if (1..=64).contains(&number) { Ok(number.to_string()) } else { Err(None) };
    }
    if SIGNALS.contains(&name) {
        return Ok(name.to_owned());
    }
    let offset = name.strip_prefix("RTMIN+").or_else(|| name.strip_prefix("RTMAX-"));
    if offset.and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= 30) {
        return Ok(name.to_owned());
    }
    Err(crate::suggest::nearest(name, SIGNALS.iter().copied()))
}

/// `CAP_NET_ADMIN`, `net_admin` → `NET_ADMIN`; `Err` is the nearest capability.
pub(crate) fn capability(text: &str) -> Result<&'static str, Option<&'static str>> {
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let found = CAPABILITIES.iter().copied().find(|known| *known == name);
    found.ok_or_else(|| crate::suggest::nearest(name, CAPABILITIES.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_and_capabilities_are_read_in_every_usual_form() {
        assert_eq!(signal("SIGTERM"), Ok("TERM".to_owned()));
        assert_eq!(signal("quit"), Ok("QUIT".to_owned()));
        assert_eq!(signal("9"), Ok("9".to_owned()));
        assert_eq!(signal("sigrtmin+3"), Ok("RTMIN+3".to_owned()));
        assert_eq!(signal("SIGTREM"), Err(Some("TERM")));
        assert_eq!(signal("0"), Err(None));
        assert_eq!(signal("65"), Err(None));
        assert_eq!(signal("RTMIN+99"), Err(None));
        assert_eq!(capability("cap_net_admin"), Ok("NET_ADMIN"));
        assert_eq!(capability("NET_ADMN"), Err(Some("NET_ADMIN")));
    }
}
