//! Volumes by hand: kept, rolled back, cloned and removed, under apps that use them; on btrfs and elsewhere.

mod node;
mod project;
mod zfs;

use node::{Node, Output};
use project::{Project, wait_until};
use serde_json::Value;
use zfs::ZfsFuse;

/// A counter that adds a line each time it starts, and lives on.
const COUNTER: &str = r#"
[service.count]
image = "box"
command = ["sh", "-c", "echo line >> /data/lines && exec sleep 1000"]
volumes = ["data:/data"]
stop_signal = "KILL"
"#;

/// Nodes whose volumes are directories, and subvolumes.
fn nodes() -> [Node; 2] {
    [Node::new(), Node::on_btrfs(256 << 20)]
}

fn lines(node: &Node, shop: &Project<'_>) -> usize {
    std::fs::read_to_string(node.see(&shop.volume("data").join("lines"))).unwrap().lines().count()
}

fn stop(shop: &Project<'_>) {
    shop.ok(&["stop", "count"]);
    wait_until("it has stopped", || shop.pids().is_empty());
}

#[test]
fn a_volume_is_kept_rolled_back_and_had_again_and_nothing_that_runs_loses_its_data() {
    for (node, kind) in nodes().iter().zip(["directory", "btrfs"]) {
        node.busybox_image();
        let shop = Project::new(node, "shop", COUNTER);
        shop.up();
        wait_until("it has written", || lines(node, &shop) == 1);
        let list: Value = serde_json::from_str(&shop.ok(&["volume", "ls", "--json"])).unwrap();
        assert_eq!(list[0]["name"], "shop/data");
        assert_eq!((&list[0]["kind"], &list[0]["used_by"][0]), (&kind.into(), &"shop.count-1".into()), "{list}");

        // Under a container that writes: of one moment, or not at all.
        let asked = shop.coppice(&["volume", "snapshot", "data"]);
        match kind {
            "btrfs" => assert_eq!(asked.succeeded().stdout, "shop/data: kept as manual-1\n"),
            _ => drop(asked.ended_with(1).complained("is used by shop.count-1").complained("coppice stop")),
        }
        stop(&shop);
        shop.ok(&["volume", "snapshot", "data", "one"]);
        shop.ok(&["start", "count"]);
        wait_until("it has written again", || lines(node, &shop) == 2);
        shop.coppice(&["volume", "rollback", "data", "one"]).ended_with(1).complained("is used by shop.count-1");
        shop.coppice(&["volume", "rm", "data"]).ended_with(1).complained("is used by shop.count-1");

        stop(&shop);
        let said = shop.ok(&["volume", "rollback", "data", "one"]);
        assert_eq!(said, "shop/data: is what one is; what it was is kept as cut-1\n");
        assert_eq!(lines(node, &shop), 1);
        shop.ok(&["start", "count"]);
        wait_until("the same container goes on with it", || lines(node, &shop) == 2);
        stop(&shop);
        shop.ok(&["volume", "rollback", "data", "cut-1"]);
        assert_eq!(lines(node, &shop), 2);
        let detail: Value = serde_json::from_str(&shop.ok(&["volume", "inspect", "shop/data", "--json"])).unwrap();
        let names: Vec<&str> =
            detail["snapshots"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        let kept: &[&str] =
            if kind == "btrfs" { &["cut-1", "cut-2", "manual-1", "one"] } else { &["cut-1", "cut-2", "one"] };
        assert_eq!(names, kept);
        assert_eq!(detail["snapshots"][kept.len() - 1]["stamps"]["created_by"], "uid 0");

        // A clone is another volume, of any container's.
        shop.ok(&["volume", "clone", "data", "one", "copy"]);
        let seen = node.ok(["run", "--rm", "--network", "none", "-v", "copy:/copy", "box", "cat", "/copy/lines"]);
        assert_eq!(seen, "line");
        node.ok(["volume", "rm", "copy"]);
        shop.ok(&["volume", "rm", "data", "one"]);
        shop.coppice(&["volume", "rollback", "data", "one"]).ended_with(1).complained("has no snapshot one");
        shop.coppice(&["volume", "snapshot", "nosuch"]).ended_with(1).complained("no dataset nosuch");
        shop.coppice(&["volume", "snapshot", "data", "../x"]).ended_with(2).complained("not a snapshot's name");
        shop.ok(&["down", "--volumes"]);
        assert_eq!(node.ok(["volume", "ls", "--json"]), "[]");
        assert_eq!(std::fs::read_dir(node.see(&node.root().join("volumes"))).unwrap().count(), 0);
    }
}

#[test]
fn a_volume_is_sent_to_another_node_in_full_and_by_difference_and_nothing_half_of_it_is_taken() {
    let nodes = nodes();
    let streams = nodes.iter().zip(["directory", "btrfs"]).map(|(node, kind)| {
        node.busybox_image();
        let shop = Project::new(node, "shop", COUNTER);
        shop.up();
        wait_until("it has written", || lines(node, &shop) == 1);
        stop(&shop);
        let at = |name: &str| node.dir().join(name);
        let to = |name: &str| at(name).to_str().unwrap().to_owned();
        let kept = shop.coppice(&["volume", "send", "data", "-o", &to("full")]).succeeded();
        assert_eq!(kept.stderr, "shop/data: kept as manual-1, which is sent\n");
        shop.ok(&["start", "count"]);
        wait_until("it has written again", || lines(node, &shop) == 2);
        stop(&shop);
        shop.ok(&["volume", "snapshot", "data", "two"]);
        shop.ok(&["volume", "send", "data@two", "--from", "manual-1", "-o", &to("difference")]);
        shop.coppice(&["volume", "send", "data@nosuch", "-o", &to("none")])
            .ended_with(1)
            .complained("no snapshot nosuch");
        shop.coppice(&["volume", "send", "data@two", "--from", "x", "-o", &to("none")])
            .ended_with(1)
            .complained("no snapshot x");
        let left = |name: &str| at(name).exists();
        assert!(!left("none") && !left("none.part") && !left("full.part"), "{kind}");
        (at("full"), at("difference"))
    });
    let streams: Vec<_> = streams.collect();
    // Each to the other kind.
    for (at, node) in nodes.iter().enumerate() {
        let (full, difference) = &streams[(at + 1) % streams.len()];
        let receive = |volume: &str, stream: &std::path::Path| {
            node.coppice(["volume", "receive", volume, "-i", stream.to_str().unwrap()])
        };
        let cut = node.file("cut", &std::fs::read(full).unwrap()[..300]);
        receive("copy", &cut)
            .ended_with(2)
            .complained("nothing was received into copy")
            .complained("ends before its end");
        receive("copy", difference).ended_with(1).complained("a snapshot manual-1 that is not here");
        receive("copy", &node.file("foreign", "something else")).ended_with(2).complained("no volume's stream");
        assert_eq!(receive("copy", full).succeeded().stdout, "copy: made of manual-1\n");
        let seen = || node.ok(["run", "--rm", "--network", "none", "-v", "copy:/copy", "box", "cat", "/copy/lines"]);
        assert_eq!(seen(), "line");
        let said = receive("copy", difference).succeeded().stdout;
        assert!(said.starts_with("copy: has a snapshot two now; `coppice volume rollback copy two`"), "{said}");
        receive("copy", difference).ended_with(1).complained("has a snapshot two already");
        node.ok(["volume", "rollback", "copy", "two"]);
        assert_eq!(seen(), "line\nline");
    }
    // And to a pool.
    let zfs = Node::with_settings(zfs::SETTINGS);
    let _daemon = ZfsFuse::of(&zfs);
    for (volume, (full, difference)) in ["one", "two"].iter().zip(&streams) {
        zfs.ok(["volume", "receive", volume, "-i", full.to_str().unwrap()]);
        zfs.ok(["volume", "receive", volume, "-i", difference.to_str().unwrap()]);
        zfs.ok(["volume", "rollback", volume, "two"]);
        let detail = zfs.json(["volume", "inspect", volume]);
        let lines = zfs.see(&std::path::Path::new(detail["path"].as_str().unwrap()).join("lines"));
        assert_eq!((&detail["kind"], std::fs::read_to_string(lines).unwrap().lines().count()), (&"zfs".into(), 2));
    }
    zfs.ok(["node", "stop", "--all"]);
}

/// A user's own data, which is not root's, in a volume that its image begins; `LINE` is what a start does to it.
const KEEPER: &str = r#"
[service.keep]
image = "box"
command = ["sh", "-c", "LINE; exec sleep 1000"]
user = "1000:1000"
volumes = ["data:/home/app"]
stop_signal = "KILL"

[volume.data]
"#;

/// As a container sees them, the owners and modes of what is in its volume.
fn owners(shop: &Project<'_>) -> String {
    shop.shell("keep-1", "cd /home/app && stat -c '%n %u:%g %a' . rows tool")
}

#[test]
fn containers_have_volumes_of_a_filesystem_without_id_maps_and_their_data_comes_back() {
    let node = Node::with_settings(zfs::SETTINGS);
    let _daemon = ZfsFuse::of(&node);
    node.busybox_image();
    let first = KEEPER.replace("LINE", "[ -e /home/app/rows ] || echo 1 > /home/app/rows");
    let shop = Project::new(&node, "shop", &first);
    shop.ok(&["up", "--timeout", "20s"]);
    let rows = || node.see(&shop.volume("data").join("rows"));
    wait_until("the user has written", || rows().exists());
    shop.shell("keep-1", "seq 1 500 > /home/app/rows && echo x > /home/app/tool && chmod 4750 /home/app/tool");
    let before = owners(&shop);
    assert_eq!(before, ". 1000:1000 755\nrows 1000:1000 644\ntool 1000:1000 4750\n");
    // On disk they are the app's, of which the host has nobody.
    let uid = std::os::unix::fs::MetadataExt::uid(&rows().metadata().unwrap());
    assert!(uid >= 0x1000_0000 && uid % 65_536 == 1000, "{uid}");

    shop.write(&KEEPER.replace("LINE", "rm -f /home/app/tool; echo lost > /home/app/rows"));
    shop.ok(&["up", "--timeout", "20s"]);
    wait_until("the release did its damage", || std::fs::read_to_string(rows()).unwrap() == "lost\n");
    shop.write(&first);
    shop.ok(&["rollback", "shop", "--data"]);
    assert_eq!(owners(&shop), before);
    assert_eq!(std::fs::read_to_string(rows()).unwrap().lines().count(), 500, "every row is there");

    // A stream says what containers see; who has the volume next has it as his own, one at a time.
    let stream = node.dir().join("stream");
    shop.ok(&["stop", "keep"]);
    shop.ok(&["volume", "snapshot", "data", "sent"]);
    shop.ok(&["volume", "send", "data@sent", "-o", stream.to_str().unwrap()]);
    node.ok(["volume", "receive", "copy", "-i", stream.to_str().unwrap()]);
    let look = ["--network", "none", "--user", "1000", "-v", "copy:/c", "box"];
    let see = || node.ok([&["run", "--rm"][..], &look, &["stat", "-c", "%u:%g %a", "/c/rows", "/c/tool"]].concat());
    assert_eq!(see(), "1000:1000 644\n1000:1000 4750");
    node.ok([&["run", "-d", "--name", "holder"][..], &look, &["sleep", "1000"]].concat());
    let refused = node.coppice([&["run", "--rm"][..], &look, &["true"]].concat());
    assert_ne!(refused.code, 0);
    refused.complained("copy is used by holder").complained("no id-mapped mounts");
    node.ok(["rm", "-f", "holder"]);
    assert_eq!(see(), "1000:1000 644\n1000:1000 4750");
    node.ok(["node", "stop", "--all"]);
}

#[test]
fn what_releases_ask_of_a_volumes_storage_is_so_at_once_and_a_full_one_stops_its_own_app_alone() {
    let [_, node] = nodes();
    node.busybox_image();
    let manifest = |properties: &str| format!("{COUNTER}\n[volume.data]\n{properties}\n");
    let shop = Project::new(&node, "shop", &manifest("compression = \"zstd\"\nquota = \"4MiB\""));
    shop.up();
    let head = shop.volume("data");
    let btrfs = |args: &[&str]| {
        let mut command = node.inside("btrfs");
        command.args(args).arg(&head);
        Output::of(command).succeeded().stdout
    };
    let compression = || btrfs(&["property", "get", "-t", "inode"]).trim().to_owned();
    let limit = || {
        let shown = btrfs(&["qgroup", "show", "-re", "--raw", "-F"]);
        shown.lines().rfind(|line| line.starts_with("0/")).unwrap_or_default().to_owned()
    };
    wait_until("the first release's are there", || compression() == "compression=zstd");
    assert!(limit().contains(&(4 << 20).to_string()), "{}", limit());
    let write = |megabytes: u32| {
        let script = format!("dd if=/dev/urandom of=/data/large bs=1M count={megabytes} conv=fsync");
        shop.coppice(&["exec", "shop/count-1", "sh", "-c", &script])
    };
    let full = write(8);
    assert_ne!(full.code, 0);
    assert!(full.stderr.contains("/data/large") || full.stdout.contains("/data/large"));
    assert!(format!("{}{}", full.stdout, full.stderr).contains("uota exceeded"));

    shop.write(&manifest("compression = \"gzip\"\nquota = \"32MiB\""));
    shop.up();
    wait_until("the second's are there", || compression() == "compression=zlib");
    wait_until("and its limit", || limit().contains(&(32u32 << 20).to_string()));
    assert_eq!(write(8).code, 0);
    shop.write(&manifest(""));
    shop.up();
    wait_until("none is asked for", || compression().is_empty());
    assert!(!limit().contains(&(32u32 << 20).to_string()), "{}", limit());
    node.ok(["node", "stop", "--all"]);
}
