//! Holding a daemon's sockets while there is none: who connects to them waits, and the next daemon takes them up.

use coppice_linux::send;
use rustix::net::SendFlags;

use super::*;
use crate::protocol::{KEPT_MAX, KEPT_NAMES_MAX};

impl Server {
    pub(super) fn keep(&mut self, connection: u64, name: String, count: u32) -> Result<Reply, LaunchError> {
        let refused = |why: String| Err(LaunchError::Refused(why));
        let connection = self.connections.get_mut(&connection);
        let fds: Vec<OwnedFd> = connection.map_or_else(Vec::new, |of| (0..count).map_while(|_| of.take_fd()).collect());
        if fds.len() != count as usize {
            return refused(format!("{count} fds were to be held and {} came", fds.len()));
        }
        if count > KEPT_MAX {
            return refused(format!("at most {KEPT_MAX} fds are held under one name"));
        }
        if fds.is_empty() {
            self.kept.remove(&name);
            return Ok(Reply::Done);
        }
        if self.kept.len() >= KEPT_NAMES_MAX && !self.kept.contains_key(&name) {
            return refused(format!("fds are held under {KEPT_NAMES_MAX} names already"));
        }
        self.kept.insert(name, fds);
        Ok(Reply::Done)
    }

    /// Sends them once, without waiting: the socketpair is new, and has room for a byte.
    pub(super) fn hand_out(&mut self, connection: u64, name: &str) -> Result<Reply, LaunchError> {
        let to = self.attach_fd(connection)?;
        if let Some(fds) = self.kept.get(name) {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            send(&to, b"k", &fds, SendFlags::DONTWAIT)
                .map_err(|why| LaunchError::Refused(format!("the fds cannot be sent: {why}")))?;
        }
        Ok(Reply::Done)
    }
}
