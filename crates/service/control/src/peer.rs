//! Who is on the other end of a connection.

use std::io;

use rustix::process::{Gid, Uid};
use tokio::net::UnixStream;

/// Who may use the API.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowed {
    pub(crate) owner: Uid,
    pub(crate) group: Option<Gid>,
}

/// A connection's other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) uid: u32,
}

impl Allowed {
    /// The peer, if it may use the API.
    pub(crate) fn admit(&self, stream: &UnixStream) -> io::Result<Option<Peer>> {
        let credentials = rustix::net::sockopt::socket_peercred(stream)?;
        let uid = credentials.uid;
        let is_member = || match self.group {
            Some(group) => credentials.gid == group || supplementary(credentials.pid).contains(&group.as_raw()),
            None => false,
        };
        let admitted = uid == self.owner || uid.is_root() || is_member();
        Ok(admitted.then_some(Peer { uid: uid.as_raw() }))
    }
}

/// Supplementary groups of a process. The kernel tells a peer's main group only; the process may have ended, and
/// then has none.
fn supplementary(pid: rustix::process::Pid) -> Vec<u32> {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let Ok(status) = std::fs::read_to_string(path) else { return Vec::new() };
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// The id of a group by name or number, from /etc/group.
pub(crate) fn group_id(name: &str) -> Option<Gid> {
    if let Ok(id) = name.parse() {
        return Some(Gid::from_raw(id));
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok().map(Gid::from_raw)
}
