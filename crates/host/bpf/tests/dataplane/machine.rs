//! A machine for a test: a network namespace with a bridge, containers on it, and the data plane; nothing else: no
//! rule of nftables is there, so what works, works without.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use coppice_bpf::{BridgeInfo, Dataplane, Endpoint, Hook, Settings};
use coppice_network::{Identity, LinkName, Policy, Subnet4, Subnet6, VirtualService};
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

type Job = Box<dyn FnOnce() + Send>;

/// How long what must not come is waited for.
pub(crate) const NO_ANSWER: Duration = Duration::from_millis(300);
pub(crate) const ANSWER: Duration = Duration::from_secs(3);

/// Looks until `holds`, at most thirty seconds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what} did not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The ways that this kernel has to attach a program to a link.
pub(crate) fn hooks() -> Vec<Hook> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u32>().ok());
    let has_links = (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 6);
    if has_links { vec![Hook::Tcx, Hook::Clsact] } else { vec![Hook::Clsact] }
}

/// A network namespace, with mounts of its own: a thread that left the machine's, and runs what it is sent.
pub(crate) struct Netspace {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    file: File,
}

impl Netspace {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = channel::<Job>();
        let (opened, file) = channel();
        let thread = std::thread::spawn(move || {
            // Deprecated for its effect on descriptors with FILES; these are others, of a thread of our own.
            #[allow(deprecated)]
            rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS).expect("namespaces need root");
            // What is mounted here is gone with the thread, even when the test is killed.
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            opened.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let space = Self { jobs: Some(jobs), thread: Some(thread), file: file.recv().unwrap() };
        space.program("ip link set lo up");
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

    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Answers every TCP connection to `port`, line by line, and every datagram, with `name` and the asker's address.
    /// Its threads end with the test's process.
    pub(crate) fn serve(&self, port: u16, name: &str) {
        let (tcp, udp) =
            self.run(move || (TcpListener::bind(("::", port)).unwrap(), UdpSocket::bind(("::", port)).unwrap()));
        let text = name.to_owned();
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let mut stream = stream;
                let text = text.clone();
                std::thread::spawn(move || {
                    let from = plain(stream.peer_addr().unwrap().ip());
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) {
                        if byte[0] == b'\n' && writeln!(stream, "{text} {from}").is_err() {
                            break;
                        }
                    }
                });
            }
        });
        let text = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while let Ok((read, from)) = udp.recv_from(&mut buffer) {
                // As long as the question, so that large ones have large answers.
                let mut answer = format!("{text} {}\n", plain(from.ip())).into_bytes();
                answer.resize(answer.len().max(read), b'.');
                let _ = udp.send_to(&answer, from);
            }
        });
    }

    /// A connection from inside; `None` when it does not come about.
    pub(crate) fn connect(&self, to: impl Into<IpAddr>, port: u16, wait: Duration) -> Option<Connection> {
        let to = SocketAddr::new(to.into(), port);
        self.run(move || {
            let stream = TcpStream::connect_timeout(&to, wait).ok()?;
            stream.set_read_timeout(Some(wait)).unwrap();
            Some(Connection(stream))
        })
    }

    /// Who answers a new connection from inside, and to whom.
    pub(crate) fn tcp(&self, to: impl Into<IpAddr>, port: u16) -> String {
        let to = to.into();
        let mut connection = self.connect(to, port, ANSWER).unwrap_or_else(|| panic!("no connection to {to}:{port}"));
        connection.ask().unwrap_or_else(|| panic!("no answer from {to}:{port}"))
    }

    pub(crate) fn tcp_fails(&self, to: impl Into<IpAddr>, port: u16) -> bool {
        self.connect(to, port, NO_ANSWER).is_none()
    }

    /// The answer to a datagram of `length` bytes from a socket of its own.
    pub(crate) fn udp(&self, to: impl Into<IpAddr>, port: u16, length: usize) -> Option<String> {
        let socket = self.datagrams();
        ask_udp(&socket, SocketAddr::new(to.into(), port), length)
    }

    pub(crate) fn datagrams(&self) -> UdpSocket {
        self.run(|| UdpSocket::bind("[::]:0").unwrap())
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

fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Sends a datagram and waits for its answer, which must come from where the question went, and be as long.
pub(crate) fn ask_udp(socket: &UdpSocket, to: SocketAddr, length: usize) -> Option<String> {
    let wire = match to.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
        IpAddr::V6(_) => to,
    };
    socket.set_read_timeout(Some(ANSWER)).unwrap();
    socket.send_to(&vec![b'?'; length], wire).ok()?;
    let mut buffer = vec![0; 65536];
    let (read, from) = socket.recv_from(&mut buffer).ok()?;
    assert_eq!((plain(from.ip()), from.port()), (to.ip(), to.port()), "the answer came from elsewhere");
    assert!(read >= length, "{read} bytes answer {length}");
    Some(String::from_utf8_lossy(&buffer[..read]).lines().next().unwrap_or_default().to_owned())
}

pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    /// The answer to one more line; `None` when the connection is over.
    pub(crate) fn ask(&mut self) -> Option<String> {
        self.0.write_all(b"\n").ok()?;
        let mut line = Vec::new();
        let mut byte = [0];
        // Goes on after a signal, as one that stops and continues the process.
        while self.0.read_exact(&mut byte).is_ok() {
            if byte[0] == b'\n' {
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            line.push(byte[0]);
        }
        None
    }
}

/// A container: its namespace and address.
pub(crate) struct Container {
    pub(crate) space: Netspace,
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Ipv6Addr,
    pub(crate) link: LinkName,
}

impl Container {
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.ip, link: self.link.clone() }
    }
}

/// A host with a bridge `br0` at 10.77.0.1/16 and the data plane on it.
pub(crate) struct Machine {
    pub(crate) host: Netspace,
    pub(crate) info: BridgeInfo,
    pub(crate) folder: tempfile::TempDir,
    dataplane: Arc<Mutex<Option<Dataplane>>>,
    count: u8,
}

pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// A service's address.
pub(crate) const WEB: Ipv4Addr = Ipv4Addr::new(10, 77, 128, 1);

fn mac(ip: Ipv4Addr) -> String {
    let [a, b, c, d] = ip.octets();
    format!("02:c0:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

impl Machine {
    /// With the data plane loaded and attached.
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let machine = Self::without();
        machine.start(settings);
        machine
    }

    /// With a bridge alone.
    pub(crate) fn without() -> Self {
        let host = Netspace::new();
        host.program("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let info = BridgeInfo {
            name: LinkName::new("br0").unwrap(),
            subnet: "10.77.0.0/16".parse::<Subnet4>().unwrap(),
            subnet6: Some(Subnet6::of_key("bpf")),
        };
        let machine = Self { host, folder: tempfile::tempdir().unwrap(), dataplane: Arc::default(), count: 1, info };
        machine.make_bridge();
        machine
    }

    fn make_bridge(&self) {
        let gateway6 = self.ip6(GATEWAY);
        for line in [
            &format!("ip link add br0 address {} type bridge mcast_snooping 0", mac(GATEWAY)),
            "ip address add 10.77.0.1/16 dev br0",
            "sysctl -qw net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.br0.send_redirects=0",
            "ip link set br0 up",
            &format!("ip address add {gateway6}/64 dev br0 nodad"),
        ] {
            self.host.program(line);
        }
    }

    /// Another bridge of the same name.
    pub(crate) fn remake_bridge(&self) {
        self.host.program("ip link delete br0");
        self.make_bridge();
    }

    pub(crate) fn ip6(&self, ip: Ipv4Addr) -> Ipv6Addr {
        self.info.subnet6.unwrap().address(ip)
    }

    /// Loads and attaches the data plane, as a daemon does that starts: what an earlier one left is taken over.
    pub(crate) fn start(&self, settings: Settings) {
        let (info, folder, place) = (self.info.clone(), self.folder.path().join("bpf"), self.dataplane.clone());
        self.host.run(move || {
            let mut dataplane = Dataplane::load(&info, &folder, settings).unwrap();
            dataplane.attach().unwrap();
            *place.lock().unwrap() = Some(dataplane);
        });
    }

    /// Forgets the data plane as a daemon does that is killed.
    pub(crate) fn stop(&self) {
        drop(self.dataplane.lock().unwrap().take());
    }

    /// Does something with the data plane, in the host's namespace.
    pub(crate) fn plane<T: Send + 'static>(&self, job: impl FnOnce(&mut Dataplane) -> T + Send + 'static) -> T {
        let place = self.dataplane.clone();
        self.host.run(move || job(place.lock().unwrap().as_mut().expect("the data plane is loaded")))
    }

    pub(crate) fn take_plane(&self) -> Dataplane {
        self.dataplane.lock().unwrap().take().expect("the data plane is loaded")
    }

    pub(crate) fn services(&self, services: &[(Ipv4Addr, &[&Container])]) {
        let services: Vec<VirtualService> = services
            .iter()
            .map(|(address, of)| VirtualService { address: *address, backends: of.iter().map(|it| it.ip).collect() })
            .collect();
        self.plane(move |plane| plane.set_services(&services).unwrap());
    }

    pub(crate) fn endpoints(&self, containers: &[&Container]) {
        let endpoints: Vec<Endpoint> = containers.iter().map(|of| of.endpoint()).collect();
        self.plane(move |plane| plane.set_endpoints(&endpoints).unwrap());
    }

    /// Members have the identities 1, 2, … in their order; `denied` are pairs of these, and of 0 for all others.
    pub(crate) fn policy(&self, members: &[&Container], denied: &[(u32, u32)]) {
        let members = members.iter().zip(1..).map(|(of, number)| (of.ip, Identity(number))).collect();
        let denied = denied.iter().map(|(from, to)| (Identity(*from), Identity(*to))).collect();
        let policy = Policy { members, denied };
        self.plane(move |plane| plane.set_policy(&policy).unwrap());
    }

    /// A container on the bridge that only knows the way to the gateway, on a port that reaches no other port.
    pub(crate) fn container(&mut self) -> Container {
        self.count += 1;
        let ip = Ipv4Addr::new(10, 77, 0, self.count);
        let (ip6, gateway6) = (self.ip6(ip), self.ip6(GATEWAY));
        let link = LinkName::new(format!("cv{}", self.count)).unwrap();
        let space = Netspace::new();
        let mac = mac(ip);
        self.host.program(&format!("ip link add {link} type veth peer name eth0 address {mac} netns {}", space.path()));
        self.host.program(&format!("ip link set {link} master br0 up"));
        self.host.program(&format!("ip link set dev {link} type bridge_slave isolated on"));
        for line in [
            format!("ip address add {ip}/32 dev eth0"),
            format!("ip address add {ip6}/128 dev eth0 nodad"),
            // A shorter way, which the host would tell of, leads to a port that is closed to this one.
            "sysctl -qw net.ipv6.conf.eth0.accept_redirects=0".to_owned(),
            "ip link set eth0 up".to_owned(),
            format!("ip route add default via {GATEWAY} dev eth0 onlink"),
            format!("ip route add default via {gateway6} dev eth0 onlink"),
        ] {
            space.program(&line);
        }
        let container = Container { space, ip, ip6, link };
        wait_until("the link's first packet", || {
            container.space.udp_reaches(GATEWAY) && container.space.udp_reaches(gateway6)
        });
        container
    }
}

impl Netspace {
    /// Whether a datagram to a closed port of the host is refused, which shows that packets pass both ways.
    fn udp_reaches(&self, ip: impl Into<IpAddr>) -> bool {
        let to = SocketAddr::new(ip.into(), 9);
        self.run(move || {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let _ = socket.send(b"?");
            matches!(socket.recv(&mut [0; 1]), Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused)
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        let (name, folder) = (self.info.name.clone(), self.folder.path().join("bpf"));
        let removed = self.host.run(move || Dataplane::remove(&name, &folder));
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}
