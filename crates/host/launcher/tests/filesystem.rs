//! The tree a container sees: layers, writable top, mounts, what is hidden and protected.

#[allow(dead_code, unreachable_pub)]
mod rig;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use coppice_base::Bytes;
use coppice_container::{Mount, MountSource, SecretBytes, SecretFile};
use rig::Rig;
use zeroize::Zeroizing;

fn bind(source: &std::path::Path, target: &str, read_only: bool) -> Mount {
    Mount { target: target.into(), read_only, source: MountSource::Bind { path: source.to_owned() } }
}

#[test]
fn upper_layers_cover_lower_ones_and_whiteouts_remove() {
    let rig = Rig::new();
    let second = rig.path().join("second");
    std::fs::create_dir_all(second.join("etc")).expect("mkdir");
    std::fs::write(second.join("etc/motd"), "second\n").expect("write");
    std::fs::write(rig.path().join("layer/etc/motd"), "first\n").expect("write");
    std::fs::write(rig.path().join("layer/etc/gone"), "x").expect("write");
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        second.join("etc/gone"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::empty(),
        rustix::fs::makedev(0, 0),
    );
    made.expect("whiteout");
    let mut config = rig.config(&["/bin/sh", "-c", "cat /etc/motd; test -e /etc/gone || echo gone"]);
    config.rootfs.layers.push(second);
    assert_eq!(rig.run(&config).ok(), "second\ngone\n");
}

#[test]
fn what_a_container_writes_stays_in_its_scratch() {
    let rig = Rig::new();
    let config = rig.config(&["/bin/sh", "-c", "echo new > /etc/motd; rm /etc/passwd; mkdir /data"]);
    rig.run(&config).ok();
    assert!(rig.path().join("layer/etc/passwd").exists());
    assert!(!rig.path().join("layer/etc/motd").exists());
    assert_eq!(std::fs::read_to_string(config.rootfs.scratch.join("upper/etc/motd")).expect("motd"), "new\n");
}

#[test]
fn a_read_only_root_cannot_be_written_but_its_mounts_can() {
    let rig = Rig::new();
    let volume = rig.path().join("volume");
    std::fs::create_dir(&volume).expect("mkdir");
    let script = "touch /x 2>/dev/null || echo refused; touch /data/y /run/z /dev/shm/s && echo fine";
    let mut config = rig.config(&["/bin/sh", "-c", script]);
    config.rootfs.read_only = true;
    config.mounts = vec![
        bind(&volume, "/data", false),
        Mount { target: "/run".into(), read_only: false, source: MountSource::Tmpfs { size: Some(Bytes(1 << 20)) } },
    ];
    assert_eq!(rig.run(&config).ok(), "refused\nfine\n");
    assert!(volume.join("y").exists());
}

#[test]
fn a_volume_keeps_the_ids_the_container_sees() {
    let rig = Rig::new();
    let volume = rig.path().join("volume");
    std::fs::create_dir(&volume).expect("mkdir");
    std::fs::set_permissions(&volume, PermissionsExt::from_mode(0o777)).expect("chmod");
    let script = "touch /data/root; su web -c 'touch /data/web'; stat -c %u /data/root /data/web";
    let mut config = rig.config(&["/bin/sh", "-c", script]);
    config.mounts = vec![bind(&volume, "/data", false)];
    assert_eq!(rig.run(&config).ok(), "0\n101\n");
    assert_eq!(std::fs::metadata(volume.join("root")).expect("root").uid(), 0);
    assert_eq!(std::fs::metadata(volume.join("web")).expect("web").uid(), 101);
    // A container with another range sees the same owners.
    let mut config = rig.config(&["/bin/stat", "-c", "%u", "/data/web"]);
    config.mounts = vec![bind(&volume, "/data", false)];
    assert_eq!(rig.run(&config).ok(), "101\n");
}

#[test]
fn a_read_only_bind_cannot_be_written() {
    let rig = Rig::new();
    let volume = rig.path().join("volume");
    std::fs::create_dir(&volume).expect("mkdir");
    std::fs::write(volume.join("a"), "text\n").expect("write");
    let mut config =
        rig.config(&["/bin/sh", "-c", "cat /deep/down/a; echo x 2>/dev/null >> /deep/down/a || echo refused"]);
    config.mounts = vec![bind(&volume, "/deep/down", true)];
    assert_eq!(rig.run(&config).ok(), "text\nrefused\n");
}

#[test]
fn a_file_can_be_mounted_over_a_file_that_is_missing() {
    let rig = Rig::new();
    let hosts = rig.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n").expect("write");
    let mut config = rig.config(&["/bin/sh", "-c", "cat /etc/hosts; stat -c %u:%g /etc/hosts"]);
    config.mounts =
        vec![Mount { target: "/etc/hosts".into(), read_only: false, source: MountSource::Generated { path: hosts } }];
    assert_eq!(rig.run(&config).ok(), "127.0.0.1 localhost\n0:0\n");
}

#[test]
fn a_tmpfs_has_its_size_and_nothing_of_it_reaches_the_disk() {
    let rig = Rig::new();
    let script = "dd if=/dev/zero of=/cache/big bs=1k count=2000 2>/dev/null || echo full; stat -c %a /cache";
    let mut config = rig.config(&["/bin/sh", "-c", script]);
    config.mounts = vec![Mount {
        target: "/cache".into(),
        read_only: false,
        source: MountSource::Tmpfs { size: Some(Bytes(1 << 20)) },
    }];
    assert_eq!(rig.run(&config).ok(), "full\n1777\n");
    assert!(!config.rootfs.scratch.join("upper/cache/big").exists());
}

#[test]
fn a_missing_source_says_which() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/true"]);
    config.mounts = vec![bind(std::path::Path::new("/no/such/volume"), "/data", false)];
    let why = rig::why(&rig.refused(&config));
    assert!(why.contains("/data") && why.contains("/no/such/volume"), "{why}");
    rig.nothing_left();
}

#[test]
fn a_filesystem_without_id_mapping_is_refused_with_what_to_do() {
    let rig = Rig::new();
    let mut config = rig.config(&["/bin/true"]);
    config.mounts = vec![bind(std::path::Path::new("/proc/sys"), "/data", false)];
    let why = rig::why(&rig.refused(&config));
    assert!(why.contains("id-mapped"), "{why}");
}

#[test]
fn devices_are_the_usual_ones_and_work() {
    let rig = Rig::new();
    let script = "ls /dev; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; echo x > /dev/null && \
                  readlink /dev/stdin; readlink /dev/fd; df /dev/shm | tail -1 | awk '{print $2}'; \
                  echo x > /dev/full || echo full";
    let mut config = rig.config(&["/bin/sh", "-c", script]);
    config.shm_size = Bytes(8 << 20);
    let done = rig.run(&config);
    let want = "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
                3\n3\n/proc/self/fd/0\n/proc/self/fd\n8192\nfull\n";
    assert_eq!(done.ok(), want);
}

#[test]
fn a_device_node_in_an_image_is_no_device() {
    let rig = Rig::new();
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        rig.path().join("layer/etc/zero"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 5),
    );
    made.expect("mknod");
    assert_eq!(rig.sh("head -c 1 /etc/zero 2>/dev/null || echo refused").ok(), "refused\n");
}

#[test]
fn what_shows_or_changes_the_host_is_masked_or_read_only() {
    let rig = Rig::new();
    let script = "for f in /proc/kcore /proc/keys /proc/timer_list; do test -e $f && wc -c < $f; done | sort -u; \
                  for d in /proc/acpi /proc/scsi /sys/firmware; do ls -A $d 2>/dev/null | wc -l; done | sort -u; \
                  for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity \
                  /proc/sys/vm/drop_caches; do sh -c \"echo 0 > $f\" 2>/dev/null && echo wrote $f; done; \
                  touch /sys/x 2>/dev/null || echo sys";
    assert_eq!(rig.sh(script).ok(), "0\n0\nsys\n");
}

#[test]
fn ping_and_low_ports_need_no_capability() {
    let rig = Rig::new();
    rig.add_probe();
    let mut config = rig.config(&[
        "/bin/sh",
        "-c",
        "cat /proc/sys/net/ipv4/ping_group_range | tr '\\t' ' '; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
         /probe ping",
    ]);
    config.process.user = "web".to_owned();
    config.process.capabilities = 0;
    assert_eq!(rig.run(&config).ok(), "0 65535\n0\nping allowed\nport-80 allowed\n");
}

#[test]
fn secrets_are_files_of_their_owners_that_nobody_inside_puts_others_in_place_of() {
    let rig = Rig::new();
    let script = "cat /run/secrets/a /etc/deep/key; stat -Lc '%a %u:%g' /run/secrets/a /etc/deep/key; \
                  stat -fc %T /run/secrets; rm /run/secrets/a 2>/dev/null || echo kept; \
                  touch /run/secrets/b 2>/dev/null || echo refused; su web -c 'cat /run/secrets/a' 2>/dev/null || echo not web";
    let mut config = rig.config(&["/bin/sh", "-c", script]);
    let file = |path: &str, mode, uid| SecretFile {
        path: path.into(),
        mode,
        uid,
        gid: 0,
        content: SecretBytes(Zeroizing::new(format!("value of {path}\n").into_bytes())),
    };
    let files = vec![file("a", 0o400, 0), file(".at/0", 0o440, 101)];
    let links = BTreeMap::from([("/etc/deep/key".into(), ".at/0".into())]);
    let secrets =
        Mount { target: "/run/secrets".into(), read_only: false, source: MountSource::Secrets { files, links } };
    config.mounts = vec![secrets];
    config.rootfs.read_only = true;
    let said = rig.run(&config);
    assert_eq!(said.ok(), "value of a\nvalue of .at/0\n400 0:0\n440 101:0\ntmpfs\nkept\nrefused\nnot web\n");
}
