//! What the store knows, as a file: images by manifest digest, and names.
//!
//! Two files, so that a pull need not wait for the disk and a power cut still loses nothing older:
//! `catalog.json` is written durably (temporary file, fsync, rename, fsync of the directory); `catalog.fresh.json` is
//! written without fsync right after a pull, and absorbed into the former by the store's sync thread once the pulled
//! data is on disk. The higher generation counts; a fresh file that does not parse is a power cut's remains.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use coppice_base::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

const DURABLE: &str = "catalog.json";
const FRESH: &str = "catalog.fresh.json";

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Catalog {
    pub(crate) generation: u64,
    /// By manifest digest.
    pub(crate) images: BTreeMap<Digest, Record>,
    /// Full reference with a tag → manifest digest.
    pub(crate) tags: BTreeMap<String, Digest>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The configuration blob, whose digest is the image's id.
    pub(crate) config: Digest,
    pub(crate) media_type: String,
    /// Bottom first.
    pub(crate) layers: Vec<LayerRecord>,
    /// `registry/repository@digest` it was pulled or pushed as; an index's digest counts too.
    pub(crate) repo_digests: BTreeSet<String>,
    pub(crate) pulled_at: Timestamp,
    pub(crate) last_used: Timestamp,
    /// The boot it was stored in, until its data is known to be on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unsynced_since: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) blob: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: String,
    pub(crate) diff_id: Digest,
}

impl Catalog {
    /// The newest catalog in `dir`; empty when there is none.
    pub(crate) fn read(dir: &Path) -> io::Result<Self> {
        let durable = match std::fs::read(dir.join(DURABLE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(error),
        };
        let fresh = match std::fs::read(dir.join(FRESH)) {
            Ok(bytes) => serde_json::from_slice::<Self>(&bytes).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(match fresh {
            Some(fresh) if fresh.generation > durable.generation => fresh,
            _ => durable,
        })
    }

    /// Writes it so that a power cut leaves this catalog or the one before.
    pub(crate) fn write_durably(&self, dir: &Path) -> io::Result<()> {
        replace(dir, DURABLE, &serde_json::to_vec(self)?, true)?;
        match std::fs::remove_file(dir.join(FRESH)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Writes it so that a crash of this process leaves this catalog or the one before, without waiting for the disk.
    pub(crate) fn write_fresh(&self, dir: &Path) -> io::Result<()> {
        replace(dir, FRESH, &serde_json::to_vec(self)?, false)
    }

    /// Every blob that some image needs.
    pub(crate) fn blobs(&self) -> BTreeSet<Digest> {
        let record_blobs = |(manifest, record): (&Digest, &Record)| {
            [*manifest, record.config].into_iter().chain(record.layers.iter().map(|l| l.blob)).collect::<Vec<_>>()
        };
        self.images.iter().flat_map(record_blobs).collect()
    }

    /// Every layer that some image needs, by diff-id.
    pub(crate) fn layers(&self) -> BTreeSet<Digest> {
        self.images.values().flat_map(|record| record.layers.iter().map(|l| l.diff_id)).collect()
    }

    /// Names of one image.
    pub(crate) fn tags_of(&self, manifest: &Digest) -> Vec<&str> {
        self.tags.iter().filter(|(_, at)| *at == manifest).map(|(tag, _)| tag.as_str()).collect()
    }
}

/// Puts `bytes` under `name` by way of a temporary file.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8], durably: bool) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.tmp"));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        if durably {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, dir.join(name))?;
        if durably {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        // The failure is what the caller hears of; a leftover is overwritten next time.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
