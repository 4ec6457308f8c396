//! Attacks on container runtimes that worked somewhere once. Each runs, fails, and leaves nothing behind.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use coppice_container::{IdRange, Mount, MountSource, Seccomp, TerminalSize};
use coppice_launcher::protocol::{LaunchError, Reply, Request};
use rig::{Attached, Rig, process, why};

fn bind(source: &Path, target: &str) -> Mount {
    Mount { target: target.into(), read_only: false, source: MountSource::Bind { path: source.to_owned() } }
}

/// CVE-2024-21626: a host directory's fd leaked into the container is entered by its number.
#[test]
fn a_working_directory_of_proc_self_fd_leads_nowhere() {
    let rig = Rig::new();
    for number in 0..32 {
        for path in [format!("/proc/self/fd/{number}"), format!("/proc/self/fd/{number}/../../..")] {
            let mut config = rig.config(&["/bin/true"]);
            config.process.cwd = path.into();
            assert!(matches!(rig.refused(&config), LaunchError::Setup { .. }));
        }
    }
    // By a link in the image, too.
    symlink("/proc/self/fd/7/../..", rig.path().join("layer/work")).expect("link");
    let mut config = rig.config(&["/bin/true"]);
    config.process.cwd = "/work".into();
    assert!(matches!(rig.refused(&config), LaunchError::Setup { .. }));
    rig.nothing_left();
}

/// CVE-2024-21626: fds of the runtime in the container's first process, and in an exec's.
#[test]
fn a_program_has_no_file_but_its_three_streams() {
    let rig = Rig::new();
    let list = "for f in /proc/self/fd/*; do echo ${f##*/} $(readlink $f); done";
    let said = rig.sh(list);
    let files: Vec<&str> = said.ok().lines().filter(|l| !l.contains("/proc/")).collect();
    assert!(
        files
            .iter()
            .all(|l| l.split(' ').next().is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n < 3) || !l.contains(' '))),
        "{files:?}"
    );
    let config = rig.config(&["/bin/sleep", "100"]);
    let mut daemon = rig.connect(true);
    daemon.start(&config);
    let mut exec = exec_in(&mut daemon, &config.id, 1, &["/bin/ls", "/proc/self/fd"]);
    assert_eq!(exec.finish().code, 0);
    assert_eq!(String::from_utf8_lossy(&exec.stdout), "0\n1\n2\n3\n", "3 is the directory ls reads");
}

fn exec_in(daemon: &mut rig::Daemon, id: &coppice_base::ContainerId, exec: u64, args: &[&str]) -> Attached {
    let (attached, theirs) = Attached::pair();
    let process = Box::new(process(args));
    match daemon.ask_with(Request::Exec { id: id.clone(), exec, process }, Some(theirs)) {
        Reply::Started { .. } => attached,
        other => panic!("{other:?}"),
    }
}

/// CVE-2019-5736: the runtime's binary is overwritten through /proc/PID/exe. With `init` it even stays PID 1.
#[test]
fn the_launchers_binary_cannot_be_reached_through_proc_pid_exe() {
    let rig = Rig::new();
    rig.add_probe();
    let before = std::fs::read(Rig::binary()).expect("binary");
    let script = "/probe writable /proc/1/exe; readlink /proc/1/exe; cat /proc/1/exe /proc/1/environ /proc/1/maps \
                  /proc/1/mem 2>/dev/null | wc -c; ls /proc/1/fd 2>/dev/null | wc -l; ls /proc/1/root/ 2>/dev/null | wc -l; \
                  kill -9 1; kill -STOP 1; echo alive";
    let mut config = rig.config(&["/bin/sh", "-c", script]);
    config.init = true;
    assert_eq!(rig.run(&config).ok(), "/proc/1/exe EACCES\n0\n0\n0\nalive\n");
    // The init is the launcher's program, and that is not to be executed either.
    let mut config = rig.config(&["/bin/sh", "-c", "/proc/1/exe; echo $?"]);
    config.init = true;
    let done = rig.run(&config);
    assert_eq!(done.ok(), "126\n", "{}", done.stderr);
    nothing_executes_the_launcher(&rig);
    assert!(std::fs::read(Rig::binary()).expect("binary") == before);
}

/// The ways in which an image names the file that is executing it as what is to be executed.
fn nothing_executes_the_launcher(rig: &Rig) {
    let programs: [(&str, &[u8]); 2] =
        [("script", b"#!/proc/self/exe\n"), ("linked", &program_with_interpreter("/proc/self/exe"))];
    for (name, content) in programs {
        let evil = rig.path().join("layer/bin").join(name);
        std::fs::write(&evil, content).expect("write");
        std::fs::set_permissions(&evil, PermissionsExt::from_mode(0o755)).expect("chmod");
    }
    for program in ["/bin/script", "/bin/linked", "/proc/self/exe"] {
        // Not because something of the program is missing in the container, as a dynamic launcher's libraries are.
        match rig.refused(&rig.config(&[program])) {
            LaunchError::NotExecutable { why, .. } => assert!(why.contains("permission denied"), "{program}: {why}"),
            other => panic!("{program}: {other:?}"),
        }
    }
}

/// An x86-64 ELF program of headers only, which asks for `interpreter` to run it.
fn program_with_interpreter(interpreter: &str) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    let path_at = HEADER + 2 * SEGMENT;
    let path_len = interpreter.len() as u64 + 1;
    let whole = path_at + path_len;
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(16, 0);
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    // ET_EXEC, EM_X86_64, EV_CURRENT; entry, program headers, no sections.
    half(&mut elf, 2);
    half(&mut elf, 62);
    word(&mut elf, 1);
    elf.extend([0x40_0000 + path_at, HEADER, 0].map(u64::to_le_bytes).as_flattened());
    word(&mut elf, 0);
    for value in [HEADER as u16, SEGMENT as u16, 2, 0, 0, 0] {
        half(&mut elf, value);
    }
    // PT_INTERP and PT_LOAD: type, flags, offset, two addresses, two sizes, alignment.
    for (kind, flags, at, len, align) in [(3, 4, path_at, path_len, 1), (1, 5, 0, whole, 0x1000)] {
        word(&mut elf, kind);
        word(&mut elf, flags);
        elf.extend([at, 0x40_0000 + at, 0x40_0000 + at, len, len, align].map(u64::to_le_bytes).as_flattened());
    }
    elf.extend(interpreter.as_bytes());
    elf.push(0);
    elf
}

/// CVE-2019-5736 as it was done: the file is held while it cannot be written, and written when the runtime has ended.
#[test]
fn the_launchers_binary_is_neither_executed_nor_written_by_who_holds_it_after_an_upgrade_too() {
    let rig = Rig::new();
    // A file of its own: other launchers run the usual one, and a file that runs cannot be written anyway.
    let binary = rig.path().join("launcher");
    std::fs::copy(Rig::binary(), &binary).expect("copy");
    let upgraded = rig.connect(false).ask(Request::Upgrade { binary });
    assert!(matches!(upgraded, Reply::Done), "{upgraded:?}");
    nothing_executes_the_launcher(&rig);
    let process = format!("/proc/{}", rig.launcher_pid());
    let name = std::fs::read_to_string(format!("{process}/comm")).expect("comm");
    assert_eq!(name, "coppice-launche\n");
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let held = rustix::fs::open(format!("{process}/exe"), flags, rustix::fs::Mode::empty()).expect("held");
    rig.kill_launcher();
    // Of this process, by a thread of it: the file of the number is ours.
    let held = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&held));
    let written = std::fs::File::options().write(true).open(&held).expect_err("written");
    assert_eq!(written.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    let executed = std::process::Command::new(&held).spawn().expect_err("executed");
    assert_eq!(executed.kind(), std::io::ErrorKind::PermissionDenied);
}

/// CVE-2019-5736 and CVE-2016-9962: the process that exec adds is watched for while it is still the runtime.
#[test]
fn exec_into_a_hostile_container_gives_it_nothing_to_hold() {
    let rig = Rig::new();
    rig.add_probe();
    // Four seconds, or as many more as the machine is slower.
    let seconds = rig::deadline().as_secs() / 7;
    let mut config = rig.config(&["/probe", "hunt", &seconds.to_string()]);
    // As strong as a user may make it.
    config.process.capabilities = coppice_container::DEFAULT_CAPABILITIES | 1 << 19;
    let mut daemon = rig.connect(true);
    daemon.start(&config);
    rig::wait_for("the hunter", || rig.log(&config).contains("hunting"));
    let mut number = 0;
    while !rig.log(&config).contains("saw ") {
        number += 1;
        let (mut attached, theirs) = Attached::pair();
        let process = Box::new(process(&["/bin/true"]));
        let reply = daemon.ask_with(Request::Exec { id: config.id.clone(), exec: number, process }, Some(theirs));
        match reply {
            Reply::Started { .. } => drop(attached.finish()),
            // It has ended meanwhile.
            Reply::Error { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    daemon.exit_of(&config.id);
    let log = rig.log(&config);
    assert!(number > 20 * 4 / seconds, "{number} execs");
    assert!(log.contains("saw processes"), "{log}");
    assert!(!log.contains("CAUGHT"), "{log}");
}

/// CVE-2025-31133 and CVE-2025-62161: /dev/null in the image is a link, so that masking binds something else.
#[test]
fn dev_null_as_a_link_in_the_image_does_not_choose_what_masks() {
    let rig = Rig::new();
    let dev = rig.path().join("layer/dev");
    std::fs::create_dir(&dev).expect("mkdir");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).expect("link");
    symlink("/etc/passwd", dev.join("console")).expect("link");
    let script = "test -c /dev/null && stat -c '%t:%T' /dev/null; cat /proc/interrupts; stat -c %t:%T /proc/interrupts";
    assert_eq!(rig.sh(script).ok(), "1:3\n1:3\n");
}

/// CVE-2025-31133 (the directory), CVE-2019-19921 and CVE-2023-27561 (/proc), CVE-2023-28642 (/sys): the mount point is
/// a link in the image.
#[test]
fn proc_sys_or_dev_as_a_link_in_the_image_is_refused() {
    for name in ["proc", "sys", "dev"] {
        let rig = Rig::new();
        std::fs::create_dir(rig.path().join("layer/tmp/elsewhere")).expect("mkdir");
        symlink("tmp/elsewhere", rig.path().join("layer").join(name)).expect("link");
        let why = why(&rig.refused(&rig.config(&["/bin/true"])));
        assert!(why.contains("attach /proc, /sys and /dev") && why.contains(name), "{why}");
        rig.nothing_left();
    }
}

/// CVE-2025-52565: /dev/console is a link, so that the terminal is bound over something else.
#[test]
fn dev_console_as_a_link_does_not_choose_what_the_terminal_covers() {
    let rig = Rig::new();
    let dev = rig.path().join("layer/dev");
    std::fs::create_dir(&dev).expect("mkdir");
    symlink("/proc/sys/kernel/core_pattern", dev.join("console")).expect("link");
    symlink("/etc/passwd", dev.join("ptmx")).expect("link");
    let mut config = rig.config(&["/bin/sh", "-c", "stat -c %F /dev/console; head -1 /etc/passwd; tty; wc -l < /proc/mounts > /dev/null; mount | grep -c core_pattern"]);
    config.process.terminal = Some(TerminalSize { rows: 24, columns: 80 });
    let done = rig.run(&config);
    assert_eq!(done.stdout.replace('\r', ""), "character special file\nroot:x:0:0:root:/root:/bin/sh\n/dev/pts/0\n0\n");
}

/// CVE-2019-16884, CVE-2025-52881, CVE-2025-62596: what the runtime writes to or covers in /proc is redirected by a
/// volume mounted over it.
#[test]
fn nothing_can_be_mounted_over_proc_or_the_root() {
    let rig = Rig::new();
    let volume = rig.path().join("volume");
    std::fs::create_dir_all(volume.join("self/attr")).expect("mkdir");
    symlink("/proc", rig.path().join("layer/tmp/p")).expect("link");
    for target in
        ["/proc", "/proc/sys", "/proc/self/attr", "/tmp/p", "/tmp/p/sys/kernel", "/", "/tmp/../..", "/proc/1/root"]
    {
        let mut config = rig.config(&["/bin/true"]);
        config.mounts = vec![bind(&volume, target)];
        let why = why(&rig.refused(&config));
        assert!(why.contains("mount /"), "{target}: {why}");
    }
    rig.nothing_left();
}

/// CVE-2021-30465: a second container, sharing the volume, swaps the directory that a mount's target is below.
#[test]
fn a_target_swapped_while_it_is_mounted_stays_inside() {
    let rig = Rig::new();
    let (volume, inner) = (rig.path().join("volume"), rig.path().join("inner"));
    std::fs::create_dir_all(volume.join("real")).expect("mkdir");
    std::fs::create_dir_all(&inner).expect("mkdir");
    std::fs::write(inner.join("marker"), "").expect("write");
    symlink("/../../../../../../tmp", volume.join("link")).expect("link");
    symlink("/proc/1/root", volume.join("magic")).expect("link");
    std::fs::create_dir_all(volume.join("a")).expect("mkdir");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let exchange = |name: &str| {
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    volume.join("a"),
                    rustix::fs::CWD,
                    volume.join(name),
                    rustix::fs::RenameFlags::EXCHANGE,
                )
            };
            while !stop.load(Ordering::Relaxed) {
                for name in ["link", "real", "magic"] {
                    let _ = exchange(name).and_then(|()| exchange(name));
                }
            }
        });
        let (mut started, mut refused) = (0, 0);
        for _ in 0..60 {
            // Every mount is below the container's root, and /proc is still the procfs.
            let script = "find / -xdev -name nothing; ls /data > /dev/null; stat -f -c %T /proc; awk '$5 !~ /^\\// {print}' /proc/self/mountinfo";
            let mut config = rig.config(&["/bin/sh", "-c", script]);
            config.mounts = vec![bind(&volume, "/data"), bind(&inner, "/data/a/target")];
            let mut daemon = rig.connect(true);
            match daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false }) {
                Reply::Started { .. } => {
                    started += 1;
                    assert_eq!(daemon.exit_of(&config.id).code, 0);
                    assert_eq!(rig::lines_of(&rig.log(&config), "stdout"), "proc\n");
                }
                Reply::Error { error: LaunchError::Setup { .. } } => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(started + refused == 60 && started > 0, "{started} started, {refused} refused");
    });
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    assert!(!mounts.contains(&rig.path().display().to_string()), "{mounts}");
    assert!(!Path::new("/tmp/target").exists(), "a directory was made on the host");
}

/// CVE-2024-45310: the runtime makes the missing target of a mount on the host.
#[test]
fn a_missing_target_behind_a_link_is_made_in_the_container_only() {
    let rig = Rig::new();
    let (volume, outside) = (rig.path().join("volume"), rig.path().join("outside"));
    std::fs::create_dir_all(&volume).expect("mkdir");
    std::fs::create_dir_all(&outside).expect("mkdir");
    symlink(&outside, volume.join("escape")).expect("link");
    symlink(format!("/../../../../../../../..{}", outside.display()), volume.join("dots")).expect("link");
    for target in ["/data/escape/made", "/data/dots/made"] {
        let mut config = rig.config(&["/bin/true"]);
        config.mounts = vec![bind(&volume, "/data"), bind(&volume, target)];
        // Whether the target could be made inside or not, nothing is made outside.
        let mut daemon = rig.connect(true);
        if let Reply::Started { .. } = daemon.ask(Request::Start { config: Box::new(config.clone()), attach: false }) {
            daemon.exit_of(&config.id);
        }
    }
    assert_eq!(std::fs::read_dir(&outside).expect("dir").count(), 0);
    rig.nothing_left();
}

/// CVE-2023-25809: the cgroup filesystem is writable in the container. And no path shows where it is on the host.
#[test]
fn cgroups_can_neither_be_written_nor_located() {
    let rig = Rig::new();
    let done = rig.sh("cut -d: -f3 /proc/self/cgroup | sort -u; grep cgroup /proc/mounts | grep -v ' ro,'; \
         mkdir /sys/fs/cgroup/x 2>/dev/null || echo refused; cat /proc/self/cgroup | grep -c coppice");
    assert_eq!(done.stdout, "/\nrefused\n0\n", "{}", done.stderr);
    // An id with a path in it is no id.
    assert!(coppice_base::ContainerId::parse("../../../escape0").is_err());
}

/// New namespaces, mounts, io_uring, keyring, bpf and the rest under the default filter and capabilities.
#[test]
fn forbidden_system_calls_are_refused() {
    let rig = Rig::new();
    rig.add_probe();
    let done = rig.run(&rig.config(&["/probe", "calls"]));
    assert!(done.ok().lines().count() > 25);
    for line in done.ok().lines() {
        let (call, answer) = line.split_once(' ').expect("call and answer");
        let want = if matches!(call, "clone3" | "unknown") { "ENOSYS" } else { "EPERM" };
        assert_eq!(answer, want, "{call}");
    }
}

/// Without the filter capabilities and namespaces still hold: nothing of the host can be mounted, joined or reached.
#[test]
fn without_the_filter_the_host_is_still_out_of_reach() {
    let rig = Rig::new();
    rig.add_probe();
    let mut config = rig.config(&["/probe", "calls", "in-this-user-namespace"]);
    config.process.seccomp = Seccomp::Unconfined;
    let done = rig.run(&config);
    for call in [
        "mount",
        "umount",
        "pivot_root",
        "setns",
        "unshare-mount",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "settimeofday",
    ] {
        let answer = done.ok().lines().find_map(|line| line.strip_prefix(call)?.strip_prefix(' '));
        // ENOSYS where this kernel was built without the call.
        assert!(matches!(answer, Some("EPERM" | "ENOSYS")), "{call}: {answer:?}");
    }
}

/// Calls by other numbers than the filter was written for.
#[test]
fn x32_and_32_bit_system_calls_do_not_pass_the_filter() {
    let rig = Rig::new();
    rig.add_probe();
    assert_eq!(rig.run(&rig.config(&["/probe", "x32"])).ok(), "x32-getpid ENOSYS\n");
    let done = rig.run(&rig.config(&["/probe", "i386"]));
    assert!(!done.stdout.contains("allowed"));
    assert_eq!(done.exit.signal, Some(libc::SIGSYS));
}

/// The launcher's session keyring is not the container's, nor is one container's another's.
#[test]
fn every_container_has_a_session_keyring_of_its_own() {
    let rig = Rig::new();
    rig.add_probe();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut config = rig.config(&["/probe", "session-keyring"]);
        config.process.seccomp = Seccomp::Unconfined;
        seen.push(rig.run(&config).ok().trim().to_owned());
    }
    let ours =
        std::process::Command::new(rig.path().join("layer/probe")).arg("session-keyring").output().expect("probe");
    seen.push(String::from_utf8_lossy(&ours.stdout).trim().to_owned());
    assert!(seen[0] != seen[1] && seen[0] != seen[2] && seen[1] != seen[2], "{seen:?}");
}

/// A container with capabilities over its own namespaces has none over the host's.
#[test]
fn every_capability_inside_is_none_outside() {
    let rig = Rig::new();
    rig.add_probe();
    let mut config = rig.config(&[
        "/bin/sh",
        "-c",
        "mknod /tmp/sda b 8 0 2>/dev/null && head -c 1 /tmp/sda; mount -t ext4 /dev/vda /mnt 2>/dev/null && echo mounted; \
         echo 1 > /proc/sys/kernel/sysrq 2>/dev/null && echo wrote; dmesg > /dev/null 2>&1 && echo dmesg; \
         date -s 2001-01-01 > /dev/null 2>&1; date +%Y | grep 2001; id -u",
    ]);
    config.privileged = true;
    config.process.capabilities = coppice_container::capabilities::ALL_CAPABILITIES;
    config.process.seccomp = Seccomp::Unconfined;
    assert_eq!(rig.run(&config).stdout, "0\n");
}

/// A file that another container of another range owns is nobody's here, even with every capability over one's own.
#[test]
fn one_containers_writable_layer_is_closed_to_anothers_ids() {
    let rig = Rig::new();
    let mut first = rig.config(&["/bin/sh", "-c", "umask 077; echo secret > /secret"]);
    first.ids = IdRange::nth(100);
    rig.run(&first).ok();
    // Shown raw to a second one, as a layer that was not made for it.
    let mut second = rig.config(&["/bin/sh", "-c", "cat /secret 2>/dev/null || echo closed; stat -c %u /secret"]);
    second.ids = IdRange::nth(101);
    second.rootfs.layers.push(first.rootfs.scratch.join("upper"));
    assert_eq!(rig.run(&second).ok(), "closed\n65534\n");
}
