//! Volumes by hand: kept, rolled back, cloned and removed, under apps that use them; on btrfs and elsewhere.

mod node;
mod project;

use node::{Node, Output};
use project::{Project, wait_until};
use serde_json::Value;

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
    let plain = Node::new();
    let btrfs = Node::new();
    let image = btrfs.file("image", "");
    std::fs::File::options().write(true).open(&image).unwrap().set_len(256 << 20).unwrap();
    let mut make = btrfs.inside("mkfs.btrfs");
    make.arg("-q").arg(&image);
    Output::of(make).succeeded();
    let mut mount = btrfs.inside("mount");
    mount.args(["-o", "loop"]).arg(&image).arg(btrfs.root());
    Output::of(mount).succeeded();
    [plain, btrfs]
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
