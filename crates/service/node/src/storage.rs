//! What containers read from disks and write to them: counted by a BPF program where the kernel takes it, else by their
//! control groups, where these count it.
//!
//! The program is the whole machine's and looks at nothing but finished requests. It is loaded when the first container
//! starts, in a thread of its own: the kernel takes a while to look at it, and what a container asks for in that while is
//! not counted. It outlives the daemon, and so do its counts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use coppice_api::StorageMetrics;
use coppice_bpf::{BpfError, StorageMeter, StorageTraffic};
use coppice_cgroup::Cgroup;

pub(crate) struct Storage {
    /// Its own.
    folder: PathBuf,
    /// Use BPF where the kernel has it.
    bpf: bool,
    state: Mutex<State>,
}

enum State {
    /// No container has run yet.
    Idle,
    Loading,
    Counting(StorageMeter),
    /// It cannot be had, is not wanted, or was taken off.
    Off,
}

/// All counts at one moment.
pub(crate) struct Counts(Option<BTreeMap<u64, StorageTraffic>>);

impl Storage {
    pub(crate) fn new(folder: PathBuf, bpf: bool) -> Arc<Self> {
        Arc::new(Self { folder, bpf, state: Mutex::new(State::Idle) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }

    /// Counts from about now on; nothing where it does already.
    pub(crate) fn begin(self: &Arc<Self>) {
        let mut state = self.state();
        if !matches!(*state, State::Idle) {
            return;
        }
        *state = State::Loading;
        drop(state);
        let storage = self.clone();
        coppice_linux::keep_large_blocks_apart();
        let load = move || {
            storage.load();
            coppice_linux::return_idle_memory();
        };
        if let Err(error) = std::thread::Builder::new().name("storage".into()).spawn(load) {
            tracing::warn!(%error, "requests to disks are counted by control groups alone");
            *self.state() = State::Off;
        }
    }

    fn load(&self) {
        let loaded =
            if self.bpf { StorageMeter::attach(&self.folder).map(Some) } else { self.take_off().map(|()| None) };
        let mut state = self.state();
        if !matches!(*state, State::Loading) {
            // The node stops meanwhile.
            drop(loaded);
            return self.end();
        }
        *state = match loaded {
            Ok(Some(meter)) => State::Counting(meter),
            Ok(None) => State::Off,
            Err(error) => {
                tracing::info!(%error, "requests to disks are counted by control groups alone");
                State::Off
            }
        };
    }

    /// What an earlier daemon attached.
    fn take_off(&self) -> Result<(), BpfError> {
        if self.folder.exists() { StorageMeter::remove(&self.folder) } else { Ok(()) }
    }

    fn end(&self) {
        if let Err(error) = self.take_off() {
            tracing::warn!(%error, "cannot take the counter of requests to disks off");
        }
    }

    /// Counts no more, and forgets (the node stops with all its containers).
    pub(crate) fn remove(&self) {
        // A meter that is still being loaded is taken off by who loads it.
        if !matches!(std::mem::replace(&mut *self.state(), State::Off), State::Loading) {
            self.end();
        }
    }

    pub(crate) fn read(&self) -> Counts {
        let State::Counting(meter) = &*self.state() else { return Counts(None) };
        let read = meter.read();
        Counts(read.inspect_err(|error| tracing::warn!(%error, "the counts of requests to disks cannot be read")).ok())
    }
}

impl Counts {
    /// What a container's control group did since it was made, the program being asked first; `None` where nobody
    /// counts.
    pub(crate) fn of(&self, cgroup: &Cgroup, usage: &coppice_cgroup::Usage) -> Option<StorageMetrics> {
        if let (Some(all), Some(group)) = (&self.0, cgroup.storage_group()) {
            let StorageTraffic { reads, writes } = all.get(&group).cloned().unwrap_or_default();
            return Some(StorageMetrics {
                read_bytes: reads.bytes,
                reads: reads.operations,
                read_usec: Some(reads.microseconds),
                write_bytes: writes.bytes,
                writes: writes.operations,
                write_usec: Some(writes.microseconds),
            });
        }
        Some(StorageMetrics {
            read_bytes: usage.io_read_bytes?,
            reads: usage.io_reads?,
            read_usec: None,
            write_bytes: usage.io_write_bytes.unwrap_or_default(),
            writes: usage.io_writes.unwrap_or_default(),
            write_usec: None,
        })
    }
}
