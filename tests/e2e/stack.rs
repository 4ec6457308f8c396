//! Real programs: redis and nginx from Debian's packages and a web program between them; killed in every way.

mod node;
mod project;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use node::{Node, Output, debian_root, is_alive, kill, kill_and_wait};
use project::{Project, child, get, wait_for, wait_until};

const STACK: &str = r#"
[group.stack]
members = ["db", "web", "front"]
strategy = "rest_for_one"

# A root that is only unpacked has no users, so nobody has given redis its directory.
[worker.prepare]
image = "box"
command = ["chown", "999:999", "/data"]
volumes = ["data:/data"]

[service.db]
image = "redis-root"
command = ["/usr/bin/redis-server", "--dir", "/data", "--appendonly", "yes", "--appendfsync", "always", "--protected-mode", "no"]
user = "999:999"
volumes = ["data:/data"]
depends_on = { prepare = "completed" }
health = { type = "exec", command = ["/usr/bin/redis-cli", "ping"], interval = "500ms", start_period = "10s" }

[service.web]
image = "redis-root"
command = ["/web"]
user = "65534:65534"
volumes = ["PROGRAM:/web:ro", "./nsswitch.conf:/etc/nsswitch.conf:ro"]
depends_on = { db = "healthy" }
stop_signal = "KILL"
health = { type = "http", port = 8000, path = "/health", interval = "500ms", start_period = "10s" }

[service.front]
image = "nginx-root"
command = ["/usr/sbin/nginx", "-e", "/dev/stderr", "-c", "/nginx.conf"]
user = "33:33"
volumes = ["./nginx.conf:/nginx.conf:ro", "./nsswitch.conf:/etc/nsswitch.conf:ro"]
tmpfs = ["/tmp"]
ports = ["8080:8080"]
depends_on = { web = "healthy" }
stop_signal = "QUIT"
health = { type = "http", port = 8080, path = "/health", interval = "500ms", start_period = "10s" }
"#;

const NGINX: &str = "daemon off; pid /tmp/nginx.pid; error_log /dev/stderr; events {}\n\
    http { access_log /dev/stdout; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;\n\
    uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 8080; location / { proxy_pass http://web:8000; } } }\n";

/// The web program, static.
fn web_program() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (program, unfinished) = (home.join("stack-web"), home.join(format!("stack-web.{}", std::process::id())));
    let lock = File::create(home.join("stack-web.lock")).unwrap();
    lock.lock().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/e2e/stack/web.rs");
    let age = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    if age(&program) < age(&source) {
        let mut build = Command::new("rustc");
        build.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]).arg(&unfinished).arg(source);
        Output::of(build).succeeded();
        std::fs::rename(&unfinished, &program).unwrap();
    }
    program
}

/// A node with the images of the stack, and the stack's directory.
fn stack(node: &Node) -> Project<'_> {
    node.busybox_image();
    for (name, package) in [("redis", "redis-server"), ("nginx", "nginx-light")] {
        let tar = debian_root(name, &[package]);
        node.ok(["import", tar.to_str().unwrap(), &format!("{name}-root")]);
    }
    let program = node.dir().join("web");
    std::fs::copy(web_program(), &program).unwrap();
    let stack = Project::new(node, "stack", &STACK.replace("PROGRAM", program.to_str().unwrap()));
    std::fs::write(stack.dir.join("nginx.conf"), NGINX).unwrap();
    std::fs::write(stack.dir.join("nsswitch.conf"), "hosts: files dns\n").unwrap();
    stack
}

/// The number of the visit that this request is.
fn visit(node: &Node) -> Option<u64> {
    get(node, "127.0.0.1:8080/").ok()?.trim().strip_prefix("visit ")?.parse().ok()
}

/// User id on the host of an instance's first process.
fn user_of(stack: &Project<'_>, instance: &str) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{}", stack.pid(instance))).unwrap().uid()
}

#[test]
fn redis_a_web_program_and_nginx_serve_together_and_survive_every_kill() {
    let node = Node::new();
    let stack = stack(&node);
    stack.up();
    assert_eq!((visit(&node), visit(&node)), (Some(1), Some(2)));
    // Each its own user, none of them root, inside or outside.
    let users = ["db-1", "web-1", "front-1"].map(|instance| user_of(&stack, instance));
    assert!(users.iter().all(|uid| *uid > 1 << 16), "{users:?}");
    assert_eq!(users.map(|uid| uid % (1 << 16)), [999, 65534, 33]);

    // An instance: those behind it in the line are made anew, and the data is where it was.
    let mut count = 2;
    for instance in ["front-1", "web-1", "db-1"] {
        let pid = stack.pid(instance);
        kill_and_wait(pid, "KILL");
        stack.wait_status(&format!("all is well after {instance}"), |status| {
            status.state == "ready" && child(status, instance).pid.is_some_and(|now| now != pid)
        });
        let next = wait_for("it answers", || visit(&node));
        assert!(next > count, "{next} after {count}: data was lost with {instance}");
        count = next;
    }
    let restarts = ["db-1", "web-1", "front-1"].map(|instance| stack.child(instance).restarts);
    // Each restart of one in the line is one of all behind it.
    assert_eq!(restarts, [1, 2, 3], "{}{}", stack.ok(&["status"]), stack.ok(&["logs", "front"]));

    // The daemon.
    let before = stack.pids();
    kill_and_wait(node.daemon_pid(), "KILL");
    assert_eq!(visit(&node), Some(count + 1), "nobody needs the daemon to be served");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
    stack.wait_status("it is ready", |status| status.state == "ready");
    assert_eq!(stack.pids(), before);

    // The launcher, and with it everything.
    kill_and_wait(node.launcher_pid(), "KILL");
    stack.wait_status("all is back", |status| {
        status.state == "ready" && before.iter().all(|(name, pid)| child(status, name).pid != Some(*pid))
    });
    assert!(wait_for("it answers", || visit(&node)) > count + 1);

    // The command line, in the middle of taking it up again after a down: data stays over both.
    stack.ok(&["down"]);
    assert!(visit(&node).is_none());
    let mut up = stack.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the node has taken it on", || stack.try_status().is_some());
    kill(up.id(), "KILL");
    up.wait().unwrap();
    stack.wait_status("it is ready", |status| status.state == "ready");
    assert!(visit(&node).is_some_and(|next| next > count + 2));
}

#[test]
fn a_full_disk_stops_nothing_that_runs_and_what_waited_for_space_comes_when_there_is_some() {
    let node = Node::on_small_disk(48 << 20);
    node.busybox_image();
    let manifest = r#"
[supervise]
max_restarts = 1000
backoff = { first = "50ms", max = "200ms" }
[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www; echo one > /www/index.html; exec httpd -f -p 80 -h /www"]
ports = ["8080:80"]
stop_signal = "KILL"
[service.other]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;
    let shop = Project::new(&node, "shop", manifest);
    shop.up();
    let filler = node.see(&node.root().join("filler"));
    let mut file = File::create(&filler).unwrap();
    // Filled to the last byte. What is asked for then is done with what the node still has, or refused with the reason.
    let mut shown = "one".to_owned();
    let refused = (0..10).find_map(|round| {
        while file.write_all(&[0; 512]).is_ok() {}
        let before = shop.pid("web-1");
        shop.write(&manifest.replace("echo one", &format!("echo {round}")));
        let said = shop.coppice(&["up", "--timeout", "2s"]);
        if said.code == 0 {
            shown = round.to_string();
            return None;
        }
        // What was there stays, whether the release was refused or waits for room to say how far it is.
        assert_eq!(shop.pid("web-1"), before);
        Some(said.ended_with(1).stderr)
    });
    let why = refused.expect("something needs space");
    assert!(why.contains("no space left") || why.contains("has not ended within"), "{why}");
    assert_eq!(get(&node, "127.0.0.1:8080/"), Ok(format!("{shown}\n")));
    let web = shop.pid("web-1");
    let other = shop.pid("other-1");
    kill_and_wait(other, "KILL");
    wait_until("its end is seen", || shop.child("other-1").pid != Some(other));
    assert!(is_alive(web));

    drop(file);
    std::fs::remove_file(&filler).unwrap();
    shop.write(&manifest.replace("echo one", "echo two"));
    shop.wait_child("other-1", "is back by itself", |child| child.ready && child.pid != Some(other));
    shop.up();
    assert_eq!(get(&node, "127.0.0.1:8080/").as_deref(), Ok("two\n"));
    shop.ok(&["down", "--volumes"]);
    project::assert_nothing_left(&node);
}

/// Debian's registry in the node's network, killed with it.
struct Registry(Child);

impl Registry {
    fn start(node: &Node) -> Self {
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:5000}}\n",
            node.dir().join("registry").display()
        );
        let mut serve = node.inside("docker-registry");
        serve.arg("serve").arg(node.file("registry.yml", config)).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Self(serve.spawn().unwrap());
        wait_until("the registry answers", || get(node, "127.0.0.1:5000/v2/").is_ok());
        registry
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_app_needs_its_registry_only_once() {
    let node = Node::with_busybox();
    let registry = Registry::start(&node);
    node.ok(["push", "box", "127.0.0.1:5000/shop/box:1"]);
    node.ok(["rmi", "box"]);
    assert_eq!(node.json(["images"]).as_array().map(Vec::len), Some(0));
    let manifest = "[service.web]\nimage = \"127.0.0.1:5000/shop/box:1\"\nreplicas = 2\nstop_signal = \"KILL\"\n\
                    command = [\"sleep\", \"1000\"]\n";
    let shop = Project::new(&node, "shop", manifest);
    shop.up();
    drop(registry);
    let before = shop.pids();
    kill_and_wait(before[0].1, "KILL");
    shop.wait_child("web-1", "is back", |web| web.ready && web.restarts == 1);
    kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
    kill_and_wait(shop.pid("web-2"), "KILL");
    shop.wait_child("web-2", "is back", |web| web.ready && web.restarts == 1);
    // Nothing is pruned that it needs.
    node.ok(["prune", "--all"]);
    kill_and_wait(node.launcher_pid(), "KILL");
    shop.wait_status("all are back", |status| status.tree.children.iter().all(|web| web.ready && web.restarts == 2));
    // More of the same need it no more than those.
    shop.write(&manifest.replace("replicas = 2", "replicas = 3"));
    shop.up();
    assert_eq!(shop.pids().len(), 3);
    // What was never fetched is missed by name, and what runs runs on.
    let before = shop.pids();
    shop.write(&manifest.replace("box:1", "box:2"));
    shop.coppice(&["up"]).ended_with(1).complained("127.0.0.1:5000/shop/box:2");
    assert_eq!(shop.pids(), before);
}
