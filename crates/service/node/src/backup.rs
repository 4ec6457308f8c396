//! What is inside a backup: a tar of plain files, which begins with a list of the rest.
//!
//! ```text
//!   manifest.json               which volumes there were, with their snapshots, and which of them follow
//!   state/log.db                a copy of the log
//!   certificates/…, node.toml   as they lie on disk
//!   keys/…                      in a sealed backup alone
//!   volumes/<v>/<s>/<piece>     snapshot s of volume v, both as the manifest counts them: its stream, in pieces
//! ```
//!
//! A stream is cut in pieces because a tar says how long a file is before it. The first one of a volume is of what it was when
//! the backup was made, in full; the others are the differences from that, so that a volume that is made of it has its head at
//! once. Images are not in it: releases name them by digest, and they are fetched again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use coppice_dataset::DatasetName;
use serde::{Deserialize, Serialize};

use crate::error::NodeError;
use crate::volume::dataset_of;

/// What has its place below the root; nothing else is taken from a backup.
pub(crate) const NAMES: &[&str] = &[MANIFEST, STATE, CERTIFICATES, KEYS, SETTINGS, VOLUMES];
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const STATE: &str = "state";
pub(crate) const CERTIFICATES: &str = "certificates";
pub(crate) const KEYS: &str = "keys";
pub(crate) const SETTINGS: &str = "node.toml";
pub(crate) const VOLUMES: &str = "volumes";

/// The list of what is in a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Of the Coppice that wrote it.
    pub(crate) program: String,
    /// Milliseconds since 1970, UTC.
    pub(crate) created_ms: u64,
    /// All volumes of the node, whether their data follows or not.
    pub(crate) volumes: Vec<KnownVolume>,
}

/// A volume as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownVolume {
    /// `APP/VOLUME`, or `VOLUME`.
    pub(crate) name: String,
    /// Its snapshots, as far as they have ids.
    pub(crate) snapshots: Vec<KnownSnapshot>,
    /// The snapshot that was taken for the backup and does not outlive it; `None`: its data is not in it.
    pub(crate) head: Option<KnownSnapshot>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownSnapshot {
    pub(crate) name: String,
    pub(crate) id: String,
}

impl KnownVolume {
    pub(crate) fn dataset(&self) -> Result<DatasetName, NodeError> {
        dataset_of(&self.name)
    }

    /// What follows of it, in that order.
    pub(crate) fn sent(&self) -> Vec<&KnownSnapshot> {
        self.head.iter().flat_map(|head| std::iter::once(head).chain(&self.snapshots)).collect()
    }
}

/// Bytes of a piece of a volume's stream.
const PIECE: usize = 4 << 20;

/// Adds one file.
pub(crate) fn add<W: Write>(tar: &mut tar::Builder<W>, name: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, bytes)
}

/// A stream on its way into a tar, in pieces.
pub(crate) struct Pieces<'t, W: Write> {
    tar: &'t mut tar::Builder<W>,
    folder: PathBuf,
    number: u64,
    piece: Vec<u8>,
}

impl<'t, W: Write> Pieces<'t, W> {
    pub(crate) fn begin(tar: &'t mut tar::Builder<W>, volume: usize, snapshot: usize) -> Self {
        let folder = PathBuf::from(format!("{VOLUMES}/{volume}/{snapshot}"));
        Self { tar, folder, number: 0, piece: Vec::with_capacity(PIECE) }
    }

    fn out(&mut self) -> io::Result<()> {
        add(self.tar, &self.folder.join(self.number.to_string()), &self.piece)?;
        self.number += 1;
        self.piece.clear();
        Ok(())
    }

    pub(crate) fn end(mut self) -> io::Result<()> {
        self.out()
    }
}

impl<W: Write> Write for Pieces<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.out()?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Volume, snapshot and piece of a name below [`VOLUMES`].
pub(crate) fn place_of(name: &Path) -> Option<(usize, usize, u64)> {
    let mut parts = name.to_str()?.strip_prefix(VOLUMES)?.strip_prefix('/')?.split('/');
    let place = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(place)
}
