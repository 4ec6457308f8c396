//! What the machine boots: an initramfs that loads drivers, and a disk with busybox, the tests and an init.
//!
//! The root is a disk and not the initramfs itself, since `pivot_root` refuses to leave an initramfs, and ext4 and not
//! tmpfs, since older kernels cannot id-map a tmpfs.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::binaries::Binary;
use super::kernel::{self, Kernel};
use super::skips;
use crate::{shell, workspace};

/// A program that must be seen to fail, and how.
pub(crate) const MUST_FAIL: &str = "self-fail";
pub(crate) const MUST_FAIL_CODE: i32 = 3;
/// A program that checks the machine.
pub(crate) const MUST_HOLD: &str = "self-check";

/// The shipped binary, driven by a script.
pub(crate) const PRODUCT: &str = "product";

/// What the disk and the network of the machine need; the first three before there is a root.
const FOR_ROOT: &[&str] = &["virtio_mmio", "virtio_blk", "ext4"];
const FOR_TESTS: &[&str] = &[
    "overlay",
    "veth",
    "bridge",
    "br_netfilter",
    "tun",
    "loop",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_numgen",
    "nft_hash",
    "nft_meta_bridge",
    "nft_compat",
    "nf_conntrack_netlink",
    "nft_redir",
    "nft_reject_inet",
    "dummy",
    "xt_conntrack",
    "xt_MASQUERADE",
    "8021q",
    "sch_ingress",
    "sch_htb",
    "cls_bpf",
];

/// The machine's own programs, where tests mean those and not busybox's: its shell runs a last command without a
/// fork, its `ip` prints another way.
const HOST_PROGRAMS: &[(&str, &str)] = &[
    ("/bin/dash", "sh"),
    ("/bin/tar", "tar"),
    ("/sbin/ip", "ip"),
    ("/sbin/tc", "tc"),
    ("/usr/bin/nsenter", "nsenter"),
    ("/usr/bin/unshare", "unshare"),
    ("/usr/sbin/nft", "nft"),
    ("/usr/bin/setpriv", "setpriv"),
];

/// The files QEMU is given.
pub(crate) struct Disk {
    /// Of the machine that boots it, from 1.
    pub(crate) number: usize,
    pub(crate) folder: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) root: PathBuf,
}

impl Disk {
    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("console.log")
    }
}

/// Makes both from scratch for machine `number`, to run `binaries`, which may start `programs`.
pub(crate) fn make(number: usize, kernel: &Kernel, programs: &[PathBuf], binaries: &[&Binary]) -> Result<Disk> {
    let target = workspace::Metadata::read(&workspace::root())?.target_directory;
    let folder = target.join("vmtest").join(number.to_string());
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let disk = Disk { number, initramfs: folder.join("initramfs.cpio"), root: folder.join("root.ext4"), folder };
    initramfs(kernel, &disk)?;
    root(kernel, programs, binaries, &disk)?;
    Ok(disk)
}

fn initramfs(kernel: &Kernel, disk: &Disk) -> Result<()> {
    let tree = disk.folder.join("initramfs");
    skeleton(&tree)?;
    let loads = modules(kernel, FOR_ROOT, &tree)?;
    program(
        &tree.join("init"),
        &format!(
            "#!/bin/sh\nmount -t devtmpfs dev /dev\nmount -t proc proc /proc\nmount -t sysfs sys /sys\n{loads}\
             tries=0\nuntil mount -t ext4 /dev/vda /new 2>/dev/null; do\n  tries=$((tries + 1))\n  \
             [ $tries -gt 100 ] && {{ echo 'no disk'; ls /dev; reboot -f; }}\n  sleep 0.1\ndone\n\
             umount /sys /proc\nmount --move /dev /new/dev\nexec switch_root /new /init\n"
        ),
    )?;
    let listed = shell::output(Command::new("find").arg(".").current_dir(&tree))?;
    let out = fs::File::create(&disk.initramfs)?;
    let mut cpio = Command::new("cpio");
    cpio.args(["--quiet", "-o", "-H", "newc", "-R", "0:0"]).current_dir(&tree).stdin(Stdio::piped()).stdout(out);
    let mut child = cpio.spawn().context("cannot start cpio")?;
    child.stdin.take().context("cpio has no input")?.write_all(listed.as_bytes())?;
    if !child.wait()?.success() {
        bail!("cpio failed");
    }
    Ok(())
}

fn root(kernel: &Kernel, programs: &[PathBuf], binaries: &[&Binary], disk: &Disk) -> Result<()> {
    let tree = disk.folder.join("root");
    skeleton(&tree)?;
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
    fs::write(tree.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    // nft names protocols by it.
    fs::write(tree.join("etc/protocols"), "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n")?;
    fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    for (file, name) in HOST_PROGRAMS {
        host_program(Path::new(file), name, &tree)?;
    }
    let loads = modules(kernel, FOR_TESTS, &tree)?;
    let mut runs = String::new();
    program(&tree.join("self-fail"), &format!("#!/bin/sh\nexit {MUST_FAIL_CODE}\n"))?;
    program(&tree.join("self-check"), SELF_CHECK)?;
    let _ = writeln!(runs, "run {MUST_FAIL} / /self-fail\nrun {MUST_HOLD} / /self-check");
    for program in programs {
        place(program, &tree)?;
    }
    probe(&tree)?;
    for binary in binaries {
        runs.push_str(&if binary.name == PRODUCT { product(binary, &tree)? } else { test(binary, &tree)? });
    }
    program(&tree.join("init"), &format!("{INIT}{loads}ip link set lo up\n{RUN}{runs}sync\nreboot -f\n"))?;
    let mut format = Command::new("mke2fs");
    format.args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d"]).arg(&tree);
    shell::output(format.arg(&disk.root).arg("2g"))?;
    fs::remove_dir_all(&tree)?;
    Ok(())
}

/// Puts a test binary and its data into the tree, and says the line that runs it.
fn test(binary: &Binary, tree: &Path) -> Result<String> {
    place(&binary.file, tree)?;
    let to = below(tree, &binary.folder);
    fs::create_dir_all(&to)?;
    for data in ["tests", "testdata"].map(|name| binary.folder.join(name)).iter().filter(|data| data.is_dir()) {
        shell::output(Command::new("cp").args(["-a"]).arg(data).arg(&to))?;
    }
    let mut line =
        format!("run {} {} {} --test-threads=2", binary.name, binary.folder.display(), binary.file.display());
    let skipped = skips::of(&binary.name);
    for test in &skipped {
        let _ = write!(line, " --skip {test}");
    }
    if !skipped.is_empty() {
        line.push_str(" --exact");
    }
    line.push('\n');
    Ok(line)
}

/// Puts the shipped binary and the script that drives it into the tree, and says the line that runs it.
fn product(binary: &Binary, tree: &Path) -> Result<String> {
    fs::copy(&binary.file, tree.join("bin/coppice"))
        .with_context(|| format!("cannot copy {}", binary.file.display()))?;
    program(&tree.join("product"), include_str!("product.sh"))?;
    Ok(format!("run {PRODUCT} / /product\n"))
}

/// The program that containers of the launcher's tests attack with; the machine has no compiler.
fn probe(tree: &Path) -> Result<()> {
    let source = workspace::root().join("crates/host/launcher/tests/probe/probe.c");
    let mut compile = Command::new("gcc");
    compile.args(["-static", "-O1", "-o"]).arg(tree.join("probe")).arg(source);
    shell::output(&mut compile).map(drop)
}

/// Mounts as a machine with systemd has them: one v2 hierarchy with its controllers handed down.
const INIT: &str = "#!/bin/sh
export PATH=/bin HOME=/root TMPDIR=/tmp RUST_BACKTRACE=1
export COPPICE_TEST_PROBE=/probe COPPICE_TEST_SLOW=5
mount --make-rshared /
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
echo '+cpu +memory +pids +io +cpuset' > /sys/fs/cgroup/cgroup.subtree_control
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
";

/// `run NAME FOLDER PROGRAM [ARG…]`: the lines the host reads.
const RUN: &str = "run() {
  name=$1; cd \"$2\"; shift 2
  echo \"@vmtest begin $name\"
  timeout -s KILL 600 \"$@\" </dev/null 2>&1
  code=$?
  echo; echo \"@vmtest end $name $code\"
}
";

/// The claims the machine makes.
const SELF_CHECK: &str = "#!/bin/sh
uname -r
controllers=$(cat /sys/fs/cgroup/cgroup.controllers)
for wanted in cpu memory pids io cpuset; do
  case \" $controllers \" in *\" $wanted \"*) ;; *) echo \"no controller $wanted in: $controllers\"; exit 1;; esac
done
[ -e /sys/fs/cgroup/cgroup.procs ] || { echo 'no cgroup v2 at /sys/fs/cgroup'; exit 1; }
[ ! -e /sys/fs/cgroup/memory ] || { echo 'cgroup v1 is mounted too'; exit 1; }
grep -q overlay /proc/filesystems || { echo 'no overlay'; exit 1; }
[ \"$(id -u)\" = 0 ] || { echo 'not root'; exit 1; }
";

fn skeleton(tree: &Path) -> Result<()> {
    for folder in ["bin", "dev", "etc", "lib/modules", "mnt", "new", "proc", "root", "run", "sys", "tmp", "var/lib"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    fs::set_permissions(tree.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    let busybox = tree.join("bin/busybox");
    fs::copy("/usr/bin/busybox", &busybox).context("the package busybox-static is missing")?;
    // Not the copy: until it is closed everywhere, in a child that another thread forks too, it cannot be executed.
    for applet in
        shell::output(Command::new("/usr/bin/busybox").arg("--list"))?.lines().filter(|name| *name != "busybox")
    {
        symlink("busybox", tree.join("bin").join(applet))?;
    }
    symlink("bin", tree.join("sbin"))?;
    fs::create_dir_all(tree.join("usr"))?;
    symlink("../bin", tree.join("usr/bin"))?;
    Ok(())
}

/// Puts the modules into the tree and returns the lines that load them.
fn modules(kernel: &Kernel, names: &[&str], tree: &Path) -> Result<String> {
    let mut loads = String::new();
    for (number, file) in kernel.modules(names)?.iter().enumerate() {
        let name = format!("lib/modules/{number:02}.ko");
        fs::write(tree.join(&name), kernel::plain(file)?)?;
        let _ = writeln!(loads, "insmod /{name} 2>/dev/null");
    }
    Ok(loads)
}

fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Copies a program of this machine, and the libraries it is linked to, in place of busybox's.
fn host_program(file: &Path, name: &str, tree: &Path) -> Result<()> {
    let to = tree.join("bin").join(name);
    let _ = fs::remove_file(&to);
    fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    let linked = shell::output(Command::new("ldd").arg(file))?;
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
        place(library, tree)?;
    }
    Ok(())
}

/// Copies a file to the same absolute path below the tree.
fn place(file: &Path, tree: &Path) -> Result<()> {
    let to = below(tree, file);
    fs::create_dir_all(to.parent().context("a file has a folder")?)?;
    fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

fn below(tree: &Path, absolute: &Path) -> PathBuf {
    tree.join(absolute.strip_prefix("/").unwrap_or(absolute))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmtest::console::MARK;

    #[test]
    fn the_lines_init_prints_are_those_the_host_reads() {
        assert!(RUN.contains(&format!("{MARK} begin $name")) && RUN.contains(&format!("{MARK} end $name $code")));
    }
}
