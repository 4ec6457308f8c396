//! The `zfs` command, run and read: OpenZFS's and zfs-fuse's take the same words for all that is asked here.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::DatasetError;

/// Where distributions put it that a service's `PATH` may lack.
const PLACES: &str = "/usr/local/sbin:/usr/sbin:/sbin";
/// How long one may take: none here copies data, and the longest wait for a pool to write what it has in hand.
const LIMIT: Duration = Duration::from_secs(120);

/// Runs `zfs` with these arguments to its end; gives back what it printed. One that does not end is killed.
pub(crate) fn zfs<S: AsRef<str>>(args: &[S]) -> Result<String, DatasetError> {
    let args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    let output = within(LIMIT, command(&args), &args)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // A usage error lists every property there is.
    let said = String::from_utf8_lossy(&output.stderr).lines().take(3).collect::<Vec<_>>().join("; ");
    let said = if said.is_empty() { format!("it ended with {}", output.status) } else { said };
    Err(DatasetError::Zfs { command: args.join(" "), said })
}

/// Runs a command to its end, or for so long.
fn within(limit: Duration, mut command: Command, args: &[&str]) -> Result<Output, DatasetError> {
    let no_zfs = |source| DatasetError::NoZfs { source };
    // A group of its own, so that all it started can be ended with it.
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(no_zfs)?;
    let deadline = Instant::now() + limit;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    match read_both(&mut child, &mut stdout, &mut stderr, deadline) {
        Ok(true) => {
            let status = child.wait().map_err(no_zfs)?;
            Ok(Output { status, stdout, stderr })
        }
        ended => {
            if let Ok(Some(group)) = i32::try_from(child.id()).map(Pid::from_raw) {
                // What has ended already is none to kill.
                let _ = kill_process_group(group, Signal::KILL);
            }
            // One that hangs in the kernel ends when that lets it: nobody here waits for it.
            let reaper = std::thread::Builder::new().name("zfs".into());
            drop(reaper.spawn(move || child.wait()));
            ended.map_err(no_zfs)?;
            Err(DatasetError::ZfsHangs { command: args.join(" "), limit: limit.as_secs() })
        }
    }
}

/// Reads both streams to their ends; false where these do not come in time.
fn read_both(
    child: &mut Child,
    stdout: &mut Vec<u8>,
    stderr: &mut Vec<u8>,
    deadline: Instant,
) -> std::io::Result<bool> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let mut piece = [0; 16 << 10];
    while out.is_some() || err.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds: Vec<PollFd<'_>> = Vec::new();
        fds.extend(out.as_ref().map(|out| PollFd::new(out, PollFlags::IN)));
        fds.extend(err.as_ref().map(|err| PollFd::new(err, PollFlags::IN)));
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let (of_out, of_err) = match (&out, &err) {
            (Some(_), _) => (ready[0], ready.get(1).copied().unwrap_or(false)),
            (None, _) => (false, ready[0]),
        };
        if of_out && !more(out.as_mut(), &mut piece, stdout)? {
            out = None;
        }
        if of_err && !more(err.as_mut(), &mut piece, stderr)? {
            err = None;
        }
    }
    Ok(true)
}

/// Reads what there is; false at the end.
fn more(from: Option<&mut impl Read>, piece: &mut [u8], to: &mut Vec<u8>) -> std::io::Result<bool> {
    let Some(from) = from else { return Ok(false) };
    match from.read(piece) {
        Ok(len) => {
            to.extend_from_slice(&piece[..len]);
            Ok(len > 0)
        }
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// `zfs` with these arguments, to be started; it reads nothing, and its answers are in English.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new("zfs");
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(args).env("PATH", format!("{path}:{PLACES}")).env("LC_ALL", "C").stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A `zfs` that does this.
    fn acting(folder: &std::path::Path, script: &str) -> Command {
        let program = folder.join("zfs");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let mut command = Command::new("sh");
        command.arg(program);
        command
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_it_started_and_said_to_hang() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("sleep 1000 & echo $! $$ > {}; wait", folder.path().join("pids").display());
        let hung = within(Duration::from_millis(500), acting(folder.path(), &script), &["list", "tank"]).unwrap_err();
        let text = hung.to_string();
        assert!(text.starts_with("`zfs list tank` did not end"), "{text}");
        assert!(matches!(hung, DatasetError::ZfsHangs { .. }));
        let pids = std::fs::read_to_string(folder.path().join("pids")).unwrap();
        for pid in pids.split_whitespace() {
            wait_until_gone(pid);
        }
    }

    fn wait_until_gone(pid: &str) {
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        for _ in 0..1000 {
            let state = state();
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("process {pid} is still there");
    }

    #[test]
    fn all_that_both_streams_say_is_read_however_much() {
        let folder = tempfile::tempdir().unwrap();
        let script = "seq 1 50000; seq 1 40000 >&2; exit 3";
        let output = within(Duration::from_secs(60), acting(folder.path(), script), &[]).unwrap();
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((output.status.code(), lines(&output.stdout), lines(&output.stderr)), (Some(3), 50_000, 40_000));
    }
}
