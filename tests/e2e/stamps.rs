//! What volumes say of themselves: whose data the head and each snapshot hold, after releases, rollbacks and their undoing;
//! and that it is not a preview's what an app comes back from.

mod node;
mod project;

use std::collections::BTreeMap;

use coppice_api::{ReleaseEntry, VolumeDetail};
use node::Node;
use project::{Project, wait_until};

/// A writer of a row, with what it was built from. One version differs from another by its text alone.
const SHOP: &str = r#"
[app.shop]
labels = { "org.opencontainers.image.revision" = "REVISION", "org.opencontainers.image.version" = "not a word\n" }

[app.shop.service.web]
image = "box"
command = ["sh", "-c", "echo VERSION > /data/row; exec sleep 1000"]
volumes = ["data:/data"]
stop_signal = "KILL"

[app.shop.volume.data]
"#;

fn shop(version: &str, revision: &str) -> String {
    SHOP.replace("VERSION", version).replace("REVISION", revision)
}

/// Replaces the manifest, which names its app by itself.
fn write(project: &Project<'_>, manifest: &str) {
    std::fs::write(project.dir.join("coppice.toml"), manifest).unwrap();
}

/// The first version, up.
fn first(node: &Node) -> Project<'_> {
    let project = Project::new(node, "shop", "");
    write(&project, &shop("one", "aaaa"));
    project.up();
    project
}

fn history(project: &Project<'_>) -> Vec<ReleaseEntry> {
    serde_json::from_str(&project.ok(&["history", "--json", "shop"])).unwrap()
}

fn volume(project: &Project<'_>) -> VolumeDetail {
    serde_json::from_str(&project.ok(&["volume", "inspect", "--json", "shop/data"])).unwrap()
}

/// The stamps of release `number`, as its history has it.
fn of_release(history: &[ReleaseEntry], number: u64, revision: &str) -> BTreeMap<String, String> {
    let entry = history.iter().find(|entry| entry.fields.number == number).expect("a release that is kept");
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let pairs = [
        ("managed", "true".to_owned()),
        ("app", "shop".to_owned()),
        ("release", entry.id.clone()),
        ("number", number.to_string()),
        ("deployed_at", entry.fields.created_at.0.to_string()),
        ("deployed_by", entry.fields.actor.clone()),
        ("fingerprint", format!("sha256:{}", entry.fields.manifest_hash)),
        ("node_name", machine),
        ("git_sha", revision.to_owned()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Waits until the head is stamped with exactly this; a release's verdict is told a moment before.
#[track_caller]
fn wait_head(project: &Project<'_>, number: u64, revision: &str) -> VolumeDetail {
    let wanted = of_release(&history(project), number, revision);
    let mut seen = volume(project);
    wait_until(&format!("the head says that it holds release {number}'s data"), || {
        seen = volume(project);
        seen.stamps == wanted
    });
    seen
}

/// The snapshot's stamps are that release's, and say when it was taken.
#[track_caller]
fn assert_snapshot(project: &Project<'_>, snapshot: &str, number: u64, revision: &str) {
    let all = volume(project);
    let found = all.snapshots.iter().find(|one| one.name == snapshot);
    let mut stamps = found.unwrap_or_else(|| panic!("no {snapshot} in {all:#?}")).stamps.clone();
    // What a switch keeps, the head that was, carries the head's stamps alone.
    stamps.remove("created_at");
    assert_eq!(stamps, of_release(&history(project), number, revision), "{snapshot}");
}

#[test]
fn the_head_and_each_snapshot_say_whose_data_they_hold_after_releases_rollbacks_and_their_undoing() {
    let node = Node::with_busybox();
    let project = first(&node);
    let head = wait_head(&project, 1, "aaaa");
    assert_eq!(head.snapshots, []);
    assert!(!head.stamps.contains_key("version"), "what is no word is left out: {head:?}");

    write(&project, &shop("two", "bbbb"));
    project.up();
    wait_head(&project, 2, "bbbb");
    assert_snapshot(&project, "r1-before-r2", 1, "aaaa");
    let taken = &volume(&project).snapshots[0].stamps["created_at"];
    let (second, taken) = (&history(&project)[0].fields, taken.parse::<u64>().unwrap());
    assert!(second.created_at.0 <= taken && taken <= second.ended_at.unwrap().0, "{taken} of {second:?}");

    // With its data the first comes back as release 3: what it says is of that, not what the snapshot said.
    project.ok(&["rollback", "shop", "--data"]);
    wait_until("it has its data", || project.shell("web-1", "cat /data/row") == "one\n");
    wait_head(&project, 3, "aaaa");
    assert_snapshot(&project, "r1-before-r2", 1, "aaaa");
    assert_snapshot(&project, "r2-before-r3", 2, "bbbb");

    project.ok(&["rollback", "shop", "--undo"]);
    wait_until("it has its data", || project.shell("web-1", "cat /data/row") == "two\n");
    wait_head(&project, 4, "bbbb");
    assert_snapshot(&project, "r1-before-r2", 1, "aaaa");
    assert_snapshot(&project, "r2-before-r3", 2, "bbbb");
    assert_snapshot(&project, "r3-before-r4", 3, "aaaa");
}

#[test]
fn a_preview_does_not_come_back_as_an_app_from_its_volumes_and_they_stay() {
    let node = Node::with_busybox();
    let project = first(&node);
    wait_head(&project, 1, "aaaa");
    // One volume is a clone, the other the preview's alone.
    let two = shop("two", "bbbb").replace("[\"data:/data\"]", "[\"data:/data\", \"more:/more\"]")
        + "[app.shop.volume.more]\n";
    write(&project, &two);
    project.ok(&["up", "--timeout", "20s", "--preview", "fix"]);
    let of_preview = |name: &str| -> VolumeDetail {
        serde_json::from_str(&project.ok(&["volume", "inspect", "--json", &format!("shop-fix/{name}")])).unwrap()
    };
    for name in ["data", "more"] {
        wait_until("the preview's volumes say whose they are", || {
            let stamps = of_preview(name).stamps;
            stamps.get("preview").map(String::as_str) == Some("shop/fix") && stamps.contains_key("number")
        });
    }
    project.ok(&["node", "stop", "--all"]);
    for lost in ["state", "apps", "containers"] {
        std::fs::remove_dir_all(node.root().join(lost)).unwrap();
    }
    let shown = project.ok(&["recover", "--from-datasets", "--print"]);
    assert!(shown.contains("shop: release 1 of 1 would run again") && !shown.contains("shop-fix"), "{shown}");
    project.ok(&["recover", "--from-datasets"]);
    project.wait_status("it is up again", |status| status.settled && status.state == "ready");
    let apps = project.ok(&["apps", "--json"]);
    assert!(!apps.contains("shop-fix"), "{apps}");
    let volumes = project.ok(&["volume", "ls"]);
    assert!(volumes.contains("shop-fix/data") && volumes.contains("shop-fix/more"), "{volumes}");
}
