//! Secrets: into containers and nowhere else, replaced while apps run, under another key, through deaths of the daemon.

mod node;
mod project;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use node::{Node, Output, is_alive, kill_and_wait};
use project::{Project, names, wait_until};

/// A value that nothing has by chance.
const VALUE: &str = "correct-horse-7f3a91c2";
const OTHER: &str = "battery-staple-5d20be84";

/// `web` has a variable and a file, and is replaced for another value; `eye` reads its file anew at HUP; `idle` has files
/// where it wants them and is told nothing.
const SHOP: &str = r#"
[secret.made]
generate = "password"

[service.web]
image = "box"
command = ["sh", "-c", "sleep 1000"]
secrets = [{ secret = "token", env = "TOKEN" }, "made", { secret = "made", part = "hash", env = "MADE_HASH" }]
stop_signal = "KILL"

[service.eye]
image = "box"
command = ["sh", "-c", "trap 'cat /run/secrets/token > /tmp/seen' HUP; while true; do sleep 0.05; done"]
secrets = [{ secret = "token", on_rotate = "signal:HUP" }]
stop_signal = "KILL"

[service.idle]
image = "box"
user = "app"
read_only = true
command = ["sleep", "1000"]
secrets = [{ secret = "token", file = "/etc/app/token", mode = "0440", owner = "1000:2000", on_rotate = "nothing" }]
stop_signal = "KILL"
"#;

fn shop(node: &Node) -> Project<'_> {
    node.busybox_image();
    set(node, "token", VALUE);
    let shop = Project::new(node, "shop", SHOP);
    shop.up();
    shop
}

#[track_caller]
fn set(node: &Node, name: &str, value: &str) {
    node.coppice_fed(["secret", "set", name], value.as_bytes()).succeeded();
}

#[track_caller]
fn get(node: &Node, name: &str) -> String {
    node.coppice(["secret", "get", name]).succeeded().stdout
}

fn key_file(node: &Node) -> PathBuf {
    node.root().join("keys/secrets.key")
}

/// The daemon is killed, and another one takes over.
fn another_daemon(node: &Node) {
    kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
}

/// Files below `dir` that have any of these texts.
fn files_with(dir: &Path, texts: &[String], found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            files_with(&entry.path(), texts, found);
        } else if kind.is_file() {
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            let has = |text: &String| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            if texts.iter().any(has) {
                found.push(entry.path());
            }
        }
    }
}

/// A value as it could have been written: plain, in base64 at any offset, in hex.
fn spellings(value: &str) -> Vec<String> {
    let run = |program: &str, args: &[&str], input: &str| {
        let mut command = std::process::Command::new(program);
        let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let mut all = vec![value.to_owned()];
    all.push(value.bytes().map(|byte| format!("{byte:02x}")).collect());
    for offset in 0..3 {
        // The letters that depend on the value alone.
        let text = run("base64", &["-w0"], &format!("{}{value}", "x".repeat(offset)));
        all.push(text[4..text.len() - 4].to_owned());
    }
    all
}

#[test]
fn an_app_whose_secret_nobody_has_set_is_refused_and_says_what_to_do() {
    let node = Node::with_busybox();
    let shop = Project::new(&node, "shop", SHOP);
    let refused = shop.coppice(&["up"]).ended_with(2);
    refused.complained("secret token").complained("coppice secret set token");
    assert_eq!(node.ok(["secret", "ls", "--json"]), "[]", "what could be made was not, for an app that is refused");
    set(&node, "token", VALUE);
    let wrong = SHOP
        .replace("{ secret = \"token\", env = \"TOKEN\" }", "{ secret = \"token\", part = \"hash\", env = \"TOKEN\" }");
    shop.write(&wrong);
    shop.coppice(&["up"]).ended_with(2).complained("secret token has no part hash");
    shop.write(SHOP);
    shop.up();
}

#[test]
fn values_are_in_the_containers_that_use_them_and_nowhere_else() {
    let node = Node::new();
    let shop = shop(&node);
    let made = get(&node, "made");
    assert_eq!(shop.shell("web-1", "echo $TOKEN"), format!("{VALUE}\n"));
    assert_eq!(shop.shell("web-1", "cat /run/secrets/made"), made);
    assert!(shop.shell("web-1", "tr '\\0' '\\n' < /proc/1/environ").contains(&format!("TOKEN={VALUE}\n")));
    assert!(shop.shell("web-1", "echo $MADE_HASH").starts_with("$argon2id$"));
    assert_eq!(shop.shell("web-1", "stat -c '%a %u:%g' /run/secrets/made"), "400 0:0\n");
    assert_eq!(
        shop.shell("idle-1", "cat /etc/app/token; stat -Lc ' %a %u:%g' /etc/app/token"),
        format!("{VALUE} 440 1000:2000\n")
    );
    assert_eq!(shop.shell("eye-1", "ls /run/secrets; stat -fc %T /run/secrets"), "token\ntmpfs\n");

    // In nothing that is said …
    let asked: &[&[&str]] = &[
        &["inspect", "shop/web-1"],
        &["plan", "--json"],
        &["status", "--json"],
        &["ps", "--json"],
        &["top", "shop/web-1"],
        &["logs", "--tail", "1000"],
        &["secret", "ls", "--json"],
        &["secret", "history", "token", "--json"],
        &["bootstrap", "status", "--json"],
        &["bootstrap", "verify", "--json"],
        &["node", "status", "--json"],
        &["events", "--since", "1h", "--no-follow"],
    ];
    let mut said: String = asked.iter().map(|words| shop.ok(words)).collect();
    // … nor shown of any process of the machine to others …
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        said.push_str(&String::from_utf8_lossy(&std::fs::read(entry.path().join("cmdline")).unwrap_or_default()));
    }
    let environ = std::fs::metadata(format!("/proc/{}/environ", shop.pid("web-1"))).unwrap();
    assert_eq!(environ.mode() & 0o077, 0);
    // … nor on disk, in any spelling.
    let mut spelled = spellings(VALUE);
    spelled.extend(spellings(&made));
    for text in &spelled {
        assert!(!said.contains(text), "{text} is said");
    }
    assert!(said.contains("token"), "its name is");
    let mut found = Vec::new();
    files_with(&node.see(node.root()), &spelled, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
    shop.ok(&["restart", "web"]);
    wait_until("it is back with it", || {
        shop.coppice(&["exec", "shop/web-1", "sh", "-c", "echo $TOKEN"]).stdout.trim() == VALUE
    });
    shop.ok(&["down"]);
    files_with(&node.see(node.root()), &spelled, &mut found);
    assert_eq!(found, Vec::<PathBuf>::new());
}

#[test]
fn another_value_reaches_what_runs_as_each_use_asks() {
    let node = Node::new();
    let shop = shop(&node);
    let pids: Vec<u32> = ["web-1", "eye-1", "idle-1"].iter().map(|name| shop.pid(name)).collect();
    // Set alone, it waits for the next release.
    let said = node.coppice_fed(["secret", "set", "token"], OTHER.as_bytes()).succeeded().stdout;
    assert!(said.contains("until the next `coppice up`") && said.contains("shop/web"), "{said}");
    assert_eq!(shop.shell("eye-1", "cat /run/secrets/token"), VALUE);
    let rotated = node.coppice_fed(["secret", "rotate", "token", "--json"], OTHER.as_bytes()).succeeded().json();
    assert_eq!((&rotated["version"], rotated["users"].as_array().unwrap().len()), (&3.into(), 3), "{rotated}");
    // What is answered is done.
    assert_eq!(shop.shell("eye-1", "cat /run/secrets/token"), OTHER);
    assert_eq!(shop.shell("idle-1", "cat /etc/app/token"), OTHER);
    assert_eq!(shop.shell("idle-1", "stat -Lc '%a %u:%g' /etc/app/token"), "440 1000:2000\n");
    wait_until("it has read it anew at HUP", || shop.shell("eye-1", "cat /tmp/seen || true") == OTHER);
    wait_until("it was replaced", || shop.child("web-1").pid.is_some_and(|pid| pid != pids[0]));
    assert_eq!(shop.shell("web-1", "echo $TOKEN"), format!("{OTHER}\n"));
    assert_eq!([shop.pid("eye-1"), shop.pid("idle-1")], pids[1..], "nobody else was");
    let history = node.json(["secret", "history", "token"]);
    assert_eq!(history[2]["pinned_by"][0], "shop release 1", "{history}");
    assert_eq!(history[0]["pinned_by"].as_array().unwrap().len(), 0);
    // What was made is made anew, without being asked for.
    let made = get(&node, "made");
    shop.ok(&["secret", "rotate", "made"]);
    assert_ne!(get(&node, "made"), made);
    assert_eq!(node.coppice(["secret", "get", "made", "--version", "1"]).succeeded().stdout, made);
    // Nothing has changed for a release; with another value, it is another one.
    wait_until("it runs", || shop.child("web-1").pid.is_some());
    assert!(shop.ok(&["plan"]).contains("nothing to do"));
    set(&node, "token", VALUE);
    let plan = shop.ok(&["plan"]);
    assert!(plan.contains("secret token changed version 3 -> version 4"), "{plan}");
    assert!(plan.contains("web-1") && !plan.contains("eye-1") && !plan.contains("idle-1"), "{plan}");
    shop.up();
    assert_eq!(shop.status().release, 2);
    wait_until("it has the value of its release", || {
        shop.coppice(&["exec", "shop/web-1", "sh", "-c", "echo $TOKEN"]).stdout.trim() == VALUE
    });
    assert_eq!(shop.shell("idle-1", "cat /etc/app/token"), VALUE);
    // Going back to a release brings back the values it ran with.
    shop.ok(&["rollback"]);
    wait_until("it has the value of the release before", || {
        shop.coppice(&["exec", "shop/web-1", "sh", "-c", "echo $TOKEN"]).stdout.trim() == OTHER
    });
    wait_until("its file has it, too", || shop.shell("idle-1", "cat /etc/app/token") == OTHER);
    // A used one stays.
    node.coppice(["secret", "rm", "token"]).ended_with(1).complained("release 2 of app shop");
    node.coppice(["secret", "rotate", "nosuch"]).ended_with(1).complained("no secret \"nosuch\"");
}

#[test]
fn a_daemon_that_returns_gives_what_the_one_before_it_did_not() {
    let node = Node::new();
    let shop = shop(&node);
    let pid = shop.pid("eye-1");
    for round in 0..4u64 {
        let value = format!("{OTHER}-{round}");
        let mut rotate = node.command(["secret", "rotate", "token", "--value", &value]);
        let mut rotate = rotate.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = Instant::now() + Duration::from_millis(20 * round);
        wait_until("the moment has come", || Instant::now() >= moment);
        another_daemon(&node);
        rotate.wait().unwrap();
        let newest = get(&node, "token");
        let history = node.json(["secret", "history", "token"]);
        let versions = history.as_array().unwrap();
        let pinned =
            versions.iter().rev().find(|version| !version["pinned_by"].as_array().unwrap().is_empty()).unwrap();
        let version = pinned["version"].to_string();
        let wanted = node.coppice(["secret", "get", "token", "--version", &version]).succeeded().stdout;
        assert!(newest == wanted || newest == value, "set, and maybe not yet given");
        for place in ["/run/secrets/token", "/etc/app/token"] {
            let instance = if place.starts_with("/run") { "eye-1" } else { "idle-1" };
            wait_until("it has what its release has", || shop.shell(instance, &format!("cat {place}")) == wanted);
        }
        wait_until("it has what its release has", || {
            shop.coppice(&["exec", "shop/web-1", "sh", "-c", "echo $TOKEN"]).stdout.trim() == wanted
        });
    }
    assert_eq!(shop.pid("eye-1"), pid);
}

#[test]
fn another_key_seals_everything_anew_and_a_crash_at_any_step_leaves_one_that_opens_it() {
    let node = Node::new();
    let shop = shop(&node);
    set(&node, "token", OTHER);
    let path = node.see(&key_file(&node));
    let old = std::fs::read(&path).unwrap();
    assert_eq!((old.len(), std::fs::metadata(&path).unwrap().mode() & 0o7777), (32, 0o600));
    let fingerprint = node.json(["secret", "history", "token"])[0]["fingerprint"].clone();
    let reply = node.json(["secret", "rekey"]);
    assert_eq!((&reply["secrets"], &reply["versions"]), (&2.into(), &3.into()));
    let new = std::fs::read(&path).unwrap();
    assert!(new.len() == 32 && new != old);
    assert_ne!(node.json(["secret", "history", "token"])[0]["fingerprint"], fingerprint);
    let is_well = || {
        assert_eq!(get(&node, "token"), OTHER);
        assert_eq!(node.coppice(["secret", "get", "token", "--version", "1"]).succeeded().stdout, VALUE);
    };
    is_well();
    // Killed before the log knew of the next key: that one is nobody's.
    let beside = path.with_extension("key.next");
    let keep = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    keep(&beside, &[7; 32]);
    another_daemon(&node);
    is_well();
    assert_eq!((std::fs::read(&path).unwrap() == new, beside.exists()), (true, false));
    // Killed after the log knew of it, before it was in its place.
    kill_and_wait(node.daemon_pid(), "KILL");
    keep(&beside, &new);
    keep(&path, &old);
    is_well();
    assert_eq!((std::fs::read(&path).unwrap() == new, beside.exists()), (true, false));
    // Killed anywhere.
    for round in 0..5u64 {
        let mut rekey = node.command(["secret", "rekey"]);
        let mut rekey = rekey.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = Instant::now() + Duration::from_millis(10 + 10 * round);
        wait_until("the moment has come", || Instant::now() >= moment);
        another_daemon(&node);
        rekey.wait().unwrap();
        is_well();
    }
    // Killed between the new key and the log, and between the log and the old key's place: the next one says what it did.
    for (call, count, what) in [("pwrite64", 1, "went back"), ("rename", 2, "finished")] {
        let before = std::fs::read(&path).unwrap();
        let pid = node.daemon_pid();
        let mut traced = node.inside("strace");
        traced.args(["-f", "-o", "/dev/null", &format!("--inject={call}:signal=KILL:when={count}"), "-p"]);
        let mut traced = traced.arg(pid.to_string()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 1];
        traced.stderr.take().unwrap().read_exact(&mut said).expect("strace says whom it attached to");
        wait_until("it is traced", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            !status.contains("TracerPid:\t0\n")
        });
        node.coppice(["secret", "rekey"]);
        wait_until("it was killed", || !is_alive(pid));
        traced.wait().unwrap();
        is_well();
        let events = node.ok(["events", "--since", "1h", "--no-follow"]);
        assert!(events.contains(what) && events.contains("secrets-rekey"), "{call}: {events}");
        assert_eq!(std::fs::read(&path).unwrap() == before, what == "went back");
        assert_eq!(names(path.parent().unwrap()), ["secrets.key"]);
    }
    // The old one, where backups need it.
    let before = std::fs::read(&path).unwrap();
    let reply = node.json(["secret", "rekey", "--keep-old"]);
    let kept = PathBuf::from(reply["old_key"].as_str().unwrap());
    assert_eq!(std::fs::read(node.see(&kept)).unwrap(), before);
    is_well();
    assert_eq!(shop.shell("web-1", "echo $TOKEN"), format!("{VALUE}\n"), "who runs has not noticed");
}

#[test]
fn a_key_that_others_may_read_or_that_is_another_is_refused_and_apps_run_on() {
    let node = Node::new();
    let shop = shop(&node);
    let pids = shop.pids();
    let path = node.see(&key_file(&node));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    another_daemon(&node);
    node.coppice(["secret", "get", "token"]).ended_with(1).complained("chmod 600");
    node.coppice_fed(["secret", "set", "token"], b"x").ended_with(1).complained("chmod 600");
    let verified = shop.coppice(&["bootstrap", "verify", "--json"]).ended_with(1).json();
    assert_eq!(verified[0]["state"], "read_error", "{verified}");
    assert_eq!(shop.pids(), pids);
    // One that has to start again waits for the key, and says so.
    kill_and_wait(shop.pid("web-1"), "KILL");
    wait_until("it says why it does not start", || shop.coppice(&["status", "--json"]).stdout.contains("chmod 600"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(get(&node, "token"), VALUE);
    shop.ok(&["start", "web"]);
    shop.wait_child("web-1", "is back", |web| web.ready);
    assert_eq!(shop.shell("web-1", "echo $TOKEN"), format!("{VALUE}\n"));
    let pids = shop.pids();
    let right = std::fs::read(&path).unwrap();
    kill_and_wait(node.daemon_pid(), "KILL");
    std::fs::write(&path, [7; 32]).unwrap();
    node.coppice(["secret", "get", "token"]).ended_with(1).complained("is not in").complained("backup");
    assert_eq!(std::fs::read(&path).unwrap(), [7; 32], "none was made");
    std::fs::write(&path, right).unwrap();
    assert_eq!(get(&node, "token"), VALUE);
    assert_eq!(shop.pids(), pids);
}

#[test]
fn values_are_for_root_and_not_for_terminals() {
    let node = Node::with_settings("[api]\ngroup = \"4242\"\n");
    set(&node, "token", VALUE);
    node.ok(["secret", "set", "pair", "--generate", "ed25519"]);
    let as_nobody = |args: &[&str]| {
        let mut command = node.inside("setpriv");
        command.args(["--reuid=65534", "--regid=4242", "--clear-groups", env!("CARGO_BIN_EXE_coppice")]);
        command.arg("--root").arg(node.root()).args(args).stdin(Stdio::null());
        Output::of(command)
    };
    as_nobody(&["secret", "get", "token"]).ended_with(1).complained("root alone").complained("65534");
    as_nobody(&["secret", "ls"]).succeeded().printed_some("token");
    as_nobody(&["secret", "get", "pair", "--part", "public"]).succeeded().printed_some("BEGIN PUBLIC KEY");
    as_nobody(&["secret", "get", "pair"]).ended_with(1);
    let mut refused = node.terminal(["secret", "get", "token"]);
    let (code, said) = (refused.wait(), refused.shown());
    assert!(code == 2 && said.contains("--show") && !said.contains(VALUE), "{code}: {said}");
    let mut shown = node.terminal(["secret", "get", "--show", "token"]);
    assert_eq!(shown.wait(), 0);
    assert!(shown.shown().contains(VALUE));
    // Bytes as they are.
    let bytes: Vec<u8> = (0..=255).collect();
    let file = node.file("bytes", &bytes);
    node.ok(["secret", "set", "bytes", "--file", file.to_str().unwrap()]);
    let output = node.command(["secret", "get", "bytes"]).output().unwrap();
    assert_eq!(output.stdout, bytes);
    node.coppice(["secret", "set", "../x", "--value", "y"]).ended_with(2);
    node.file("large", vec![b'x'; 65 << 10]);
    node.coppice(["secret", "set", "large", "--file", "large"]).ended_with(2).complained("at most");
}

#[test]
fn bootstrap_makes_checks_and_replaces_what_a_manifest_declares() {
    let node = Node::with_busybox();
    let manifest = r#"
[secret.cookie]
generate = "random-256"

[secret.signing]
generate = "ed25519"

[secret.tls]
generate = "tls"
name = "db.internal"

[secret.given]

[service.web]
image = "box"
command = ["sleep", "1000"]
secrets = ["cookie", "tls", { secret = "tls", part = "certificate" }, { secret = "given", env = "GIVEN", on_rotate = "nothing" }]
stop_signal = "KILL"
"#;
    let shop = Project::new(&node, "shop", manifest);
    let states = |expected: &[(&str, &str)]| {
        let found = shop.coppice(&["bootstrap", "verify", "--json"]).json();
        let found: Vec<(String, String)> = (found.as_array().unwrap().iter())
            .map(|one| (one["name"].as_str().unwrap().to_owned(), one["state"].as_str().unwrap().to_owned()))
            .collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect();
        assert_eq!(found, expected);
    };
    states(&[("cookie", "unset"), ("given", "unset"), ("signing", "unset"), ("tls", "unset")]);
    shop.coppice(&["bootstrap", "init"]).ended_with(1).complained("given").complained("coppice secret set given");
    set(&node, "given", VALUE);
    let cookie = get(&node, "cookie");
    shop.ok(&["bootstrap", "init"]);
    assert_eq!(get(&node, "cookie"), cookie, "what is there stays");
    states(&[("cookie", "ok"), ("given", "ok"), ("signing", "ok"), ("tls", "ok")]);
    shop.up();
    states(&[("cookie", "ok"), ("given", "ok"), ("signing", "ok"), ("tls", "ok")]);
    let status = shop.coppice(&["bootstrap", "status", "--json"]).succeeded().json();
    assert_eq!((&status[0]["kind"], &status[0]["consumers"][0]), (&"random-256".into(), &"shop/web".into()));
    assert_eq!(status[1]["kind"], "by hand");

    let exported = shop.ok(&["bootstrap", "export-pubkey"]);
    assert!(exported.contains("# signing\n-----BEGIN PUBLIC KEY-----") && !exported.contains("PRIVATE"), "{exported}");
    assert!(exported.contains("# tls\n-----BEGIN CERTIFICATE-----"), "{exported}");
    assert!(shop.shell("web-1", "cat /run/secrets/tls").contains("PRIVATE KEY"));
    assert!(exported.contains(&shop.shell("web-1", "cat /run/secrets/tls.certificate")));

    shop.shell("web-1", "echo spoilt > /run/secrets/cookie");
    let files = PathBuf::from(format!("/proc/{}/root/run/secrets", shop.pid("web-1")));
    std::fs::remove_file(files.join("tls")).unwrap();
    set(&node, "given", OTHER);
    node.coppice_fed(["secret", "rotate", "given"], OTHER.as_bytes()).succeeded();
    states(&[("cookie", "drift"), ("given", "drift"), ("signing", "ok"), ("tls", "file_missing")]);

    let pid = shop.pid("web-1");
    let rotated = shop.ok(&["bootstrap", "rotate", "--key"]);
    assert!(rotated.contains("cookie: version 2") && rotated.contains("shop/web (file /run/secrets/cookie): restarts"));
    assert!(!rotated.contains("given:"), "what was given stays: {rotated}");
    shop.wait_child("web-1", "was replaced", |web| web.ready && web.pid.is_some_and(|now| now != pid));
    assert_ne!(get(&node, "cookie"), cookie);
    states(&[("cookie", "ok"), ("given", "ok"), ("signing", "ok"), ("tls", "ok")]);
    shop.coppice(&["bootstrap", "rotate", "nosuch"]).ended_with(2).complained("no secret \"nosuch\"");
}

#[test]
fn a_passphrase_or_a_credential_protects_the_key() {
    let node = Node::new();
    let passphrase = node.file("passphrase", "a long enough passphrase\n");
    std::fs::set_permissions(&passphrase, std::fs::Permissions::from_mode(0o600)).unwrap();
    let by_passphrase = format!("{{ passphrase-file = {passphrase:?} }}");
    node.set(&format!("[secrets]\nkey = {by_passphrase}\n"));
    set(&node, "token", VALUE);
    let file = std::fs::read(node.see(&key_file(&node))).unwrap();
    assert!(file.len() > 32 && file.starts_with(b"coppice-wrapped-key"));
    another_daemon(&node);
    assert_eq!(get(&node, "token"), VALUE);
    node.ok(["secret", "rekey"]);
    assert_eq!(get(&node, "token"), VALUE);

    // A credential takes its place; systemd names the folder it is in.
    std::fs::create_dir(node.dir().join("credentials")).unwrap();
    node.file("credentials/coppice", [9; 32]);
    node.set(&format!("[secrets]\nkey = {{ credential = \"coppice\" }}\nprevious_key = {by_passphrase}\n"));
    kill_and_wait(node.daemon_pid(), "KILL");
    let with_credentials = |args: &[&str]| {
        let mut command = node.inside("env");
        command.arg(format!("CREDENTIALS_DIRECTORY={}", node.dir().join("credentials").display()));
        command.arg(env!("CARGO_BIN_EXE_coppice")).arg("--root").arg(node.root()).args(args).stdin(Stdio::null());
        Output::of(command)
    };
    with_credentials(&["secret", "get", "token"]).succeeded().printed(VALUE);
    node.set("[secrets]\nkey = { credential = \"coppice\" }\n");
    kill_and_wait(node.daemon_pid(), "KILL");
    with_credentials(&["secret", "get", "token"]).succeeded().printed(VALUE);
    kill_and_wait(node.daemon_pid(), "KILL");
    node.coppice(["secret", "get", "token"]).ended_with(1).complained("LoadCredentialEncrypted=coppice");
    node.set(&format!("[secrets]\nkey = {by_passphrase}\n"));
    kill_and_wait(node.daemon_pid(), "KILL");
    node.coppice(["secret", "get", "token"]).ended_with(1).complained("neither");
}
