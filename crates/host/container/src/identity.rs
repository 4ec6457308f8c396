//! What a process may do: its ids, capabilities, no_new_privs, seccomp, keyring. The same for the first process of a
//! container and for one that `exec` adds.

use coppice_linux::{
    Instruction, SyscallResult, clear_ambient, drop_bounding, join_new_session_keyring, load_seccomp, set_capabilities,
    set_gid, set_groups, set_no_new_privileges, set_parent_death_signal, set_uid,
};

use crate::user::User;

pub(crate) struct Identity<'a> {
    pub user: &'a User,
    pub capabilities: u64,
    pub no_new_privileges: bool,
    pub seccomp: Option<&'a [Instruction]>,
    pub last_capability: u32,
}

impl Identity<'_> {
    /// Takes the identity on. Nothing privileged can be done after it.
    pub(crate) fn assume(&self) -> SyscallResult<()> {
        let known = if self.last_capability >= 63 { u64::MAX } else { (1 << (self.last_capability + 1)) - 1 };
        let kept = self.capabilities & known;
        join_new_session_keyring()?;
        // A filter without no_new_privs needs CAP_SYS_ADMIN, so it is loaded while that is still there.
        if let (Some(filter), false) = (self.seccomp, self.no_new_privileges) {
            load_seccomp(filter)?;
        }
        drop_bounding(kept, self.last_capability)?;
        set_groups(&self.user.groups)?;
        set_gid(self.user.gid)?;
        // Leaving uid 0 empties the permitted and effective sets, as for every Unix program.
        set_uid(self.user.uid)?;
        let (effective, permitted) = if self.user.uid == 0 { (kept, kept) } else { (0, 0) };
        set_capabilities(effective, permitted, 0)?;
        clear_ambient()?;
        // Changes of ids cleared it. The launcher's death ends everything it started.
        set_parent_death_signal(libc::SIGKILL)?;
        if self.no_new_privileges {
            set_no_new_privileges()?;
            if let Some(filter) = self.seccomp {
                load_seccomp(filter)?;
            }
        }
        Ok(())
    }
}
