//! `demo`: from a fresh clone to an app of two services that heals itself, with every claim checked on the way.
//!
//! It builds Coppice and the example, makes an image of the example's one static file (no registry), brings the app
//! up on a node of its own under `.coppice/demo`, asks it over HTTP, kills an instance, waits until the
//! supervisor brought it back, and says what to try next. A stage that does not hold ends it with an error.
//!
//! It looks at the machine before it builds for minutes, stops what an earlier demo left, and takes its node down when
//! it is interrupted.

mod build;
mod machine;

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

pub(crate) use self::build::static_hello;
use crate::interrupt::Interrupt;
use crate::{install, shell, workspace};

/// From `up` to the first answer, and from a kill to the instance's return. Generous: a loaded machine in CI.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the demo. `--keep` leaves the app running, `--stop` stops it at the end; without either, it is left running
/// for a person at a terminal, and stopped in CI or a pipe.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let at_terminal = std::io::stdout().is_terminal() && std::env::var_os("CI").is_none();
    let keep = match args {
        [] => at_terminal,
        [only] if only == "--keep" => true,
        [only] if only == "--stop" => false,
        other => bail!("demo takes --keep or --stop, got {}", other.join(" ")),
    };
    machine::check()?;
    println!("Building Coppice and the example app; the first time, this takes some minutes.");
    let hello = static_hello()?;
    let root = workspace::root().join(".coppice/demo");
    let mut demo =
        Demo { coppice: build::coppice()?, root, port: 0, turn: Mutex::new(()), ending: AtomicBool::new(false) };
    if demo.node_runs() {
        println!("An earlier demo still runs: stopping it first.");
        demo.stop()?;
    }
    demo.port = free_port(8080)?;
    if demo.port != 8080 {
        println!("Port 8080 is taken: this demo publishes {}.", demo.port);
    }
    let demo = Arc::new(demo);
    let interrupted = Arc::clone(&demo);
    let interrupt = Interrupt::undone_by(move || interrupted.stop_early())?;
    let shown = demo.show(&hello);
    interrupt.or_park();
    if let Err(error) = &shown {
        eprintln!("\nThe demo does not hold: {error:#}\n");
        demo.say_what_went_on();
    }
    if shown.is_err() || !keep {
        let stopped = demo.stop();
        interrupt.or_park();
        stopped?;
        if shown.is_ok() {
            println!("\nStopped. `./x demo --keep` leaves it running.");
        }
    } else {
        demo.say_what_next();
    }
    shown
}

struct Demo {
    coppice: PathBuf,
    root: PathBuf,
    port: u16,
    /// Held while a command of the demo runs, and kept by who ends it early: nothing starts the node again then.
    turn: Mutex<()>,
    /// Somebody ends it early.
    ending: AtomicBool,
}

impl Demo {
    fn show(&self, hello: &Path) -> Result<()> {
        let image = self.rootfs(hello)?;
        self.step(
            "Making an image of one static file",
            &["image", "import", &image, "hello", "--entrypoint", r#"["/hello"]"#],
        )?;
        let manifest = workspace::root().join("examples/hello/coppice.toml");
        self.step("Bringing the app up", &["up", "-f", &manifest.to_string_lossy()])?;

        println!("\n→ Asking it:");
        let first = self.until_answer()?;
        print!("  {first}");
        for _ in 0..3 {
            print!("  {}", self.ask()?);
        }
        self.step("The supervision tree", &["status", "hello"])?;

        let victim = self.instance("web-1")?;
        println!("\n→ Killing web-1 (process {}) with SIGKILL:\n  $ coppice kill web-1", victim.pid);
        self.said(&["kill", "web-1"])?;
        let back = self.until_returned(&victim)?;
        println!("  it is back as process {} after {} ms", back.pid, back.after.as_millis());
        print!("  {}", self.until_answer()?);
        self.step("The tree again, with the reason", &["status", "hello"])
    }

    fn step(&self, title: &str, args: &[&str]) -> Result<()> {
        println!("\n→ {title}:\n  $ coppice {}", args.join(" "));
        let said = self.said(args)?;
        for line in said.lines() {
            println!("  {line}");
        }
        Ok(())
    }

    /// What a command of the demo prints.
    fn said(&self, args: &[&str]) -> Result<String> {
        let turn = self.take_turn();
        if self.ending.load(Ordering::SeqCst) {
            drop(turn);
            loop {
                thread::park();
            }
        }
        shell::output(&mut self.command(args))
    }

    fn take_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The program on this demo's own node.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = install::as_root("env");
        command.arg(format!("HELLO_PORT={}", self.port)).arg(&self.coppice);
        command.arg("--root").arg(&self.root).args(args);
        command
    }

    /// A root filesystem of `hello` alone, as a tar.
    fn rootfs(&self, hello: &Path) -> Result<String> {
        let folder = workspace::root().join(".coppice");
        fs::create_dir_all(&folder).context("cannot make .coppice")?;
        let tar = folder.join("hello.tar");
        let from = hello.parent().unwrap_or(Path::new("."));
        shell::output(
            Command::new("tar").arg("-cf").arg(&tar).args(["--owner=0", "--group=0", "-C"]).arg(from).arg("hello"),
        )?;
        Ok(tar.to_string_lossy().into_owned())
    }

    fn ask(&self) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let (head, body) = reply.split_once("\r\n\r\n").context("half an answer")?;
        if !head.starts_with("HTTP/1.1 200") {
            bail!("{}: {}", head.lines().next().unwrap_or_default(), body.trim());
        }
        Ok(body.to_owned())
    }

    fn until_answer(&self) -> Result<String> {
        until("an answer over HTTP", || self.ask())
    }

    fn until_returned(&self, victim: &Instance) -> Result<Instance> {
        until("the killed instance to return", || {
            let now = self.instance("web-1")?;
            if now.pid == victim.pid {
                bail!("web-1 still is process {}", now.pid);
            }
            Ok(now)
        })
        .map(|back| Instance { after: victim.seen.elapsed(), ..back })
    }

    fn instance(&self, name: &str) -> Result<Instance> {
        let text = self.said(&["status", "hello", "--json"])?;
        let status: Value = serde_json::from_str(&text).context("status --json is not JSON")?;
        // What a rollout says of its targets is not what runs.
        let child = find(&status["tree"], name).with_context(|| format!("status knows no instance {name}"))?;
        let pid = child["pid"].as_u64().with_context(|| format!("{name} is {}, without a process", child["state"]))?;
        if child["ready"] != Value::Bool(true) {
            bail!("{name} runs and is not ready: {}", child["reason"]);
        }
        Ok(Instance { pid, seen: Instant::now(), after: Duration::ZERO })
    }

    fn say_what_went_on(&self) {
        for args in [&["status", "hello"][..], &["logs", "hello"], &["node", "status"]] {
            eprintln!("$ coppice {}", args.join(" "));
            let _ = self.command(args).status();
        }
    }

    fn say_what_next(&self) {
        let sudo = if install::is_root() { "" } else { "sudo " };
        let coppice = format!("{sudo}{} --root {}", self.coppice.display(), self.root.display());
        let port = self.port;
        println!(
            "\nIt runs on, at http://localhost:{port}. In this shell, paste this first:\n\n  \
             alias coppice='{coppice}'\n\nThen try:\n\n  \
             curl localhost:{port}                 # one of the two replicas answers\n  \
             coppice status                      # the tree, with the reason of every restart\n  \
             coppice logs -f hello               # every instance, prefixed; Ctrl-C ends it\n  \
             coppice top web-1                   # the processes of an instance\n  \
             coppice kill counter-1              # the counter returns, and counts from one\n  \
             coppice run --rm -it alpine sh      # an image from Docker Hub\n\nTo stop it:\n\n  \
             coppice down hello && coppice node stop --all\n\n\
             The app is examples/hello/coppice.toml; `coppice init` writes one of your own to begin with."
        );
    }

    fn node_runs(&self) -> bool {
        self.root.exists() && shell::succeeds(&mut self.command(&["node", "status"]))
    }

    /// Somebody wants the demo to end, wherever it stands.
    fn stop_early(&self) {
        eprintln!("\nInterrupted: stopping the demo's node. Once more, and it is left as it is.");
        self.ending.store(true, Ordering::SeqCst);
        // The command at work has mostly heard the same; one that has not may be starting the node.
        let turn = self.take_turn();
        // There may be no app yet, and it ends with its node.
        let stopped = if self.root.exists() {
            let _ = self.down();
            self.stop_node()
        } else {
            Ok(())
        };
        match stopped {
            Ok(()) => eprintln!("Stopped; nothing of the demo runs."),
            Err(error) => eprintln!("It could not be stopped: {error:#}"),
        }
        // Until the process ends, for good.
        std::mem::forget(turn);
    }

    /// Takes the app down and the node with it. A node that never started has nothing to stop.
    fn stop(&self) -> Result<()> {
        if !self.root.exists() {
            return Ok(());
        }
        let down = self.down();
        self.stop_node()?;
        down.context("the node is stopped, but the app did not come down before")
    }

    fn down(&self) -> Result<()> {
        shell::output(&mut self.command(&["down", "hello"])).map(drop)
    }

    fn stop_node(&self) -> Result<()> {
        shell::output(&mut self.command(&["node", "stop", "--all"])).map(drop).context("cannot stop the demo's node")
    }
}

/// A running instance of the app.
struct Instance {
    pid: u64,
    seen: Instant,
    /// From the kill to the return.
    after: Duration,
}

/// The child with this instance name, wherever it stands in the tree.
fn find<'a>(status: &'a Value, instance: &str) -> Option<&'a Value> {
    match status {
        Value::Object(fields) if fields.get("instance").and_then(Value::as_str) == Some(instance) => Some(status),
        Value::Object(fields) => fields.values().find_map(|value| find(value, instance)),
        Value::Array(values) => values.iter().find_map(|value| find(value, instance)),
        _ => None,
    }
}

/// Tries until it works or [`PATIENCE`] ends; then the last error says why not.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("waited {} s for {what}", PATIENCE.as_secs())));
            }
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// `wanted`, or the next port that nobody listens on.
fn free_port(wanted: u16) -> Result<u16> {
    (wanted..wanted + 100)
        .find(|&port| TcpListener::bind(("0.0.0.0", port)).is_ok())
        .with_context(|| format!("ports {wanted} to {} are all taken", wanted + 99))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_found_wherever_it_stands_in_the_tree() {
        let status = serde_json::json!({ "tree": { "groups": [{ "children": [{ "instance": "web-1", "pid": 7 }] }] } });
        assert_eq!(find(&status, "web-1").map(|child| child["pid"].clone()), Some(7.into()));
        assert!(find(&status, "web-2").is_none());
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = taken.local_addr().expect("its address").port();
        assert_ne!(free_port(port.min(65000)).expect("another"), port);
    }
}
