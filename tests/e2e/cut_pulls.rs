//! Pulls that end midway, because the disk is full or the registry goes away: the reason is told, nothing half done is
//! left to be seen, and the same pull works once it can.

use std::path::Path;

use crate::images::Registry;
use crate::node::{Node, Output, PATIENCE, wait_until};

/// An image whose one layer is `megabytes` of what does not compress, in the registry of the node's machine.
fn push(node: &Node, name: &str, megabytes: u32) {
    let script = format!(
        "set -e; mkdir layer; head -c {megabytes}M /dev/urandom > layer/noise; tar -C layer -cf {name}.tar .; rm -r layer; \
         umoci init --layout {name}; umoci new --image {name}:1; umoci raw add-layer --image {name}:1 {name}.tar; \
         skopeo copy -q --dest-tls-verify=false oci:{name}:1 docker://127.0.0.1:5000/{name}:1; rm -r {name} {name}.tar"
    );
    let mut sh = node.inside("sh");
    sh.args(["-c", &script]);
    Output::of(sh).succeeded();
}

/// Bytes used of the small disk.
fn used(node: &Node, root: &Path) -> u64 {
    let mut df = node.inside("df");
    df.args(["--output=used", "-B1"]).arg(root);
    Output::of(df).succeeded().stdout.lines().nth(1).unwrap().trim().parse().unwrap()
}

#[test]
fn a_pull_onto_a_full_disk_fails_with_the_reason_and_leaves_nothing() {
    let node = Node::on_small_disk(32 << 20);
    let storage = node.dir().join("registry");
    let _registry = Registry::start(&node, &storage);
    push(&node, "small", 2);
    push(&node, "large", 48);
    node.ok(["pull", "127.0.0.1:5000/small:1"]);
    let before = used(&node, node.root());
    node.coppice(["pull", "127.0.0.1:5000/large:1"]).ended_with(1).complained("space").helped();
    node.coppice(["run", "--rm", "127.0.0.1:5000/large:1", "true"]).ended_with(125).complained("space");
    let names: Vec<_> = node.json(["images"]).as_array().unwrap().iter().map(|image| image["names"].clone()).collect();
    assert_eq!(names, [serde_json::json!(["127.0.0.1:5000/small:1"])], "what is half there is not listed");
    let after = used(&node, node.root());
    assert!(after < before + (2 << 20), "{before} bytes were used, now {after}: space was not given back");
    // The same daemon goes on, and with space the same pull works.
    node.ok(["rmi", "127.0.0.1:5000/small:1"]);
    node.ok(["pull", "127.0.0.1:5000/small:1"]);
    let mut grow = node.inside("mount");
    grow.args(["-o", "remount,size=256m"]).arg(node.root());
    Output::of(grow).succeeded();
    node.ok(["pull", "127.0.0.1:5000/large:1"]);
    assert_eq!(node.json(["images"]).as_array().unwrap().len(), 2);
}

/// Bytes that came in over loopback so far.
fn received(node: &Node) -> u64 {
    let mut cat = node.inside("cat");
    cat.arg("/proc/self/net/dev");
    let text = Output::of(cat).succeeded().stdout;
    let line = text.lines().find(|line| line.trim_start().starts_with("lo:")).unwrap().to_owned();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn an_up_whose_registry_goes_away_in_the_middle_of_the_pull_says_so_and_works_when_it_is_back() {
    let node = Node::new();
    let storage = node.dir().join("registry");
    let registry = Registry::start(&node, &storage);
    push(&node, "large", 48);
    let manifest = "app = \"shop\"\n[service.web]\nimage = \"127.0.0.1:5000/large:1\"\ncommand = [\"/noise\"]\n";
    node.file("coppice.toml", manifest);
    node.ok(["node", "start"]);
    // Slow enough that the middle can be met: 48 MB in some ten seconds.
    let slow = |words: &[&str]| {
        let mut tc = node.inside("tc");
        tc.args(["qdisc"]).args(words).args(["dev", "lo", "root"]);
        if words == ["add"] {
            tc.args(["tbf", "rate", "40mbit", "burst", "128kb", "latency", "100ms"]);
        }
        Output::of(tc).succeeded();
    };
    slow(&["add"]);
    let before = received(&node);
    let mut up = node.command(["up"]);
    let up = up.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("a part has come", PATIENCE, || received(&node) > before + (8 << 20));
    drop(registry);
    Output::of_child(up).ended_with(1).complained("127.0.0.1:5000");
    assert!(node.json(["images"]).as_array().unwrap().is_empty(), "half an image is none");
    slow(&["del"]);
    let _registry = Registry::start(&node, &storage);
    node.ok(["pull", "127.0.0.1:5000/large:1"]);
    assert_eq!(node.json(["images"]).as_array().unwrap().len(), 1);
}
