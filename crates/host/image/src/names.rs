//! Names and removal: `image tag`, `rmi`, `prune`, and collection to a disk budget.
//!
//! Removal first takes an image out of the catalog, durably; then what no image needs any more is renamed out of its
//! place under the store's lock, and deleted outside it. Nothing that an operation under way relies on is touched.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::Ordering;

use coppice_base::Bytes;
use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::{Durability, ImageStore, Inner, ResolveError, StoreError};

/// Why an image was not named.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    #[error("there is no image {0:?} here: see `coppice images`, or pull it")]
    NotFound(String),
    #[error("{0} has a digest: a name for an image has a tag or none")]
    HasDigest(Reference),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an image was not removed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("there is no image {0:?} here: see `coppice images`")]
    NotFound(String),
    #[error("image {0} is in use by a container or needed by a release: remove that first")]
    InUse(String),
    #[error("image {image} has several names ({}): remove them one by one, or force", .tags.join(", "))]
    SeveralNames { image: String, tags: Vec<String> },
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub untagged: Vec<Reference>,
    /// Ids of images that are gone.
    pub images: Vec<Digest>,
    /// Bytes of the blobs and layers deleted.
    pub freed: Bytes,
}

/// What to prune.
#[derive(Clone, Debug, Default)]
pub struct PruneOptions {
    /// Ids or manifest digests of images that run or that a release needs: kept.
    pub pinned: BTreeSet<Digest>,
    /// Also images that have a name; otherwise only those without.
    pub all: bool,
}

impl ImageStore {
    /// Gives the image that `source` names another name, taking it from whichever image had it. Blocks for the disk.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<(), TagError> {
        if target.digest().is_some() {
            return Err(TagError::HasDigest(target.clone()));
        }
        let image = self.inner.find(source)?.ok_or_else(|| TagError::NotFound(source.to_owned()))?;
        let manifest = image.manifest_digest;
        let found = self
            .inner
            .change(Durability::Durable, |catalog| {
                let there = catalog.images.contains_key(&manifest);
                if there {
                    catalog.tags.insert(target.full(), manifest);
                }
                there
            })
            .map_err(StoreError::from)?;
        if found { Ok(()) } else { Err(TagError::NotFound(source.to_owned())) }
    }

    /// Removes a name; the image goes with its last one. By id, all its names go, when there is one or `force`.
    /// Blocks for the disk.
    pub fn remove(&self, text: &str, pinned: &BTreeSet<Digest>, force: bool) -> Result<Removed, RemoveError> {
        let image = self.inner.find(text)?.ok_or_else(|| RemoveError::NotFound(text.to_owned()))?;
        let manifest = image.manifest_digest;
        let named = text.parse::<Reference>().ok().filter(|r| image.tags.contains(r));
        let names = |tags: &[Reference]| tags.iter().map(Reference::to_string).collect::<Vec<_>>();
        let untagged: Vec<Reference> = match named {
            Some(reference) => vec![reference],
            None if image.tags.len() > 1 && !force => {
                return Err(RemoveError::SeveralNames { image: image.id.short(), tags: names(&image.tags) });
            }
            None => image.tags.clone(),
        };
        let is_pinned = pinned.contains(&image.id) || pinned.contains(&manifest);
        if is_pinned && untagged.len() == image.tags.len() {
            return Err(RemoveError::InUse(text.to_owned()));
        }
        let gone = self
            .inner
            .change(Durability::Durable, |catalog| {
                for reference in &untagged {
                    catalog.tags.remove(&reference.full());
                }
                let last = catalog.tags_of(&manifest).is_empty();
                if last {
                    catalog.images.remove(&manifest);
                }
                last
            })
            .map_err(StoreError::from)?;
        let freed = self.inner.sweep().map_err(StoreError::from)?;
        Ok(Removed { untagged, images: if gone { vec![image.id] } else { Vec::new() }, freed })
    }

    /// Removes images without a name (or, with `all`, every image) except pinned ones, and all blobs, layers and
    /// partial downloads that no image needs. Blocks for the disk.
    pub fn prune(&self, options: &PruneOptions) -> Result<Removed, StoreError> {
        let removed = self.inner.change(Durability::Durable, |catalog| {
            let named: BTreeSet<Digest> = catalog.tags.values().copied().collect();
            let unwanted = |manifest: &Digest| options.all || !named.contains(manifest);
            let manifests: Vec<Digest> = catalog.images.keys().filter(|m| unwanted(m)).copied().collect();
            drop_images(catalog, &manifests, &options.pinned)
        })?;
        self.inner.clear_partials()?;
        Ok(Removed { freed: self.inner.sweep()?, ..removed })
    }

    /// Removes images, the longest unused first, until the store takes at most `budget`. Pinned ones stay, also when
    /// the budget cannot be met then. Blocks for the disk.
    pub fn collect(&self, budget: Bytes, pinned: &BTreeSet<Digest>) -> Result<Removed, StoreError> {
        let mut total = Removed { freed: self.inner.sweep()?, ..Removed::default() };
        let mut images = self.list();
        images.sort_by_key(|image| (image.used.load(Ordering::Relaxed), image.manifest_digest));
        for image in images {
            if self.usage()? <= budget {
                break;
            }
            if pinned.contains(&image.id) || pinned.contains(&image.manifest_digest) {
                continue;
            }
            let removed = self
                .inner
                .change(Durability::Durable, |catalog| drop_images(catalog, &[image.manifest_digest], pinned))?;
            total.untagged.extend(removed.untagged);
            total.images.extend(removed.images);
            total.freed.0 += self.inner.sweep()?.0;
        }
        Ok(total)
    }
}

fn drop_images(catalog: &mut Catalog, manifests: &[Digest], pinned: &BTreeSet<Digest>) -> Removed {
    let mut removed = Removed::default();
    for manifest in manifests {
        let Some(record) = catalog.images.get(manifest) else { continue };
        if pinned.contains(manifest) || pinned.contains(&record.config) {
            continue;
        }
        removed.images.push(record.config);
        removed.untagged.extend(catalog.tags_of(manifest).iter().filter_map(|tag| tag.parse().ok()));
        catalog.tags.retain(|_, at| at != manifest);
        catalog.images.remove(manifest);
    }
    removed
}

impl Inner {
    /// Deletes blobs and layers that no image needs and no operation relies on; returns what that freed.
    fn sweep(&self) -> io::Result<Bytes> {
        self.sweep_those(|_| true)
    }

    /// As a full sweep, but only of what is `suspect`: what a failed operation brought.
    pub(crate) fn sweep_those(&self, suspect: impl Fn(&Digest) -> bool) -> io::Result<Bytes> {
        let mut freed = 0;
        let graveyard = self.scratch()?;
        {
            let mut state = self.lock_state();
            let blobs = state.catalog.blobs();
            let layers = state.catalog.layers();
            for entry in std::fs::read_dir(self.dir.join("blobs/sha256"))? {
                let entry = entry?;
                let digest = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok());
                if digest.is_some_and(|d| blobs.contains(&d) || state.leases.contains_key(&d) || !suspect(&d)) {
                    continue;
                }
                freed += entry.metadata()?.len();
                std::fs::remove_file(entry.path())?;
            }
            let unused: Vec<Digest> = state.layers.keys().copied().collect();
            for diff_id in unused {
                if layers.contains(&diff_id) || state.leases.contains_key(&diff_id) || !suspect(&diff_id) {
                    continue;
                }
                std::fs::rename(self.layer_path(&diff_id), graveyard.path().join(diff_id.hex()))?;
                freed += state.layers.remove(&diff_id).map_or(0, |marker| marker.bytes);
            }
        }
        drop(graveyard);
        Ok(Bytes(freed))
    }

    /// Frees what a full disk can do without: everything that no image needs and nothing is working on.
    pub(crate) fn reclaim(&self) -> io::Result<()> {
        self.clear_partials()?;
        self.sweep().map(|_| ())
    }

    /// Deletes partial downloads that nothing is working on.
    fn clear_partials(&self) -> io::Result<()> {
        let state = self.lock_state();
        for entry in std::fs::read_dir(self.dir.join("ingest"))? {
            let entry = entry?;
            let digest = entry.file_name().to_str().and_then(|name| Digest::from_hex(name).ok());
            if digest.is_some_and(|d| !state.leases.contains_key(&d)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
