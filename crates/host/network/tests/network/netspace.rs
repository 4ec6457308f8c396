//! A network namespace of its own for a test: a thread that left the machine's, and runs what it is sent.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use coppice_network::{Address, Attacher, Bridge, BridgeConfig, Netns, Word, configure_inside, host_link};
use rustix::thread::UnshareFlags;

type Job = Box<dyn FnOnce() + Send>;

/// How long a connection that must not come about is waited for.
const NO_ANSWER: Duration = Duration::from_millis(300);
const ANSWER: Duration = Duration::from_secs(3);

/// Looks until `holds`, at most thirty seconds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = std::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) struct Netspace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) file: File,
}

impl Netspace {
    /// With loopback up.
    pub(crate) fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (opened, file) = channel();
        let thread = std::thread::spawn(move || {
            // Deprecated for its effect on descriptors with FILES; this is NEWNET alone, of a thread of our own.
            #[allow(deprecated)]
            rustix::thread::unshare(UnshareFlags::NEWNET).expect("a network namespace needs root");
            opened.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let space = Self { jobs: Some(jobs), thread: Some(thread), file: file.recv().unwrap() };
        space.run(|| configure_inside(None, Duration::ZERO).unwrap());
        space
    }

    /// Runs `job` inside, and waits for what it gives.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = Box::new(move || {
            let given = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = done.send(given); // the test may have panicked meanwhile
        });
        self.jobs.as_ref().unwrap().send(job).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs a program inside; its output.
    pub(crate) fn program(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || {
            let mut words = line.split_whitespace();
            let out = std::process::Command::new(words.next().unwrap()).args(words).output().unwrap();
            assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
            String::from_utf8(out.stdout).unwrap()
        })
    }

    /// Answers every TCP connection to `port` with `name` and the client's address, and every datagram likewise.
    pub(crate) fn serve(&self, ip: Ipv4Addr, port: u16, name: &'static str) {
        let (tcp, udp) =
            self.run(move || (TcpListener::bind((ip, port)).unwrap(), UdpSocket::bind((ip, port)).unwrap()));
        // A socket stays in the namespace it was made in. Both threads end with the test's process.
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let mut stream = stream;
                let from = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{name} {from}");
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
            }
        });
    }

    fn tcp_within(&self, ip: impl Into<IpAddr>, port: u16, wait: Duration) -> Option<String> {
        let to = SocketAddr::new(ip.into(), port);
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&to, wait).ok()?;
            stream.set_read_timeout(Some(wait)).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok().map(|_| text)
        })
    }

    /// What a server answers to a connection from inside.
    pub(crate) fn tcp(&self, ip: impl Into<IpAddr>, port: u16) -> String {
        let ip = ip.into();
        self.tcp_within(ip, port, ANSWER).unwrap_or_else(|| panic!("no answer from {ip}:{port}"))
    }

    pub(crate) fn tcp_fails(&self, ip: impl Into<IpAddr>, port: u16) -> bool {
        self.tcp_within(ip, port, NO_ANSWER).is_none()
    }

    fn udp_within(&self, ip: impl Into<IpAddr>, port: u16, wait: Duration) -> Option<String> {
        let to = SocketAddr::new(ip.into(), port);
        self.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(wait)).unwrap();
            socket.send_to(b"?", to).ok()?;
            let mut buffer = [0; 64];
            let (read, from) = socket.recv_from(&mut buffer).ok()?;
            assert_eq!(from, to, "the answer must come from where the question went");
            Some(String::from_utf8_lossy(&buffer[..read]).into_owned())
        })
    }

    pub(crate) fn udp(&self, ip: impl Into<IpAddr>, port: u16) -> String {
        self.udp_within(ip, port, ANSWER).expect("no answer")
    }

    pub(crate) fn udp_fails(&self, ip: impl Into<IpAddr>, port: u16) -> bool {
        self.udp_within(ip, port, NO_ANSWER).is_none()
    }
}

impl Drop for Netspace {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panic was the test's
        }
    }
}

/// A machine: a namespace with a bridge, linked at 192.0.2.1 with an outside one at 192.0.2.2.
pub(crate) struct Machine {
    pub(crate) host: Netspace,
    pub(crate) outside: Netspace,
    pub(crate) bridge: Bridge,
    pub(crate) words: Vec<Word>,
    pub(crate) attacher: Attacher,
    count: u8,
}

pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut BridgeConfig)) -> Self {
        let (host, outside) = (Netspace::new(), Netspace::new());
        let far = std::os::fd::AsRawFd::as_raw_fd(&outside.file);
        let far = format!("/proc/{}/fd/{far}", std::process::id());
        // A new namespace may inherit the machine's.
        host.program("sysctl -qw net.ipv4.ip_forward=0");
        host.program("ip link add up0 type veth peer name up1");
        host.program(&format!("ip link set up1 netns {far}"));
        host.program("ip address add 192.0.2.1/24 dev up0");
        host.program("ip link set up0 up");
        outside.program("ip address add 192.0.2.2/24 dev up1");
        outside.program("ip link set up1 up");
        let mut config = BridgeConfig::of("t1").unwrap();
        change(&mut config);
        let (bridge, words, attacher) = host.run(move || {
            let (bridge, words) = Bridge::ensure(&config).unwrap();
            let attacher = bridge.attacher().unwrap();
            (bridge, words, attacher)
        });
        Self { host, outside, bridge, words, attacher, count: 1 }
    }

    /// A container on the bridge: its namespace and address.
    pub(crate) fn container(&mut self) -> (Netspace, Address) {
        self.count += 1;
        let [a, b, ..] = self.bridge.subnet().network().octets();
        let address = self.bridge.address_for(Ipv4Addr::new(a, b, 0, self.count));
        let space = Netspace::new();
        let link = host_link(&format!("{:016x}", u64::from(self.count) << 32));
        self.attacher.attach(Netns::Fd(space.fd()), &link, &address).unwrap();
        space.run(move || configure_inside(Some(&address), ANSWER).unwrap());
        assert!(self.attacher.settle(&link, ANSWER).unwrap(), "the link does not come up");
        (space, address)
    }
}
