//! A backup of a node that goes on meanwhile.
//!
//! The log is copied and volumes get a snapshot first, all of one state of the node: where that has changed in between, they are
//! taken once more, and the last time nothing may change. What takes long, sending the data, is done from those. The snapshots,
//! and the copy, are gone when it ends, however it ends.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coppice_api::ErrorKind;
use coppice_backup::Writer;
use coppice_dataset::{DatasetError, DatasetName, Kind, Snapshot, SnapshotName, Stamps};
use coppice_secret::{Key, KeyFileError};

use super::Node;
use crate::backup::{CERTIFICATES, KEYS, KnownSnapshot, KnownVolume, MANIFEST, Manifest, Pieces, SETTINGS, STATE, add};
use crate::containers::Containers;
use crate::error::NodeError;
use crate::volume::snapshot_of;

/// Below the node's directory of what goes with it: the copy of the log.
const FOLDER: &str = "backup";
/// Before names of the snapshots that are taken for a backup.
const TAKEN: &str = "backup-";
/// On such a snapshot, its own name: what inherits the stamp has another.
const STAMP: &str = "taken_for_backup";
/// How often it is tried to have all of one state while that may change; then changes wait until it is taken.
const TRIES: u32 = 2;

/// Why there is no backup. The node is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("a backup with the node's keys in it is for root alone, not for uid {0}")]
    NotRoot(u32),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(
        "there is no key in {0}: make one with `(umask 077; head -c 32 /dev/urandom > {0})`, and keep it where no backup is"
    )]
    NoKey(PathBuf),
    #[error("another backup is being made: wait until it is done")]
    Busy,
    #[error("cannot copy the log: {0}")]
    Log(#[from] coppice_log::CopyError),
    #[error("cannot write the backup: {0}")]
    Write(#[from] io::Error),
}

impl BackupError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRoot(_) => ErrorKind::Forbidden,
            Self::Key(_) | Self::NoKey(_) => ErrorKind::Invalid,
            Self::Busy => ErrorKind::Conflict,
            Self::Write(source) if source.kind() == io::ErrorKind::StorageFull => ErrorKind::NoSpace,
            Self::Log(_) | Self::Write(_) => ErrorKind::Internal,
        }
    }
}

/// Backups are made one at a time: whoever works on one has this.
type Turn = Arc<tokio::sync::OwnedMutexGuard<()>>;

/// All that a backup is made of, of one moment; what was made for it is removed with it.
pub struct Prepared {
    containers: Arc<Containers>,
    folder: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
    manifest: Manifest,
    key: Option<Key>,
    turn: Turn,
}

impl Node {
    /// Takes what is to be in a backup. `key_file` has the key that it is sealed with, the node's keys in it; without one,
    /// anybody can read it, and the keys are not in it.
    pub async fn prepare_backup(
        &self,
        uid: u32,
        volumes: bool,
        key_file: Option<&Path>,
    ) -> Result<Prepared, NodeError> {
        if key_file.is_some() && uid != 0 {
            return Err(BackupError::NotRoot(uid).into());
        }
        let key = key_file.map(|path| match Key::read(path) {
            Err(error) if error.is_not_there() => Err(BackupError::NoKey(path.to_owned())),
            other => Ok(other?),
        });
        let key = key.transpose()?;
        let turn = self.backing_up.clone().try_lock_owned().map_err(|_| BackupError::Busy)?;
        let prepared = Prepared {
            containers: self.containers.clone(),
            folder: self.root.run().join(FOLDER),
            files: BTreeMap::new(),
            manifest: Manifest {
                program: env!("CARGO_PKG_VERSION").to_owned(),
                created_ms: self.clock.now().0,
                volumes: Vec::new(),
            },
            key,
            turn: turn.into(),
        };
        // What a daemon that died in a backup has left.
        let mut prepared = prepared.cleared().await?;
        // The keys are those that the log is sealed with.
        let _changing = self.containers.secrets.changing.lock().await;
        let mut turn = 0;
        loop {
            let held = if turn == TRIES { Some(self.log.hold().await) } else { None };
            let before = self.log.read().revision();
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&prepared.folder);
            made.map_err(BackupError::Write)?;
            self.log.copy_to(&prepared.folder).await.map_err(BackupError::Log)?;
            prepared.read_files(self).map_err(BackupError::Write)?;
            prepared.manifest.volumes =
                self.known_volumes(volumes, prepared.manifest.created_ms, &prepared.turn).await?;
            if held.is_some() || self.log.read().revision() == before {
                return Ok(prepared);
            }
            prepared = prepared.cleared().await?;
            turn += 1;
        }
    }

    /// All volumes; with `take`, each with a snapshot of what it is now.
    async fn known_volumes(&self, take: bool, created_ms: u64, turn: &Turn) -> Result<Vec<KnownVolume>, NodeError> {
        let taken = take.then(|| snapshot_of(&format!("{TAKEN}{created_ms}"))).transpose()?;
        let mut known = Vec::new();
        for name in self.on_volumes(|containers| Ok(containers.volumes.list()?)).await? {
            if let Some(taken) = &taken {
                self.snapshot_at_once(&name, taken, turn.clone()).await?;
            }
            let looked_at = name.clone();
            let dataset = self.on_volumes(move |containers| Ok(containers.volumes.inspect(&looked_at)?)).await;
            let dataset = match dataset {
                // It went meanwhile.
                Err(NodeError::Volume(error)) if matches!(*error, DatasetError::NoDataset(_)) => {
                    continue;
                }
                other => other?,
            };
            let of = |Snapshot { name, id, .. }: Snapshot| {
                if id.is_none() {
                    tracing::warn!(%name, "a snapshot without an id, of an earlier version, is not in the backup");
                }
                Some(KnownSnapshot { name: name.to_string(), id: id? })
            };
            let (mut head, mut snapshots) = (None, Vec::new());
            for snapshot in dataset.snapshots.into_iter().filter_map(of) {
                if taken.as_ref().is_some_and(|taken| taken.as_str() == snapshot.name) {
                    head = Some(snapshot);
                } else {
                    snapshots.push(snapshot);
                }
            }
            known.push(KnownVolume { name: name.to_string(), snapshots, head });
        }
        Ok(known)
    }

    /// Takes a snapshot of one moment; where its storage cannot, those who write there wait meanwhile.
    async fn snapshot_at_once(&self, name: &DatasetName, snapshot: &SnapshotName, turn: Turn) -> Result<(), NodeError> {
        let writers = match self.containers.volumes.kind() {
            Kind::Directory => self.containers.writers_of(name),
            _ => Vec::new(),
        };
        let (containers, name, snapshot) = (self.containers.clone(), name.clone(), snapshot.clone());
        // A task of its own: whoever goes away meanwhile leaves nobody frozen, and the next backup waits for it.
        let taken = tokio::spawn(async move {
            let _turn = turn;
            let frozen = containers.freeze(writers).await?;
            let taken = work_on(&containers, move |containers| {
                let mut stamps = Stamps::default();
                let stamped = stamps.set(STAMP, snapshot.as_str());
                stamped.map_err(|error| NodeError::Invalid(error.to_string()))?;
                match containers.volumes.snapshot(&name, &snapshot, &stamps) {
                    Err(DatasetError::NoDataset(_)) => Ok(()),
                    other => Ok(other?),
                }
            });
            let taken = taken.await;
            containers.thaw(frozen).await;
            taken
        });
        taken.await.unwrap_or_else(|error| Err(ended_early(&error)))
    }

    async fn on_volumes<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Containers) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, NodeError> {
        work_on(&self.containers, work).await
    }
}

async fn work_on<T: Send + 'static>(
    containers: &Arc<Containers>,
    work: impl FnOnce(&Containers) -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let containers = containers.clone();
    let done = tokio::task::spawn_blocking(move || work(&containers)).await;
    done.unwrap_or_else(|error| Err(ended_early(&error)))
}

fn ended_early(error: &tokio::task::JoinError) -> NodeError {
    NodeError::Invalid(format!("work on volumes ended early: {error}"))
}

impl Prepared {
    /// Writes it. Blocks as long as that takes.
    pub fn write(&self, out: impl Write) -> Result<(), NodeError> {
        let writer = Writer::begin(out, self.key.clone(), self.manifest.created_ms).map_err(BackupError::Write)?;
        let mut tar = tar::Builder::new(writer);
        let manifest = serde_json::to_vec(&self.manifest).map_err(io::Error::other).map_err(BackupError::Write)?;
        let files = (|| {
            add(&mut tar, Path::new(MANIFEST), &manifest)?;
            for (name, bytes) in &self.files {
                add(&mut tar, name, bytes)?;
            }
            for entry in fs::read_dir(&self.folder)? {
                let entry = entry?;
                tar.append_path_with_name(entry.path(), Path::new(STATE).join(entry.file_name()))?;
            }
            Ok(())
        })();
        files.map_err(BackupError::Write)?;
        for (at, volume) in self.manifest.volumes.iter().enumerate() {
            let name = volume.dataset()?;
            for (number, snapshot) in volume.sent().into_iter().enumerate() {
                let from = volume.head.as_ref().filter(|_| number > 0);
                let from = from.map(|head| snapshot_of(&head.name)).transpose()?;
                let mut pieces = Pieces::begin(&mut tar, at, number);
                self.containers.volumes.send(&name, &snapshot_of(&snapshot.name)?, from.as_ref(), &mut pieces)?;
                pieces.end().map_err(BackupError::Write)?;
            }
        }
        let written = tar.into_inner().and_then(|writer| writer.finish().map(drop));
        Ok(written.map_err(BackupError::Write)?)
    }

    fn read_files(&mut self, node: &Node) -> io::Result<()> {
        self.files.clear();
        let root = node.root.path();
        read_below(&node.root.certificates(), Path::new(CERTIFICATES), &mut self.files)?;
        if self.key.is_some() {
            read_below(&node.root.keys(), Path::new(KEYS), &mut self.files)?;
        }
        match fs::read(root.join(SETTINGS)) {
            Ok(bytes) => drop(self.files.insert(PathBuf::from(SETTINGS), bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn cleared(mut self) -> Result<Self, NodeError> {
        let cleared = tokio::task::spawn_blocking(move || {
            self.clear();
            self
        });
        cleared.await.map_err(|error| ended_early(&error))
    }

    /// Removes the copy of the log, and snapshots of backups. Blocks.
    fn clear(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot remove the copy of the log that a backup was made of");
        }
        self.manifest.volumes.clear();
        let store = &self.containers.volumes;
        for dataset in store.survey().map(|survey| survey.datasets).unwrap_or_default() {
            let taken = |snapshot: &&Snapshot| snapshot.stamps.get(STAMP) == Some(snapshot.name.as_str());
            for snapshot in dataset.snapshots.iter().filter(taken) {
                if let Err(error) = store.destroy_snapshot(&dataset.name, &snapshot.name) {
                    tracing::warn!(volume = %dataset.name, %error, "cannot remove the snapshot of a backup");
                }
            }
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Files below `folder`, as `name`; those that are being written are not there yet.
fn read_below(folder: &Path, name: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), name.join(entry.file_name()));
        if entry.file_name().to_string_lossy().ends_with(".unfinished") {
            continue;
        }
        if entry.file_type()?.is_dir() {
            read_below(&path, &name, into)?;
        } else {
            match fs::read(&path) {
                Ok(bytes) => drop(into.insert(name, bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
