//! Which system calls a container may make, as a BPF program.
//!
//! An allowlist: what programs need, close to the one docker users know. What is known and not listed answers EPERM;
//! what this program has never heard of answers ENOSYS, as on a kernel without it, so that libraries fall back. `clone3`
//! answers ENOSYS too: its flags are in memory, which a filter cannot read, and libc then uses `clone`, whose flags it
//! can. Foreign architectures (32-bit code) end the process; x32 numbers answer ENOSYS.
//!
//! The program is a binary search over ranges of numbers. The kernel runs it once per number when it is loaded, to find
//! calls that are always allowed and need no run later; a chain of 300 comparisons would cost a third of a millisecond
//! there.
//!
//! Refused by default, and why: new user namespaces, mounts, `setns`, `unshare` (attack surface that needs no privilege
//! otherwise), `io_uring` (escapes filters and audit), `bpf`, `perf_event_open`, `userfaultfd` (exploit helpers),
//! the keyring (not namespaced), modules, kexec, clocks; sockets of AF_VSOCK (reach the hypervisor's other guests) and
//! AF_ALG (kernel crypto from user space, a steady source of holes).

use coppice_linux::Instruction;

use crate::capabilities::bit;

/// What is decided for a range of system call numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    /// EPERM.
    Refuse,
    /// ENOSYS.
    Unknown,
    Check(Check),
}

/// Calls that depend on an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// No new namespace.
    Clone,
    /// Only the personalities that change nothing dangerous.
    Personality,
    /// Not these address families.
    Socket,
}

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// Bit that marks x32 calls on x86-64.
const X32: u32 = 0x4000_0000;
/// Newest call this list was written for (`file_setattr`, Linux 6.17).
const NEWEST: u32 = 469;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`; arguments are little-endian, so the low half is first.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENT_0: u32 = 16;

/// All `CLONE_NEW*` flags that `clone` takes.
const NEW_NAMESPACES: u32 = 0x7e02_0000;
/// What setarch and wine ask for: Linux, UNAME26, ADDR_NO_RANDOMIZE's neighbours that docker allows, and "tell me".
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// AF_ALG, AF_VSOCK.
const REFUSED_FAMILIES: [u32; 2] = [38, 40];

macro_rules! calls {
    ($($name:ident)*) => { &[$(libc::$name),*] };
}

/// Allowed whatever the capabilities.
const ALLOWED: &[libc::c_long] = calls![
    SYS_accept SYS_accept4 SYS_adjtimex SYS_bind SYS_brk SYS_capget SYS_capset SYS_chdir SYS_clock_adjtime
    SYS_clock_getres SYS_clock_gettime SYS_clock_nanosleep SYS_close SYS_close_range SYS_connect SYS_copy_file_range
    SYS_dup SYS_dup3 SYS_epoll_create1 SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_execve
    SYS_execveat SYS_exit SYS_exit_group SYS_faccessat SYS_faccessat2 SYS_fadvise64 SYS_fallocate SYS_fanotify_mark
    SYS_fchdir SYS_fchmod SYS_fchmodat SYS_fchmodat2 SYS_fchown SYS_fchownat SYS_fcntl SYS_fdatasync SYS_fgetxattr
    SYS_flistxattr SYS_flock SYS_fremovexattr SYS_fsetxattr SYS_fstat SYS_fstatfs SYS_fsync SYS_ftruncate SYS_futex
    SYS_futex_waitv SYS_get_robust_list SYS_getcpu SYS_getcwd SYS_getdents64 SYS_getegid SYS_geteuid SYS_getgid
    SYS_getgroups SYS_getitimer SYS_getpeername SYS_getpgid SYS_getpid SYS_getppid SYS_getpriority SYS_getrandom
    SYS_getresgid SYS_getresuid SYS_getrlimit SYS_getrusage SYS_getsid SYS_getsockname SYS_getsockopt SYS_gettid
    SYS_gettimeofday SYS_getuid SYS_getxattr SYS_inotify_add_watch SYS_inotify_init1 SYS_inotify_rm_watch SYS_io_cancel
    SYS_io_destroy SYS_io_getevents SYS_io_setup SYS_io_submit SYS_ioctl SYS_ioprio_get SYS_ioprio_set
    SYS_kill SYS_landlock_add_rule SYS_landlock_create_ruleset SYS_landlock_restrict_self SYS_lgetxattr SYS_linkat
    SYS_listen SYS_listxattr SYS_llistxattr SYS_lremovexattr SYS_lseek SYS_lsetxattr SYS_madvise SYS_membarrier
    SYS_memfd_create SYS_memfd_secret SYS_mincore SYS_mkdirat SYS_mknodat SYS_mlock SYS_mlock2 SYS_mlockall SYS_mmap
    SYS_mprotect SYS_mq_getsetattr SYS_mq_notify SYS_mq_open SYS_mq_timedreceive SYS_mq_timedsend SYS_mq_unlink
    SYS_mremap SYS_mseal SYS_msgctl SYS_msgget SYS_msgrcv SYS_msgsnd SYS_msync SYS_munlock SYS_munlockall SYS_munmap
    SYS_name_to_handle_at SYS_nanosleep SYS_newfstatat SYS_openat SYS_openat2 SYS_pidfd_open SYS_pidfd_send_signal
    SYS_pipe2 SYS_pkey_alloc SYS_pkey_free SYS_pkey_mprotect SYS_ppoll SYS_prctl SYS_pread64 SYS_preadv SYS_preadv2
    SYS_prlimit64 SYS_process_mrelease SYS_process_vm_readv SYS_process_vm_writev SYS_pselect6 SYS_ptrace SYS_pwrite64
    SYS_pwritev SYS_pwritev2 SYS_read SYS_readahead SYS_readlinkat SYS_readv SYS_recvfrom SYS_recvmmsg SYS_recvmsg
    SYS_remap_file_pages SYS_removexattr SYS_renameat SYS_renameat2 SYS_restart_syscall SYS_rseq SYS_rt_sigaction
    SYS_rt_sigpending SYS_rt_sigprocmask SYS_rt_sigqueueinfo SYS_rt_sigreturn SYS_rt_sigsuspend SYS_rt_sigtimedwait
    SYS_rt_tgsigqueueinfo SYS_sched_get_priority_max SYS_sched_get_priority_min SYS_sched_getaffinity
    SYS_sched_getattr SYS_sched_getparam SYS_sched_getscheduler SYS_sched_rr_get_interval SYS_sched_setaffinity
    SYS_sched_setattr SYS_sched_setparam SYS_sched_setscheduler SYS_sched_yield SYS_seccomp SYS_semctl SYS_semget
    SYS_semop SYS_semtimedop SYS_sendfile SYS_sendmmsg SYS_sendmsg SYS_sendto SYS_set_robust_list SYS_set_tid_address
    SYS_setfsgid SYS_setfsuid SYS_setgid SYS_setgroups SYS_setitimer SYS_setpgid SYS_setpriority SYS_setregid
    SYS_setresgid SYS_setresuid SYS_setreuid SYS_setrlimit SYS_setsid SYS_setsockopt SYS_setuid SYS_setxattr SYS_shmat
    SYS_shmctl SYS_shmdt SYS_shmget SYS_shutdown SYS_sigaltstack SYS_signalfd4 SYS_socketpair SYS_splice SYS_statfs
    SYS_statx SYS_symlinkat SYS_sync SYS_sync_file_range SYS_syncfs SYS_sysinfo SYS_tee SYS_tgkill SYS_timer_create
    SYS_timer_delete SYS_timer_getoverrun SYS_timer_gettime SYS_timer_settime SYS_timerfd_create SYS_timerfd_gettime
    SYS_timerfd_settime SYS_times SYS_tkill SYS_truncate SYS_umask SYS_uname SYS_unlinkat SYS_utimensat SYS_vmsplice
    SYS_wait4 SYS_waitid SYS_write SYS_writev
];

/// Newer calls, by number: the same on every architecture from 424 on. cachestat, map_shadow_stack, futex_wake, futex_wait,
/// futex_requeue, lsm_get_self_attr, lsm_list_modules, setxattrat, getxattrat, listxattrat, removexattrat, file_getattr,
/// file_setattr.
const ALLOWED_BY_NUMBER: [libc::c_long; 13] = [451, 453, 454, 455, 456, 459, 461, 463, 464, 465, 466, 468, 469];

/// Calls that only x86-64 still has.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[libc::c_long] = calls![
    SYS_access SYS_alarm SYS_arch_prctl SYS_chmod SYS_chown SYS_creat SYS_dup2 SYS_epoll_create SYS_epoll_ctl_old
    SYS_epoll_wait SYS_epoll_wait_old SYS_eventfd SYS_fork SYS_futimesat SYS_get_thread_area SYS_getdents SYS_getpgrp
    SYS_inotify_init SYS_lchown SYS_link SYS_lstat SYS_mkdir SYS_mknod SYS_modify_ldt SYS_open SYS_pause SYS_pipe
    SYS_poll SYS_readlink SYS_rename SYS_rmdir SYS_select SYS_set_thread_area SYS_signalfd SYS_stat SYS_symlink SYS_time
    SYS_unlink SYS_utime SYS_utimes SYS_vfork
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// libc has no name for it.
#[cfg(target_arch = "x86_64")]
const IO_PGETEVENTS: libc::c_long = 333;
#[cfg(not(target_arch = "x86_64"))]
const IO_PGETEVENTS: libc::c_long = 292;

/// Allowed with a capability (by number).
const WITH_CAPABILITY: &[(u32, &[libc::c_long])] = &[
    (2, calls![SYS_open_by_handle_at]),
    (16, calls![SYS_delete_module SYS_init_module SYS_finit_module]),
    (18, calls![SYS_chroot]),
    (19, calls![SYS_kcmp SYS_pidfd_getfd SYS_process_madvise]),
    (20, calls![SYS_acct]),
    (
        21,
        calls![
            SYS_bpf SYS_clone3 SYS_fanotify_init SYS_fsconfig SYS_fsmount SYS_fsopen SYS_fspick SYS_mount
            SYS_mount_setattr SYS_move_mount SYS_open_tree SYS_perf_event_open SYS_pivot_root SYS_quotactl
            SYS_quotactl_fd SYS_setdomainname SYS_sethostname SYS_setns SYS_syslog SYS_umount2 SYS_unshare
        ],
    ),
    // statmount, listmount
    (21, &[457, 458]),
    (22, calls![SYS_reboot]),
    (
        23,
        calls![SYS_get_mempolicy SYS_mbind SYS_set_mempolicy SYS_set_mempolicy_home_node SYS_migrate_pages SYS_move_pages],
    ),
    (25, calls![SYS_clock_settime SYS_settimeofday]),
    (26, calls![SYS_vhangup]),
    (34, calls![SYS_syslog]),
    (38, calls![SYS_perf_event_open]),
    (39, calls![SYS_bpf]),
];

/// Capabilities that change the filter: it is the same for two sets that agree in these.
pub(crate) fn relevant(capabilities: u64) -> u64 {
    let all = WITH_CAPABILITY.iter().fold(bit(17), |set, (number, _)| set | bit(*number));
    capabilities & all
}

/// The filter for a process with these capabilities.
pub fn filter(capabilities: u64) -> Vec<Instruction> {
    let verdicts = verdicts(capabilities);
    let mut program = vec![
        instruction(LOAD, 0, 0, ARCH),
        instruction(JUMP_EQUAL, 1, 0, AUDIT_ARCH),
        instruction(RETURN, 0, 0, KILL_PROCESS),
        instruction(LOAD, 0, 0, NR),
        instruction(JUMP_GREATER_OR_EQUAL, 0, 1, X32),
        instruction(RETURN, 0, 0, ERRNO | libc::ENOSYS as u32),
    ];
    program.extend(search(&segments(&verdicts)));
    program
}

/// The verdict for each number up to one beyond the newest.
fn verdicts(capabilities: u64) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict::Refuse; NEWEST as usize + 2];
    verdicts[NEWEST as usize + 1] = Verdict::Unknown;
    let mut set = |number: libc::c_long, verdict| verdicts[number as usize] = verdict;
    for number in ALLOWED.iter().chain(&ALLOWED_BY_NUMBER).chain(ALLOWED_HERE) {
        set(*number, Verdict::Allow);
    }
    set(IO_PGETEVENTS, Verdict::Allow);
    set(libc::SYS_clone, Verdict::Check(Check::Clone));
    set(libc::SYS_clone3, Verdict::Unknown);
    set(libc::SYS_personality, Verdict::Check(Check::Personality));
    set(libc::SYS_socket, Verdict::Check(Check::Socket));
    for (capability, numbers) in WITH_CAPABILITY {
        if capabilities & bit(*capability) != 0 {
            numbers.iter().for_each(|number| set(*number, Verdict::Allow));
        }
    }
    if capabilities & crate::capabilities::CAP_SYS_ADMIN != 0 {
        set(libc::SYS_clone, Verdict::Allow);
    }
    #[cfg(target_arch = "x86_64")]
    if capabilities & bit(17) != 0 {
        set(libc::SYS_iopl, Verdict::Allow);
        set(libc::SYS_ioperm, Verdict::Allow);
    }
    verdicts
}

/// Neighbours with one verdict as one range: where it begins, and what it is.
fn segments(verdicts: &[Verdict]) -> Vec<(u32, Verdict)> {
    let mut segments: Vec<(u32, Verdict)> = Vec::new();
    for (number, verdict) in (0..).zip(verdicts) {
        if segments.last().is_none_or(|(_, last)| last != verdict) {
            segments.push((number, *verdict));
        }
    }
    segments
}

/// A binary search for the number in the accumulator.
fn search(segments: &[(u32, Verdict)]) -> Vec<Instruction> {
    if let [(_, verdict)] = segments {
        return decide(*verdict);
    }
    let (low, high) = segments.split_at(segments.len() / 2);
    let (below, above) = (search(low), search(high));
    let boundary = high[0].0;
    // Conditional jumps reach 255 instructions.
    let mut program = match u8::try_from(below.len()) {
        Ok(distance) => vec![instruction(JUMP_GREATER_OR_EQUAL, distance, 0, boundary)],
        Err(_) => vec![instruction(JUMP_GREATER_OR_EQUAL, 0, 1, boundary), instruction(JUMP, 0, 0, below.len() as u32)],
    };
    program.extend(below);
    program.extend(above);
    program
}

fn decide(verdict: Verdict) -> Vec<Instruction> {
    let allow = instruction(RETURN, 0, 0, ALLOW);
    let refuse = instruction(RETURN, 0, 0, ERRNO | libc::EPERM as u32);
    match verdict {
        Verdict::Allow => vec![allow],
        Verdict::Refuse => vec![refuse],
        Verdict::Unknown => vec![instruction(RETURN, 0, 0, ERRNO | libc::ENOSYS as u32)],
        Verdict::Check(Check::Clone) => {
            vec![instruction(LOAD, 0, 0, ARGUMENT_0), instruction(JUMP_SET, 0, 1, NEW_NAMESPACES), refuse, allow]
        }
        Verdict::Check(Check::Personality) => one_of(&PERSONALITIES, allow, refuse),
        Verdict::Check(Check::Socket) => one_of(&REFUSED_FAMILIES, refuse, allow),
    }
}

/// `then` if the first argument is one of `values`, else `otherwise`.
fn one_of(values: &[u32], then: Instruction, otherwise: Instruction) -> Vec<Instruction> {
    let mut program = vec![instruction(LOAD, 0, 0, ARGUMENT_0)];
    for (n, value) in values.iter().enumerate() {
        // Over the remaining comparisons and `otherwise`.
        program.push(instruction(JUMP_EQUAL, (values.len() - n) as u8, 0, *value));
    }
    program.extend([otherwise, then]);
    program
}

fn instruction(code: u16, jump_true: u8, jump_false: u8, k: u32) -> Instruction {
    Instruction { code, jump_true, jump_false, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::{CAP_SYS_ADMIN, DEFAULT_CAPABILITIES};

    /// Runs a program as the kernel does.
    fn answer(program: &[Instruction], arch: u32, number: u32, argument: u32) -> u32 {
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let i = program[at];
            at += 1;
            let branch = |taken: bool| usize::from(if taken { i.jump_true } else { i.jump_false });
            match i.code {
                LOAD => {
                    accumulator = match i.k {
                        NR => number,
                        ARCH => arch,
                        _ => argument,
                    }
                }
                JUMP => at += i.k as usize,
                JUMP_EQUAL => at += branch(accumulator == i.k),
                JUMP_GREATER_OR_EQUAL => at += branch(accumulator >= i.k),
                JUMP_SET => at += branch(accumulator & i.k != 0),
                RETURN => return i.k,
                other => panic!("{other:#x}"),
            }
        }
    }

    const REFUSED: u32 = ERRNO | libc::EPERM as u32;
    const MISSING: u32 = ERRNO | libc::ENOSYS as u32;

    #[test]
    fn the_search_answers_for_every_number_what_the_table_says() {
        for capabilities in [DEFAULT_CAPABILITIES, crate::capabilities::ALL_CAPABILITIES, 0] {
            let program = filter(capabilities);
            assert!(program.len() < 4096, "{} instructions", program.len());
            for (number, verdict) in (0..).zip(verdicts(capabilities)) {
                let want = match verdict {
                    Verdict::Allow => ALLOW,
                    Verdict::Refuse => REFUSED,
                    Verdict::Unknown => MISSING,
                    Verdict::Check(_) => continue,
                };
                assert_eq!(answer(&program, AUDIT_ARCH, number, 0), want, "call {number}");
            }
            assert_eq!(answer(&program, AUDIT_ARCH, 5000, 0), MISSING);
        }
    }

    #[test]
    fn foreign_architectures_are_killed_and_x32_is_unknown() {
        let program = filter(DEFAULT_CAPABILITIES);
        assert_eq!(answer(&program, 0x4000_0003, libc::SYS_read as u32, 0), KILL_PROCESS);
        assert_eq!(answer(&program, AUDIT_ARCH, X32 | libc::SYS_read as u32, 0), MISSING);
    }

    #[test]
    fn arguments_decide_where_they_must() {
        let program = filter(DEFAULT_CAPABILITIES);
        let call = |number: libc::c_long, argument: u32| answer(&program, AUDIT_ARCH, number as u32, argument);
        assert_eq!(call(libc::SYS_clone, libc::SIGCHLD as u32), ALLOW);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET, libc::CLONE_NEWPID] {
            assert_eq!(call(libc::SYS_clone, flag as u32 | libc::SIGCHLD as u32), REFUSED);
        }
        assert_eq!(call(libc::SYS_personality, 0), ALLOW);
        assert_eq!(call(libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(call(libc::SYS_personality, 0x0040_0000), REFUSED);
        assert_eq!(call(libc::SYS_socket, libc::AF_INET as u32), ALLOW);
        assert_eq!(call(libc::SYS_socket, 40), REFUSED);
        assert_eq!(call(libc::SYS_socket, 38), REFUSED);
        for number in [
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
            libc::SYS_add_key,
            libc::SYS_userfaultfd,
            libc::SYS_kexec_load,
            libc::SYS_init_module,
        ] {
            assert_eq!(call(number, 0), REFUSED, "call {number}");
        }
        assert_eq!(call(libc::SYS_clone3, 0), MISSING);
        let admin = filter(DEFAULT_CAPABILITIES | CAP_SYS_ADMIN);
        assert_eq!(answer(&admin, AUDIT_ARCH, libc::SYS_mount as u32, 0), ALLOW);
        assert_eq!(answer(&admin, AUDIT_ARCH, libc::SYS_clone as u32, libc::CLONE_NEWUSER as u32), ALLOW);
    }
}
