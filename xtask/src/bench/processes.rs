//! Programs that stay while something is measured: started, waited for, looked at, ended.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::shell;

/// A daemon must answer within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Kernel ticks a second in /proc/PID/stat; fixed by the ABI on x86-64 and arm64.
const TICKS: f64 = 100.0;

/// Starts a program that stays; it ends with our process namespace at the latest.
pub(super) fn background(command: &mut Command, log: &Path) -> Result<Child> {
    logged(command.stdin(Stdio::null()), log)
}

fn logged(command: &mut Command, log: &Path) -> Result<Child> {
    let log = fs::File::create(log)?;
    let child = command.stdout(log.try_clone()?).stderr(log).spawn();
    child.with_context(|| format!("cannot start `{}`", shell::line(command)))
}

pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            bail!("waited {} s for {what}", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// A program that is told to end when this is dropped, and waited for. Its standard input is silent, and ends with it.
pub(super) struct Service(Child);

impl Service {
    pub(super) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        logged(command.stdin(Stdio::piped()), log).map(Self)
    }

    /// The program and those it has started, which do not start any themselves.
    pub(super) fn processes(&self) -> Processes {
        let own = u64::from(self.0.id());
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        Processes(std::iter::once(own).chain(children).collect())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Killed, a program like nginx would leave its workers behind.
        let _ = shell::output(Command::new("kill").arg(self.0.id().to_string()));
        let _ = self.0.wait();
    }
}

/// What some processes cost together.
pub(super) struct Processes(pub(super) Vec<u64>);

impl Processes {
    /// Resident memory, and the proportional kind (pages that several share counted once); megabytes.
    pub(super) fn memory_mb(&self) -> Result<(f64, f64)> {
        let (mut resident, mut own) = (0.0, 0.0);
        for pid in &self.0 {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
                .with_context(|| format!("process {pid} is gone while it is measured"))?;
            resident += kilobytes(&rollup, "Rss:") / 1024.0;
            own += kilobytes(&rollup, "Pss:") / 1024.0;
        }
        Ok((resident, own))
    }

    /// Seconds of processor time spent so far, in the kernel too.
    pub(super) fn processor_s(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for pid in &self.0 {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // After the name in parentheses, which may hold anything: utime and stime are the 12th and 13th.
            let (_, rest) = stat.rsplit_once(')').context("a strange /proc/PID/stat")?;
            ticks += rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(ticks / TICKS)
    }
}

fn kilobytes(rollup: &str, key: &str) -> f64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_seen_with_its_children_and_ends_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap 'kill $!; exit' TERM; sleep 1000 & wait"]);
        let service = Service::start(&mut shell, &folder.path().join("log")).unwrap();
        until("the child", || service.processes().0.len() == 2).unwrap();
        let processes = service.processes();
        let (resident, own) = processes.memory_mb().unwrap();
        assert!(resident > 0.1 && own > 0.01 && own <= resident, "{resident} {own}");
        assert!(processes.processor_s().unwrap() < 10.0);
        drop(service);
        assert!(processes.memory_mb().is_err(), "the shell is gone");
    }
}
