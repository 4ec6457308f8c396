//! User and group ids of the calling thread (which in the launcher's children is the process).

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::error::{SyscallResult, failed};

/// Real, effective, saved (and with them file system) user id.
pub fn set_uid(uid: u32) -> SyscallResult<()> {
    let id = Uid::from_raw(uid);
    set_thread_res_uid(id, id, id).map_err(|e| failed("setresuid", &uid.to_string())(e))
}

/// Real, effective, saved (and with them file system) group id.
pub fn set_gid(gid: u32) -> SyscallResult<()> {
    let id = Gid::from_raw(gid);
    set_thread_res_gid(id, id, id).map_err(|e| failed("setresgid", &gid.to_string())(e))
}

pub fn set_groups(gids: &[u32]) -> SyscallResult<()> {
    let gids: Vec<Gid> = gids.iter().map(|&g| Gid::from_raw(g)).collect();
    set_thread_groups(&gids).map_err(failed("setgroups", ""))
}
