//! The floor of the start-to-exit benchmark: one container made with the system calls a container needs, and nothing
//! else. No daemon, no configuration, no image store, no seccomp, no logs, no error recovery.
//!
//! What it makes is what Coppice makes: cgroups of five v1 controllers (or one v2 group), every namespace, uid maps,
//! an id-mapped layer, an overlay put together by file descriptors, a private /dev, masked paths, pivot, exec, wait,
//! clean-up. It shares no code with Coppice, so that a slow call there cannot hide in both.
//!
//! It refuses to be a tool: on any error it says which call failed and exits 70.

// A bench of raw system calls; each block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fmt::Display;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, open, openat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};

/// Host ids the container's 0..65536 are; any range nobody uses would do.
const FIRST_ID: u32 = 700_000_000;
const IDS: u32 = 65536;

const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
/// Covered by /dev/null or an empty read-only tmpfs; those this kernel lacks are passed over.
const MASKED_FILES: &[&str] = &["proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list", "proc/sched_debug"];
const MASKED_FOLDERS: &[&str] = &["proc/acpi", "proc/scsi", "sys/firmware"];
const READ_ONLY: &[&str] = &["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// `MOUNT_ATTR_*` of linux/mount.h.
const RDONLY: u32 = 0x1;
const NOSUID: u32 = 0x2;
const NODEV: u32 = 0x4;
const NOEXEC: u32 = 0x8;
const IDMAP: u64 = 0x0010_0000;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [layer, scratch, program, rest @ ..] = args.as_slice() else {
        eprintln!("usage: coppice-floor LAYER SCRATCH PROGRAM [ARG…]");
        std::process::exit(2);
    };
    let name = format!("coppice-floor-{}", std::process::id());
    let scratch = Path::new(scratch).join(&name);
    std::process::exit(contain(Path::new(layer), &scratch, &name, program, rest));
}

/// Makes the container, waits for it and cleans up. Returns its exit code.
fn contain(layer: &Path, scratch: &Path, name: &str, program: &str, args: &[String]) -> i32 {
    let argv: Vec<CString> = std::iter::once(program)
        .chain(args.iter().map(String::as_str))
        .filter_map(|arg| CString::new(arg).ok())
        .collect();
    let groups = cgroups(name);
    for folder in ["upper", "work"] {
        sure("mkdir", fs::create_dir_all(scratch.join(folder)));
    }
    // The upper folder's root is the container's: what it writes is kept with the host's ids, since the overlay's
    // maker (the host's root) has no id in an id-mapped upper folder and the mount would be read-only.
    sure("chown", std::os::unix::fs::chown(scratch.join("upper"), Some(FIRST_ID), Some(FIRST_ID)));
    let (ours, theirs) = sure("socketpair", std::os::unix::net::UnixStream::pair());
    let (pid, pidfd) = clone_into_namespaces();
    if pid == 0 {
        child(theirs.as_fd(), &argv);
    }
    // Neither end may be closed before the child has read: the descriptor table is one until exec.
    let Some(pidfd) = pidfd else { fail("clone3", "no pidfd") };
    let map = format!("0 {FIRST_ID} {IDS}");
    sure("uid_map", fs::write(format!("/proc/{pid}/uid_map"), &map));
    sure("gid_map", fs::write(format!("/proc/{pid}/gid_map"), &map));
    for group in &groups {
        sure("cgroup.procs", fs::write(group.join("cgroup.procs"), pid.to_string()));
    }
    let root = overlay(layer, scratch, pid);
    // The child shares our file descriptors, so the number is all it needs.
    sure("write", rustix::io::write(&ours, &root.as_raw_fd().to_ne_bytes()));
    let code = wait(&pidfd);
    drop((root, theirs));
    for group in &groups {
        sure("rmdir", fs::remove_dir(group));
    }
    sure("remove scratch", fs::remove_dir_all(scratch));
    code
}

/// Five v1 groups, or one on a machine with v2.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let groups: Vec<PathBuf> = if base.join("cgroup.controllers").exists() {
        vec![base.join(name)]
    } else {
        ["cpu", "memory", "pids", "devices", "freezer"].iter().map(|c| base.join(c).join(name)).collect()
    };
    for group in &groups {
        sure("mkdir cgroup", fs::create_dir(group));
    }
    groups
}

/// Forks into new user, PID, mount, network, UTS and IPC namespaces; the child shares the descriptor table.
fn clone_into_namespaces() -> (i32, Option<OwnedFd>) {
    let mut pidfd: i32 = -1;
    // SAFETY: all-zero is a valid clone_args (no flags, no stack).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let namespaces = libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC;
    args.flags = (namespaces | libc::CLONE_PIDFD | libc::CLONE_FILES) as u64;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: the structure lives across the call; without CLONE_VM the child has a copy of this single-threaded
    // process's memory, so it may go on with ordinary code.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid < 0 {
        fail("clone3", std::io::Error::last_os_error());
    }
    // SAFETY: in the parent the kernel stored a new descriptor there that nothing else owns.
    let pidfd = (pid > 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    (pid as i32, pidfd)
}

/// The layer seen with the container's ids, and the scratch folders, as one detached overlay mount.
fn overlay(layer: &Path, scratch: &Path, pid: i32) -> OwnedFd {
    let user =
        sure("open userns", open(format!("/proc/{pid}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()));
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let lower = sure("open_tree", open_tree(CWD, layer, clone));
    set_attributes(lower.as_fd(), IDMAP, user.as_raw_fd() as u64);
    let folder = |name: &str| sure("open", open(scratch.join(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()));
    let context = sure("fsopen overlay", fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC));
    sure("lowerdir+", fsconfig_set_fd(&context, "lowerdir+", &lower));
    sure("upperdir", fsconfig_set_fd(&context, "upperdir", folder("upper")));
    sure("workdir", fsconfig_set_fd(&context, "workdir", folder("work")));
    sure("overlay", fsconfig_create(&context));
    sure("fsmount", fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()))
}

/// The container's side: waits for its root, makes it complete, becomes the program.
fn child(parent: BorrowedFd<'_>, argv: &[CString]) -> ! {
    let mut number = [0u8; 4];
    sure("read", rustix::io::read(parent, &mut number));
    // SAFETY: the parent keeps this descriptor open until we are gone, and the table is shared until exec.
    let root = unsafe { BorrowedFd::borrow_raw(i32::from_ne_bytes(number)) };
    // SAFETY: plain system calls on this process alone; after the maps are written id 0 is ours.
    unsafe {
        posix("unshare", libc::unshare(libc::CLONE_NEWCGROUP));
        posix("setgroups", libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) as i32);
        posix("setresgid", libc::setresgid(0, 0, 0));
        posix("setresuid", libc::setresuid(0, 0, 0));
        posix("sethostname", libc::sethostname(c"floor".as_ptr(), 5));
        posix("setsid", libc::setsid());
        posix("no_new_privs", libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    }
    attach(root, CWD, "/");
    sure("fchdir", rustix::process::fchdir(root));
    attach(made("proc", &[], NOSUID | NODEV | NOEXEC).as_fd(), CWD, "proc");
    attach(made("sysfs", &[], RDONLY | NOSUID | NODEV | NOEXEC).as_fd(), CWD, "sys");
    devices();
    masks();
    sure("pivot_root", rustix::process::pivot_root(".", "."));
    sure("umount", unmount(".", UnmountFlags::DETACH));
    sure("chdir", rustix::process::chdir("/"));
    let environment = [c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", c"HOME=/"];
    exec(argv, &environment)
}

/// A tmpfs with the host's harmless devices bound into it, terminals, shared memory and message queues.
fn devices() {
    let device_folder = made("tmpfs", &[("mode", "755"), ("size", "64k")], NOSUID);
    for name in DEVICES {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        drop(sure("create device", openat(&device_folder, *name, flags, Mode::from_raw_mode(0o666))));
        let host = format!("/dev/{name}");
        attach(cloned(&host).as_fd(), &device_folder, name);
    }
    for (target, name) in LINKS {
        sure("symlink", symlinkat(*target, &device_folder, *name));
    }
    for name in ["pts", "shm", "mqueue"] {
        sure("mkdir", mkdirat(&device_folder, name, Mode::from_raw_mode(0o755)));
    }
    let terminals = made("devpts", &[("mode", "620"), ("ptmxmode", "666"), ("gid", "5")], NOSUID | NOEXEC);
    attach(terminals.as_fd(), &device_folder, "pts");
    let memory = made("tmpfs", &[("mode", "1777"), ("size", "64m")], NOSUID | NODEV | NOEXEC);
    attach(memory.as_fd(), &device_folder, "shm");
    attach(made("mqueue", &[], NOSUID | NODEV | NOEXEC).as_fd(), &device_folder, "mqueue");
    attach(device_folder.as_fd(), CWD, "dev");
}

fn masks() {
    for path in MASKED_FILES.iter().filter(|path| exists(path)) {
        attach(cloned("/dev/null").as_fd(), CWD, path);
    }
    for path in MASKED_FOLDERS.iter().filter(|path| exists(path)) {
        attach(
            made("tmpfs", &[("size", "0"), ("nr_inodes", "2")], RDONLY | NOSUID | NODEV | NOEXEC).as_fd(),
            CWD,
            path,
        );
    }
    for path in READ_ONLY.iter().filter(|path| exists(path)) {
        let tree = cloned(path);
        set_attributes(tree.as_fd(), u64::from(RDONLY | NOSUID | NODEV | NOEXEC), 0);
        attach(tree.as_fd(), CWD, path);
    }
}

fn exists(path: &str) -> bool {
    rustix::fs::statat(CWD, path, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// A new filesystem, mounted nowhere yet.
fn made(kind: &str, options: &[(&str, &str)], attributes: u32) -> OwnedFd {
    let context = sure(kind, fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC));
    for (key, value) in options {
        sure(key, fsconfig_set_string(&context, *key, *value));
    }
    if attributes & RDONLY != 0 && kind != "tmpfs" {
        sure("ro", fsconfig_set_flag(&context, "ro"));
    }
    sure(kind, fsconfig_create(&context));
    sure("fsmount", fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes)))
}

fn cloned(path: &str) -> OwnedFd {
    sure(path, open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC))
}

fn attach(mount: BorrowedFd<'_>, folder: impl AsFd, name: &str) {
    sure(name, move_mount(mount, "", folder, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH));
}

fn set_attributes(mount: BorrowedFd<'_>, set: u64, user_namespace: u64) {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    let attributes = MountAttr { set, clear: 0, propagation: 0, user_namespace };
    // SAFETY: the path is a NUL-terminated literal and the structure has the size passed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttr>(),
        )
    };
    posix("mount_setattr", done as i32);
}

fn exec(argv: &[CString], environment: &[&CStr]) -> ! {
    let end = std::iter::once(std::ptr::null());
    let arguments: Vec<*const libc::c_char> = argv.iter().map(|arg| arg.as_ptr()).chain(end.clone()).collect();
    let variables: Vec<*const libc::c_char> = environment.iter().map(|entry| entry.as_ptr()).chain(end).collect();
    // SAFETY: both arrays end in null and their strings outlive the call, which returns only on failure.
    unsafe { libc::execve(arguments[0], arguments.as_ptr(), variables.as_ptr()) };
    fail("execve", std::io::Error::last_os_error())
}

/// The exit code, or 128 and the signal.
fn wait(pidfd: &OwnedFd) -> i32 {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let status = sure("waitid", waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED));
    let Some(status) = status else { fail("waitid", "no status") };
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(70)
}

fn posix(call: &str, code: i32) {
    if code < 0 {
        fail(call, std::io::Error::last_os_error());
    }
}

fn sure<T, E: Display>(call: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| fail(call, error))
}

fn fail(call: &str, error: impl Display) -> ! {
    eprintln!("coppice-floor: {call}: {error}");
    std::process::exit(70)
}
