//! Verbs that need no container: help, version, completions, schemas, manifests; and JSON on every read.

use crate::node::{Node, Output};

#[test]
fn bad_words_end_with_2_and_say_what_is_right() {
    let node = Node::new();
    node.coppice(["statsu"]).ended_with(2).complained("statsu").complained("status");
    node.coppice(["ps", "--al"]).ended_with(2).complained("--all");
    node.coppice(["rm"]).ended_with(2).complained("CONTAINER");
    node.coppice(["node", "nonsense"]).ended_with(2);
    let nothing: [&str; 0] = [];
    node.coppice(nothing).ended_with(2).complained("Usage");
    assert!(node.processes().is_empty(), "none of this starts a node");
}

#[test]
fn every_verb_has_help_and_version_is_told() {
    let node = Node::new();
    let help = node.coppice(["--help"]).succeeded().stdout;
    for verb in [
        "up",
        "down",
        "plan",
        "status",
        "ps",
        "run",
        "wait",
        "logs",
        "exec",
        "stop",
        "start",
        "restart",
        "kill",
        "rm",
        "pause",
        "unpause",
        "inspect",
        "stats",
        "top",
        "events",
        "cp",
        "images",
        "pull",
        "push",
        "tag",
        "rmi",
        "import",
        "save",
        "load",
        "prune",
        "node",
        "completions",
        "version",
        "init",
        "validate",
        "schema",
        "convert",
    ] {
        assert!(
            help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))),
            "{verb} is not in:\n{help}"
        );
        node.coppice([verb, "--help"]).succeeded().printed_some("Usage: coppice");
    }
    let version = env!("CARGO_PKG_VERSION");
    node.coppice(["version"]).succeeded().printed_some(version);
    node.coppice(["--version"]).succeeded().printed_some(version);
    assert_eq!(node.json(["version"])["version"], version);
    assert_eq!(node.json(["version"])["node"], serde_json::Value::Null);
    node.ok(["node", "start"]);
    assert_eq!(node.json(["version"])["node"]["version"], version);
}

#[test]
fn completions_are_scripts_that_their_shells_read() {
    let node = Node::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = node.coppice(["completions", shell]).succeeded().stdout;
        assert!(script.contains("coppice") && script.contains("unpause"), "{shell}");
    }
    let script = node.file("complete.bash", node.coppice(["completions", "bash"]).stdout);
    let mut bash = node.inside("bash");
    bash.args(["-n", script.to_str().unwrap()]);
    Output::of(bash).succeeded();
    node.coppice(["completions", "nosuchshell"]).ended_with(2).complained("nosuchshell");
}

#[test]
fn schema_and_openapi_are_json() {
    let node = Node::new();
    let schema = node.coppice(["schema"]).succeeded().json();
    assert!(schema["$schema"].is_string() && schema["properties"]["service"].is_object(), "{schema}");
    assert!(node.processes().is_empty(), "the manifest's schema needs no node");
    let openapi = node.coppice(["openapi"]).succeeded().json();
    assert!(openapi["openapi"].is_string() && openapi["paths"].as_object().unwrap().len() > 10);
}

#[test]
fn init_writes_a_manifest_that_validates_and_never_over_one() {
    let node = Node::new();
    node.coppice(["init"]).succeeded();
    let file = node.dir().join("coppice.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    node.coppice(["validate"]).succeeded().printed_some("is right");
    node.coppice(["validate", "-q"]).succeeded().printed("");
    std::fs::write(&file, "mine").unwrap();
    node.coppice(["init"]).ended_with(2).complained("there already").helped();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    node.coppice(["init", "--force"]).succeeded();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    assert!(node.processes().is_empty());
}

#[test]
fn validate_says_file_line_and_fix_of_everything_that_is_wrong() {
    let node = Node::new();
    node.file(
        "coppice.toml",
        "[app]\nname = \"shop\"\n\n[service.web]\nimage = \"box\"\nreplcas = 2\nports = [\"99999:80\"]\ndepends_on = [\"db\"]\n",
    );
    let output = node.coppice(["validate"]).ended_with(2);
    for part in ["coppice.toml:6", "replcas", "replicas", "coppice.toml:7", "99999", "db"] {
        assert!(output.stderr.contains(part), "{part} is not in:\n{}", output.stderr);
    }
    node.coppice(["validate", "-f", "nothere.toml"]).ended_with(2).complained("nothere.toml");
    node.coppice(["up"]).ended_with(2).complained("replcas");
    assert!(node.processes().is_empty(), "a wrong manifest starts no node");
}

#[test]
fn convert_makes_a_manifest_of_a_compose_file_and_lists_what_is_left_out() {
    let node = Node::new();
    let compose = "services:\n  web:\n    image: nginx:1\n    ports: [\"8080:80\"]\n    restart: always\n    \
                   security_opt: [\"label:disable\"]\n  db:\n    image: redis:7\n    volumes: [\"data:/data\"]\nvolumes:\n  data: {}\n";
    node.file("compose.yaml", compose);
    let output = node.coppice(["convert", "compose.yaml", "-o", "coppice.toml"]).succeeded();
    assert!(output.stderr.contains("security_opt"), "{}", output.stderr);
    node.coppice(["validate"]).succeeded();
    let text = std::fs::read_to_string(node.dir().join("coppice.toml")).unwrap();
    for part in ["[service.web]", "[service.db]", "8080:80", "data:/data"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    node.coppice(["convert", "compose.yaml", "-o", "coppice.toml"]).ended_with(2).complained("there already");
    node.file("broken.yaml", "services: [");
    node.coppice(["convert", "broken.yaml"]).ended_with(2).complained("broken.yaml");
}

#[test]
fn every_read_speaks_json() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "c", "--network=none", "box", "sh", "-c", "echo hello; exec sleep 1000"]);
    node.wait_for_log("c", "hello");
    for words in [
        &["ps"][..],
        &["ps", "-a"],
        &["images"],
        &["image", "inspect", "box"],
        &["inspect", "c"],
        &["stats", "--no-stream"],
        &["top", "c"],
        &["apps"],
        &["status"],
        &["node", "status"],
        &["version"],
        &["prune"],
    ] {
        let value = node.json(words);
        assert!(value.is_array() || value.is_object(), "{words:?}: {value}");
    }
    for words in [&["logs", "c", "--json"][..], &["events", "--no-follow", "--json"]] {
        assert!(!node.coppice(words).succeeded().json_lines().is_empty(), "{words:?}");
    }
    node.ok(["kill", "c"]);
    let mut wait = node.command(["--json", "wait", "c"]);
    wait.stdin(std::process::Stdio::null());
    assert_eq!(Output::of(wait).ended_with(137).json()[0]["code"], 137);
}

#[test]
fn output_into_a_closed_pipe_ends_quietly() {
    let node = Node::with_busybox();
    let binary = env!("CARGO_BIN_EXE_coppice");
    let line = format!("{binary} --root {} --help | head -1; exit ${{PIPESTATUS[0]}}", node.root().display());
    let mut bash = node.inside("bash");
    bash.args(["-c", &line]);
    let output = Output::of(bash);
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
}

#[test]
fn the_root_comes_from_the_environment_too() {
    let node = Node::new();
    node.ok(["node", "start"]);
    let mut command = node.inside(env!("CARGO_BIN_EXE_coppice"));
    command.args(["node", "status", "--json"]).env("COPPICE_ROOT", node.root());
    assert_eq!(Output::of(command).succeeded().json()["root"], node.root().to_str().unwrap());
}

#[test]
fn ps_shows_those_that_pass_its_filters() {
    let node = Node::with_busybox();
    node.ok(["run", "-d", "--name", "web-a", "--network=none", "box", "sleep", "1000"]);
    node.ok(["run", "-d", "--name", "web-b", "--network=none", "box", "sleep", "1000"]);
    node.ok(["run", "--name", "done", "--network=none", "box", "true"]);
    let names = |filters: &[&str]| {
        let flags = filters.iter().flat_map(|filter| ["--filter", filter]);
        let list = node.json(["ps"].into_iter().chain(flags));
        let mut names: Vec<String> =
            list.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&["name=web"]), ["web-a", "web-b"]);
    assert_eq!(names(&["status=exited"]), ["done"]);
    assert_eq!(names(&["name=web", "name=done", "status=running", "status=exited"]), ["done", "web-a", "web-b"]);
    assert_eq!(names(&["name=web-a", "ancestor=box"]), ["web-a"]);
    assert!(names(&["ancestor=other"]).is_empty());
    node.coppice(["ps", "--filter", "colour=red"]).ended_with(2).complained("ancestor");
}

#[test]
fn nothing_typed_says_how_to_begin() {
    let node = Node::new();
    let nothing: [&str; 0] = [];
    node.coppice(nothing).ended_with(2).complained("To begin:").complained("coppice up").complained("coppice run");
    // With flags, or COPPICE_ROOT, alone, too, and that is no error to be read.
    let mut bare = node.inside(env!("CARGO_BIN_EXE_coppice"));
    bare.env("COPPICE_ROOT", node.root());
    let said = Output::of(bare).ended_with(2).complained("To begin:");
    assert!(!said.stderr.contains("error:"), "{}", said.stderr);
}

#[test]
fn a_root_that_is_a_file_a_long_path_or_not_ours_is_named_with_the_way_out() {
    let node = Node::new();
    let file = node.file("plain", "");
    let at = |root: &str, code: i32| {
        let mut command = node.inside(env!("CARGO_BIN_EXE_coppice"));
        command.args(["--root", root, "ps"]);
        Output::of(command).ended_with(code).helped().complained("--root")
    };
    at(file.to_str().unwrap(), 1);
    at(&node.dir().join("l".repeat(120)).display().to_string(), 2);
    let mut nobody = node.inside("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", env!("CARGO_BIN_EXE_coppice"), "--root"]);
    nobody.arg(node.root()).arg("ps");
    node.ok(["node", "start"]);
    Output::of(nobody).ended_with(1).complained("Permission denied").complained("sudo");
}

#[test]
fn with_json_an_error_is_json_too() {
    let node = Node::new();
    node.file("coppice.toml", "app = \"shop\"\nservices = 1\n");
    let reads = [
        (&["inspect", "nope"][..], 1),
        (&["image", "inspect", "nope"], 1),
        (&["logs", "nope"], 1),
        (&["status", "nope"], 1),
        (&["top", "nope"], 1),
        (&["stats", "nope"], 1),
        (&["wait", "nope"], 1),
        (&["plan"], 2),
        (&["exec", "nope", "true"], 125),
        (&["run", "--pull=never", "nope"], 125),
    ];
    for (words, code) in reads {
        let said = node.coppice([&["--json"][..], words].concat()).ended_with(code).printed("");
        let last = said.stderr.lines().last().unwrap_or_default();
        let error: serde_json::Value =
            serde_json::from_str(last).unwrap_or_else(|why| panic!("{words:?}: {why}: {last}"));
        assert!(error["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{words:?}: {error}");
    }
}
