//! What control groups read from and write to block devices, measured where requests are done.
//!
//! Each request counts for the group that the kernel itself bills it to. Writes that the page cache does later are the
//! writer's where groups are of version 2, and the root's where they are of version 1.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, MapData};
use aya::programs::BtfTracePoint;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Btf, EbpfLoader};
use serde::{Deserialize, Serialize};

use crate::error::chain;
use crate::services::take;
use crate::{BpfError, bpffs};

const OBJECT: &[u8] = aya::include_bytes_aligned!("../objects/storage.o");
/// All that the map is made of.
const SOURCE: &str = include_str!("../programs/storage.c");
const PROGRAM: &str = "request_done";
const TRACEPOINT: &str = "block_rq_complete";

/// As in `programs/storage.c`.
const BUCKETS: usize = 24;
/// Operations, bytes, microseconds, buckets; for reads, then for writes.
type Value = [u64; 2 * (3 + BUCKETS)];

/// Requests of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    pub operations: u64,
    pub bytes: u64,
    /// From a request's making to its end, waiting included; the sum of all.
    pub microseconds: u64,
    /// How many took less than 2ⁿ µs and no less than 2ⁿ⁻¹, for n from 0; the last has all longer ones.
    pub buckets: Vec<u64>,
}

/// What one control group did since its first request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageTraffic {
    pub reads: Requests,
    pub writes: Requests,
}

/// The program, attached. Dropped, it goes on counting; see [`Self::detach`].
pub struct StorageMeter {
    folder: PathBuf,
    counted: HashMap<MapData, u64, [u64; 2 * (3 + BUCKETS)]>,
}

impl StorageMeter {
    /// Counts from now on, or goes on from what an earlier process left at `folder`, which is for this alone: a BPF
    /// file system is mounted there. Needs the kernel's type information (`/sys/kernel/btf/vmlinux`).
    ///
    /// The whole machine's groups are counted, at most 2048: those that were idle longest are forgotten.
    pub fn attach(folder: &Path) -> Result<Self, BpfError> {
        bpffs::ensure(folder)?;
        let layout = SOURCE
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        let maps = bpffs::layout_folder(folder, layout)?;
        let mut loader = EbpfLoader::new();
        loader.default_map_pin_directory(&maps);
        let mut bpf = loader.load(OBJECT).map_err(BpfError::refused("storage"))?;
        let pin = maps.join(PROGRAM);
        if PinnedLink::from_pin(&pin).is_err() {
            let failed = |error: &dyn std::error::Error| BpfError::Refused { program: PROGRAM, error: chain(error) };
            let types = Btf::from_sys_fs().map_err(|error| failed(&error))?;
            let missing = || BpfError::Refused { program: PROGRAM, error: "it is not in the object".to_owned() };
            let program: &mut BtfTracePoint =
                bpf.program_mut(PROGRAM).ok_or_else(missing)?.try_into().map_err(BpfError::not_loaded(PROGRAM))?;
            program.load(TRACEPOINT, &types).map_err(BpfError::not_loaded(PROGRAM))?;
            let id = program.attach().map_err(BpfError::not_loaded(PROGRAM))?;
            let link = program.take_link(id).map_err(BpfError::not_loaded(PROGRAM))?;
            FdLink::from(link).pin(&pin).map_err(|error| failed(&error))?;
        }
        // Another version's program goes when this one counts.
        bpffs::keep_only(folder, &maps).map_err(|error| BpfError::Folder { path: folder.into(), error })?;
        Ok(Self { folder: folder.to_owned(), counted: take(&mut bpf, "storage")? })
    }

    /// All groups that had requests, by the number of their folder (see [`Self::group`]).
    pub fn read(&self) -> Result<BTreeMap<u64, StorageTraffic>, BpfError> {
        let mut all = BTreeMap::new();
        for entry in self.counted.iter() {
            let (group, value): (u64, Value) = entry.map_err(BpfError::map("storage"))?;
            let (reads, writes) = value.split_at(3 + BUCKETS);
            all.insert(group, StorageTraffic { reads: requests(reads), writes: requests(writes) });
        }
        Ok(all)
    }

    /// The number of the control group at this folder; of version 1, that of the controller `blkio`.
    pub fn group(folder: &Path) -> std::io::Result<u64> {
        std::fs::metadata(folder).map(|of| of.ino())
    }

    /// Counts no longer, and forgets.
    pub fn detach(self) -> Result<(), BpfError> {
        Self::remove(&self.folder)
    }

    /// [`detach`](Self::detach) of what any process left at `folder`.
    pub fn remove(folder: &Path) -> Result<(), BpfError> {
        bpffs::remove(folder)
    }
}

impl std::fmt::Debug for StorageMeter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageMeter").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn requests(of: &[u64]) -> Requests {
    Requests { operations: of[0], bytes: of[1], microseconds: of[2], buckets: of[3..].to_vec() }
}
