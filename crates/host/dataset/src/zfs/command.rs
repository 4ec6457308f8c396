//! The `zfs` command, run and read: OpenZFS's and zfs-fuse's take the same words for all that is asked here.

use std::process::{Command, Stdio};

use crate::error::DatasetError;

/// Where distributions put it that a service's `PATH` may lack.
const PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// Runs `zfs` with these arguments to its end; gives back what it printed.
pub(crate) fn zfs<S: AsRef<str>>(args: &[S]) -> Result<String, DatasetError> {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let output = command(&args).output().map_err(|source| DatasetError::NoZfs { source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // A usage error lists every property there is.
    let said = String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { format!("it ended with {}", output.status) } else { said };
    Err(DatasetError::Zfs { command: args.join(" "), said })
}

/// `zfs` with these arguments, to be started; it reads nothing, and its answers are in English.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new("zfs");
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(args).env("PATH", format!("{path}:{PLACES}")).env("LC_ALL", "C").stdin(Stdio::null());
    command
}
