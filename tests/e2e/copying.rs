//! `coppice cp`, both ways, of containers that run and that do not, with links that lead astray.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::node::Node;

/// A container that runs and one that has ended, both with `/made` (a file in a directory, 0640, a link to it).
fn node() -> Node {
    let node = Node::with_busybox();
    let make = "mkdir -p /made/sub; echo text > /made/sub/file; chmod 640 /made/sub/file; ln -s sub/file /made/link";
    node.ok(["run", "--name", "down", "--network=none", "box", "sh", "-c", make]);
    node.ok(["run", "-d", "--name", "up", "--network=none", "box", "sh", "-c", &format!("{make}; exec sleep 1000")]);
    node.coppice(["exec", "up", "sh", "-c", "while [ ! -h /made/link ]; do usleep 5000; done"]).succeeded();
    node
}

fn read(path: impl AsRef<std::path::Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

#[test]
fn files_come_out_of_running_and_of_stopped_containers() {
    let node = node();
    for name in ["up", "down"] {
        let to = |file: &str| node.dir().join(format!("{name}-{file}"));
        node.ok(["cp", &format!("{name}:/made/sub/file"), to("file").to_str().unwrap()]);
        assert_eq!(read(to("file")), "text\n");
        assert_eq!(fs::metadata(to("file")).unwrap().permissions().mode() & 0o777, 0o640);
        node.ok(["cp", &format!("{name}:/made"), to("tree").to_str().unwrap()]);
        assert_eq!(read(to("tree").join("sub/file")), "text\n");
        assert_eq!(fs::read_link(to("tree").join("link")).unwrap().to_str(), Some("sub/file"));
        node.coppice(["cp", &format!("{name}:/nothere"), to("no").to_str().unwrap()])
            .ended_with(1)
            .complained("/nothere");
        assert!(!to("no").exists());
    }
}

#[test]
fn files_go_into_running_and_into_stopped_containers() {
    let node = node();
    fs::create_dir_all(node.dir().join("in/deep")).unwrap();
    node.file("in/deep/file", "sent\n");
    for name in ["up", "down"] {
        node.ok(["cp", "in/deep/file", &format!("{name}:/tmp/one")]);
        node.ok(["cp", "in", &format!("{name}:/tmp/tree")]);
        node.ok(["cp", "in/.", &format!("{name}:/made")]);
        for path in ["/tmp/one", "/tmp/tree/deep/file", "/made/deep/file"] {
            node.ok(["cp", &format!("{name}:{path}"), "back"]);
            assert_eq!(read(node.dir().join("back")), "sent\n", "{name}:{path}");
            fs::remove_file(node.dir().join("back")).unwrap();
        }
        node.coppice(["cp", "in", &format!("{name}:/made/sub/file")]).ended_with(2).complained("is a file");
        node.coppice(["cp", "in/deep/file", &format!("{name}:/no/such/place")]).ended_with(1);
    }
    // The files are the container's root's, not the machine's.
    node.coppice(["exec", "up", "stat", "-c", "%u", "/tmp/one"]).succeeded().printed("0");
    // And the stopped one finds them when it starts again.
    node.coppice(["cp", "nothere", "up:/tmp"]).ended_with(2).complained("nothere");
}

#[test]
fn a_tar_goes_through_pipes_both_ways() {
    let node = node();
    let tar = node.coppice(["cp", "up:/made", "-"]).succeeded().bytes;
    assert!(tar.windows(5).any(|window| window == b"text\n"));
    node.coppice_fed(["cp", "-", "down:/tmp"], &tar).succeeded();
    node.ok(["cp", "down:/tmp/made/sub/file", "back"]);
    assert_eq!(read(node.dir().join("back")), "text\n");
}

#[test]
fn links_in_a_container_never_lead_out_of_it() {
    let node = node();
    let outside = node.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret\n").unwrap();
    let outside = outside.to_str().unwrap();
    let links = format!(
        "ln -s {outside}/secret /file-link; ln -s {outside} /dir-link; ln -s /proc/1/root{outside} /proc-link; \
         ln -s ../../../../../..{outside} /up-link"
    );
    node.coppice(["exec", "up", "sh", "-c", &links]).succeeded();
    node.file("evil", "overwritten\n");
    for link in ["/dir-link/secret", "/proc-link/secret", "/up-link/secret"] {
        let out = node.coppice(["cp", &format!("up:{link}"), "got"]);
        assert_ne!(out.code, 0, "{link} led out: {:?}", fs::read_to_string(node.dir().join("got")));
        node.coppice(["cp", "evil", &format!("up:{link}")]);
        node.coppice(["cp", "evil", &format!("up:{}", link.trim_end_matches("/secret"))]);
    }
    node.coppice(["cp", "evil", "up:/file-link"]);
    assert_eq!(read(node.dir().join("outside/secret")), "secret\n");
    assert_eq!(fs::read_dir(outside).unwrap().count(), 1, "something was written outside");
}

#[test]
fn links_in_what_comes_out_never_lead_writes_astray() {
    let node = node();
    fs::create_dir(node.dir().join("outside")).unwrap();
    let outside = node.dir().join("outside");
    // A tree in which a link stands where, on this machine, something would be written through it.
    let line = format!("mkdir /evil; ln -s {} /evil/sub; echo x > /evil/file", outside.display());
    node.coppice(["exec", "up", "sh", "-c", &line]).succeeded();
    fs::create_dir(node.dir().join("dst")).unwrap();
    node.ok(["cp", "up:/evil/.", "dst"]);
    assert!(fs::symlink_metadata(node.dir().join("dst/sub")).unwrap().is_symlink());
    // Copied over by a tree with a directory of that name: the link must not be followed.
    node.coppice(["exec", "up", "sh", "-c", "rm /evil/sub; mkdir /evil/sub; echo y > /evil/sub/planted"]).succeeded();
    node.coppice(["cp", "up:/evil/.", "dst"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "written through a link");
}

#[test]
fn a_link_of_this_machine_that_is_named_is_followed_as_docker_does() {
    let node = node();
    node.file("real", "real\n");
    symlink("real", node.dir().join("link")).unwrap();
    node.ok(["cp", "link", "up:/tmp/got"]);
    let kind =
        node.coppice(["exec", "up", "sh", "-c", "test -h /tmp/got && readlink /tmp/got || cat /tmp/got"]).succeeded();
    assert!(kind.stdout == "real\n" || kind.stdout.trim() == "real", "{}", kind.stdout);
}

#[test]
fn two_paths_of_this_machine_are_refused() {
    let node = Node::new();
    node.coppice(["cp", "a", "b"]).ended_with(2).helped();
    node.coppice(["cp", "-", "b"]).ended_with(2).helped();
    assert!(node.processes().is_empty());
}

#[test]
fn files_go_from_one_container_to_another_whether_they_run_or_not() {
    let node = node();
    for (from, to) in [("up", "down"), ("down", "up")] {
        let copied =
            |source: &str, target: &str| node.coppice(["cp", &format!("{from}:{source}"), &format!("{to}:{target}")]);
        copied("/made/sub/file", "/tmp/as").succeeded();
        copied("/made/sub/file", "/tmp").succeeded();
        copied("/made", "/tmp").succeeded();
        copied("/made", "/tmp/tree").succeeded();
        copied("/made/.", "/home").succeeded();
        for path in ["/tmp/as", "/tmp/file", "/tmp/made/sub/file", "/tmp/tree/sub/file", "/home/sub/file"] {
            node.ok(["cp", &format!("{to}:{path}"), "back"]);
            let back = node.dir().join("back");
            assert_eq!(read(&back), "text\n", "{to}:{path}");
            assert_eq!(fs::metadata(&back).unwrap().permissions().mode() & 0o777, 0o640);
            fs::remove_file(back).unwrap();
        }
        node.ok(["cp", &format!("{to}:/tmp/tree"), &format!("tree-{to}")]);
        assert_eq!(fs::read_link(node.dir().join(format!("tree-{to}/link"))).unwrap().to_str(), Some("sub/file"));
        copied("/made", "/made/sub/file").ended_with(2).complained("is a file");
        copied("/made/sub/file/", "/tmp").ended_with(2).complained("not a directory");
        copied("/nothere", "/tmp").ended_with(1).complained("/nothere");
        copied("/made/sub/file", "/no/such/place").ended_with(1);
    }
    node.coppice(["cp", "nobody:/x", "up:/tmp"]).ended_with(1).complained("nobody");
    node.coppice(["cp", "up:/made", "nobody:/tmp"]).ended_with(1).complained("nobody");
}

#[test]
fn a_copy_between_containers_keeps_owners_only_when_asked() {
    let node = node();
    let big = "dd if=/dev/urandom of=/tmp/big bs=1M count=8 2>/dev/null; chown app:extra /tmp/big; md5sum < /tmp/big";
    let sum = node.coppice(["exec", "up", "sh", "-c", big]).succeeded().stdout;
    node.ok(["run", "-d", "--name", "other", "--network=none", "box", "sleep", "1000"]);
    for (flags, owner) in [(&["cp"][..], "0:0"), (&["cp", "-a"], "1000:2000")] {
        node.ok([flags, &["up:/tmp/big", "other:/tmp/big"]].concat());
        let look = "md5sum < /tmp/big; stat -c %u:%g /tmp/big";
        node.coppice(["exec", "other", "sh", "-c", look]).succeeded().printed(&format!("{sum}{owner}"));
    }
}
