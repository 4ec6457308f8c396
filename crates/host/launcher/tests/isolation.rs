//! A container has its own everything, and root inside is nobody outside.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::os::unix::fs::MetadataExt;

use coppice_container::Network;
use rig::Rig;

const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];

#[test]
fn every_namespace_is_the_containers_own() {
    let rig = Rig::new();
    let done = rig.sh("for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done");
    let host: Vec<String> = NAMESPACES
        .iter()
        .map(|n| std::fs::read_link(format!("/proc/self/ns/{n}")).expect("ns").display().to_string())
        .collect();
    let inside: Vec<&str> = done.ok().lines().collect();
    assert_eq!(inside.len(), NAMESPACES.len());
    for (inside, host) in inside.iter().zip(&host) {
        assert_ne!(inside, host);
    }
}

#[test]
fn the_first_process_is_pid_one_of_a_namespace_without_strangers() {
    let rig = Rig::new();
    let done = rig.sh("echo $$; ls -d /proc/[0-9]* | wc -l; hostname");
    // The shell, ls and wc.
    let lines: Vec<&str> = done.ok().lines().collect();
    assert_eq!(lines[0], "1");
    assert!(lines[1].parse::<u32>().expect("a number") <= 3, "{lines:?}");
    assert_eq!(lines[2], "test");
}

#[test]
fn root_inside_is_nobody_outside() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sh", "-c", "id -u; echo mine > /made; cat /proc/self/uid_map; exec sleep 100"]);
    let mut daemon = rig.connect(true);
    let pid = daemon.start(&config);
    let upper = config.rootfs.scratch.join("upper/made");
    rig::wait_for("the file", || upper.exists());
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let uid = status.lines().find(|l| l.starts_with("Uid:")).expect("Uid");
    let first = config.ids.first.to_string();
    assert!(uid.split_whitespace().skip(1).all(|uid| uid == first), "{uid}");
    assert_eq!(std::fs::metadata(&upper).expect("upper").uid(), config.ids.first);
    rig::wait_for("the log", || rig.log(&config).lines().count() >= 2);
    let said = rig::lines_of(&rig.log(&config), "stdout");
    assert!(said.starts_with("0\n"), "{said}");
}

#[test]
fn files_of_a_layer_belong_to_who_the_image_says() {
    let rig = Rig::new();
    let file = rig.path().join("layer/home/web/page");
    std::fs::write(&file, "x").expect("write");
    std::os::unix::fs::chown(&file, Some(101), Some(102)).expect("chown");
    let done = rig.sh("stat -c '%u:%g' /home/web/page /bin/busybox / && touch /home/web/page");
    assert_eq!(done.ok(), "101:102\n0:0\n0:0\n");
    // The layer itself is as it was.
    assert_eq!(std::fs::metadata(&file).expect("page").uid(), 101);
}

#[test]
fn only_loopback_is_there_without_a_network_and_it_is_up() {
    let rig = Rig::new();
    let done = rig.sh("ls /sys/class/net; nc -l -p 80 -e echo pong & sleep 0.2; nc 127.0.0.1 80");
    assert_eq!(done.ok(), "lo\npong\n");
}

#[test]
fn a_container_in_the_hosts_network_sees_the_hosts_devices_and_cannot_change_sys() {
    let rig = Rig::new();
    let mut config =
        rig.config(&["/bin/sh", "-c", "readlink /proc/self/ns/net; echo 1 > /sys/kernel/mm/ksm/run || echo refused"]);
    config.network = Network::Host;
    let done = rig.run(&config);
    let host = std::fs::read_link("/proc/self/ns/net").expect("ns");
    assert_eq!(done.ok(), format!("{}\nrefused\n", host.display()));
}

#[test]
fn two_containers_cannot_see_each_others_files_or_processes() {
    let rig = Rig::new();
    let mut daemon = rig.connect(true);
    let first = rig.config(&["/bin/sh", "-c", "echo secret > /tmp/mine; echo up; exec sleep 100"]);
    daemon.start(&first);
    rig::wait_for("the first", || rig.log(&first).contains("up"));
    let done = rig.sh("ls /tmp; ps | grep -c '[s]leep 100'; true");
    assert_eq!(done.ok(), "0\n");
}

#[test]
fn a_failed_start_leaves_nothing_behind() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/true"]);
    config.process.user = "nobody-here".to_owned();
    assert!(rig::why(&rig.refused(&config)).contains("no user \"nobody-here\""));
    let mut config = rig.config(&["/bin/true"]);
    config.rootfs.layers = vec!["/does/not/exist".into()];
    assert!(rig::why(&rig.refused(&config)).contains("/does/not/exist"));
    let mut config = rig.config(&["/bin/true"]);
    config.ids.count = 0;
    rig.refused(&config);
    rig.nothing_left();
    let mut daemon = rig.connect(false);
    let reply = daemon.ask(coppice_launcher::protocol::Request::List);
    assert!(
        matches!(&reply, coppice_launcher::protocol::Reply::Containers { containers } if containers.is_empty()),
        "{reply:?}"
    );
}
