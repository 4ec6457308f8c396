//! The launcher's program file, out of its containers' reach.
//!
//! Until it executes what the container is to run, every child is this program, and `/proc/self/exe` leads to its
//! file: named as the interpreter of a script in the image, the host's launcher would run inside the container, and
//! runtimes were overwritten that way (CVE-2019-5736). So the launcher runs from a mount of nothing but its own file,
//! attached nowhere, read-only, and from which nothing can be executed once it runs itself. That last attribute stays
//! when the mount's fd is closed, every child inherits the file with it, and nobody can take it back: the mount has
//! no place in any namespace.
//!
//! It costs one more execve at the launcher's own start, and nothing at a container's.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use coppice_linux::{Attributes, SyscallError, clone_tree, set_attributes};
use rustix::fs::StatVfsMountFlags;
use rustix::io::FdFlags;

use crate::upgrade::adopt;

/// Names the fd of the mount to the program that was executed from it. Not to be passed on.
pub(crate) const MOUNT: &str = "COPPICE_LAUNCHER_MOUNT";

const OWN_FILE: &str = "/proc/self/exe";

/// Why the program file is where a container may execute it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShieldError {
    #[error(transparent)]
    Syscall(#[from] SyscallError),
    #[error("the launcher cannot be executed from a mount of its own: {0}")]
    Execute(std::io::Error),
    #[error("executing from it is still allowed after it was forbidden")]
    Ineffective,
}

/// Makes this program one that no child can execute again, by executing it once more: same process, arguments and
/// open files. Returns in the shielded program; or in this one with what the kernel refused, everything as before.
pub(crate) fn raise() -> Result<(), ShieldError> {
    if is_up() {
        return Ok(());
    }
    let Some(mount) = handed_on() else { return Err(execute_again()) };
    set_attributes(&mount, Attributes::NO_EXEC, false)?;
    restore_name();
    if is_up() { Ok(()) } else { Err(ShieldError::Ineffective) }
}

/// Whether the file this process runs from can be executed by nobody.
fn is_up() -> bool {
    rustix::fs::statvfs(OWN_FILE).is_ok_and(|file| file.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// The mount that this program was executed from, of which the one before gave us the fd.
fn handed_on() -> Option<OwnedFd> {
    let fd: RawFd = std::env::var(MOUNT).ok()?.parse().ok()?;
    Some(adopt(fd))
}

fn execute_again() -> ShieldError {
    let mount = match clone_tree(Path::new(OWN_FILE), false) {
        Ok(mount) => mount,
        Err(error) => return error.into(),
    };
    let harmless = Attributes::READ_ONLY.and(Attributes::NO_SUID).and(Attributes::NO_DEV);
    if let Err(error) = set_attributes(&mount, harmless, false) {
        return error.into();
    }
    // Kept open: the mount of a closed fd takes no attributes any more.
    if let Err(error) = rustix::io::fcntl_setfd(&mount, FdFlags::empty()) {
        return ShieldError::Execute(error.into());
    }
    let mut arguments = std::env::args_os();
    let mut command = Command::new(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    if let Some(zeroth) = arguments.next() {
        command.arg0(zeroth);
    }
    ShieldError::Execute(command.args(arguments).env(MOUNT, mount.as_raw_fd().to_string()).exec())
}

/// A program executed by the number of an fd is named by that number. (The kernel cuts a name to 15 bytes.)
fn restore_name() {
    // Should it fail, `ps` shows the number.
    let _ = rustix::thread::set_name(c"coppice-launcher");
}
