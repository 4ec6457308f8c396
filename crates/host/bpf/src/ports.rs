//! Published ports: what comes from beyond by a link of the machine goes into its container without the host's stack.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData};
use aya::programs::{SchedClassifier, TcAttachType, Xdp};
use aya::{Ebpf, EbpfLoader};
use coppice_network::{Beyond, LinkName, PortKey, Protocol, Published, Word};

use crate::BpfError;
use crate::attachment::{self, Place};
use crate::dataplane::{BridgeInfo, Hook, globals, program, replace};
use crate::services::take;

const OBJECT: &[u8] = aya::include_bytes_aligned!("../objects/ports.o");
const MAP: &str = "port_map";
const INTO: Place = Place { program: "into_host", way: TcAttachType::Ingress, order: 0 };
/// After the bridge's own, which judges and counts.
pub(crate) const OUT: Place = Place { program: "out_of_host", way: TcAttachType::Ingress, order: 1 };

/// As in `programs/ports.h`.
const PORTS_MAX: usize = 4096;
const LOCALS_MAX: usize = 1024;
const BACKENDS_MAX: usize = 60;

/// `struct port_key`, `struct port` and `struct visit_key`.
type Key = [u8; 20];
type Value = [u8; 4 + 8 * BACKENDS_MAX];
type Visit = [u8; 40];

pub(crate) struct Ports {
    bpf: Ebpf,
    folder: PathBuf,
    hook: Option<Hook>,
    ports: HashMap<MapData, Key, Value>,
    locals: HashMap<MapData, [u8; 16], u32>,
    visits: HashMap<MapData, Visit, [u8; 16]>,
    uplinks: BTreeSet<LinkName>,
    /// Links that did not take the programs, which was said.
    refused: BTreeSet<LinkName>,
}

impl Ports {
    /// Loads the programs; `maps` has the data plane's maps.
    pub(crate) fn load(
        info: &BridgeInfo,
        (folder, maps): (&Path, &Path),
        hook: Option<Hook>,
    ) -> Result<Self, BpfError> {
        let mut loader = EbpfLoader::new();
        let globals = globals(info)?;
        for (name, value) in &globals {
            loader.override_global(name, value, false);
        }
        let mut bpf = loader.default_map_pin_directory(maps).load(OBJECT).map_err(BpfError::refused("ports"))?;
        xdp(&mut bpf)?.load().map_err(BpfError::not_loaded(MAP))?;
        for place in [INTO, OUT] {
            program(&mut bpf, place.program)?.load().map_err(BpfError::not_loaded(place.program))?;
        }
        Ok(Self {
            ports: take(&mut bpf, "ports")?,
            locals: take(&mut bpf, "locals")?,
            visits: take(&mut bpf, "visits")?,
            uplinks: kept(folder),
            refused: BTreeSet::new(),
            folder: folder.to_owned(),
            bpf,
            hook,
        })
    }

    /// Puts the programs in force on the bridge and on `beyond`'s uplinks; those of an earlier process are exchanged.
    /// An uplink that does not take them goes without; why, is said once.
    pub(crate) fn attach(&mut self, bridge: &LinkName, beyond: &Beyond) -> Result<Vec<Word>, BpfError> {
        let pin = self.folder.join(OUT.program);
        let out: &mut SchedClassifier = program(&mut self.bpf, OUT.program)?;
        attachment::attach(out, OUT, (bridge.as_str(), &pin), self.hook)?;
        self.follow(beyond)
    }

    /// Takes up new uplinks, and leaves those that are none any more.
    fn follow(&mut self, beyond: &Beyond) -> Result<Vec<Word>, BpfError> {
        let wanted: BTreeSet<LinkName> = beyond.uplinks.iter().cloned().collect();
        for link in self.uplinks.difference(&wanted) {
            detach_uplink(&self.folder, link.as_str())?;
        }
        let (mut taken, mut refused, mut words) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for link in wanted {
            // What reads notes is there before what writes them.
            let into = program(&mut self.bpf, INTO.program)?;
            let pin = pin(&self.folder, INTO.program, link.as_str());
            let done =
                attachment::attach(into, INTO, (link.as_str(), &pin), self.hook).map_err(|error| error.to_string());
            let map = xdp(&mut self.bpf)?;
            let pin = crate::ports::pin(&self.folder, MAP, link.as_str());
            match done.and_then(|_| attachment::attach_xdp(map, link.as_str(), &pin)) {
                Ok(()) => {
                    taken.insert(link);
                }
                // It has a program of somebody else's, or is gone.
                Err(error) => {
                    detach_uplink(&self.folder, link.as_str())?;
                    if !self.refused.contains(&link) {
                        words.push(Word(format!(
                            "Published ports are left to the network's rules for clients that come by {link}: {error}."
                        )));
                    }
                    refused.insert(link);
                }
            }
        }
        (self.uplinks, self.refused) = (taken, refused);
        let locals = beyond.addresses.iter().take(LOCALS_MAX).map(|address| (bytes(*address), 1));
        replace(&mut self.locals, "locals", &locals.collect())?;
        Ok(words)
    }

    /// The uplinks that it is in force on.
    pub(crate) fn uplinks(&self) -> impl Iterator<Item = &LinkName> {
        self.uplinks.iter()
    }

    /// Maps exactly these ports; those that there is no room for are left to the rules. Datagrams of ports that are
    /// changed go to whom they lead now; TCP connections stay where they are.
    pub(crate) fn set(&mut self, published: &[Published]) -> Result<(), BpfError> {
        let fits = published.iter().filter(|port| (1..=BACKENDS_MAX).contains(&port.backends.len())).take(PORTS_MAX);
        let wanted: BTreeMap<Key, Value> = fits.map(|port| (key(&port.key), value(port))).collect();
        let held: BTreeMap<Key, Value> = self.ports.iter().collect::<Result<_, _>>().map_err(BpfError::map("ports"))?;
        replace(&mut self.ports, "ports", &wanted)?;
        let keys: BTreeSet<&Key> = held.keys().chain(wanted.keys()).collect();
        let changed = keys.into_iter().filter(|key| key[18] == UDP && held.get(*key) != wanted.get(*key));
        let changed: BTreeSet<[u8; 2]> = changed.map(|key| [key[16], key[17]]).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let visits: Vec<Visit> = self.visits.keys().filter_map(Result::ok).collect();
        for visit in visits.iter().filter(|visit| visit[36] == UDP && changed.contains(&[visit[34], visit[35]])) {
            // One that ended meanwhile is gone already.
            let _ = self.visits.remove(visit);
        }
        Ok(())
    }
}

const UDP: u8 = 17;

fn xdp(bpf: &mut Ebpf) -> Result<&mut Xdp, BpfError> {
    let missing = || BpfError::Refused { program: MAP, error: "it is not in the object".to_owned() };
    bpf.program_mut(MAP).ok_or_else(missing)?.try_into().map_err(BpfError::not_loaded(MAP))
}

fn pin(folder: &Path, program: &str, link: &str) -> PathBuf {
    folder.join(format!("{program}-{link}"))
}

/// The uplinks that an earlier process left programs on.
fn kept(folder: &Path) -> BTreeSet<LinkName> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    let start = format!("{}-", INTO.program);
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        LinkName::new(name.to_str()?.strip_prefix(&start)?).ok()
    });
    names.collect()
}

fn detach_uplink(folder: &Path, link: &str) -> Result<(), BpfError> {
    // What writes notes goes before what reads them.
    let path = pin(folder, MAP, link);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(BpfError::Folder { path, error }),
        _ => {}
    }
    attachment::detach(INTO, link, &pin(folder, INTO.program, link))
}

/// Takes all programs off that any process left.
pub(crate) fn detach_all(bridge: &LinkName, folder: &Path) -> Result<(), BpfError> {
    for link in kept(folder) {
        detach_uplink(folder, link.as_str())?;
    }
    attachment::detach(OUT, bridge.as_str(), &folder.join(OUT.program))
}

/// An address as the programs have it.
fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn key(of: &PortKey) -> Key {
    let mut key = [0; 20];
    if let Some(address) = of.host_ip.filter(|address| !address.is_unspecified()) {
        key[..16].copy_from_slice(&bytes(address));
    }
    key[16..18].copy_from_slice(&of.host.to_be_bytes());
    key[18] = match of.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => UDP,
    };
    key
}

fn value(of: &Published) -> Value {
    let mut value = [0; 4 + 8 * BACKENDS_MAX];
    value[..4].copy_from_slice(&(of.backends.len() as u32).to_ne_bytes());
    for (place, backend) in value[4..].chunks_exact_mut(8).zip(&of.backends) {
        place[..4].copy_from_slice(&backend.ip.octets());
        place[4..6].copy_from_slice(&backend.port.to_be_bytes());
    }
    value
}
