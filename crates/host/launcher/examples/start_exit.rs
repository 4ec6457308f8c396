//! How long a container takes from request to reported end, through the launcher's socket.
//!
//! `start_exit [COUNT]` starts `/bin/true` of a busybox root that often, one after the other, and prints the median and
//! where the time goes; `start_exit COUNT burst` asks for all at once; `start_exit COUNT idle` keeps that many sleeping
//! and prints the launcher's memory; `start_exit COUNT bridge` puts them on a bridge.

#[path = "../tests/rig/bridge.rs"]
#[allow(dead_code, unreachable_pub)]
mod bridge;
#[path = "../tests/rig/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod rig;

use std::time::{Duration, Instant};

use bridge::Bridge;
use coppice_launcher::protocol::{Event, Message, Reply, Request};
use rig::Rig;

fn main() {
    let count: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200);
    // Before the launcher, which is to be in the bridge's network.
    let bridge = (std::env::args().nth(2).as_deref() == Some("bridge")).then(Bridge::new);
    let rig = Rig::new();
    // Every real image has these; without them each start makes three directories.
    for name in ["proc", "sys", "dev"] {
        std::fs::create_dir(rig.path().join("layer").join(name)).expect("mkdir");
    }
    let mut daemon = rig.connect(true);
    if std::env::args().nth(2).as_deref() == Some("burst") {
        let configs: Vec<_> = (0..count).map(|_| rig.config(&["/bin/true"])).collect();
        let begun = Instant::now();
        for config in configs {
            daemon.send(Request::Start { config: Box::new(config), attach: false }, None);
        }
        let mut ended = 0;
        while ended < count {
            match daemon.next() {
                Message::Event(Event::Exited { exit, .. }) => {
                    assert_eq!(exit.code, 0);
                    ended += 1;
                }
                Message::Reply { reply: Reply::Started { .. }, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        println!("{count} containers at once: {rate:.0} per second");
        return;
    }
    if std::env::args().nth(2).as_deref() == Some("idle") {
        for _ in 0..count {
            daemon.start(&rig.config(&["/bin/sleep", "1000"]));
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", rig.launcher_pid())).expect("status");
        let resident = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
        println!("{count} idle containers: launcher {resident}");
        return;
    }
    let (mut starts, mut totals) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let mut config = rig.config(&["/bin/true"]);
        if let Some(bridge) = &bridge {
            bridge.put(&mut config, 2);
        }
        let id = config.id.clone();
        let begun = Instant::now();
        daemon.send(Request::Start { config: Box::new(config), attach: false }, None);
        let mut started = Duration::ZERO;
        loop {
            match daemon.next() {
                Message::Reply { reply: Reply::Started { .. }, .. } => started = begun.elapsed(),
                Message::Event(Event::Exited { id: ended, exit }) if ended == id => {
                    assert_eq!(exit.code, 0);
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        starts.push(started);
        totals.push(begun.elapsed());
    }
    starts.sort();
    totals.sort();
    println!(
        "started {:?}, ended {:?} (median of {count}; p10 {:?}, p90 {:?})",
        starts[count / 2],
        totals[count / 2],
        totals[count / 10],
        totals[count * 9 / 10]
    );
}
