//! Processes: clone3, exec, waiting by pidfd, signals, and what a process says about itself by prctl.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{SyscallError, SyscallResult, check};

/// Proof that this process has one thread, so that ordinary code may run in the child of [`clone3`]. In the child of
/// a threaded process a lock may be held for ever by a thread that is not there.
#[derive(Debug)]
pub struct SingleThread(());

impl SingleThread {
    /// Looks whether it is so now; the holder makes no thread while the value lives. `None` when there are others.
    pub fn observe() -> Option<Self> {
        let threads = std::fs::read_dir("/proc/self/task").ok()?.count();
        (threads == 1).then_some(Self(()))
    }
}

/// What [`clone3`] makes.
#[derive(Default)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*` bits.
    pub namespaces: u64,
    /// The cgroup v2 directory the child starts in.
    pub cgroup: Option<BorrowedFd<'a>>,
}

pub enum Forked {
    Child,
    Parent { pid: u32, pidfd: OwnedFd },
}

#[repr(C)]
#[derive(Default)]
struct RawCloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks, with a pidfd. Memory is copied, never shared.
pub fn clone3(_proof: &SingleThread, args: &CloneArgs<'_>) -> SyscallResult<Forked> {
    let mut pidfd: libc::c_int = -1;
    let mut raw = RawCloneArgs {
        flags: args.namespaces | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..RawCloneArgs::default()
    };
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of memory and continues on a copy of this stack; the
    // proof says that no other thread could have held a lock. The pidfd pointer is valid through the call.
    let rc = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<RawCloneArgs>()) };
    match check("clone3", &format!("{:#x}", raw.flags), rc)? {
        0 => Ok(Forked::Child),
        // SAFETY: the kernel stored a new fd that only we own.
        pid => Ok(Forked::Parent { pid: pid as u32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
    }
}

/// Forks by `clone`, which containers' filters let through where they refuse `clone3`. `None` in the child.
pub fn fork(_proof: &SingleThread) -> SyscallResult<Option<u32>> {
    // SAFETY: as for clone3; without a stack the child continues on its copy of this one.
    let rc = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    let pid = check("clone", "", rc)?;
    Ok((pid != 0).then_some(pid as u32))
}

/// Ends the process at once: no destructors, no flushing of buffers that the parent owns too.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Arguments and environment in the form execve takes, made before they are needed.
pub struct ExecArgs {
    argv: Vec<CString>,
    envp: Vec<CString>,
}

impl ExecArgs {
    /// `Err` is the text that has a NUL inside.
    pub fn new(args: &[String], env: &[String]) -> Result<Self, String> {
        let c = |texts: &[String]| -> Result<Vec<CString>, String> {
            texts.iter().map(|t| CString::new(t.as_str()).map_err(|_| t.clone())).collect()
        };
        Ok(Self { argv: c(args)?, envp: c(env)? })
    }
}

/// Replaces the program. Returns only on failure.
pub fn exec(path: &CStr, args: &ExecArgs) -> Errno {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let argv = pointers(&args.argv);
    let envp = pointers(&args.envp);
    // SAFETY: both arrays are NULL-terminated and point to NUL-terminated strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    SyscallError::last("execve", "").errno
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Exited(u8),
    Killed(i32),
}

/// Reaps the child behind a pidfd; `None` while it runs.
pub fn wait_pidfd(pidfd: impl AsFd) -> SyscallResult<Option<Wait>> {
    // SAFETY: all-zero is a valid siginfo_t, which the call fills in.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` lives through the call.
    let rc = unsafe {
        libc::waitid(
            libc::P_PIDFD,
            pidfd.as_fd().as_raw_fd() as libc::id_t,
            &mut info,
            libc::WEXITED | libc::WNOHANG | libc::__WALL,
        )
    };
    check("waitid", "pidfd", rc.into())?;
    // SAFETY: waitid filled the SIGCHLD variant, or left zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then(|| ended(info.si_code, status)))
}

/// Waits for any child (the container's init does). `None` when there is none left.
pub fn wait_any_child(block: bool) -> Option<(u32, Wait)> {
    let mut status = 0;
    let flags = if block { 0 } else { libc::WNOHANG };
    // SAFETY: `status` lives through the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, flags | libc::__WALL) };
    if pid <= 0 {
        return None;
    }
    let wait = if libc::WIFSIGNALED(status) {
        Wait::Killed(libc::WTERMSIG(status))
    } else {
        Wait::Exited(libc::WEXITSTATUS(status) as u8)
    };
    Some((pid as u32, wait))
}

fn ended(code: libc::c_int, status: libc::c_int) -> Wait {
    if code == libc::CLD_EXITED { Wait::Exited(status as u8) } else { Wait::Killed(status) }
}

/// Sends a signal to the process behind a pidfd.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> SyscallResult<()> {
    // SAFETY: a null siginfo is allowed; integers otherwise.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check("pidfd_send_signal", &signal.to_string(), rc).map(drop)
}

/// `kill(2)`, for a process that only its parent can have reaped.
pub fn kill(pid: u32, signal: i32) -> SyscallResult<()> {
    // SAFETY: integers only.
    let rc = unsafe { libc::kill(pid as libc::pid_t, signal) };
    check("kill", &pid.to_string(), rc.into()).map(drop)
}

/// A set of signals.
pub struct SignalSet(libc::sigset_t);

impl SignalSet {
    pub fn full() -> Self {
        // SAFETY: sigfillset initialises the set it is given.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&mut set);
            Self(set)
        }
    }
}

/// Blocks every signal.
pub fn block_all_signals() -> SignalSet {
    let set = SignalSet::full();
    // SAFETY: the set is initialised; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &set.0, std::ptr::null_mut()) };
    set
}

/// Waits for one of the (blocked) signals; who sent it is not told.
pub fn wait_signal(set: &SignalSet) -> i32 {
    let mut signal = 0;
    // SAFETY: both pointers are valid through the call.
    unsafe { libc::sigwait(&set.0, &mut signal) };
    signal
}

/// Signals that a process which must not end by accident ignores.
const IGNORED: [libc::c_int; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGPIPE];

/// Puts every signal to its default, whatever was inherited, and then ignores those that terminals, service managers
/// and broken pipes send. Ignored signals stay so through exec: see [`reset_signals`].
pub fn ignore_signals() {
    // `struct sigaction` of the kernel with everything zero is SIG_DFL. libc's own call refuses the two signals that
    // it keeps for itself, and those are inherited too.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the structure is as large as the kernel's; SIGKILL and SIGSTOP fail and stay as they are.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) };
    }
    for signal in IGNORED {
        // SAFETY: SIG_IGN is no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Undoes [`ignore_signals`] and blocks none: what a new program expects.
pub fn reset_signals() {
    // SAFETY: SIG_DFL is no handler of ours; the set is initialised before it is used.
    unsafe {
        for signal in IGNORED {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut());
    }
}

/// Closes every fd from 3 on except `keep`: what a child does first with what it inherited.
pub fn close_others(keep: &[BorrowedFd<'_>]) -> SyscallResult<()> {
    let mut kept: Vec<u32> = keep.iter().map(|fd| fd.as_raw_fd() as u32).filter(|&fd| fd > 2).collect();
    kept.sort_unstable();
    let mut first = 3;
    for last in kept.into_iter().map(Some).chain([None]) {
        let end = last.map_or(u32::MAX, |fd| fd - 1);
        if first <= end {
            // SAFETY: the caller is a forked child that uses none of the values it inherited but `keep`, and ends
            // without running destructors.
            let rc = unsafe { libc::syscall(libc::SYS_close_range, first, end, 0) };
            check("close_range", "", rc)?;
        }
        first = end.wrapping_add(2);
    }
    Ok(())
}

/// Marks every fd from `first` on close-on-exec.
pub fn close_from_on_exec(first: u32) -> SyscallResult<()> {
    // SAFETY: sets a flag; closes nothing.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check("close_range", "cloexec", rc).map(drop)
}

/// Gives the process a fresh, empty session keyring: none of the launcher's keys reach a container.
pub fn join_new_session_keyring() -> SyscallResult<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let rc = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    match check("keyctl", "join session keyring", rc) {
        // A kernel without keyrings has none to leak.
        Err(e) if e.errno == Errno::NOSYS => Ok(()),
        other => other.map(drop),
    }
}

/// Makes the process leader of a new session, away from the caller's terminal.
pub fn new_session() -> SyscallResult<()> {
    // SAFETY: no arguments.
    check("setsid", "", unsafe { libc::setsid() }.into()).map(drop)
}

/// A non-dumpable process cannot be traced, nor its /proc files opened, by processes of its user.
pub fn set_dumpable(dumpable: bool) -> SyscallResult<()> {
    // SAFETY: integers only.
    let rc = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) };
    check("prctl(PR_SET_DUMPABLE)", "", rc.into()).map(drop)
}

pub fn set_no_new_privileges() -> SyscallResult<()> {
    // SAFETY: integers only.
    let rc = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    check("prctl(PR_SET_NO_NEW_PRIVS)", "", rc.into()).map(drop)
}

/// The signal this process gets when its parent dies. Cleared by every change of credentials.
pub fn set_parent_death_signal(signal: i32) -> SyscallResult<()> {
    // SAFETY: integers only.
    let rc = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong, 0, 0, 0) };
    check("prctl(PR_SET_PDEATHSIG)", "", rc.into()).map(drop)
}

/// Has the scheduler prefer the calling thread to what runs at the usual niceness, 0, by as much (1 to 20). What the thread
/// starts, threads and processes, begins at the usual one. Nothing changes without `CAP_SYS_NICE`.
pub fn come_first(by: u8) {
    const SCHED_FLAG_RESET_ON_FORK: u64 = 1; // linux/sched.h
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: libc::SCHED_OTHER as u32,
        sched_flags: SCHED_FLAG_RESET_ON_FORK,
        sched_nice: -i32::from(by),
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the pointer is valid through the call; 0 is the calling thread, and there are no flags.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

/// A resource's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    pub soft: u64,
    pub hard: u64,
}

/// Sets a limit of a process, and returns what it was. `pid` 0 is the caller; `None` only reads.
pub fn prlimit(pid: u32, resource: u32, new: Option<Rlimit>) -> SyscallResult<Rlimit> {
    let new = new.map(|l| libc::rlimit64 { rlim_cur: l.soft, rlim_max: l.hard });
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let new_pointer = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: both pointers are null or valid through the call.
    let rc = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new_pointer, &raw mut old) };
    check("prlimit", &resource.to_string(), rc)?;
    Ok(Rlimit { soft: old.rlim_cur, hard: old.rlim_max })
}

/// A user namespace whose ids 0..`count` are the host's `first`..`first + count`, without a process in it.
pub fn make_user_namespace(first: u32, count: u32) -> SyscallResult<OwnedFd> {
    let (ours, theirs) = crate::socket::stream_pair()?;
    let mut pidfd: libc::c_int = -1;
    let raw = RawCloneArgs {
        flags: (libc::CLONE_PIDFD | libc::CLONE_NEWUSER) as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..RawCloneArgs::default()
    };
    // SAFETY: no CLONE_VM. The child may belong to a threaded process, so it makes two raw system calls and no other:
    // it waits for a byte, or for our end, and ends.
    let rc = unsafe { libc::syscall(libc::SYS_clone3, &raw const raw, size_of::<RawCloneArgs>()) };
    let pid = check("clone3", "user namespace", rc)?;
    if pid == 0 {
        let mut byte = 0u8;
        // SAFETY: both fds are open here; the buffer is one byte long.
        unsafe {
            libc::close(ours.as_raw_fd());
            libc::read(theirs.as_raw_fd(), (&raw mut byte).cast(), 1);
            libc::_exit(0);
        }
    }
    // SAFETY: the kernel stored a new fd that only we own.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let made =
        write_id_maps(pid as u32, first, count).and_then(|()| crate::namespace::user_namespace_of(&pidfd, pid as u32));
    // A byte and not the socket's end: a child that another thread makes at this moment holds copies of both ends.
    let _ = rustix::io::write(&ours, &[1]);
    // SAFETY: a null status is allowed; the child is ours and is about to end.
    unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::__WALL) };
    made
}

/// Gives the user namespace of process `pid` its ids: 0..`count` are the caller's `first`..`first + count`.
pub fn write_id_maps(pid: u32, first: u32, count: u32) -> SyscallResult<()> {
    let map = format!("0 {first} {count}");
    for file in ["uid_map", "gid_map"] {
        let path = format!("/proc/{pid}/{file}");
        rustix::fs::open(path.as_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|fd| rustix::io::write(&fd, map.as_bytes()))
            .map_err(|e| SyscallError::new("write", path, e))?;
    }
    Ok(())
}
