//! Services and their tables in the kernel's maps.
//!
//! A service points at a table, a table's slots at backends. A changed service gets a fresh table and is then pointed
//! at it: a packet sees the old table or the new one, never half of each.

use std::collections::{BTreeMap, BTreeSet, HashMap as StdHashMap};
use std::net::Ipv4Addr;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, MapError};
use coppice_network::{VirtualService, maglev};

use crate::BpfError;

/// As many virtual addresses as one bridge's data plane has room for. As in `programs/maps.h`.
pub const SERVICES_MAX: usize = 512;
/// Slots of a service's table: a prime, and a hundred times ten backends. As in `programs/maps.h`.
const SLOTS: usize = 1021;
const TABLES_MAX: u32 = 1024;
const BACKENDS_MAX: u16 = 8192;
const NO_BACKEND: u16 = u16::MAX;

type Service = [u32; 2]; // table, backends

/// `struct tuple`: source, destination, their ports, protocol, whether IPv6, nothing.
type Tuple = [u8; 16];
/// `struct flow`: when it was last seen, address, port, kind, whether direct.
type Flow = [u8; 16];
const TO_BACKEND: u8 = 1;
const UDP: u8 = 17;

pub(crate) struct Services {
    services: HashMap<MapData, [u8; 4], Service>,
    tables: Array<MapData, [u16; SLOTS]>,
    backends: Array<MapData, [u8; 4]>,
    flows: HashMap<MapData, Tuple, Flow>,
    /// What the maps hold: each service's table and its backends, sorted.
    held: BTreeMap<Ipv4Addr, (u32, Vec<Ipv4Addr>)>,
    places: StdHashMap<Ipv4Addr, u16>,
    /// Where to look first for a free table and a free backend's place: what was freed last is used again last, when
    /// no packet can be between two looks at it.
    next_table: u32,
    next_place: u16,
}

impl Services {
    /// With what an earlier process left in the maps.
    pub(crate) fn open(bpf: &mut Ebpf) -> Result<Self, BpfError> {
        let mut this = Self {
            services: take(bpf, "services")?,
            tables: take(bpf, "tables")?,
            backends: take(bpf, "backends")?,
            flows: take(bpf, "flows")?,
            held: BTreeMap::new(),
            places: StdHashMap::new(),
            next_table: 0,
            next_place: 0,
        };
        let found: Vec<([u8; 4], Service)> =
            this.services.iter().collect::<Result<_, _>>().map_err(BpfError::map("services"))?;
        for (address, [table, _]) in found {
            let slots = this.tables.get(&table, 0).map_err(BpfError::map("tables"))?;
            let used: BTreeSet<u16> = slots.into_iter().filter(|place| *place != NO_BACKEND).collect();
            let mut backends = Vec::new();
            for place in used {
                let ip = Ipv4Addr::from(this.backends.get(&u32::from(place), 0).map_err(BpfError::map("backends"))?);
                this.places.insert(ip, place);
                backends.push(ip);
            }
            backends.sort_unstable();
            this.held.insert(address.into(), (table, backends));
        }
        Ok(this)
    }

    pub(crate) fn has(&self, address: Ipv4Addr) -> bool {
        self.held.contains_key(&address)
    }

    pub(crate) fn set(&mut self, wanted: &[VirtualService]) -> Result<(), BpfError> {
        let wanted: BTreeMap<Ipv4Addr, Vec<Ipv4Addr>> = wanted
            .iter()
            .map(|service| {
                let distinct: BTreeSet<Ipv4Addr> = service.backends.iter().copied().collect();
                (service.address, distinct.into_iter().collect())
            })
            .collect();
        check(&wanted)?;
        let gone: Vec<Ipv4Addr> = self.held.keys().filter(|address| !wanted.contains_key(address)).copied().collect();
        let mut left: BTreeSet<(Ipv4Addr, Ipv4Addr)> = BTreeSet::new();
        for address in gone {
            self.services.remove(&address.octets()).map_err(BpfError::map("services"))?;
            let (_, held) = self.held.remove(&address).unwrap_or_default();
            left.extend(held.into_iter().map(|backend| (address, backend)));
        }
        self.forget_places(&wanted);
        for (address, backends) in wanted {
            let held = self.held.get(&address).map(|(_, held)| held.as_slice()).unwrap_or_default();
            if held != backends || !self.held.contains_key(&address) {
                left.extend(held.iter().filter(|held| !backends.contains(held)).map(|held| (address, *held)));
                self.point(address, backends)?;
            }
        }
        self.forget_datagrams(&left)
    }

    /// A flow of datagrams has no end of its own: it leaves a backend that left its service.
    fn forget_datagrams(&mut self, left: &BTreeSet<(Ipv4Addr, Ipv4Addr)>) -> Result<(), BpfError> {
        if left.is_empty() {
            return Ok(());
        }
        let mut stale = Vec::new();
        for entry in self.flows.iter() {
            let Ok((tuple, flow)) = entry else { continue }; // forgotten for another, meanwhile
            let to = ipv4(&tuple[4..8]);
            let is_datagram = tuple[12] == UDP && flow[14] == TO_BACKEND;
            if is_datagram && left.contains(&(to, ipv4(&flow[8..12]))) {
                stale.push(tuple);
            }
        }
        for tuple in stale {
            match self.flows.remove(&tuple) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(BpfError::Map { map: "flows", error }),
            }
        }
        Ok(())
    }

    /// Places of backends that are neither in a table nor wanted are free.
    fn forget_places(&mut self, wanted: &BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>) {
        let held = self.held.values().flat_map(|(_, backends)| backends);
        let used: BTreeSet<Ipv4Addr> = held.chain(wanted.values().flatten()).copied().collect();
        self.places.retain(|backend, _| used.contains(backend));
    }

    /// Gives a service a table of these backends.
    fn point(&mut self, address: Ipv4Addr, backends: Vec<Ipv4Addr>) -> Result<(), BpfError> {
        let mut slots = [NO_BACKEND; SLOTS];
        for (slot, backend) in slots.iter_mut().zip(maglev(&backends, SLOTS as u32)) {
            *slot = self.place(backend)?;
        }
        let table = self.free_table()?;
        self.tables.set(table, slots, 0).map_err(BpfError::map("tables"))?;
        let service = [table, backends.len() as u32];
        self.services.insert(address.octets(), service, 0).map_err(BpfError::map("services"))?;
        self.held.insert(address, (table, backends));
        Ok(())
    }

    fn free_table(&mut self) -> Result<u32, BpfError> {
        let used: BTreeSet<u32> = self.held.values().map(|(table, _)| *table).collect();
        let mut candidates = (0..TABLES_MAX).map(|step| (self.next_table + step) % TABLES_MAX);
        let table = candidates.find(|table| !used.contains(table));
        let table = table.ok_or(BpfError::TooMany { what: "services", count: used.len(), max: SERVICES_MAX })?;
        self.next_table = (table + 1) % TABLES_MAX;
        Ok(table)
    }

    fn place(&mut self, backend: Ipv4Addr) -> Result<u16, BpfError> {
        if let Some(place) = self.places.get(&backend) {
            return Ok(*place);
        }
        let used: BTreeSet<u16> = self.places.values().copied().collect();
        let mut candidates = (0..BACKENDS_MAX).map(|step| (self.next_place + step) % BACKENDS_MAX);
        let place = candidates.find(|place| !used.contains(place)).ok_or_else(|| too_many_backends(used.len() + 1))?;
        self.backends.set(u32::from(place), backend.octets(), 0).map_err(BpfError::map("backends"))?;
        self.next_place = (place + 1) % BACKENDS_MAX;
        self.places.insert(backend, place);
        Ok(place)
    }
}

fn ipv4(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

fn too_many_backends(count: usize) -> BpfError {
    BpfError::TooMany { what: "backends of services", count, max: usize::from(BACKENDS_MAX) / 2 }
}

fn check(wanted: &BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>) -> Result<(), BpfError> {
    if wanted.len() > SERVICES_MAX {
        return Err(BpfError::TooMany { what: "services", count: wanted.len(), max: SERVICES_MAX });
    }
    if let Some(backends) = wanted.values().find(|backends| backends.len() > SLOTS) {
        return Err(BpfError::TooMany { what: "backends of one service", count: backends.len(), max: SLOTS });
    }
    // Half, so that all can be exchanged for others at once.
    let all: BTreeSet<&Ipv4Addr> = wanted.values().flatten().collect();
    if all.len() > usize::from(BACKENDS_MAX) / 2 { Err(too_many_backends(all.len())) } else { Ok(()) }
}

/// A map of the loaded object, typed.
pub(crate) fn take<M>(bpf: &mut Ebpf, name: &'static str) -> Result<M, BpfError>
where
    M: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = bpf.take_map(name).ok_or_else(|| BpfError::Refused {
        program: "bridge",
        error: format!("its object has no map {name}: it was not built from these sources"),
    })?;
    M::try_from(map).map_err(BpfError::map(name))
}
