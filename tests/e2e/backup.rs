//! Backups of nodes that go on, and restores: on an empty machine, over what is there, cut short, and refused.

mod node;
mod project;
mod zfs;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use node::{Node, Output, kill_and_wait};
use project::{Project, names, wait_until};
use serde_json::Value;
use zfs::ZfsFuse;

/// A value that nothing has by chance.
const SECRET: &str = "correct-horse-7f3a91c2";

/// A counter that adds a line each time it starts, and lives on.
const COUNTER: &str = r#"
[service.count]
image = "box"
command = ["sh", "-c", "echo line >> /data/lines && exec sleep 1000"]
volumes = ["data:/data"]
secrets = [{ secret = "token", env = "TOKEN" }]
stop_signal = "KILL"
"#;

struct Ground<'n> {
    shop: Project<'n>,
    key: PathBuf,
}

/// An app with a secret, a volume with a line in it, and two releases; and a key for backups.
fn ground(node: &Node) -> Ground<'_> {
    node.busybox_image();
    node.coppice_fed(["secret", "set", "token"], SECRET.as_bytes()).succeeded();
    let shop = Project::new(node, "shop", COUNTER);
    shop.up();
    wait_until("it has written", || lines(&shop) == 1);
    shop.write(&format!("{COUNTER}labels = {{ second = \"yes\" }}\n"));
    shop.up();
    assert_eq!(shop.status().release, 2);
    wait_until("it has written again", || lines(&shop) == 2);
    let key = node.file("backup.key", [7; 32]);
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    Ground { shop, key }
}

fn lines(shop: &Project<'_>) -> usize {
    let path = shop.node.see(&shop.volume("data").join("lines"));
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// A backup with everything, at a path that all nodes see.
fn backup(ground: &Ground<'_>, name: &str) -> PathBuf {
    let file = ground.shop.node.dir().join(name);
    let words = ["backup", text(&file), "--volumes", "--key-file", text(&ground.key)];
    ground.shop.node.ok(words);
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn restore(node: &Node, ground: &Ground<'_>, file: &Path, more: &[&str]) -> Output {
    node.coppice([&["restore", text(file), "--key-file", text(&ground.key)], more].concat())
}

fn stop(node: &Node) {
    node.ok(["node", "stop", "--all"]);
}

/// What the root has, but for what is made for any command.
fn listing(node: &Node) -> String {
    let mut find = Command::new("find");
    find.arg(node.see(node.root())).args(["-path", "*/run", "-prune", "-o", "-path", "*/log", "-prune", "-o"]);
    find.args(["-type", "f", "-printf", "%P %s %C@\n"]);
    let mut all: Vec<String> = Output::of(find).stdout.lines().map(str::to_owned).collect();
    all.sort();
    all.join("\n")
}

fn wait_for_lines(shop: &Project<'_>, count: usize) {
    wait_until(&format!("there are {count} lines, one of a new start"), || lines(shop) == count);
}

#[test]
fn a_backup_of_a_node_that_goes_on_brings_another_machine_everything_the_secrets_too() {
    let node = Node::new();
    let from = ground(&node);
    let pid = from.shop.pid("count-1");
    let file = backup(&from, "whole");
    assert_eq!(from.shop.pid("count-1"), pid, "it went on");
    let snapshots = |node: &Node| -> Vec<String> {
        let detail = node.json(["volume", "inspect", "shop/data"]);
        let all = detail["snapshots"].as_array().unwrap().iter();
        all.map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let kept = snapshots(&node);
    assert!(kept.iter().any(|name| name == "r1-before-r2"), "{kept:?}");
    assert!(!kept.iter().any(|name| name.starts_with("backup-")), "{kept:?}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let history = node.json(["history", "shop"]);

    let other = Node::new();
    let said = restore(&other, &from, &file, &["--check"]).succeeded().stdout;
    assert!(said.contains("app shop: release 2 of 2") && said.contains("nothing was changed"), "{said}");
    assert!(said.contains("volume shop/data") && said.contains("needs image box"), "{said}");
    assert!(!other.see(&other.root().join("state/log.db")).exists());
    let restored = restore(&other, &from, &file, &[]).succeeded().stdout;
    assert!(restored.contains("coppice node start") && !restored.contains("kept in"), "{restored}");
    // Images are fetched as ever; this one is in no registry.
    let image = node.dir().join("image.tar");
    node.ok(["save", "--format", "oci", "-o", text(&image), "box"]);
    other.ok(["load", "-i", text(&image)]);
    let there = Project::new(&other, "shop", COUNTER);
    wait_for_lines(&there, 3);
    assert_eq!(there.status().release, 2);
    assert_eq!(other.json(["history", "shop"]), history);
    assert_eq!(snapshots(&other), kept);
    wait_until("it runs with its secret", || {
        there.coppice(&["exec", "shop/count-1", "sh", "-c", "echo $TOKEN"]).stdout.trim() == SECRET
    });
    assert_eq!(other.coppice(["secret", "get", "token"]).succeeded().stdout, SECRET);
    // Its data can be rolled back to what was before the backup.
    there.ok(&["rollback", "shop", "--data", "--timeout", "20s"]);
    wait_for_lines(&there, 2);
}

#[test]
fn what_was_paused_stays_so_through_a_backup_that_pauses_what_writes() {
    let node = Node::new();
    let ground = ground(&node);
    node.ok(["pause", "shop.count-1"]);
    backup(&ground, "paused");
    assert_eq!(node.inspect("shop.count-1")["state"], "paused");
    node.ok(["unpause", "shop.count-1"]);
    backup(&ground, "awake");
    assert_eq!(node.inspect("shop.count-1")["state"], "running");
    stop(&node);
}

#[test]
fn what_a_daemon_paused_for_a_copy_that_it_did_not_live_to_end_is_woken_by_the_next() {
    let node = Node::new();
    let ground = ground(&node);
    node.ok(["pause", "shop.count-1"]);
    let id = node.inspect("shop.count-1")["id"].as_str().unwrap().to_owned();
    let record = node.root().join("containers").join(id).join("container.json");
    let pid = ground.shop.pid("count-1");
    for (for_a_copy, state) in [(false, "paused"), (true, "running")] {
        let mut fields: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        assert_eq!(fields["is_copied"], false, "somebody asked for it");
        kill_and_wait(node.daemon_pid(), "KILL");
        fields["is_copied"] = for_a_copy.into();
        std::fs::write(&record, fields.to_string()).unwrap();
        assert_eq!(node.inspect("shop.count-1")["state"], state);
    }
    assert_eq!(ground.shop.pid("count-1"), pid);
    stop(&node);
}

#[test]
fn a_restore_over_what_is_there_brings_back_state_and_data_and_keeps_what_was() {
    let node = Node::new();
    let ground = ground(&node);
    let file = backup(&ground, "whole");
    // What comes after: a release with another's data, and one that has the same number again.
    ground.shop.write(&format!("{COUNTER}labels = {{ third = \"yes\" }}\n"));
    ground.shop.up();
    wait_for_lines(&ground.shop, 3);
    restore(&node, &ground, &file, &["--force"])
        .ended_with(2)
        .complained("a node daemon runs")
        .complained("stop --all");
    node.ok(["node", "stop"]);
    restore(&node, &ground, &file, &["--force"]).ended_with(2).complained("still run").complained("stop --all");
    node.ok(["node", "start"]);
    stop(&node);
    restore(&node, &ground, &file, &[]).ended_with(2).complained("--force");
    let said = restore(&node, &ground, &file, &["--force"]).succeeded().stdout;
    assert!(said.contains("what was there before is kept in"), "{said}");
    assert_eq!(lines(&ground.shop), 2);
    node.ok(["node", "start"]);
    assert_eq!(ground.shop.status().release, 2);
    wait_for_lines(&ground.shop, 3);
    // The third release is another one now, and so is the snapshot before it.
    ground.shop.write(&format!("{COUNTER}labels = {{ third = \"another\" }}\n"));
    ground.shop.up();
    wait_for_lines(&ground.shop, 4);
    ground.shop.ok(&["rollback", "shop", "--data", "--timeout", "20s"]);
    wait_for_lines(&ground.shop, 4);
    let detail = node.json(["volume", "inspect", "shop/data"]);
    let all = detail["snapshots"].as_array().unwrap().iter();
    let kept: Vec<&str> = all.filter_map(|one| one["name"].as_str()).collect();
    let of_before = |end: &str| kept.iter().any(|name| name.starts_with("before-restore-") && name.ends_with(end));
    assert!(of_before(".r2-before-r3"), "{kept:?}");
    assert!(!kept.iter().any(|name| name.starts_with("incoming-") || name.starts_with("backup-")), "{kept:?}");
    let root = names(&node.see(node.root()));
    let aside = root.iter().find(|name| name.starts_with("before-restore-")).expect("the old state is kept");
    assert!(node.see(&node.root().join(aside).join("state/log.db")).exists());
    assert!(!root.iter().any(|name| name.starts_with("restor")), "{root:?}");
    // The data that was cut can be had again.
    let cut = kept.iter().find(|name| name.starts_with("before-restore-") && !name.contains(".r")).unwrap();
    ground.shop.ok(&["volume", "clone", "data", cut, "shop/cut"]);
    let seen = std::fs::read_to_string(node.see(&ground.shop.volume("cut").join("lines"))).unwrap();
    assert_eq!(seen.lines().count(), 3);
}

#[test]
fn a_restore_that_is_killed_leaves_the_old_or_the_new_whole() {
    let node = Node::new();
    let ground = ground(&node);
    let file = backup(&ground, "whole");
    ground.shop.write(&format!("{COUNTER}labels = {{ third = \"yes\" }}\n"));
    ground.shop.up();
    wait_for_lines(&ground.shop, 3);
    stop(&node);
    let mut outcomes = (0, 0);
    // At calls that rename, sync or remove something, which its steps are made of.
    for (call, count) in [("renameat", 1), ("rename", 1), ("rename", 2), ("rename", 3), ("rename", 4), ("unlink", 2)] {
        let (call, when) = (format!("--inject={call}:signal=KILL:when={count}"), lines(&ground.shop));
        let mut traced = node.inside("strace");
        traced.args(["-f", "-o", "/dev/null", &call, env!("CARGO_BIN_EXE_coppice"), "--root"]).arg(node.root());
        traced.args(["restore", text(&file), "--force", "--key-file", text(&ground.key)]).stdin(Stdio::null());
        Output::of(traced);
        node.ok(["node", "start"]);
        let release = ground.shop.status().release;
        wait_until("what runs has added its line", || lines(&ground.shop) > when.min(2));
        stop(&node);
        let lines = lines(&ground.shop);
        match release {
            2 => {
                assert_eq!(lines, 3, "the new one: two lines, and that of its start");
                outcomes.1 += 1;
            }
            3 => {
                assert_eq!(lines, when + 1, "the old one goes on");
                outcomes.0 += 1;
            }
            other => panic!("release {other}"),
        }
        let left = names(&node.see(node.root()));
        assert!(!left.iter().any(|name| name.starts_with("restor")), "{call}: {left:?}");
        if release == 2 {
            // On from what was there: the old state, and a third release's data.
            let aside = left.iter().filter(|name| name.starts_with("before-restore-")).max().unwrap();
            assert!(node.see(&node.root().join(aside).join("state/log.db")).exists());
            ground.shop.write(&format!("{COUNTER}labels = {{ again = \"{call}\" }}\n"));
            node.ok(["node", "start"]);
            ground.shop.up();
            stop(&node);
        }
    }
    assert!(outcomes.0 > 0 && outcomes.1 > 0, "{outcomes:?}");
}

#[test]
fn what_is_no_whole_backup_of_this_key_is_refused_and_changes_nothing() {
    let node = Node::new();
    let ground = ground(&node);
    let file = backup(&ground, "whole");
    let plain = node.dir().join("plain");
    let said = node.coppice(["backup", text(&plain)]).succeeded();
    said.complained("not sealed").complained("apart from it");
    stop(&node);
    let bytes = std::fs::read(&file).unwrap();
    let before = listing(&node);
    let other_key = node.file("other.key", [8; 32]);
    std::fs::set_permissions(&other_key, PermissionsExt::from_mode(0o600)).unwrap();
    let refused = |file: &Path, key: &Path, why: &str| {
        for flag in ["--check", "--force"] {
            let asked = node.coppice(["restore", text(file), flag, "--key-file", text(key)]);
            asked.ended_with(2).complained(why);
        }
        assert_eq!(listing(&node), before, "{why}");
    };
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        node.file(name, bytes)
    };
    refused(&with("cut", &|bytes| bytes.truncate(bytes.len() * 2 / 3)), &ground.key, "damaged or cut off");
    refused(&with("bad", &|bytes| bytes[4000] ^= 1), &ground.key, "damaged or cut off");
    refused(&with("none", &|bytes| bytes.clear()), &ground.key, "not a backup");
    refused(&file, &other_key, "sealed with key");
    let newer = with("newer", &|bytes| {
        let at = bytes.windows(11).position(|window| window == b"\"version\":1").unwrap();
        bytes[at + 10] = b'9';
    });
    refused(&newer, &ground.key, "a backup of version 9");
    refused(&node.dir().join("nosuch"), &ground.key, "cannot read");
    // Put together anew, with the right digest, by somebody without the key.
    let forged = with("forged", &|bytes| {
        bytes.truncate(bytes.len() - 32);
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        let sum = node.file("sum", &*bytes);
        let hex = Output::of({
            let mut command = Command::new("sha256sum");
            command.arg(sum);
            command
        });
        let digest: Vec<u8> =
            (0..32).map(|at| u8::from_str_radix(&hex.stdout[2 * at..2 * at + 2], 16).unwrap()).collect();
        bytes.extend(digest);
    });
    refused(&forged, &ground.key, "forged");
    node.coppice(["restore", text(&file), "--check"]).ended_with(2).complained("--key-file");

    // Nothing of secrets can be read in either, nor keys in what is not sealed.
    let key = std::fs::read(node.see(&node.root().join("keys/secrets.key"))).unwrap();
    for file in [&file, &plain] {
        let bytes = std::fs::read(file).unwrap();
        let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(!has(SECRET.as_bytes()) && !has(&key), "{}", file.display());
    }
    // What is not sealed comes back, and says that the key has to be brought.
    let other = Node::new();
    let said = other.coppice(["restore", text(&plain)]).succeeded().stdout;
    assert!(said.contains("the secrets do not open yet") && said.contains("secrets.key"), "{said}");
    std::fs::create_dir(other.root().join("keys")).unwrap();
    std::fs::copy(node.root().join("keys/secrets.key"), other.root().join("keys/secrets.key")).unwrap();
    assert_eq!(other.coppice(["secret", "get", "token"]).succeeded().stdout, SECRET);
}

#[test]
fn bad_paths_are_refused_before_anything_is_done_with_what_to_name_instead() {
    let node = Node::new();
    let pipe = node.dir().join("pipe");
    let mut made = node.inside("mkfifo");
    made.arg(&pipe);
    Output::of(made).succeeded();
    let nowhere = node.dir().join("nosuch/file");
    for path in [pipe.clone(), node.dir().to_path_buf()] {
        for words in [&["backup", text(&path)][..], &["volume", "send", "data", "-o", text(&path)]] {
            node.coppice(words).ended_with(2).complained("is there and is no file");
        }
    }
    for words in [&["backup", text(&nowhere)][..], &["volume", "send", "data", "-o", text(&nowhere)]] {
        node.coppice(words).ended_with(2).complained("there is no folder").complained("mkdir -p");
    }
    assert!(!std::fs::metadata(node.see(&pipe)).unwrap().is_file());
    for path in [&nowhere, node.dir()] {
        let refused = node.coppice(["volume", "receive", "copy", "-i", text(path)]).ended_with(2);
        refused.complained("cannot read").complained("coppice volume send");
        node.coppice(["backup", text(&node.dir().join("x")), "--key-file", text(path)]).ended_with(2);
    }
    assert_eq!(node.ok(["volume", "ls", "--json"]), "[]");
    stop(&node);
    let before = listing(&node);
    for flag in ["--check", "--force"] {
        let folder = node.coppice(["restore", text(node.dir()), flag]).ended_with(2);
        folder.complained("neither a file nor a pipe").complained("coppice backup FILE");
        node.coppice(["restore", "/dev/null", flag]).ended_with(2).complained("neither a file nor a pipe");
        node.coppice(["restore", "-", flag]).ended_with(2).complained("neither a file nor a pipe");
        node.coppice_fed(["restore", "-", flag], b"").ended_with(2).complained("not a backup");
        node.coppice(["restore", text(&nowhere), flag]).ended_with(2).complained("cannot read");
        let below_a_file = std::env::current_exe().unwrap().join("x");
        node.coppice(["restore", text(&below_a_file), flag]).ended_with(2).complained("cannot read");
    }
    assert_eq!(listing(&node), before);
}

#[test]
fn a_full_disk_leaves_no_backup_that_is_not_whole_and_what_was_there_before() {
    let node = Node::new();
    let ground = ground(&node);
    let mut mount = node.inside("mount");
    std::fs::create_dir(node.dir().join("small")).unwrap();
    mount.args(["-t", "tmpfs", "-o", "size=256k", "small"]).arg(node.dir().join("small"));
    Output::of(mount).succeeded();
    let file = node.dir().join("small/backup");
    let words = ["backup", text(&file), "--volumes", "--key-file", text(&ground.key)];
    // The first that fits is replaced by none that does not.
    ground.shop.shell("count-1", "rm -f /data/large");
    std::fs::write(node.see(&file), "what was there").unwrap();
    ground.shop.shell("count-1", "head -c 2000000 /dev/urandom > /data/large");
    node.coppice(words).ended_with(1).complained("cannot write");
    assert_eq!(std::fs::read_to_string(node.see(&file)).unwrap(), "what was there");
    assert_eq!(names(&node.see(&node.dir().join("small"))), ["backup"]);
    wait_until("the snapshot that was taken for it is gone", || {
        let detail: Value = node.json(["volume", "inspect", "shop/data"]);
        !detail["snapshots"].to_string().contains("backup-")
    });
    let no_key = node.dir().join("nokey");
    node.coppice(["backup", text(&file), "--key-file", text(&no_key)]).ended_with(2).complained("head -c 32");

    // A restore on a machine without room for the data: nothing of it is left, and nothing was changed.
    let whole = backup(&ground, "whole");
    let small = Node::on_small_disk(3 << 20);
    restore(&small, &ground, &whole, &[]).ended_with(1).complained("No space left");
    assert_eq!(names(&small.see(&small.root().join("volumes/shop"))), [] as [&str; 0]);
    assert!(!small.see(&small.root().join("state/log.db")).exists());
    let left = names(&small.see(small.root()));
    assert!(!left.iter().any(|name| name.starts_with("restor")), "{left:?}");
    // Nor for what comes by a pipe, which has to be looked at to its end.
    let small = Node::on_small_disk(1 << 20);
    let words = ["restore", "-", "--key-file", text(&ground.key)];
    let refused = small.coppice_fed(words, &std::fs::read(&whole).unwrap()).ended_with(1);
    refused.complained("cannot keep what is read from -").complained("free some space there, or name a file");
    assert!(!names(&small.see(small.root())).iter().any(|name| name.contains("restor")));
}

#[test]
fn a_backup_by_a_pipe_is_restored_from_one_and_from_a_file_at_standard_input() {
    let node = Node::new();
    let ground = ground(&node);
    let words = ["backup", "-", "--volumes", "--key-file", text(&ground.key)];
    let sent = node.coppice(words).succeeded();
    let bytes = sent.bytes.clone();
    let is_restored = |other: &Node| {
        let at = other.see(&other.root().join("volumes/shop/data/head/lines"));
        assert_eq!(std::fs::read_to_string(at).unwrap().lines().count(), 2);
        assert_eq!(other.coppice(["secret", "get", "token"]).succeeded().stdout, SECRET);
        assert!(!names(&other.see(other.root())).iter().any(|name| name.contains("restor")));
    };
    let other = Node::new();
    let words = ["restore", "-", "--key-file", text(&ground.key)];
    other.coppice_fed(words.iter().chain(&["--check"]), &bytes).succeeded().printed_some("nothing was changed");
    other.coppice_fed(words, &bytes[..bytes.len() / 2]).ended_with(2).complained("damaged or cut off");
    other.coppice_fed(words, &bytes).succeeded();
    is_restored(&other);
    let other = Node::new();
    let mut command = other.command(words);
    command.stdin(std::fs::File::open(node.file("kept", &bytes)).unwrap());
    Output::of(command).succeeded();
    is_restored(&other);
}

/// Each row is on disk in the one file before it is written to the other, and that before the next; beside them, what takes its
/// time to be copied.
const WRITER: &str = r#"
[service.writer]
image = "box"
command = ["sh", "-c", """
[ -e /data/large ] || head -c 4000000 /dev/urandom > /data/large
row=0
while true; do
  row=$((row + 1))
  echo $row >> /data/first && sync -d /data/first && echo $row >> /data/second && sync -d /data/second
done
"""]
volumes = ["data:/data"]
stop_signal = "KILL"
"#;

const OTHER: &str = r#"
[service.idle]
image = "box"
command = ["sleep", "1d"]
stop_signal = "KILL"
secrets = [{ secret = "changing", env = "CHANGING", on_rotate = "nothing" }]
"#;

/// Rows of a file of the writer's volume, which are 1, 2, 3 and so on.
#[track_caller]
fn rows(node: &Node, file: &str) -> u64 {
    let detail = node.json(["volume", "inspect", "shop/data"]);
    let text = std::fs::read_to_string(node.see(&Path::new(detail["path"].as_str().unwrap()).join(file)));
    let text = text.unwrap_or_default();
    for (number, line) in (1u64..).zip(text.lines()) {
        assert_eq!(line, number.to_string(), "in {file}");
    }
    assert!(text.is_empty() || text.ends_with('\n'), "the last row of {file} is whole");
    text.lines().count() as u64
}

/// What was there of everything that changes: rows, versions of the secret, releases.
fn progress(node: &Node, other: &Project<'_>) -> [u64; 4] {
    let versions = node.json(["secret", "history", "changing"]);
    let newest = versions.as_array().unwrap().iter().filter_map(|version| version["version"].as_u64()).max().unwrap();
    [rows(node, "first"), rows(node, "second"), newest, other.status().releases.newest.number]
}

#[test]
fn a_backup_while_all_is_written_to_is_of_one_moment() {
    let zfs = Node::with_settings(zfs::SETTINGS);
    let _daemon = ZfsFuse::of(&zfs);
    // A machine that has settings keeps those.
    let nodes = [
        (Node::new(), Node::new()),
        (Node::on_btrfs(256 << 20), Node::on_btrfs(256 << 20)),
        (zfs, Node::with_settings("")),
    ];
    for (node, there) in &nodes {
        node.busybox_image();
        let shop = Project::new(node, "shop", WRITER);
        shop.up();
        node.ok(["secret", "set", "changing", "--value", "value 1"]);
        let other = Project::new(node, "other", OTHER);
        other.up();
        wait_until("it writes rows", || rows(node, "second") > 5);
        let key = node.file("backup.key", [7; 32]);
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        let file = node.dir().join("backup");
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let goes_on = || !is_over.load(std::sync::atomic::Ordering::Relaxed);
        let (before, after) = std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in (2..).take_while(|_| goes_on()) {
                    node.ok(["secret", "set", "changing", "--value", &format!("value {number}")]);
                }
            });
            scope.spawn(|| {
                for number in (2..).take_while(|_| goes_on()) {
                    other.write(&format!("{OTHER}labels = {{ number = \"{number}\" }}\n"));
                    other.coppice(&["up", "--timeout", "20s"]).succeeded();
                }
            });
            wait_until("both go on", || {
                let [_, _, versions, releases] = progress(node, &other);
                versions > 2 && releases > 1
            });
            let before = progress(node, &other);
            let done = node.coppice(["backup", text(&file), "--volumes", "--key-file", text(&key)]);
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            done.succeeded();
            (before, progress(node, &other))
        });
        wait_until("the writer goes on", || rows(node, "second") > after[1]);
        stop(node);

        let words = ["restore", text(&file), "--key-file", text(&key)];
        there.coppice(words.iter().chain(&["--check"])).succeeded().printed_some("volume shop/data");
        there.coppice(words).succeeded();
        // The writer does not start there, for want of its image.
        let found = progress(there, &Project { node: there, dir: other.dir.clone(), app: other.app.clone() });
        for at in 0..4 {
            assert!((before[at]..=after[at]).contains(&found[at]), "{before:?}, {found:?}, {after:?}");
        }
        assert!(found[0] == found[1] || found[0] == found[1] + 1, "of one moment: {found:?}");
        for version in there.json(["secret", "history", "changing"]).as_array().unwrap() {
            let number = version["version"].to_string();
            let value = there.coppice(["secret", "get", "changing", "--version", &number]).succeeded().stdout;
            assert_eq!(value, format!("value {number}"));
        }
        assert_eq!(there.json(["history", "other"]).as_array().unwrap().len() as u64, found[3]);
        stop(there);
    }
}
