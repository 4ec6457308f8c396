//! A network namespace of the test's own in which addresses of 127.9.0.0/16 are redirected as a bridge's would be, both
//! halves, apps with authorities, and a wire between the halves that is listened to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_acme::{Authority, SealKey};
use coppice_base::{Clock, Name, SystemClock, Timestamp};
use coppice_peer::{App, Config, Instance, Limits, Peers, ServiceSnapshot, Workload};
use coppice_spec::PeerTls;
use rustix::thread::UnshareFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in a network namespace of its own, with threads of its own.
pub(crate) fn inside<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // Deprecated for its effect on descriptors with FILES; this is NEWNET alone, of a thread of our own.
        #[allow(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNET).expect("a network namespace needs root");
        run("ip link set lo up", "");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE * 4, test()).await.expect("the test ends in time") });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn run(line: &str, input: &str) {
    use std::io::Write;
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap());
    let mut child = command.args(words).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{line}");
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// A clock the test moves ahead of the real one.
#[derive(Default)]
pub(crate) struct MovedClock(AtomicU64);

impl MovedClock {
    pub(crate) fn ahead(&self, by: Duration) {
        self.0.store(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for MovedClock {
    fn now(&self) -> Timestamp {
        SystemClock.now().plus(Duration::from_millis(self.0.load(Ordering::SeqCst)))
    }
}

/// Listens in between: what went over it, from both sides.
pub(crate) struct Wire {
    pub(crate) at: SocketAddr,
    pub(crate) heard: Arc<Mutex<Vec<u8>>>,
    cut: Arc<tokio::sync::Notify>,
}

impl Wire {
    async fn to(inbound: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self { at: listener.local_addr().unwrap(), heard: Arc::default(), cut: Arc::default() };
        let (heard, cut) = (wire.heard.clone(), wire.cut.clone());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(inbound).await.unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                for (mut from, mut to) in [(near_read, far_write), (far_read, near_write)] {
                    let (heard, cut) = (heard.clone(), cut.clone());
                    tokio::spawn(async move {
                        let mut buffer = vec![0; 1 << 14];
                        loop {
                            let read = tokio::select! {
                                read = from.read(&mut buffer) => read.unwrap_or(0),
                                () = cut.notified() => 0,
                            };
                            if read == 0 {
                                break;
                            }
                            {
                                let mut heard = heard.lock().unwrap();
                                // Enough of it to look into.
                                if heard.len() < 1 << 20 {
                                    heard.extend(&buffer[..read]);
                                }
                            }
                            if to.write_all(&buffer[..read]).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        });
        wire
    }

    /// Cuts every connection on it.
    pub(crate) fn cut(&self) {
        self.cut.notify_waiters();
    }
}

/// Two nodes: callers are on the near one, instances on the far one.
pub(crate) struct Stage {
    pub(crate) near: Peers,
    pub(crate) far: Peers,
    pub(crate) clock: Arc<MovedClock>,
    pub(crate) wire: Wire,
    pub(crate) folder: tempfile::TempDir,
    key: Arc<SealKey>,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(Limits { handshake: Duration::from_secs(5), connect: Duration::from_secs(5), ..Limits::default() })
            .await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        let bind = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let start = || {
            Peers::start(Config { outbound: vec![bind()], inbound: bind(), halves: vec![LOCALHOST], limits }).unwrap()
        };
        let (near, far) = (start(), start());
        let port = near.outbound()[0].port();
        // What the inbound half sends to an instance comes from 127.0.0.1 and goes its way.
        let rules = format!(
            "table inet t {{\n chain out {{\n type nat hook output priority -110;\n \
             ip saddr 127.9.0.0/16 meta l4proto tcp dnat ip to 127.0.0.1:{port}\n }}\n}}\n"
        );
        run("nft -f -", &rules);
        let wire = Wire::to(far.inbound()).await;
        let folder = tempfile::tempdir().unwrap();
        let key = SealKey::of_folder(&folder.path().join("key"), &folder.path().join("certificates")).unwrap();
        Self { near, far, clock: Arc::default(), wire, folder, key: Arc::new(key) }
    }

    pub(crate) fn authority(&self, app: &str, life: Duration) -> Arc<Authority> {
        let folder = self.folder.path().join("certificates/authority");
        Authority::open(&folder, self.key.clone(), &name(app), self.clock.clone(), life).unwrap()
    }

    fn workload(text: &str, mode: PeerTls, address: IpAddr) -> Workload {
        let key = format!("{text}-1");
        let instance = Instance { key, addresses: vec![address], ready: true, node: None };
        Workload {
            name: name(text),
            mode,
            instances: vec![instance],
            virtual_addresses: Vec::new(),
            published: Vec::new(),
        }
    }

    /// App `shop` with `web` and `db`, which has this mode; app `other` with `web`.
    pub(crate) fn apps(authority: &Arc<Authority>, mode: PeerTls) -> Vec<App> {
        let (web, db) = (Self::workload("web", PeerTls::Off, WEB), Self::workload("db", mode, DB));
        let stranger = Self::workload("web", PeerTls::Off, OTHER);
        vec![
            App { name: name("shop"), authority: Some(authority.clone()), workloads: vec![web, db] },
            App { name: name("other"), authority: None, workloads: vec![stranger] },
        ]
    }

    /// Tells both nodes of these apps; the near one that all instances are on the far one, behind the wire.
    pub(crate) fn update(&self, apps: Vec<App>) {
        self.far.update(apps.clone()).unwrap();
        let mut apps = apps;
        let workloads = apps.iter_mut().flat_map(|app| &mut app.workloads);
        for instance in workloads.flat_map(|workload| &mut workload.instances) {
            instance.node = Some(self.wire.at);
        }
        self.near.update(apps).unwrap();
    }

    pub(crate) fn shop(&self, mode: PeerTls) -> Arc<Authority> {
        let authority = self.authority("shop", coppice_acme::LEAF_LIFE);
        self.update(Self::apps(&authority, mode));
        authority
    }

    /// What the near and the far node count of `db`.
    pub(crate) fn counts(&self) -> (ServiceSnapshot, ServiceSnapshot) {
        let of =
            |peers: &Peers| peers.snapshot().services.into_iter().find(|one| one.service.as_str() == "db").unwrap();
        (of(&self.near), of(&self.far))
    }
}

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const WEB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 1, 1));
pub(crate) const DB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 1, 2));
pub(crate) const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 2, 1));

/// A connection from one address to another, as a container makes it.
pub(crate) async fn connect(from: IpAddr, to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to.into()).await
}

/// What is answered to `ask`, which is all that is sent.
pub(crate) async fn talk(from: IpAddr, to: impl Into<SocketAddr>, ask: &str) -> std::io::Result<String> {
    let mut stream = connect(from, to).await?;
    stream.write_all(ask.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// An instance that answers `NAME says: ` and what it was sent, when its client has said all.
pub(crate) async fn echo(at: SocketAddr, says: &'static str) {
    let listener = TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut said = Vec::new();
                if stream.read_to_end(&mut said).await.is_ok() {
                    let _ = stream.write_all(format!("{says} says: ").as_bytes()).await;
                    let _ = stream.write_all(&said).await;
                }
            });
        }
    });
}

/// Looks until `holds`.
pub(crate) async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = tokio::time::Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
