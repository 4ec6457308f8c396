//! Priorities of what containers send by a link.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{HashMap, MapData};
use aya::programs::TcAttachType;
use aya::{Ebpf, EbpfLoader};
use coppice_network::{Identity, LinkName};

use crate::BpfError;
use crate::attachment::{self, Place};
use crate::dataplane::{BridgeInfo, Hook, program, replace, subnets};
use crate::services::take;

const OBJECT: &[u8] = aya::include_bytes_aligned!("../objects/priority.o");
const PLACE: Place = Place { program: "leaving", way: TcAttachType::Egress };

/// Before a link's name: where its program is pinned.
const PIN: &str = "leaving-";

/// What is before the IP header of a link's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkHeader {
    Ethernet,
    /// Nothing: WireGuard, tun.
    None,
}

pub(crate) struct Priorities(HashMap<MapData, u32, u32>);

impl Priorities {
    pub(crate) fn open(bpf: &mut Ebpf) -> Result<Self, BpfError> {
        take(bpf, "priorities").map(Self)
    }

    pub(crate) fn set(&mut self, priorities: &BTreeMap<Identity, u32>) -> Result<(), BpfError> {
        let wanted = priorities.iter().map(|(identity, priority)| (identity.0, *priority)).collect();
        replace(&mut self.0, "priorities", &wanted)
    }
}

/// Puts the program on `link`, or exchanges it; `folder` has its pin, `maps` the data plane's maps.
pub(crate) fn attach(
    info: &BridgeInfo,
    (link, folder, maps): (&LinkName, &Path, &Path),
    header: LinkHeader,
    hook: Option<Hook>,
) -> Result<(), BpfError> {
    let header: u32 = match header {
        LinkHeader::Ethernet => 14,
        LinkHeader::None => 0,
    };
    let subnets = subnets(info);
    let mut loader = EbpfLoader::new();
    for (name, value) in &subnets {
        loader.override_global(name, value, true);
    }
    loader.override_global("LINK_HEADER", &header, true).default_map_pin_directory(maps);
    let mut bpf = loader.load(OBJECT).map_err(BpfError::refused("priority"))?;
    let program = program(&mut bpf, PLACE.program)?;
    program.load().map_err(BpfError::not_loaded(PLACE.program))?;
    let pin = folder.join(format!("{PIN}{link}"));
    attachment::attach(program, PLACE, (link.as_str(), &pin), hook).map(drop)
}

/// Takes the program off all links that it was put on.
pub(crate) fn detach_all(folder: &Path) -> Result<(), BpfError> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) }; // nothing was ever attached
    for entry in entries.flatten() {
        if let Some(link) = entry.file_name().to_string_lossy().strip_prefix(PIN) {
            attachment::detach(PLACE, link, &entry.path())?;
        }
    }
    Ok(())
}
