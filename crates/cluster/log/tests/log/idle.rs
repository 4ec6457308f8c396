//! A log that nobody uses costs nothing.

use std::time::{Duration, Instant};

use crate::words::{open, release};

/// Times that the threads of the runtime woke up so far, and clock ticks (10 ms) that they ran. (The database's
/// thread has no timer: it waits for a job.)
fn spent() -> (u64, u64) {
    let (mut wakes, mut ticks) = (0, 0);
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap().path();
        let Ok(name) = std::fs::read_to_string(task.join("comm")) else { continue };
        if name.trim() != "idle-log" {
            continue;
        }
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        wakes += switches.trim().parse::<u64>().unwrap();
        let stat = std::fs::read_to_string(task.join("stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    }
    (wakes, ticks)
}

/// Not a wait for something to happen: the window in which nothing should.
fn measure_for(window: Duration) -> (u64, u64) {
    let (wakes, ticks) = spent();
    let end = Instant::now() + window;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
    let (wakes_after, ticks_after) = spent();
    (wakes_after - wakes, ticks_after - ticks)
}

#[test]
fn an_idle_log_hardly_wakes_up() {
    let dir = tempfile::tempdir().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("idle-log").enable_all().build();
    let runtime = runtime.unwrap();
    let path = dir.path().to_owned();
    let log = runtime.spawn(async move {
        let log = open(&path).await;
        log.propose(release(1, 0)).await.unwrap();
        log
    });
    let log = runtime.block_on(log).unwrap();
    let (wakes, ticks) = measure_for(Duration::from_secs(3));
    assert!(wakes <= 6 && ticks <= 1, "in 3 s: {wakes} wake-ups, {ticks} ticks");
    runtime.block_on(log.shutdown());
}
