//! What containers use, and what runs in them: read from cgroups and /proc when asked, never sampled in the
//! background.

use std::fs;

use coppice_api::{Process, Stats};

use crate::container::{Container, Phase};
use crate::containers::Containers;
use crate::error::NodeError;

/// Clock ticks per second in /proc/PID/stat: 100 on every Linux architecture that Rust supports (USER_HZ).
const TICKS_PER_SECOND: u64 = 100;

/// One running container's usage.
pub(crate) fn stats(containers: &Containers, container: &Container) -> Result<Stats, NodeError> {
    let cgroup = containers.cgroup(&container.id)?;
    let usage = cgroup.usage()?;
    let storage = containers.storage.read().of(&cgroup, &usage).unwrap_or_default();
    let pressure = cgroup.pressure().ok();
    let (receive, send) = container.phase().pid().and_then(network_bytes).unwrap_or_default();
    Ok(Stats {
        id: container.id.to_string(),
        name: container.name(),
        at: containers.clock.now(),
        cpu_usec: usage.cpu_usec.unwrap_or_default(),
        throttled_usec: usage.throttled_usec.unwrap_or_default(),
        memory_bytes: usage.memory_bytes.unwrap_or_default(),
        memory_peak_bytes: usage.memory_peak_bytes.unwrap_or_default(),
        memory_limit_bytes: usage.memory_limit_bytes,
        pids: u32::try_from(usage.pids.unwrap_or_default()).unwrap_or(u32::MAX),
        io_read_bytes: storage.read_bytes,
        io_write_bytes: storage.write_bytes,
        network_receive_bytes: receive,
        network_send_bytes: send,
        oom_kills: usage.oom_kills.unwrap_or_default(),
        memory_pressure: pressure.map(|pressure| pressure.memory_some.avg10),
        cpu_pressure: pressure.map(|pressure| pressure.cpu_some.avg10),
        io_pressure: pressure.map(|pressure| pressure.io_some.avg10),
    })
}

/// Bytes that came in and went out by `eth0` of the process's network namespace.
fn network_bytes(pid: u32) -> Option<(u64, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"))?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    Some((fields.first()?.parse().ok()?, fields.get(8)?.parse().ok()?))
}

/// The processes of a running container.
pub(crate) fn top(containers: &Containers, container: &Container) -> Result<Vec<Process>, NodeError> {
    if !matches!(container.phase(), Phase::Running { .. }) {
        return Err(NodeError::NotRunning(container.name()));
    }
    let first_uid = container.read(|record| record.ids().first);
    let mut processes: Vec<Process> = containers
        .cgroup(&container.id)?
        .processes()?
        .into_iter()
        .filter_map(|pid| process(pid.as_raw_nonzero().get().unsigned_abs(), first_uid))
        .collect();
    processes.sort_by_key(|process| process.pid);
    Ok(processes)
}

/// One process; `None`: it ended while it was looked at.
fn process(pid: u32, first_uid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may hold anything: fields start after the last one.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let uid: u32 = field("Uid:")?.split_whitespace().next()?.parse().ok()?;
    let memory_kib = field("VmRSS:").and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let words: Vec<String> = words
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let name = || format!("[{}]", field("Name:").unwrap_or("?"));
    Some(Process {
        pid,
        parent: u32::try_from(number(1)?).ok()?,
        uid: uid.checked_sub(first_uid).unwrap_or(uid),
        state: fields.first().copied().unwrap_or("?").to_owned(),
        cpu_ms: (number(11)? + number(12)?) * 1000 / TICKS_PER_SECOND,
        memory_bytes: memory_kib.unwrap_or_default() * 1024,
        command: if words.is_empty() { name() } else { words.join(" ") },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_from_proc_with_its_ids_shifted_back() {
        let me = process(std::process::id(), 0).unwrap();
        assert_eq!(me.uid, rustix::process::getuid().as_raw());
        assert!(me.memory_bytes > 0);
        assert!(!me.command.is_empty());
        assert!(process(u32::MAX - 1, 0).is_none());
    }
}
