//! The example app's one program, in two roles: `hello counter` counts hits, `hello web` greets and asks the
//! counter for the number. Two services, so that names, dependencies and restarts have something to show.
//!
//! It is the smallest HTTP/1.1 server that curl, a browser and a health check agree with: one thread for each
//! connection, one answer, then close. It keeps nothing on disk; kill the counter and it counts from one again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Both roles listen here; each container has an address of its own.
const PORT: u16 = 8080;

/// Where the web role finds the counter: the service's name is its host name.
const COUNTER: &str = "counter:8080";

/// A client that says nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(5);

static HITS: AtomicU64 = AtomicU64::new(0);

fn main() -> ExitCode {
    let role = std::env::args().nth(1).unwrap_or_default();
    let answer: fn(&str) -> (u16, String) = match role.as_str() {
        "web" => greet,
        "counter" => count,
        other => {
            eprintln!("usage: hello web|counter (got {other:?})");
            return ExitCode::from(2);
        }
    };
    match serve(&role, answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hello {role}: cannot listen on port {PORT}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(role: &str, answer: fn(&str) -> (u16, String)) -> io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("{} listens on port {PORT} as {role}", instance());
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = converse(stream, answer) {
                eprintln!("a connection ended early: {error}");
            }
        });
    }
    Ok(())
}

/// One request, one answer.
fn converse(mut stream: TcpStream, answer: fn(&str) -> (u16, String)) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new((&stream).take(64 << 10)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (status, body) = if path == "/health" { (200, "ok\n".to_owned()) } else { answer(path) };
    if path != "/health" {
        println!("{request} {status}");
    }
    let reason = if status == 200 { "OK" } else { "Service Unavailable" };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

fn greet(_path: &str) -> (u16, String) {
    match ask_counter() {
        Ok(count) => (200, format!("Hello from {}. {count}\n", instance())),
        Err(error) => (503, format!("Hello from {}. The counter does not answer: {error}\n", instance())),
    }
}

fn count(_path: &str) -> (u16, String) {
    let hits = HITS.fetch_add(1, Ordering::Relaxed) + 1;
    (200, format!("You are visitor {hits}, says {}.", instance()))
}

fn ask_counter() -> io::Result<String> {
    let mut stream = TcpStream::connect(COUNTER)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: counter\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("half an answer"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(body.to_owned())
}

/// This instance's name: its host name.
fn instance() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "somebody".to_owned() } else { name.trim().to_owned() }
}
