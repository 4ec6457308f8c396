//! A container that is started again while the cgroup of its last run cannot be removed yet: it waits, nobody else does.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::path::{Path, PathBuf};

use coppice_base::ContainerId;
use coppice_container::ContainerConfig;
use coppice_launcher::protocol::{LaunchError, Message, Reply, Request};
use rig::{Daemon, Rig, why};

/// A cgroup in a container's cgroup: as long as it is there, the kernel says of the one above that it is busy, as it
/// does while a process in it cannot end.
struct Hold(PathBuf);

impl Hold {
    fn on(rig: &Rig, id: &ContainerId) -> Self {
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
        let mut parents = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|dir| dir.join(&rig.cgroup));
        let dir = parents.find_map(|parent| below(&parent, id.as_str())).expect("the container has a cgroup");
        let hold = Self(dir.join("hold"));
        std::fs::create_dir(&hold.0).expect("a cgroup in it");
        hold
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// The directory of this name in `dir` or in one of those in it.
fn below(dir: &Path, name: &str) -> Option<PathBuf> {
    let here = dir.join(name);
    if here.is_dir() {
        return Some(here);
    }
    std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path().join(name)).find(|path| path.is_dir())
}

fn start(config: &ContainerConfig) -> Request {
    Request::Start { config: Box::new(config.clone()), attach: false }
}

fn kill(daemon: &mut Daemon, id: &ContainerId) {
    daemon.ask(Request::Signal { id: id.clone(), exec: None, signal: libc::SIGKILL, all: false });
    daemon.exit_of(id);
}

/// The next reply, whichever request it is to.
fn next_reply(daemon: &mut Daemon) -> (u64, Reply) {
    loop {
        if let Message::Reply { seq, reply } = daemon.next() {
            return (seq, reply);
        }
    }
}

/// A container that has ended, is forgotten, and has left a cgroup that cannot be removed.
fn ended_and_held(rig: &Rig, daemon: &mut Daemon) -> (ContainerConfig, Hold) {
    let config = rig.config(&["/bin/sleep", "1000"]);
    daemon.start(&config);
    let hold = Hold::on(rig, &config.id);
    kill(daemon, &config.id);
    assert!(matches!(daemon.ask(Request::Forget { id: config.id.clone() }), Reply::Done));
    (config, hold)
}

#[test]
fn a_start_waits_for_the_cgroup_of_the_last_run_while_others_are_served() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let (config, hold) = ended_and_held(&rig, &mut daemon);
    let waits = daemon.send(start(&config), None);
    // The same once more is no second start.
    assert_eq!(rig.refused(&config), LaunchError::Exists(config.id.clone()));
    let other = rig.config(&["/bin/true"]);
    let passes = daemon.send(start(&other), None);
    let (seq, reply) = next_reply(&mut daemon);
    assert!(seq == passes && matches!(reply, Reply::Started { .. }), "{seq} of {waits} and {passes}: {reply:?}");
    assert_eq!(daemon.exit_of(&other.id).code, 0);
    drop(hold);
    let (seq, reply) = next_reply(&mut daemon);
    assert!(seq == waits && matches!(reply, Reply::Started { .. }), "{reply:?}");
    kill(&mut daemon, &config.id);
    rig.nothing_left();
}

#[test]
fn a_start_that_has_waited_in_vain_says_for_what_and_the_next_one_tries_again() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let (config, hold) = ended_and_held(&rig, &mut daemon);
    // Longer than one cleaner tries.
    let why = why(&rig.refused(&config));
    let cgroup = hold.0.parent().expect("a cgroup").display().to_string();
    assert!(why.contains(&cgroup) && why.contains("still in use after 2 s"), "{why}");
    drop(hold);
    daemon.start(&config);
    kill(&mut daemon, &config.id);
    rig.nothing_left();
}

#[test]
fn a_start_that_waits_is_refused_when_the_launcher_ends() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let (config, _hold) = ended_and_held(&rig, &mut daemon);
    let waits = daemon.send(start(&config), None);
    let orderly = daemon.send(Request::Shutdown { kill: false }, None);
    let (seq, reply) = next_reply(&mut daemon);
    assert!(seq == orderly && matches!(&reply, Reply::Error { .. }), "one that waits counts as running: {reply:?}");
    daemon.send(Request::Shutdown { kill: true }, None);
    let (seq, reply) = next_reply(&mut daemon);
    let Reply::Error { error } = reply else { panic!("{reply:?}") };
    assert_eq!(seq, waits);
    assert!(error.to_string().contains("the launcher is told to end"), "{error}");
    rig.kill_launcher();
}
