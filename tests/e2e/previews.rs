//! Previews end to end: a release beside the one that runs, on clones of its data, and each of its ends.

mod node;
mod project;

use coppice_api::ContainerSummary;
use node::{Node, Output, kill_and_wait};
use project::{Project, names, wait_until};

/// A writer behind a route, which says which version it is.
const SHOP: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "SCRIPTmkdir -p /www && echo VERSION > /www/index.html && exec httpd -f -p 80 -h /www"]
volumes = ["data:/data"]
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "100ms" }

[service.web.http_routes.site]
host = "shop.example.com"

[volume.data]
"#;

fn shop(version: &str) -> String {
    SHOP.replace("VERSION", version).replace("SCRIPT", "")
}

/// What a request for `host` is answered.
fn ask(node: &Node, host: &str) -> String {
    let mut command = node.inside("curl");
    command.args([
        "-sS",
        "--max-time",
        "5",
        "-w",
        " %{http_code}",
        "-H",
        &format!("Host: {host}"),
        "http://127.0.0.1/",
    ]);
    let said = Output::of(command).succeeded().stdout;
    let (body, code) = said.rsplit_once(' ').unwrap();
    if code == "200" { body.trim().to_owned() } else { code.to_owned() }
}

const BASE: &str = "shop.example.com";
const FIX: &str = "fix.shop.example.com";

fn data_of(shop: &Project<'_>, app: &str) -> String {
    shop.ok(&["exec", &format!("{app}/web-1"), "cat", "/data/rows"])
}

fn apps(shop: &Project<'_>) -> Vec<String> {
    let all: serde_json::Value = serde_json::from_str(&shop.ok(&["apps", "--json"])).unwrap();
    all.as_array().unwrap().iter().map(|app| app["name"].as_str().unwrap().to_owned()).collect()
}

/// Bytes of memory and thousandths of a processor that the kernel lets the only container of an app have at most.
fn limits(shop: &Project<'_>, app: &str) -> (Option<u64>, Option<u64>) {
    let all: Vec<ContainerSummary> = serde_json::from_str(&shop.ok(&["ps", "--json", "--app", app])).unwrap();
    let [container] = &all[..] else { panic!("one container of {app}: {all:#?}") };
    let dirs = shop.node.cgroup_dirs();
    let own = || dirs.iter().filter(|dir| dir.ends_with(&container.id));
    let read = |file: &str| own().find_map(|dir| std::fs::read_to_string(dir.join(file)).ok());
    let number = |file: &str| read(file).map(|text| text.trim().parse::<i64>().unwrap());
    let memory = match number("memory.limit_in_bytes") {
        // Without a limit the kernel says the largest number of whole pages.
        Some(bytes) => u64::try_from(bytes).ok().filter(|bytes| *bytes < 1 << 60),
        None => read("memory.max").expect("a cgroup for memory").trim().parse().ok(),
    };
    let cpu = match (number("cpu.cfs_quota_us"), number("cpu.cfs_period_us")) {
        (Some(quota), Some(period)) => u64::try_from(quota).ok().map(|quota| quota * 1000 / period.unsigned_abs()),
        _ => {
            let both = read("cpu.max").expect("a cgroup for processors");
            let (quota, period) = both.trim().split_once(' ').unwrap();
            quota.parse::<u64>().ok().map(|quota| quota * 1000 / period.parse::<u64>().unwrap())
        }
    };
    (memory, cpu)
}

/// Nothing of preview `fix` is left: no app, no volume, no snapshot and no container.
#[track_caller]
fn assert_gone(shop: &Project<'_>) {
    assert_eq!(apps(shop), ["shop"]);
    assert_eq!(ask(shop.node, FIX), "404");
    let volumes = shop.ok(&["volume", "ls"]);
    assert!(!volumes.contains("shop-fix/"), "{volumes}");
    let data = shop.ok(&["volume", "inspect", "shop/data"]);
    assert!(!data.contains("preview-fix"), "{data}");
    assert_eq!(names(&shop.node.see(&shop.node.root().join("apps"))), ["shop"]);
    assert_eq!(shop.containers().len(), 1);
}

/// App `shop` at version one, with a row in its volume.
fn up<'n>(node: &'n Node) -> Project<'n> {
    let shop = Project::new(node, "shop", &self::shop("one"));
    shop.up();
    shop.shell("web-1", "echo base > /data/rows");
    shop
}

fn preview(shop: &Project<'_>, more: &[&str]) -> String {
    let args: Vec<&str> = ["up", "--timeout", "20s", "--preview", "fix"].iter().chain(more).copied().collect();
    let said = shop.coppice(&args).succeeded();
    format!("{}{}", said.stdout, said.stderr)
}

#[test]
fn a_preview_answers_under_its_own_name_on_a_clone_of_the_data_and_the_app_goes_on() {
    let node = Node::with_busybox();
    let shop = up(&node);
    let before = shop.pids();
    shop.write(&self::shop("two"));
    let said = preview(&shop, &["--memory", "64m", "--cpus", "0.5"]);
    assert!(said.contains("shop-fix: preview fix of shop until") && said.contains(FIX), "{said}");
    assert_eq!(limits(&shop, "shop-fix"), (Some(64 << 20), Some(500)));
    assert_eq!(limits(&shop, "shop"), (None, None), "its app has what the manifest says");
    assert_eq!((ask(&node, BASE), ask(&node, FIX)), ("one".to_owned(), "two".to_owned()));
    assert_eq!(data_of(&shop, "shop-fix"), "base\n");
    shop.ok(&["exec", "shop-fix/web-1", "sh", "-c", "echo preview >> /data/rows"]);
    assert_eq!(data_of(&shop, "shop"), "base\n", "what a preview writes does not reach its app");
    shop.shell("web-1", "echo later >> /data/rows");
    assert_eq!(data_of(&shop, "shop-fix"), "base\npreview\n");
    let status = shop.ok(&["status", "shop-fix"]);
    assert!(status.contains("preview of shop until "), "{status}");
    let list = shop.ok(&["preview", "ls"]);
    assert!(list.contains("fix") && list.contains("shop-fix") && list.contains("ready"), "{list}");

    // Another one updates it: it keeps its data, and its time begins anew.
    let until = |shop: &Project<'_>| -> u64 {
        let all: serde_json::Value = serde_json::from_str(&shop.ok(&["preview", "ls", "--json"])).unwrap();
        all[0]["until"].as_u64().unwrap()
    };
    let first = until(&shop);
    shop.write(&self::shop("three"));
    preview(&shop, &[]);
    assert_eq!((ask(&node, BASE), ask(&node, FIX)), ("one".to_owned(), "three".to_owned()));
    assert_eq!(data_of(&shop, "shop-fix"), "base\npreview\n");
    assert_eq!(limits(&shop, "shop-fix"), (None, None), "limits are of the one that was brought up with them");
    let second = until(&shop);
    assert!(second > first);
    // Also when there is nothing new.
    let said = preview(&shop, &[]);
    assert!(said.contains("nothing has changed") && until(&shop) > second, "{said}");
    assert_eq!(shop.pids(), before, "the app was not touched");

    let gone = shop.ok(&["preview", "discard", "fix"]);
    assert!(gone.contains("fix of shop"), "{gone}");
    assert_gone(&shop);
    assert_eq!((ask(&node, BASE), data_of(&shop, "shop")), ("one".to_owned(), "base\nlater\n".to_owned()));
}

#[test]
fn a_promoted_preview_is_what_its_app_becomes_on_the_apps_own_data() {
    let node = Node::with_busybox();
    let shop = up(&node);
    shop.write(&self::shop("two"));
    preview(&shop, &[]);
    shop.ok(&["exec", "shop-fix/web-1", "sh", "-c", "echo preview >> /data/rows"]);
    // What is promoted is what was looked at, whatever the manifest says by now.
    shop.write(&self::shop("three"));
    let said = shop.ok(&["preview", "promote", "shop/fix"]);
    assert!(said.contains("release 2 is what preview fix was, on the data that shop has"), "{said}");
    assert_eq!((ask(&node, BASE), shop.status().release), ("two".to_owned(), 2));
    assert_eq!(data_of(&shop, "shop"), "base\n");
    assert_gone(&shop);
}

#[test]
fn a_preview_stays_when_its_app_cannot_become_what_it_is() {
    let node = Node::with_busybox();
    let shop = up(&node);
    shop.write(&SHOP.replace("VERSION", "two").replace("SCRIPT", "[ -f /data/late ] && exit 3; "));
    preview(&shop, &[]);
    shop.shell("web-1", "touch /data/late");
    let said = shop.coppice(&["preview", "promote", "fix"]);
    assert_eq!(said.code, 1, "{}", said.stdout);
    assert!(
        said.stderr.contains("release 2 of shop was rolled back") && said.stderr.contains("stays"),
        "{}",
        said.stderr
    );
    shop.wait_status("the app is as it was", |status| status.settled && status.release == 1);
    assert_eq!((ask(&node, BASE), ask(&node, FIX)), ("one".to_owned(), "two".to_owned()));
}

#[test]
fn a_preview_is_gone_when_its_time_has_come_also_by_a_daemon_that_returned() {
    let node = Node::with_busybox();
    let shop = up(&node);
    shop.write(&self::shop("two"));
    preview(&shop, &["--for", "3s"]);
    wait_until("its time has come", || apps(&shop) == ["shop"] && shop.containers().len() == 1);
    assert_gone(&shop);
    preview(&shop, &["--for", "4s"]);
    kill_and_wait(node.daemon_pid(), "KILL");
    assert_eq!(
        shop.ok(&["preview", "ls", "--json"]).matches("\"shop-fix\"").count(),
        1,
        "the daemon that returned knows it"
    );
    wait_until("its time has come", || apps(&shop) == ["shop"]);
    wait_until("nothing of it is left", || names(&node.root().join("apps")) == ["shop"]);
    assert_gone(&shop);
    assert_eq!(ask(&node, BASE), "one");
}

#[test]
fn an_app_that_goes_takes_its_previews_along_and_says_which() {
    let node = Node::with_busybox();
    let shop = up(&node);
    shop.write(&self::shop("two"));
    preview(&shop, &[]);
    let said = shop.coppice(&["down"]).succeeded();
    assert!(said.stderr.contains("its previews go with it, and their data: fix"), "{}", said.stderr);
    assert_eq!(apps(&shop), Vec::<String>::new());
    let volumes = shop.ok(&["volume", "ls"]);
    assert!(volumes.contains("shop/data") && !volumes.contains("shop-fix"), "{volumes}");
}

#[test]
fn a_preview_that_cannot_be_made_leaves_nothing() {
    let node = Node::with_busybox();
    let shop = up(&node);
    // A volume of the preview's name is somebody's.
    shop.ok(&["volume", "clone", "shop/data", shop_snapshot(&shop), "shop-fix/data"]);
    let said = shop.coppice(&["up", "--preview", "fix"]);
    assert_eq!(said.code, 1, "{}", said.stdout);
    assert!(said.stderr.contains("shop-fix/data"), "{}", said.stderr);
    assert_eq!(apps(&shop), ["shop"]);
    assert!(!shop.ok(&["volume", "inspect", "shop/data"]).contains("preview-fix"));
    assert!(shop.ok(&["volume", "ls"]).contains("shop-fix/data"), "what was there is not touched");
    assert_eq!(ask(&node, BASE), "one");

    let refused = |args: &[&str], code: i32, why: &str| {
        let said = shop.coppice(args);
        assert_eq!(said.code, code, "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains(why), "{args:?}: {}", said.stderr);
    };
    for bad in ["", "Fix", "a.b", "-a", "a_b", "a/b", &"x".repeat(60)] {
        refused(&["up", &format!("--preview={bad}")], 2, "name");
    }
    refused(&["up", "--preview", "new", "--for", "0s"], 2, "more than 0 s");
    refused(&["up", "--for", "1h"], 2, "--preview");
    refused(&["preview", "discard", "none"], 1, "no preview");
    // An app is no preview, whatever it is called; and none stands beside what is not there.
    let other = Project::new(&node, "shop-new", &self::shop("other").replace(BASE, "other.example.com"));
    refused(&["up", "--preview", "other"], 0, "");
    refused_in(&other, &["up", "--preview", "fix"], 2, "nothing to stand beside");
    other.up();
    refused(&["up", "--preview", "new"], 1, "there is an app shop-new already");
    refused_in(&other, &["preview", "promote", "shop-new"], 1, "no preview");
    // And what is a preview is not brought up as an app.
    let clash = Project::new(&node, "shop-other", &self::shop("clash"));
    refused_in(&clash, &["up"], 2, "shop-other is preview other of shop");
}

#[track_caller]
fn refused_in(project: &Project<'_>, args: &[&str], code: i32, why: &str) {
    let said = project.coppice(args);
    assert_eq!(said.code, code, "{args:?}: {}", said.stderr);
    assert!(said.stderr.contains(why), "{args:?}: {}", said.stderr);
}

/// A snapshot of the app's data, whose user stands still meanwhile.
fn shop_snapshot(shop: &Project<'_>) -> &'static str {
    shop.ok(&["stop", "web"]);
    shop.wait_child("web-1", "has stopped", |child| child.pid.is_none());
    shop.ok(&["volume", "snapshot", "shop/data", "mine"]);
    shop.ok(&["start", "web"]);
    shop.wait_status("it is back", |status| status.settled && status.state == "ready");
    "mine"
}

#[test]
fn a_disk_that_fills_up_half_way_leaves_no_preview() {
    let node = Node::on_small_disk(80 << 20);
    node.busybox_image();
    let two = self::shop("one")
        .replace("volumes = [", "volumes = [\"more:/more\", ")
        .replace("[volume.data]", "[volume.data]\n[volume.more]");
    let shop = Project::new(&node, "shop", &two);
    shop.up();
    shop.shell("web-1", "echo base > /data/rows && head -c 30000000 /dev/zero > /more/large");
    // Its snapshot fits, the clone of that does not; by then the other volume's is there.
    let said = shop.coppice(&["up", "--preview", "fix"]);
    assert_eq!(said.code, 1, "{}", said.stdout);
    assert!(said.stderr.contains("No space left"), "{}", said.stderr);
    assert_eq!(apps(&shop), ["shop"]);
    let volumes = shop.ok(&["volume", "ls"]);
    assert!(!volumes.contains("shop-fix"), "{volumes}");
    for volume in ["shop/data", "shop/more"] {
        assert!(!shop.ok(&["volume", "inspect", volume]).contains("preview-fix"));
    }
    assert_eq!(ask(&node, BASE), "one");
    // With room it is made.
    shop.shell("web-1", "rm /more/large");
    preview(&shop, &[]);
    assert_eq!(data_of(&shop, "shop-fix"), "base\n");
}

#[test]
fn what_a_daemon_that_died_had_cloned_is_gone_when_one_returns_and_nothing_else() {
    let node = Node::with_busybox();
    let shop = up(&node);
    let snapshot = shop_snapshot(&shop);
    for clone in ["shop-fix/data", "shop-fix/kept", "shop-other/data"] {
        shop.ok(&["volume", "clone", "shop/data", snapshot, clone]);
    }
    // As a clone says from its first moment on that it is of the preview; another one's volume may say so too.
    for clone in ["shop-fix/data", "shop-other/data"] {
        let head = node.root().join("volumes").join(clone).join("head");
        rustix::fs::setxattr(head, "trusted.coppice.preview_of", b"shop/fix", rustix::fs::XattrFlags::empty()).unwrap();
    }
    kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("it is gone", || !shop.ok(&["volume", "ls"]).contains("shop-fix/data"));
    let volumes = shop.ok(&["volume", "ls"]);
    assert!(volumes.contains("shop-fix/kept") && volumes.contains("shop-other/data"), "{volumes}");
    assert_eq!(data_of(&shop, "shop"), "base\n");
}

/// Bytes that are used on the filesystem of a node's root, with all on disk that was written.
fn used(node: &Node) -> u64 {
    let mut sync = node.inside("btrfs");
    sync.args(["filesystem", "sync"]).arg(node.root());
    Output::of(sync).succeeded();
    let mut df = node.inside("df");
    df.args(["--output=used", "-B1"]).arg(node.root());
    let said = Output::of(df).succeeded().stdout;
    said.lines().last().and_then(|used| used.trim().parse().ok()).unwrap()
}

#[test]
fn on_btrfs_a_preview_shares_its_blocks_with_the_app_and_neither_sees_what_the_other_writes() {
    let node = Node::on_btrfs(512 << 20);
    node.busybox_image();
    let shop = up(&node);
    shop.shell("web-1", "dd if=/dev/urandom of=/data/large bs=1M count=64 conv=fsync 2>/dev/null");
    let before = used(&node);
    shop.write(&self::shop("two"));
    preview(&shop, &[]);
    let more = used(&node).saturating_sub(before);
    assert!(more < 32 << 20, "a copy of 64 MiB would take them: {more}");
    let sum = |app: &str| shop.ok(&["exec", &format!("{app}/web-1"), "md5sum", "/data/large"]);
    let same = sum("shop");
    assert_eq!(sum("shop-fix"), same);
    let write = "echo preview > /data/rows; echo x | dd of=/data/large conv=notrunc,fsync 2>/dev/null";
    shop.ok(&["exec", "shop-fix/web-1", "sh", "-c", write]);
    assert_eq!((sum("shop"), data_of(&shop, "shop")), (same.clone(), "base\n".to_owned()));
    assert_ne!(sum("shop-fix"), same);
    shop.shell("web-1", "echo later >> /data/rows");
    assert_eq!(data_of(&shop, "shop-fix"), "preview\n");
    shop.ok(&["preview", "discard", "fix"]);
    assert_gone(&shop);
    assert_eq!((sum("shop"), data_of(&shop, "shop")), (same, "base\nlater\n".to_owned()));
    shop.ok(&["node", "stop", "--all"]);
}
