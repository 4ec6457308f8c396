//! Programs that measure, as programs that find mistakes: a rolling replacement of all instances under load.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use coppice_proxy::Routes;

use crate::stage::{Server, Stage, backend, endpoint, name, route, spec, wait_until};

/// Puts new instances in the place of old ones, one at a time, until `over`. Returns how many were replaced.
fn replace_all_along(stage: &Stage, over: &dyn Fn() -> bool) -> usize {
    let mut spec = spec();
    spec.hosts = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let serve = |instances: Vec<(usize, SocketAddr, bool)>| {
        let mut of = backend("web", &[]);
        of.instances = instances
            .into_iter()
            .map(|(at, address, draining)| {
                let mut instance = endpoint(at, address);
                instance.draining = draining;
                instance
            })
            .collect();
        stage.proxy.update(&Routes { routes: vec![route(spec.clone())], backends: vec![of] }).unwrap();
    };
    let mut living: Vec<(usize, Arc<Stoppable>)> = (0..3).map(|at| (at, Stoppable::start())).collect();
    let mut made = living.len();
    let listed = |living: &[(usize, Arc<Stoppable>)], draining: Option<usize>| {
        living.iter().map(|(at, one)| (*at, one.server.address, Some(*at) == draining)).collect::<Vec<_>>()
    };
    serve(listed(&living, None));
    while !over() {
        living.push((made, Stoppable::start()));
        made += 1;
        let oldest = living[0].0;
        if made.is_multiple_of(3) {
            // Not announced as draining but gone at once, and the others with it: only the newest is left.
            let gone: Vec<_> = living.drain(..living.len() - 1).collect();
            serve(listed(&living, None));
            for (at, one) in gone {
                let named = format!("web-{at}");
                wait_until("a removed instance kept requests", || stage.proxy.in_flight("shop", "web", &named) == 0);
                one.stop();
            }
            living.extend([(made, Stoppable::start()), (made + 1, Stoppable::start())]);
            made += 2;
            serve(listed(&living, None));
            continue;
        }
        serve(listed(&living, Some(oldest)));
        let named = format!("web-{oldest}");
        wait_until("the old instance never drained", || stage.proxy.in_flight("shop", "web", &named) == 0);
        // Stopped for good: whoever still sends to it gets no answer.
        living.remove(0).1.stop();
        serve(listed(&living, None));
    }
    made - 3
}

/// A server that can be stopped: from then on it closes every connection without an answer.
struct Stoppable {
    server: Server,
    stopped: Arc<std::sync::atomic::AtomicBool>,
}

impl Stoppable {
    fn start() -> Arc<Self> {
        let stopped = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let over = Arc::clone(&stopped);
        let server = Server::scripted(move |stream, _| {
            use std::io::Write;
            !over.load(std::sync::atomic::Ordering::SeqCst)
                && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").is_ok()
        });
        Arc::new(Self { server, stopped })
    }

    fn stop(&self) {
        self.stopped.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn a_hundred_thousand_requests_of_h2load_survive_rolling_replacements_without_one_failure() {
    let stage = Stage::start();
    let url = format!("http://{}/", stage.address);
    let mut first = spec();
    first.hosts = vec!["127.0.0.1".to_owned()];
    let settled = Server::saying("hello");
    stage.route(first, &[settled.address]);
    for mode in ["--h1", "--http1-or-2"] {
        let mut command = Command::new("h2load");
        command.args(["-n", "50000", "-c", "16"]);
        if mode == "--h1" {
            command.arg("--h1");
        } else {
            command.args(["-m", "4"]);
        }
        let child = command.arg(&url).stdout(Stdio::piped()).spawn().expect("apt-get install nghttp2-client");
        let child = std::sync::Mutex::new(child);
        let replaced = replace_all_along(&stage, &|| child.lock().unwrap().try_wait().unwrap().is_some());
        let output = child.into_inner().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("50000 succeeded, 0 failed, 0 errored, 0 timeout"), "{mode}: {text}");
        assert!(text.contains("status codes: 50000 2xx"), "{mode}: {text}");
        assert!(replaced >= 3, "{replaced} replacements were too few to show anything");
    }
    assert_eq!(stage.proxy.metrics().routes[0].route, name("default"));
}

#[test]
fn wrk_sees_no_error_over_rolling_replacements() {
    let stage = Stage::start();
    let url = format!("http://{}/", stage.address);
    let mut first = spec();
    first.hosts = vec!["127.0.0.1".to_owned()];
    let settled = Server::saying("hello");
    stage.route(first, &[settled.address]);
    let child = Command::new("wrk")
        .args(["-t", "1", "-c", "16", "-d", "4s"])
        .arg(&url)
        .stdout(Stdio::piped())
        .spawn()
        .expect("apt-get install wrk");
    let child = std::sync::Mutex::new(child);
    replace_all_along(&stage, &|| child.lock().unwrap().try_wait().unwrap().is_some());
    let output = child.into_inner().unwrap().wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
}

#[test]
fn a_thousand_idle_connections_hold_little_memory() {
    // In a process of its own: other tests' memory is none of its business.
    if std::env::var_os(ALONE).is_none() {
        let alone = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "load::a_thousand_idle_connections_hold_little_memory"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stdout));
        return;
    }
    let server = Server::saying("hello");
    let stage = Stage::serving(&[server.address]);
    let mut held = Vec::new();
    let ask = |client: &mut std::net::TcpStream| {
        use std::io::Write;
        client.write_all(b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
        crate::stage::read_until(client, "hello");
    };
    // The first ones pay for what is paid once.
    for _ in 0..200 {
        held.push(stage.connect());
        ask(held.last_mut().unwrap());
    }
    let before = resident();
    for _ in 0..1000 {
        held.push(stage.connect());
        ask(held.last_mut().unwrap());
    }
    assert_eq!(stage.proxy.metrics().connections, 1200);
    let each = resident().saturating_sub(before) / 1000;
    // Includes this test's own side of them; a connection with its buffers would hold 64 KiB.
    assert!(each < 8 << 10, "{each} bytes a connection");
    drop(held);
    wait_until("they are still open", || stage.proxy.metrics().connections == 0);
}

/// Set for a test that runs in a process of its own.
const ALONE: &str = "COPPICE_TEST_ALONE";

/// Bytes of memory this process holds.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn the_proxy_ends_within_its_drain_deadline_even_when_clients_do_not_leave() {
    let server = Server::scripted(|_, _| {
        std::thread::park_timeout(Duration::from_secs(20));
        false
    });
    let stage = Stage::serving(&[server.address]);
    let mut client = stage.connect();
    std::io::Write::write_all(&mut client, b"GET / HTTP/1.1\r\nhost: example.com\r\n\r\n").unwrap();
    wait_until("the request did not arrive", || stage.proxy.in_flight("shop", "web", "web-0") == 1);
    let begun = std::time::Instant::now();
    assert_eq!(stage.proxy.drain(Duration::from_millis(500)), 1);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// An nginx that serves a folder, ended with the test.
struct Nginx {
    child: std::process::Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Nginx {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        // Free a moment ago, and nginx takes it at once.
        let address = crate::stage::socket().local_addr().unwrap();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log; events {{ worker_connections 64; }} \
             http {{ access_log off; client_body_temp_path {at}/a; proxy_temp_path {at}/b; fastcgi_temp_path {at}/c; \
             uwsgi_temp_path {at}/d; scgi_temp_path {at}/e; server {{ listen {address}; root {at}; }} }}"
        );
        std::fs::write(folder.path().join("conf"), config).unwrap();
        let child = Command::new("nginx").args(["-c", &format!("{at}/conf")]).stderr(Stdio::null()).spawn();
        let nginx = Self { child: child.expect("apt-get install nginx-light"), folder, address };
        wait_until("nginx did not start", || std::net::TcpStream::connect(nginx.address).is_ok());
        nginx
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn nginx_behind_the_proxy_is_read_whole_in_ranges_and_by_head() {
    let nginx = Nginx::start();
    // nginx's workers may be nobody.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(nginx.folder.path(), open).unwrap();
    let large: Vec<u8> = (0..30_000_000u32).map(|at| (at % 251) as u8).collect();
    std::fs::write(nginx.folder.path().join("large"), &large).unwrap();
    let stage = Stage::serving(&[nginx.address]);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let curl = |more: &[&str]| {
            let output = Command::new("curl")
                .args(["-sS", "-m", "60", version, "-H", "host: example.com"])
                .args(more)
                .arg(format!("http://{}/large", stage.address))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        assert!(curl(&[]) == large, "{version}: the file came changed");
        assert_eq!(curl(&["-r", "1000-1999"]), &large[1000..2000]);
        let head = String::from_utf8(curl(&["-I"])).unwrap().to_ascii_lowercase();
        assert!(head.contains("content-length: 30000000"), "{head}");
    }
    assert_eq!(stage.proxy.metrics().backends[0].failures, 0);
}
