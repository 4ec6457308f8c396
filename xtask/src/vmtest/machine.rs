//! QEMU: boots a disk, collects the serial line, and ends the machine when it has said all, falls silent, or time is up.
//!
//! One processor each. With two, Linux holds the emulated TSC of a processor that is not Intel's for unsynchronized,
//! counts time in ticks instead, and an emulator on a busy machine delivers those late or never: sleeps took a
//! multiple of their time, and now and then both processors waited for a clock that stood still.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::console::{MARK, is_kernels};
use super::disk::Disk;
use super::kernel::Kernel;

/// All tests of a machine together, under emulation; each program has ten minutes of its own inside.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Longest silence of tests that run: the test runner itself says after a minute that a test still runs.
const SILENCE: Duration = Duration::from_secs(120);
/// From start to init's first word, with KVM. Where KVM is offered and does not work, nothing comes.
const KVM_BOOT: Duration = Duration::from_secs(10);
/// The same under emulation, on a machine that is busy with other things too.
const BOOT: Duration = Duration::from_secs(60);
/// A boot that stalls before init ran says nothing about the tests, so it is tried again.
const BOOTS: usize = 3;

/// Runs the machine to its end and returns all it said, which `console.log` beside the disk has line by line.
pub(crate) fn boot(kernel: &Kernel, disk: &Disk) -> Result<String> {
    if File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        if let Some(console) = attempt("kvm", kernel, disk, KVM_BOOT)? {
            return Ok(console);
        }
        eprintln!("KVM is there and boots nothing here: software emulation instead");
    }
    for _ in 0..BOOTS {
        if let Some(console) = attempt("tcg", kernel, disk, BOOT)? {
            return Ok(console);
        }
    }
    bail!("the machine did not boot in {BOOTS} attempts; what it said is in {}", disk.log().display())
}

/// All the machine said until it ended, fell silent or time was up; `None` when init never spoke.
fn attempt(accelerator: &str, kernel: &Kernel, disk: &Disk, patience: Duration) -> Result<Option<String>> {
    let started = Instant::now();
    let mut machine = Machine(spawn(accelerator, kernel, disk)?);
    let lines = listen(&mut machine.0)?;
    let mut console = String::new();
    let mut log = File::create(disk.log())?;
    let mut booted = false;
    let mut heard = started;
    let end = loop {
        let limit = if booted { (started + LIMIT).min(heard + SILENCE) } else { started + patience };
        match lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                booted |= line.contains(MARK);
                // A kernel that complains of a lock-up is no sign of life.
                if !is_kernels(&line) {
                    heard = Instant::now();
                }
                log.write_all(line.as_bytes())?;
                console.push_str(&line);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break "ran to its end",
            Err(mpsc::RecvTimeoutError::Timeout) if started.elapsed() >= LIMIT => break "was out of time",
            Err(mpsc::RecvTimeoutError::Timeout) if booted => break "fell silent",
            Err(mpsc::RecvTimeoutError::Timeout) => break "did not boot",
        }
    };
    let seconds = started.elapsed().as_secs_f64();
    eprintln!("machine {} ({accelerator}) {end} after {seconds:.0} s", disk.number);
    Ok(booted.then_some(console))
}

fn spawn(accelerator: &str, kernel: &Kernel, disk: &Disk) -> Result<Child> {
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-M", &format!("microvm,accel={accelerator},rtc=on"), "-cpu", "max", "-smp", "1", "-m", "1536"]);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&disk.initramfs);
    let line = "console=ttyS0 panic=-1 reboot=t quiet loglevel=4 mitigations=off cgroup_no_v1=all tsc=reliable";
    qemu.arg("-append").arg(format!("{line} {}", clock()));
    qemu.arg("-drive").arg(format!("id=root,file={},format=raw,if=none,cache=unsafe", disk.root.display()));
    qemu.args(["-device", "virtio-blk-device,drive=root"]);
    // What QEMU says of a KVM that does not work is long; that it does not is said in a line of ours.
    let errors = if accelerator == "kvm" { Stdio::null() } else { Stdio::inherit() };
    qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    qemu.spawn().context("cannot start qemu-system-x86_64")
}

/// The emulated clock counts as this machine's does. Told so, the kernel need not measure it, which on a busy machine
/// fails and stalls the boot.
fn clock() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("cpu MHz")).unwrap_or_default();
    let megahertz = line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
    megahertz.map(|number| format!("tsc_early_khz={:.0}", number * 1000.0)).unwrap_or_default()
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
