//! gRPC health checks of a real gRPC server: what it says of itself decides who is ready, who is named and who starts.
//!
//! The server in the containers is this file's own program: it has tonic in it already, and needs no build of its own.

mod node;
mod project;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use coppice_api::HealthState;
use node::{Node, Output, kill};
use project::{Project, child, wait_until};
use tokio::signal::unix::{SignalKind, signal};
use tonic_health::ServingStatus;

/// Where the server listens.
const PORT: u16 = 50051;

#[test]
#[ignore = "the program in the containers: it serves until it is killed"]
fn program() {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (reporter, health) = tonic_health::server::health_reporter();
        // The server itself ("") is well from the start, unless this is about it.
        let service = std::env::var("HEALTH_OF").unwrap();
        reporter.set_service_status(&service, ServingStatus::NotServing).await;
        let (mut well, mut ill) =
            (signal(SignalKind::user_defined1()).unwrap(), signal(SignalKind::user_defined2()).unwrap());
        tokio::spawn(async move {
            loop {
                let status = tokio::select! {
                    _ = well.recv() => ServingStatus::Serving,
                    _ = ill.recv() => ServingStatus::NotServing,
                };
                reporter.set_service_status(&service, status).await;
            }
        });
        let server = tonic::transport::Server::builder().add_service(health);
        server.serve((Ipv4Addr::UNSPECIFIED, PORT).into()).await.unwrap();
    });
}

/// A tar of a root filesystem with busybox, this program as `/server`, and the libraries it is linked with.
fn root(node: &Node) -> PathBuf {
    let (root, tar) = (node.dir().join("root"), node.dir().join("root.tar"));
    std::fs::create_dir(&root).unwrap();
    let run = |program: &str, words: &[&Path]| {
        let mut command = Command::new(program);
        command.args(words);
        Output::of(command).succeeded().stdout
    };
    run("tar", &["-C".as_ref(), &root, "-xf".as_ref(), node::busybox_tar()]);
    let own = std::env::current_exe().unwrap();
    run("strip", &["-o".as_ref(), &root.join("server"), &own]);
    // Lines as `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`, and the loader's without a name before it.
    let libraries = run("ldd", &[&own]);
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(&library[1..]);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(library, to).unwrap();
    }
    run("tar", &["-C".as_ref(), &root, "-cf".as_ref(), &tar, ".".as_ref()]);
    tar
}

/// A node with the images `box` and `server`.
fn node_with_server() -> Node {
    let node = Node::with_busybox();
    let tar = root(&node);
    node.ok(["import", tar.to_str().unwrap(), "server"]);
    node
}

/// A service of the program, which reports on `of` when it is sent USR1 (well) and USR2 (ill); ill at first.
fn server(name: &str, of: &str, rest: &str) -> String {
    format!(
        "[service.{name}]\nimage = \"server\"\nstop_timeout = \"2s\"\nenv = {{ HEALTH_OF = \"{of}\" }}\n\
         command = [\"/server\", \"--exact\", \"program\", \"--ignored\", \"--nocapture\"]\n{rest}\n"
    )
}

/// Waits until an instance has been asked some more times how it is.
#[track_caller]
fn wait_for_probes(shop: &Project<'_>, instance: &str) {
    let pid = shop.wait_child(instance, "runs", |child| child.pid.is_some()).pid.unwrap();
    let connections = || {
        let counted = std::fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
        let mut tcp = counted.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
        let (mut names, mut values) = (tcp.next().unwrap(), tcp.next().unwrap());
        values.nth(names.position(|name| name == "PassiveOpens").unwrap()).unwrap().parse::<u64>().unwrap()
    };
    let before = connections();
    wait_until("it was asked", || connections() >= before + 3);
}

#[test]
fn a_grpc_server_is_ready_and_named_while_it_says_serving_and_restarted_when_it_does_not() {
    let node = node_with_server();
    // Headless, so that its name shows who is ready.
    let web = "headless = true\nreplicas = 2\nhealth = { type = \"grpc\", port = 50051, interval = \"200ms\", retries = 2, start_period = \"60s\" }";
    let after = "[service.after]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\nstop_signal = \"KILL\"\n\
                 depends_on = { web = \"healthy\" }\n";
    let shop = Project::new(&node, "shop", &[&server("web", "", web), after].concat());
    shop.ok(&["up", "--detach"]);
    wait_for_probes(&shop, "web-1");
    wait_for_probes(&shop, "web-2");
    let status = shop.status();
    assert_eq!((child(&status, "web-1").ready, child(&status, "web-2").ready), (false, false));
    assert_eq!(child(&status, "after-1").pid, None, "it waits until web is healthy");
    let (first, second) = (shop.pid("web-1"), shop.pid("web-2"));
    kill(first, "USR1");
    kill(second, "USR1");
    let status = shop.wait_status("all are ready", |status| status.state == "ready");
    assert_eq!(child(&status, "web-1").health, HealthState::Healthy);
    assert_eq!((child(&status, "web-1").restarts, child(&status, "web-1").pid), (0, Some(first)));
    let line = format!("{}\tweb\n", child(&status, "web-1").address.as_deref().unwrap());
    let is_named = || shop.shell("after-1", "cat /etc/hosts").contains(&line);
    wait_until("it is named", is_named);

    kill(first, "USR2");
    shop.wait_child("web-1", "is unhealthy", |web| web.health == HealthState::Unhealthy);
    wait_until("it is not named", || !is_named());
    let text = shop.ok(&["status"]);
    assert!(text.contains("unhealthy") && text.contains("grpc: NOT_SERVING (2 times in a row)"), "{text}");
    let web = shop.wait_child("web-1", "is made anew", |web| web.pid.is_some_and(|pid| pid != first));
    assert!(!web.ready && !is_named());
    wait_for_probes(&shop, "web-1");
    assert!(!shop.child("web-1").ready && !is_named(), "it has not said that it serves");
    kill(web.pid.unwrap(), "USR1");
    let web = shop.wait_child("web-1", "is ready again", |web| web.ready);
    wait_until("it is named again", is_named);
    assert_eq!((web.restarts, shop.pid("web-2")), (1, second));
    let why = web.reason.unwrap();
    assert!(why.starts_with("unhealthy: grpc: NOT_SERVING"), "{why}");
}

#[test]
fn a_grpc_check_of_a_service_asks_for_that_one_and_says_when_the_server_has_none_of_that_name() {
    let node = node_with_server();
    let check = |more: &str| format!("health = {{ type = \"grpc\", port = 50051, interval = \"200ms\"{more} }}");
    let manifest = [
        server("db", "shop.Db", &check(", service = \"shop.Db\", start_period = \"60s\"")),
        server("whole", "shop.Db", &check(", start_period = \"60s\"")),
        server("none", "shop.Db", &check(", service = \"shop.None\", retries = 40")),
        server("deaf", "shop.Db", "health = { type = \"grpc\", port = 50052, interval = \"200ms\", retries = 40 }"),
    ];
    let shop = Project::new(&node, "shop", &manifest.concat());
    shop.ok(&["up", "--detach"]);
    shop.wait_child("whole-1", "is ready: the server is well", |whole| whole.ready);
    wait_for_probes(&shop, "db-1");
    assert!(!shop.child("db-1").ready, "the server is well, and the service is not");
    kill(shop.pid("db-1"), "USR1");
    shop.wait_child("db-1", "is ready", |db| db.ready && db.restarts == 0);
    let says = |instance: &str, what: &str| {
        shop.wait_child(instance, "is restarted", |child| {
            child.restarts > 0 && child.reason.as_deref().is_some_and(|why| why.contains(what))
        })
    };
    says("none-1", "grpc: the server knows no service \"shop.None\" (40 times in a row)");
    says("deaf-1", "tcp: port 50052: ");
}
