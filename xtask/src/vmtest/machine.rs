//! QEMU: boots the disk, collects the serial line, and ends the machine when it has said all or time is up.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::disk::Disk;
use super::kernel::Kernel;

/// All tests together, under emulation; each program has two minutes of its own inside.
const LIMIT: Duration = Duration::from_secs(10 * 60);
/// From start to the kernel's first line with KVM. Where KVM is offered and does not work, nothing comes.
const FIRST_LINE: Duration = Duration::from_secs(10);

/// Runs the machine to its end and returns all it said, which `console.log` beside the disk has line by line.
pub(crate) fn boot(kernel: &Kernel, disk: &Disk) -> Result<String> {
    if File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        match attempt("kvm", kernel, disk, Some(FIRST_LINE)) {
            Ok(console) if console.contains("@vmtest begin") => return Ok(console),
            Ok(_) => eprintln!("KVM is there and boots nothing here: software emulation instead"),
            Err(error) => eprintln!("KVM does not work here ({error:#}): software emulation instead"),
        }
    }
    attempt("tcg", kernel, disk, None)
}

fn attempt(accelerator: &str, kernel: &Kernel, disk: &Disk, first_line: Option<Duration>) -> Result<String> {
    let started = Instant::now();
    let mut machine = Machine(spawn(accelerator, kernel, disk)?);
    let lines = listen(&mut machine.0)?;
    let mut console = String::new();
    let mut log = File::create(disk.log())?;
    loop {
        let limit = if console.is_empty() { first_line.unwrap_or(LIMIT) } else { LIMIT };
        let left = limit.checked_sub(started.elapsed()).unwrap_or_default();
        match lines.recv_timeout(left) {
            Ok(line) => {
                log.write_all(line.as_bytes())?;
                console.push_str(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) if console.is_empty() => {
                bail!("no line within {} s", limit.as_secs());
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                console.push_str("\nthe machine was ended: out of time\n");
                break;
            }
        }
    }
    eprintln!("the machine ({accelerator}) ran for {:.0} s", started.elapsed().as_secs_f64());
    Ok(console)
}

fn spawn(accelerator: &str, kernel: &Kernel, disk: &Disk) -> Result<Child> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", &format!("microvm,accel={accelerator},rtc=on"), "-cpu", "max", "-smp", "2", "-m", "2048"]);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&disk.initramfs);
    qemu.args(["-append", "console=ttyS0 panic=-1 reboot=t quiet loglevel=4 mitigations=off cgroup_no_v1=all"]);
    qemu.arg("-drive").arg(format!("id=root,file={},format=raw,if=none,cache=unsafe", disk.root.display()));
    qemu.args(["-device", "virtio-blk-device,drive=root"]);
    // What QEMU says of a KVM that does not work is long; that it does not is said in a line of ours.
    let errors = if accelerator == "kvm" { Stdio::null() } else { Stdio::inherit() };
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    qemu.spawn().context("cannot start qemu-system-x86_64")
}

/// Lines as they come; the channel closes when the machine's line does.
fn listen(machine: &mut Child) -> Result<mpsc::Receiver<String>> {
    let mut serial = BufReader::new(machine.stdout.take().context("qemu has no output")?);
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        while serial.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if send.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    Ok(receive)
}

/// Ended with us, whatever happens.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
