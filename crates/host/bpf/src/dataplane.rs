//! A bridge's data plane: loaded, told what to do, attached.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData};
use aya::programs::SchedClassifier;
use aya::{Ebpf, EbpfLoader};
use coppice_network::{
    Beyond, LinkName, Policy, Published, Subnet4, Subnet6, TrafficClass, TrafficClasses, VirtualService, Word,
};
use rustix::io::Errno;

use crate::attachment::{self, PLACES};
use crate::metrics::{Counters, Metrics};
use crate::names::{Answer, Names, View};
use crate::ports::{self, Ports};
use crate::services::{Services, take};
use crate::{BpfError, bpffs};

const OBJECT: &[u8] = aya::include_bytes_aligned!("../objects/bridge.o");
/// All that maps are made of. They are found again only by a process that has the same text.
const MAPS: [&str; 3] =
    [include_str!("../programs/maps.h"), include_str!("../programs/packet.h"), include_str!("../programs/ports.h")];

/// Most containers that a bridge's data plane has room for, as in `programs/maps.h`.
const ENDPOINTS_MAX: usize = 4096;
const IDENTITIES_MAX: usize = 16384;
const DENIED_MAX: usize = 16384;

const DENIED_UP: u32 = 1;
const DENIED_DOWN: u32 = 2;

/// The bridge that is worked on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeInfo {
    pub name: LinkName,
    pub subnet: Subnet4,
    /// `None`: packets of IPv6 are left to the stack.
    pub subnet6: Option<Subnet6>,
}

/// Which parts work, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub policy: bool,
    pub balance: bool,
    pub metrics: bool,
    /// Answer questions for names in the kernel.
    pub names: bool,
    /// Have published ports led into containers by the links that clients come by; see [`Dataplane::set_ports`].
    pub ports: bool,
    /// How programs are attached; `None`: as the kernel can.
    pub hook: Option<Hook>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { policy: true, balance: true, metrics: true, names: true, ports: false, hook: None }
    }
}

/// How a program is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Linux 6.6 and later.
    Tcx,
    /// A filter of the `clsact` queueing discipline.
    Clsact,
}

/// A container that packets can be handed to without passing the stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    /// The host's end of its link.
    pub link: LinkName,
}

/// The data plane of one bridge. Dropped, it stays in force; see [`Self::detach`].
pub struct Dataplane {
    info: BridgeInfo,
    settings: Settings,
    folder: PathBuf,
    maps_folder: PathBuf,
    bpf: Ebpf,
    classes: HashMap<MapData, [u8; 4], u32>,
    ports: Option<Ports>,
    services: Services,
    endpoints: HashMap<MapData, [u8; 4], u32>,
    identities: HashMap<MapData, [u8; 4], u32>,
    denied: HashMap<MapData, [u32; 2], u32>,
    names: Names,
    counters: Counters,
}

impl Dataplane {
    /// Loads the programs into the kernel. What an earlier process attached goes on as it was, with the maps that this
    /// one has too, where both were built from the same definitions of them.
    ///
    /// `folder` is the node's own, for nothing else: a BPF file system is mounted there.
    pub fn load(info: &BridgeInfo, folder: &Path, settings: Settings) -> Result<Self, BpfError> {
        let shape = globals(info)?;
        bpffs::ensure(folder)?;
        let maps_folder = bpffs::layout_folder(folder, layout())?;
        let with = |on: bool| u32::from(on);
        let parts = [
            ("WITH_POLICY", with(settings.policy)),
            ("WITH_BALANCE", with(settings.balance)),
            ("WITH_METRICS", with(settings.metrics)),
            ("WITH_NAMES", with(settings.names)),
        ];
        let mut loader = EbpfLoader::new();
        for (name, value) in shape.iter().chain(&parts) {
            loader.override_global(name, value, true);
        }
        loader.default_map_pin_directory(&maps_folder);
        let mut bpf = loader.load(OBJECT).map_err(BpfError::refused("bridge"))?;
        for place in PLACES {
            program(&mut bpf, place.program)?.load().map_err(BpfError::not_loaded(place.program))?;
        }
        Ok(Self {
            ports: settings.ports.then(|| Ports::load(info, (folder, &maps_folder), settings.hook)).transpose()?,
            services: Services::open(&mut bpf)?,
            endpoints: take(&mut bpf, "endpoints")?,
            identities: take(&mut bpf, "identities")?,
            denied: take(&mut bpf, "denied")?,
            classes: take(&mut bpf, "classes")?,
            names: Names::open(&mut bpf)?,
            counters: Counters::open(&mut bpf)?,
            info: info.clone(),
            settings,
            folder: folder.to_owned(),
            maps_folder,
            bpf,
        })
    }

    /// Puts the programs in force, after the maps were given what they need. Those of an earlier process are exchanged
    /// for these at once. Says how.
    pub fn attach(&mut self) -> Result<Vec<Word>, BpfError> {
        let name = self.info.name.as_str();
        let mut words = Vec::new();
        for place in PLACES {
            let program = program(&mut self.bpf, place.program)?;
            let pin = self.folder.join(place.program);
            let hook = attachment::attach(program, place, (name, &pin), self.settings.hook)?;
            if hook == Hook::Clsact && self.settings.hook.is_none() && words.is_empty() {
                words.push(Word(format!(
                    "This kernel has no BPF links for network devices (Linux 6.6): {name} has filters instead, which \
                     other programs' `tc` can remove."
                )));
            }
        }
        if self.ports.is_none() {
            ports::detach_all(&self.info.name, &self.folder)?;
        }
        bpffs::keep_only(&self.folder, &self.maps_folder)
            .map_err(|error| BpfError::Folder { path: self.folder.clone(), error })?;
        Ok(words)
    }

    /// Balances connections to exactly these. A backend that is no longer named keeps the TCP connections it has for
    /// as long as its [endpoint](Self::set_endpoints) is there.
    ///
    /// Rules of nftables do not see these connections. A service whose connections they send elsewhere (see
    /// [`coppice_network::Intercept`]) must not be named.
    pub fn set_services(&mut self, services: &[VirtualService]) -> Result<(), BpfError> {
        for service in services.iter().filter(|service| !self.services.has(service.address)) {
            self.counters.forget(service.address)?;
        }
        self.services.set(services)
    }

    /// The containers that are there. A connection to one that is not goes to another backend, which refuses it: the
    /// client need not wait. Links that are gone meanwhile are passed over.
    pub fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<(), BpfError> {
        check_room("containers", endpoints.len(), ENDPOINTS_MAX)?;
        let indices = endpoints.iter().filter_map(|of| Some((of.address.octets(), link_index(of.link.as_str()).ok()?)));
        replace(&mut self.endpoints, "endpoints", &indices.collect())
    }

    /// Lets containers begin connections as `policy` says, from the next packet on; one that it denies ends. One whose
    /// answers alone it denies goes on, if need be once the side that began it has sent another packet.
    pub fn set_policy(&mut self, policy: &Policy) -> Result<(), BpfError> {
        let members = policy.members.iter().map(|(ip, identity)| (ip.octets(), identity.0)).collect();
        let mut pairs: BTreeMap<[u32; 2], u32> = BTreeMap::new();
        for (from, to) in &policy.denied {
            let (key, bit) = if from <= to { ([from.0, to.0], DENIED_UP) } else { ([to.0, from.0], DENIED_DOWN) };
            *pairs.entry(key).or_default() |= bit;
        }
        check_room("containers with an identity", policy.members.len(), IDENTITIES_MAX)?;
        check_room("denied pairs", pairs.len(), DENIED_MAX)?;
        // A container gets its identity when what is denied to it is known.
        upsert(&mut self.denied, "denied", &pairs)?;
        replace(&mut self.identities, "identities", &members)?;
        replace(&mut self.denied, "denied", &pairs)
    }

    /// Answers exactly these names, to containers that are [endpoints](Self::set_endpoints) and ask the gateway. A
    /// container has at most one view; see [`Answer::view`]. What is not among these is left to the node's server, and so
    /// is what there is no room for.
    ///
    /// No name may be given both for everybody and for a view. Changes come one after the other: a client may see some of
    /// them before others, so that a view must never come to stand for others than before.
    pub fn set_names(&mut self, answers: &[Answer], views: &BTreeMap<Ipv4Addr, View>) -> Result<(), BpfError> {
        self.names.set(answers, views)
    }

    /// Has what these containers send beyond the machine wait in its class; see [`TrafficClass`](coppice_network::TrafficClass).
    pub fn set_classes(&mut self, classes: &TrafficClasses) -> Result<(), BpfError> {
        check_room("containers with a class", classes.len(), ENDPOINTS_MAX)?;
        let value = |class: &TrafficClass| class.priority() | u32::from(class.type_of_service()) << 8;
        let wanted = classes.iter().map(|(address, class)| (address.octets(), value(class))).collect();
        replace(&mut self.classes, "classes", &wanted)
    }

    /// Leads exactly these published ports into their containers, for clients that come by `beyond`'s uplinks to its
    /// addresses; nothing where the [settings](Settings::ports) do not say so. To be called again when the machine's links
    /// or addresses have changed. New connections only: those that exist stay with who has them.
    ///
    /// Rules of nftables, other programs' too, do not see these connections. What is unusual about one (fragments, IPv4
    /// options, IPv6 extensions, a client whose answers would leave by another link) leaves it to the rules.
    /// Says which links do without, once each.
    pub fn set_ports(&mut self, published: &[Published], beyond: &Beyond) -> Result<Vec<Word>, BpfError> {
        let Some(ports) = &mut self.ports else { return Ok(Vec::new()) };
        ports.set(published)?;
        ports.attach(&self.info.name, beyond)
    }

    /// The links that published ports are led into containers from.
    pub fn uplinks(&self) -> Vec<LinkName> {
        self.ports.iter().flat_map(Ports::uplinks).cloned().collect()
    }

    /// What was counted since the maps were made, by earlier processes too.
    pub fn metrics(&self) -> Result<Metrics, BpfError> {
        self.counters.read()
    }

    /// Takes the programs off the bridge and forgets all that they knew.
    pub fn detach(self) -> Result<(), BpfError> {
        Self::remove(&self.info.name, &self.folder)
    }

    /// [`detach`](Self::detach) of what any process left at `folder`, whether the bridge is still there or not.
    pub fn remove(bridge: &LinkName, folder: &Path) -> Result<(), BpfError> {
        for place in PLACES {
            attachment::detach(place, bridge.as_str(), &folder.join(place.program))?;
        }
        ports::detach_all(bridge, folder)?;
        bpffs::remove(folder)
    }
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane").field("info", &self.info).field("settings", &self.settings).finish_non_exhaustive()
    }
}

pub(crate) fn program<'b>(bpf: &'b mut Ebpf, name: &'static str) -> Result<&'b mut SchedClassifier, BpfError> {
    let missing = || BpfError::Refused { program: name, error: "it is not in the object".to_owned() };
    bpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(BpfError::not_loaded(name))
}

/// Makes a map hold exactly `wanted`: what is new or changed first, so that nothing that stays is missing for a moment.
pub(crate) fn replace<K, V>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    wanted: &BTreeMap<K, V>,
) -> Result<(), BpfError>
where
    K: aya::Pod + Ord,
    V: aya::Pod + PartialEq,
{
    let held = upsert(map, name, wanted)?;
    for key in held.into_keys().filter(|key| !wanted.contains_key(key)) {
        map.remove(&key).map_err(BpfError::map(name))?;
    }
    Ok(())
}

/// Adds what is new and changes what is different; what the map held before.
fn upsert<K, V>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    wanted: &BTreeMap<K, V>,
) -> Result<BTreeMap<K, V>, BpfError>
where
    K: aya::Pod + Ord,
    V: aya::Pod + PartialEq,
{
    let held: BTreeMap<K, V> = map.iter().collect::<Result<_, _>>().map_err(BpfError::map(name))?;
    for (key, value) in wanted.iter().filter(|(key, value)| held.get(*key) != Some(*value)) {
        map.insert(key, value, 0).map_err(BpfError::map(name))?;
    }
    Ok(held)
}

fn check_room(what: &'static str, count: usize, max: usize) -> Result<(), BpfError> {
    if count > max { Err(BpfError::TooMany { what, count, max }) } else { Ok(()) }
}

/// What programs know of the bridge.
pub(crate) fn globals(info: &BridgeInfo) -> Result<[(&'static str, u32); 8], BpfError> {
    let name = info.name.as_str();
    let index = link_index(name).map_err(|errno| BpfError::NoBridge { name: name.to_owned(), errno })?;
    let mask = u32::MAX.checked_shl(32 - u32::from(info.subnet.prefix())).unwrap_or(0);
    let stem = info.subnet6.map(|subnet| subnet.network().octets());
    let [first, second] = stem.map(|stem| [word(&stem[..4]), word(&stem[4..8])]).unwrap_or_default();
    Ok([
        ("BRIDGE", index),
        ("SERVICES_BIT", (1u32 << (31 - u32::from(info.subnet.prefix()))).to_be()),
        ("GATEWAY", word(&info.subnet.gateway().octets())),
        ("SUBNET", word(&info.subnet.network().octets())),
        ("SUBNET_MASK", mask.to_be()),
        ("WITH_IPV6", u32::from(stem.is_some())),
        ("STEM_0", first),
        ("STEM_1", second),
    ])
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn link_index(name: &str) -> Result<u32, Errno> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let any = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    netdevice::name_to_index(any, name)
}

/// A number for the text of [`MAPS`] (FNV-1a).
fn layout() -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    MAPS.iter().flat_map(|text| text.bytes()).fold(0xcbf2_9ce4_8422_2325, fold)
}
