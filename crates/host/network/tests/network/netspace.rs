//! A network namespace of its own for a test: a thread that left the machine's, and runs what it is sent.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
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

    /// Whether a program could do what it was asked to.
    pub(crate) fn try_program(&self, line: &str) -> bool {
        let line = line.to_owned();
        self.run(move || {
            let mut words = line.split_whitespace();
            let out = std::process::Command::new(words.next().unwrap()).args(words).output().unwrap();
            out.status.success()
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

    /// As [`Self::serve`], for IPv4 and IPv6 at all addresses; a connection is answered again for each byte it sends.
    pub(crate) fn serve_both(&self, port: u16, name: &'static str) {
        let (tcp, udp) =
            self.run(move || (TcpListener::bind(("::", port)).unwrap(), UdpSocket::bind(("::", port)).unwrap()));
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let mut stream = stream;
                std::thread::spawn(move || {
                    let from = stream.peer_addr().unwrap().ip().to_canonical();
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) && writeln!(stream, "{name} {from}").is_ok() {}
                });
            }
        });
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok((read, from)) = udp.recv_from(&mut buffer) {
                // As long as the question, so that large ones have large answers.
                let mut answer = format!("{name} {}\n", from.ip().to_canonical()).into_bytes();
                answer.resize(answer.len().max(read), b'.');
                let _ = udp.send_to(&answer, from);
            }
        });
    }

    /// A connection from inside to one that [serves both](Self::serve_both).
    pub(crate) fn connect(&self, ip: impl Into<IpAddr>, port: u16) -> std::io::Result<Connection> {
        let to = SocketAddr::new(ip.into(), port);
        let stream = self.run(move || TcpStream::connect_timeout(&to, NO_ANSWER))?;
        stream.set_read_timeout(Some(ANSWER)).unwrap();
        Ok(Connection(stream))
    }

    /// Who answers a new connection, and to whom; `None` when nobody does.
    pub(crate) fn ask(&self, ip: impl Into<IpAddr>, port: u16) -> Option<String> {
        self.connect(ip, port).ok()?.ask()
    }

    /// Who answers a datagram of this length, and to whom.
    pub(crate) fn ask_udp(&self, ip: impl Into<IpAddr>, port: u16, length: usize) -> std::io::Result<String> {
        let to = SocketAddr::new(ip.into(), port);
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.run(move || UdpSocket::bind(any).unwrap());
        ask_by(&socket, to, length)
    }

    /// Whether bridged frames pass IP's hooks. Where the kernel has no such thing, they do not.
    pub(crate) fn hook_bridges(&self, hooked: bool) {
        let value = if hooked { "1" } else { "0" };
        self.run(move || {
            for family in ["iptables", "ip6tables"] {
                let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), value);
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
            let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
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

/// Asks by a datagram from this socket.
pub(crate) fn ask_by(socket: &UdpSocket, to: SocketAddr, length: usize) -> std::io::Result<String> {
    socket.set_read_timeout(Some(NO_ANSWER)).unwrap();
    socket.connect(to)?;
    socket.send(&vec![b'?'; length])?;
    let mut buffer = vec![0; 65536];
    let read = socket.recv(&mut buffer)?;
    assert!(read >= length, "{read} bytes answer {length}");
    Ok(String::from_utf8_lossy(&buffer[..read]).lines().next().unwrap_or_default().to_owned())
}

/// A connection that is asked line by line.
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    /// The answer to one more byte; `None` when the connection is over, or nothing comes.
    pub(crate) fn ask(&mut self) -> Option<String> {
        self.0.write_all(b"?").ok()?;
        let mut line = Vec::new();
        let mut byte = [0];
        while self.0.read(&mut byte).ok()? == 1 {
            if byte[0] == b'\n' {
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
        None
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
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

impl Machine {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut BridgeConfig)) -> Self {
        Self::prepared(false, change)
    }

    /// `hooked`: bridged frames pass IP's hooks, as on machines where br_netfilter is loaded.
    pub(crate) fn prepared(hooked: bool, change: impl FnOnce(&mut BridgeConfig)) -> Self {
        let (host, outside) = (Netspace::new(), Netspace::new());
        let far = std::os::fd::AsRawFd::as_raw_fd(&outside.file);
        let far = format!("/proc/{}/fd/{far}", std::process::id());
        // A new namespace may inherit the machine's.
        host.program("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
        host.hook_bridges(hooked);
        host.program("ip link add up0 type veth peer name up1");
        host.program(&format!("ip link set up1 netns {far}"));
        host.program("ip address add 192.0.2.1/24 dev up0");
        host.program("ip link set up0 up");
        host.program(&format!("ip address add {HOST6}/64 dev up0 nodad"));
        outside.program("ip address add 192.0.2.2/24 dev up1");
        outside.program("ip link set up1 up");
        outside.program(&format!("ip address add {OUTSIDE6}/64 dev up1 nodad"));
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
