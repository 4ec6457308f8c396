//! Images by the command line: in, out, named, removed, to and from a registry, within a budget.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::node::{Node, Output, PATIENCE, busybox_tar, wait_until};

fn images(node: &Node) -> Vec<serde_json::Value> {
    node.json(["images"]).as_array().unwrap().clone()
}

fn names(node: &Node) -> Vec<String> {
    let mut names: Vec<String> = images(node)
        .iter()
        .flat_map(|image| image["names"].as_array().unwrap().clone())
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// Imports the busybox root with something of its own, so that it is an image of its own.
fn import(node: &Node, name: &str) -> String {
    let env = format!("NAME={name}");
    let tar = busybox_tar().to_str().unwrap();
    let said = node.ok(["import", "--env", &env, "--cmd", "echo it runs", tar, name]);
    said.split_whitespace().nth(1).expect("name and id").to_owned()
}

// ── archives ────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_imported_image_runs_and_is_listed_with_its_size() {
    let node = Node::new();
    let id = import(&node, "made:1");
    node.coppice(["run", "--rm", "--network=none", "made:1"]).succeeded().printed("it runs");
    let list = images(&node);
    assert_eq!((list.len(), &list[0]["id"]), (1, &id.as_str().into()));
    assert!(list[0]["size_bytes"].as_u64().unwrap() > 500_000);
    node.coppice(["images"]).succeeded().printed_some("made").printed_some("IMAGE ID");
    node.coppice(["image", "ls"]).succeeded().printed_some("made");
    assert_eq!(node.ok(["images", "-q"]), id.trim_start_matches("sha256:")[..12]);
}

#[test]
fn import_takes_standard_input_and_refuses_what_is_no_tar() {
    let node = Node::new();
    let tar = std::fs::read(busybox_tar()).unwrap();
    node.coppice_fed(["import", "-", "piped"], &tar).succeeded();
    node.coppice_fed(["import", "-", "bad"], b"this is no tar at all").ended_with(2).complained("tar");
    node.coppice_fed(["import", "-", "cut"], &tar[..tar.len() / 2]).ended_with(2).complained("end");
    node.coppice(["import", "/nothere.tar", "bad"]).ended_with(2).complained("/nothere.tar").helped();
    node.coppice(["import", busybox_tar().to_str().unwrap(), "Bad Name"]).ended_with(2).complained("Bad Name");
    assert_eq!(names(&node).len(), 1, "what was refused left nothing: {:?}", names(&node));
    node.coppice(["run", "--rm", "--network=none", "piped", "echo", "runs"]).succeeded().printed("runs");
}

#[test]
fn what_is_saved_is_loaded_as_it_was_on_another_node() {
    let (one, two) = (Node::new(), Node::new());
    let id = import(&one, "made:1");
    one.ok(["tag", "made:1", "made:2"]);
    for format in ["docker", "oci"] {
        let archive = one.dir().join(format!("{format}.tar"));
        one.ok(["save", "--format", format, "-o", archive.to_str().unwrap(), "made:1", "made:2"]);
        two.ok(["load", "-i", archive.to_str().unwrap()]);
        assert_eq!(names(&two), names(&one), "{format}");
        assert_eq!(images(&two)[0]["id"], id, "{format}");
        two.coppice(["run", "--rm", "--network=none", "made:2"]).succeeded().printed("it runs");
        two.ok(["rmi", "made:1", "made:2"]);
        assert!(images(&two).is_empty());
    }
    // Through a pipe, byte for byte the same each time.
    let first = one.coppice(["save", "made:1"]).succeeded().bytes;
    assert!(first == one.coppice(["save", "made:1"]).succeeded().bytes);
    two.coppice_fed(["load", "-q"], &first).succeeded().printed(&id);
    two.coppice_fed(["load"], b"nonsense").ended_with(2);
}

#[test]
fn an_export_is_the_root_filesystem_as_one_tar() {
    let node = Node::new();
    import(&node, "made");
    let out = node.dir().join("root.tar");
    node.ok(["image", "export", "-o", out.to_str().unwrap(), "made"]);
    let mut tar = node.inside("tar");
    tar.args(["-tvf", out.to_str().unwrap()]);
    Output::of(tar).succeeded().printed_some("etc/passwd").printed_some("bin/busybox");
    node.ok(["import", out.to_str().unwrap(), "again"]);
    node.coppice(["run", "--rm", "--network=none", "again", "id", "-un"]).succeeded().printed("root");
}

#[test]
fn a_failed_save_leaves_the_file_that_was_there() {
    let node = Node::new();
    import(&node, "made");
    let file = node.file("kept.tar", "precious");
    node.coppice(["save", "-o", file.to_str().unwrap(), "nothere"]).ended_with(1).complained("nothere");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(std::fs::read_dir(node.dir()).unwrap().count(), 2, "no draft is left");
}

// ── names, removal, prune ───────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_tag_is_one_more_name_and_the_image_goes_with_the_last() {
    let node = Node::new();
    let id = import(&node, "made:1");
    node.ok(["tag", "made:1", "localhost:5000/other/name:x"]);
    assert_eq!(images(&node).len(), 1);
    assert_eq!(names(&node).len(), 2);
    node.coppice(["rmi", "made:1"]).succeeded().printed_some("untagged");
    assert_eq!(names(&node), ["localhost:5000/other/name:x"]);
    node.coppice(["rmi", "localhost:5000/other/name:x"]).succeeded().printed_some("deleted").printed_some(&id);
    assert!(images(&node).is_empty());
    node.coppice(["rmi", "made:1"]).ended_with(1).complained("made:1").helped();
    node.coppice(["tag", "made:1", "x"]).ended_with(1).complained("made:1");
    node.coppice(["image", "inspect", "made:1"]).ended_with(1).complained("made:1");
}

#[test]
fn an_image_in_use_is_not_removed() {
    let node = Node::new();
    import(&node, "made");
    node.ok(["run", "-d", "--name", "user", "--network=none", "made", "sleep", "1000"]);
    node.coppice(["rmi", "made"]).ended_with(1).complained("in use").complained("user");
    node.coppice(["rmi", "-f", "made"]).ended_with(1).complained("in use");
    node.coppice(["prune", "--all"]).succeeded();
    assert_eq!(images(&node).len(), 1);
    assert_eq!(images(&node)[0]["containers"], 1);
    node.ok(["rm", "-f", "user"]);
    node.ok(["rmi", "made"]);
    assert!(images(&node).is_empty());
}

#[test]
fn prune_removes_what_nothing_uses_and_with_all_what_has_a_name_too() {
    let node = Node::new();
    import(&node, "one");
    import(&node, "two");
    // The first one loses its name to another.
    let tar = busybox_tar().to_str().unwrap();
    node.ok(["import", "--env", "OTHER=x", tar, "one"]);
    assert_eq!(images(&node).len(), 3);
    node.coppice(["prune"]).succeeded();
    assert_eq!(names(&node).len(), 2);
    assert_eq!(images(&node).len(), 2);
    node.ok(["create", "--name", "user", "two", "true"]);
    node.coppice(["prune", "--all"]).succeeded().printed_some("freed");
    assert_eq!(images(&node).len(), 1, "{:?}", names(&node));
    assert_eq!(node.json(["prune", "--all"])["images"].as_array().unwrap().len(), 0);
    node.ok(["rm", "user"]);
    node.ok(["prune", "--all"]);
    assert!(images(&node).is_empty());
    let left = std::fs::read_dir(node.root().join("images")).unwrap().flatten();
    let bytes: u64 = left.map(|entry| size(&entry.path())).sum();
    assert!(bytes < 200_000, "{bytes} bytes of images are left on disk");
}

fn size(path: &Path) -> u64 {
    let meta = std::fs::symlink_metadata(path).unwrap();
    if !meta.is_dir() {
        return meta.len();
    }
    std::fs::read_dir(path).unwrap().flatten().map(|entry| size(&entry.path())).sum()
}

#[test]
fn inspect_shows_what_the_image_says() {
    let node = Node::new();
    let tar = busybox_tar().to_str().unwrap();
    node.ok([
        "import",
        "--user",
        "app",
        "--workdir",
        "/tmp",
        "--env",
        "A=b",
        "--entrypoint",
        r#"["sh","-c"]"#,
        tar,
        "made",
    ]);
    let detail = node.inspect("made");
    assert_eq!((&detail["user"], &detail["working_dir"]), (&"app".into(), &"/tmp".into()));
    assert_eq!(detail["entrypoint"], serde_json::json!(["sh", "-c"]));
    assert_eq!(detail["os"], "linux");
    assert_eq!(detail["layers"].as_array().unwrap().len(), 1);
}

// ── volumes and files of images ─────────────────────────────────────────────────────────────────────────────────

#[test]
fn owners_modes_setuid_and_links_of_the_tar_are_seen_inside() {
    let node = Node::new();
    let root = node.dir().join("root");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let make = "cd root/bin && ln -s busybox sh && ln -s busybox stat && ln -s busybox readlink && cd .. && \
                echo x > owned && chown 1000:2000 owned && chmod 4750 owned && ln owned hard && ln -s owned soft && \
                mkdir sticky && chmod 1777 sticky && tar -cf ../made.tar .";
    let mut sh = node.inside("sh");
    sh.args(["-c", make]);
    Output::of(sh).succeeded();
    node.ok(["import", "made.tar", "made"]);
    let look = "stat -c '%u:%g %a %h' owned hard; stat -c %a sticky; readlink soft";
    node.coppice(["run", "--rm", "--network=none", "made", "sh", "-c", look])
        .succeeded()
        .printed("1000:2000 4750 2\n1000:2000 4750 2\n1777\nowned");
}

#[test]
fn an_image_of_another_tool_brings_its_volume_user_signal_and_entry_point() {
    let node = Node::new();
    import(&node, "plain");
    let layout = node.dir().join("layout");
    std::fs::create_dir(&layout).unwrap();
    node.ok(["save", "--format", "oci", "-o", "plain.tar", "plain"]);
    let make = "set -e; tar -C layout -xf plain.tar; cd layout; tag=$(jq -r '.manifests[0].annotations[\"org.opencontainers.image.ref.name\"]' index.json); \
                skopeo copy -q oci:.:$tag oci:.:made 2>/dev/null || true; \
                umoci config --image .:made --config.volume /home/app --config.stopsignal SIGUSR1 --config.user app:extra \
                --config.workingdir /home/app --config.entrypoint sh --config.entrypoint -c --config.cmd 'pwd; id -un; id -gn; stat -c %U .' \
                --config.env FROM=umoci >&2; rm -rf ../made; mkdir ../made; skopeo copy -q oci:.:made oci-archive:../made.tar:made:1 >&2";
    let mut sh = node.inside("sh");
    sh.args(["-c", make]);
    Output::of(sh).succeeded();
    node.ok(["load", "-i", "made.tar"]);
    node.coppice(["run", "--rm", "--network=none", "made:1"]).succeeded().printed("/home/app\napp\nextra\napp");
    // Its volume is filled from the image, writable for its user, and apart for each container.
    let line = "echo $FROM > mine; ls; grep -c ' /home/app ' /proc/self/mountinfo";
    node.coppice(["run", "--rm", "--network=none", "made:1", line]).succeeded().printed("mine\n1");
    node.coppice(["run", "--rm", "--network=none", "made:1", "ls"]).succeeded().printed("");
    let patient = "trap 'exit 17' USR1; trap '' TERM; echo ready; while :; do usleep 10000; done";
    node.ok(["run", "-d", "--name", "u", "--network=none", "made:1", patient]);
    node.wait_for_log("u", "ready");
    node.ok(["stop", "u"]);
    assert_eq!(node.inspect("u")["exit_code"], 17);
}

// ── a registry ──────────────────────────────────────────────────────────────────────────────────────────────────

/// Debian's docker-registry on port 5000 of the node's machine.
pub(crate) struct Registry {
    child: Child,
}

impl Registry {
    pub(crate) fn start(node: &Node, storage: &Path) -> Self {
        Self::start_with(node, storage, "")
    }

    pub(crate) fn start_with(node: &Node, storage: &Path, more: &str) -> Self {
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
             http:\n  addr: 127.0.0.1:5000\n  secret: test\n{more}",
            storage.display()
        );
        let config = node.file("registry.yml", config);
        let mut command = node.inside("docker-registry");
        command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self { child: command.spawn().expect("Debian's docker-registry") };
        wait_until("the registry answers", PATIENCE, || {
            let mut curl = node.inside("curl");
            curl.args(["--silent", "--noproxy", "*", "--max-time", "2", "http://127.0.0.1:5000/v2/"]);
            Output::of(curl).code == 0
        });
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn storage(node: &Node) -> PathBuf {
    node.dir().join("storage")
}

#[test]
fn an_image_goes_to_a_registry_and_comes_back() {
    let node = Node::new();
    let registry = Registry::start(&node, &storage(&node));
    let id = import(&node, "127.0.0.1:5000/team/made:1");
    let digest = node.ok(["push", "-q", "127.0.0.1:5000/team/made:1"]);
    assert!(digest.starts_with("sha256:"), "{digest}");
    node.ok(["rmi", "127.0.0.1:5000/team/made:1"]);
    assert!(images(&node).is_empty());
    node.ok(["pull", "127.0.0.1:5000/team/made:1"]);
    assert_eq!(images(&node)[0]["id"], id);
    node.coppice(["run", "--rm", "--network=none", "127.0.0.1:5000/team/made:1"]).succeeded().printed("it runs");
    // By digest, and fetched by run itself.
    node.ok(["rmi", "127.0.0.1:5000/team/made:1"]);
    let pinned = format!("127.0.0.1:5000/team/made@{digest}");
    node.coppice(["run", "--rm", "--network=none", &pinned]).succeeded().printed_some("it runs");
    node.coppice(["pull", "127.0.0.1:5000/team/nothere:1"]).ended_with(1).complained("nothere");
    node.coppice(["pull", "127.0.0.1:5000/team/made:nothere"]).ended_with(1).complained("nothere");
    node.coppice(["push", "127.0.0.1:5000/team/nothere"]).ended_with(1).complained("nothere");
    drop(registry);
}

#[test]
fn a_registry_that_asks_for_a_name_gets_the_one_of_login_and_no_more_after_logout() {
    let node = Node::new();
    // htpasswd -Bbn planter secret
    let hash = "planter:$2y$05$Wsf/bIRLgD1CYo2oRwHz2ODJgOFcGteQUppI5IdXlNMBPGP9njnQ6\n";
    let users = node.file("htpasswd", hash);
    let auth = format!("auth:\n  htpasswd: {{realm: test, path: {}}}\n", users.display());
    let _registry = Registry::start_with(&node, &storage(&node), &auth);
    import(&node, "127.0.0.1:5000/made:1");
    node.coppice(["push", "127.0.0.1:5000/made:1"]).ended_with(1).helped();
    let login = ["login", "-u", "planter", "--password-stdin", "127.0.0.1:5000"];
    node.coppice_fed(login, b"wrong\n").succeeded().printed_some("next pull or push");
    node.coppice(["push", "127.0.0.1:5000/made:1"]).ended_with(1);
    node.coppice_fed(login, b"secret\n").succeeded();
    node.coppice(["push", "127.0.0.1:5000/made:1"]).succeeded();
    node.ok(["rmi", "127.0.0.1:5000/made:1"]);
    node.coppice(["run", "--rm", "--network=none", "127.0.0.1:5000/made:1"]).succeeded().printed_some("it runs");
    node.ok(["logout", "127.0.0.1:5000"]);
    node.coppice(["pull", "127.0.0.1:5000/made:1"]).ended_with(1).helped();
}

#[test]
fn with_the_registry_gone_pulls_fail_clearly_and_what_is_here_runs() {
    let node = Node::new();
    let registry = Registry::start(&node, &storage(&node));
    import(&node, "127.0.0.1:5000/made:1");
    node.ok(["push", "127.0.0.1:5000/made:1"]);
    drop(registry);
    let refused = node.coppice(["pull", "127.0.0.1:5000/made:1"]).ended_with(1).complained("127.0.0.1:5000");
    assert!(refused.stderr.contains("connect"), "{}", refused.stderr);
    node.coppice(["push", "127.0.0.1:5000/made:1"]).ended_with(1).complained("127.0.0.1:5000");
    node.coppice(["run", "--rm", "--network=none", "127.0.0.1:5000/made:1"]).succeeded().printed("it runs");
    node.coppice(["run", "--rm", "127.0.0.1:5000/other"]).ended_with(125).complained("127.0.0.1:5000");
    node.coppice(["run", "--rm", "--pull=always", "127.0.0.1:5000/made:1"]).ended_with(125);
    assert_eq!(images(&node).len(), 1, "a failed pull takes nothing away");
}

#[test]
fn the_budget_collects_what_is_unused_but_never_what_a_container_has() {
    let one = {
        // An image is about this large unpacked.
        let node = Node::new();
        import(&node, "made");
        images(&node)[0]["size_bytes"].as_u64().unwrap()
    };
    let node = Node::with_settings(&format!("[images]\nbudget = {}\n", one / 2));
    let _registry = Registry::start(&node, &storage(&node));
    // Two images of different content, so that they share no layer.
    for name in ["used", "unused", "pulled"] {
        let dir = node.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(name), name).unwrap();
        let make = format!("cp {} {name}.tar && tar -C {name} -rf {name}.tar ./{name}", busybox_tar().display());
        let mut sh = node.inside("sh");
        sh.args(["-c", &make]);
        Output::of(sh).succeeded();
        node.ok(["import", &format!("{name}.tar"), &format!("127.0.0.1:5000/{name}")]);
    }
    node.ok(["push", "127.0.0.1:5000/pulled"]);
    node.ok(["rmi", "127.0.0.1:5000/pulled"]);
    node.ok(["run", "-d", "--name", "c", "--network=none", "127.0.0.1:5000/used", "sleep", "1000"]);
    node.ok(["pull", "127.0.0.1:5000/pulled"]);
    assert_eq!(names(&node), ["127.0.0.1:5000/pulled:latest", "127.0.0.1:5000/used:latest"]);
    node.coppice(["exec", "c", "cat", "/used"]).succeeded().printed("used");
    node.coppice(["run", "--rm", "--network=none", "127.0.0.1:5000/pulled", "cat", "/pulled"])
        .succeeded()
        .printed("pulled");
}
