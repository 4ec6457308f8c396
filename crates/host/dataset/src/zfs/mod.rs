//! Datasets as children of a dataset of a ZFS pool, by the `zfs` command.
//!
//! ```text
//! <base>                        mounted on the store's root
//! <base>/<app>/<volume>         `com.coppice.store:head` says which child is the head; not mounted
//! <base>/<app>/<volume>/g1      a generation: head once, and kept for its snapshots
//!                      /g1@r1   a snapshot; all generations' together are the volume's
//!                      /g2      cloned from g1@r1 by a switch; mounted on <root>/<app>/<volume>/head
//! ```
//!
//! A switch takes a snapshot of the head, clones the one that is to be, and says that the clone is the head: that is one
//! property, set or not, and nothing is renamed that is mounted or in use. `zfs rollback` is never used: it destroys what is
//! newer, and leaves user properties as they are. What a clone is of cannot be destroyed: such a snapshot is hidden by a
//! name of ours until nobody needs it, and a generation that none of its snapshots keeps gives them to its clones
//! (`zfs promote`) and goes.

mod command;
mod mounts;
mod property;
mod state;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use command::zfs;
use state::{CUT, CUT_AS, GONE, HEAD_OF, ID, Objects, QUOTA, Volume, objects};

use crate::copy::copy;
use crate::driver::{Driver, Fill, Kind, Place};
use crate::error::DatasetError;
use crate::folder::{app_of, make};
use crate::id;
use crate::name::{DatasetName, SnapshotName};
use crate::properties::Properties;
use crate::staging::{Staging, left_behind};
use crate::stamps::Stamps;
use crate::store::{Snapshot, Survey};
use crate::transfer::{Came, View};
use crate::tree::open;

/// The child that is made below the dataset a root is in, where the root is not its mount point.
const CHILD: &str = "coppice-volumes";
/// How a generation is made. It is told where it belongs when it is a head: `zfs clone` of some versions mounts it at once,
/// whatever `canmount` is.
const UNMOUNTED: [&str; 4] = ["-o", "canmount=noauto", "-o", "mountpoint=none"];
/// Bytes that FUSE writes at once. Where a quota lets zfs-fuse write some records of them and not all, it aborts, and every mount
/// of it is dead: its records must be as large.
const FUSE_WRITE: u64 = 128 << 10;
/// How often, and how long apart, what is busy is tried again: a filesystem of zfs-fuse closes a moment after its last mount
/// went, and a loaded machine makes that some seconds.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// Once, or as often as it takes.
type Trying<'t> = dyn Fn(&mut dyn FnMut() -> Result<(), DatasetError>) -> Result<(), DatasetError> + 't;

#[derive(Debug)]
pub(crate) struct Zfs {
    base: String,
    root: PathBuf,
}

impl Zfs {
    /// Where `root` lies on ZFS: below the dataset that is mounted there, or a child of the one that it is in. `None` where it does
    /// not, or holds trees already.
    pub(crate) fn of(root: &Path) -> Result<Option<Self>, DatasetError> {
        let root = real(root)?;
        let Some(mount) = mounts::holding(&root)?.filter(|mount| mount.is_zfs) else { return Ok(None) };
        if mount.at == root {
            return Self::open(&root, &mount.source).map(Some);
        }
        if !is_empty(&root)? {
            return Ok(None);
        }
        Self::open(&root, &format!("{}/{CHILD}", mount.source)).map(Some)
    }

    /// Below the dataset `base`, which is made when it is missing, and mounted on `root`.
    pub(crate) fn open(root: &Path, base: &str) -> Result<Self, DatasetError> {
        let zfs_store = Self { base: base.to_owned(), root: real(root)? };
        let root = &zfs_store.root;
        if mounts::on(root)?.is_some_and(|mount| mount.source == base) {
            return Ok(zfs_store);
        }
        if !is_empty(root)? {
            return Err(DatasetError::Occupied { root: root.clone(), base: base.to_owned() });
        }
        let mountpoint = format!("mountpoint={}", root.display());
        let found = zfs(&["get", "-H", "-o", "value", "mountpoint", base]);
        match found {
            Ok(is) if is.trim_end() == root.as_os_str() => {}
            Ok(_) => drop(zfs(&["set", &mountpoint, base])?),
            Err(DatasetError::Zfs { said, .. }) if said.contains("does not exist") => {
                zfs(&["create", "-o", "canmount=noauto", "-o", &mountpoint, base])?;
            }
            Err(error) => return Err(error),
        }
        zfs_store.mount(base, root)?;
        Ok(zfs_store)
    }

    fn dataset(&self, name: &DatasetName) -> String {
        format!("{}/{}", self.base, name.path().display())
    }

    fn volume(&self, at: &Place) -> Result<Volume, DatasetError> {
        let dataset = self.dataset(&at.name);
        Volume::of(&dataset, &objects(&dataset)?).ok_or_else(|| DatasetError::NoDataset(at.name.clone()))
    }

    /// Where a head is mounted: as the kernel names it.
    fn mountpoint(&self, at: &Place) -> PathBuf {
        self.root.join(at.name.path()).join(crate::driver::HEAD)
    }

    /// Mounts a dataset and sees to it that it is there: a daemon's mounts can be in another namespace than ours.
    fn mount(&self, dataset: &str, at: &Path) -> Result<(), DatasetError> {
        match zfs(&["mount", dataset]) {
            Err(DatasetError::Zfs { said, .. }) if said.contains("already mounted") => {}
            other => drop(other?),
        }
        if mounts::on(at)?.is_some_and(|mount| mount.source == dataset) {
            return Ok(());
        }
        Err(DatasetError::MountedElsewhere { dataset: dataset.to_owned(), at: at.to_owned() })
    }

    /// Sees to it that this dataset is mounted as a head, and no other of the volume.
    fn show(&self, dataset: &str, mountpoint: Option<&String>, at: &Place) -> Result<(), DatasetError> {
        let head = self.mountpoint(at);
        if mounts::on(&head)?.is_some_and(|mount| mount.source == dataset) {
            return Ok(());
        }
        hide(&head)?;
        make(&head)?;
        if mountpoint.is_none_or(|is| Path::new(is) != head) {
            zfs(&["set", &format!("mountpoint={}", head.display()), dataset])?;
        }
        self.mount(dataset, &head)
    }

    /// Makes a volume of a first generation, which `first` makes; it is one when its head is said.
    fn begin(
        &self,
        at: &Place,
        first: impl FnOnce(&str) -> Result<(), DatasetError>,
        fill: Fill<'_>,
    ) -> Result<(), DatasetError> {
        let dataset = self.dataset(&at.name);
        let left = objects(&dataset)?;
        if !left.is_empty() {
            self.dissolve_all(at, &left)?;
        }
        let folder = |dataset: &str| zfs(&["create", "-o", "canmount=off", "-o", "mountpoint=none", dataset]).map(drop);
        match folder(&dataset) {
            Err(DatasetError::Zfs { said, .. }) if said.contains("parent does not exist") => {
                folder(dataset.rsplit_once('/').map_or("", |(app, _)| app))?;
                folder(&dataset)?;
            }
            other => other?,
        }
        make(&self.mountpoint(at))?;
        let generation = format!("{dataset}/g1");
        let begun = first(&generation).and_then(|()| {
            self.show(&generation, None, at)?;
            fill(&at.head())?;
            flush(&at.head())
        });
        let begun = begun.and_then(|()| zfs(&["set", &format!("{HEAD_OF}=g1"), &dataset]));
        if begun.is_err() {
            // What cannot be taken away now, the next one that is made finds.
            let _ = objects(&dataset).and_then(|left| self.dissolve_all(at, &left));
            let _ = fs::remove_dir(at.head()).and_then(|()| fs::remove_dir(&at.folder));
        }
        begun.map(drop)
    }

    /// The dataset that is mounted there; no app's.
    fn staged(&self, staging: &Staging) -> String {
        format!("{}/_staging-{}", self.base, staging.token)
    }

    /// `trying` does the step that can find it busy.
    fn take_away(&self, staging: Staging, trying: &Trying<'_>) -> Result<(), DatasetError> {
        let dataset = self.staged(&staging);
        hide(&staging.tree())?;
        if !objects(&dataset)?.is_empty() {
            trying(&mut || self.dissolve(&dataset))?;
        }
        fs::remove_dir_all(&staging.folder).map_err(DatasetError::io("remove", &staging.folder))
    }

    /// Clones below the base, with what they are of.
    fn clones(&self) -> Result<Vec<(String, String)>, DatasetError> {
        let text = zfs(&["list", "-H", "-r", "-t", "filesystem", "-o", "name,origin", &self.base])?;
        let all = text.lines().filter_map(|line| line.split_once('\t')).filter(|(_, origin)| *origin != "-");
        Ok(all.map(|(clone, origin)| (clone.to_owned(), origin.to_owned())).collect())
    }

    /// Takes a generation away whose snapshots nobody sees: its clones get those they are of.
    fn dissolve(&self, generation: &str) -> Result<(), DatasetError> {
        let of = format!("{generation}@");
        // Each promotion leaves it with fewer snapshots that have clones.
        while let Some((clone, _)) = self.clones()?.into_iter().find(|(_, origin)| origin.starts_with(&of)) {
            zfs(&["promote", &clone])?;
        }
        zfs(&["destroy", "-r", generation]).map(drop)
    }

    /// Takes away what is, or was to be, a volume.
    fn dissolve_all(&self, at: &Place, left: &Objects) -> Result<(), DatasetError> {
        let dataset = self.dataset(&at.name);
        hide(&self.mountpoint(at))?;
        let snapshots = left.keys().filter(|name| name.contains('@'));
        for name in snapshots.filter(|name| !name.contains(&format!("@{GONE}"))) {
            self.conceal(name)?;
        }
        let inner = left.keys().filter(|name| !name.contains('@') && **name != dataset);
        for generation in inner {
            patiently(|| self.dissolve(generation))?;
        }
        patiently(|| zfs(&["destroy", "-r", &dataset]).map(drop))
    }

    /// Gives a snapshot a name that is nobody's, in no dataset.
    fn conceal(&self, snapshot: &str) -> Result<(), DatasetError> {
        let dataset = snapshot.split('@').next().unwrap_or_default();
        zfs(&["rename", snapshot, &format!("{dataset}@{GONE}{}", id::new()?)]).map(drop)
    }

    /// Finishes a switch that came to be, forgets one that did not, and takes away what nobody needs any more. What is still in use
    /// stays until the next look.
    fn sweep(&self, at: &Place, volume: &Volume) -> Result<(), DatasetError> {
        let dataset = self.dataset(&at.name);
        let (mut kept, mut unseen) = (Vec::new(), Vec::new());
        for (child, generation) in &volume.generations {
            for name in generation.snapshots.keys() {
                let full = format!("{dataset}/{child}@{name}");
                if let Some(next) = name.strip_prefix(CUT) {
                    let cut_as = volume.generations.get(next).and_then(|next| next.own.get(CUT_AS));
                    match cut_as.filter(|_| next == volume.head) {
                        Some(keep) => {
                            zfs(&["rename", &full, &format!("{dataset}/{child}@{keep}")])?;
                            kept.push(child);
                        }
                        None => {
                            // The clone that was to be the head is of another snapshot.
                            zfs(&["destroy", &full])?;
                        }
                    }
                } else if name.starts_with(GONE) {
                    unseen.push(full);
                }
            }
        }
        let needed = |child: &String| *child == volume.head || kept.contains(&child);
        let generations = volume.generations.iter();
        let done: Vec<&String> =
            generations.filter(|(child, of)| !needed(child) && !of.is_kept()).map(|(child, _)| child).collect();
        for child in &done {
            ignore_busy(self.dissolve(&format!("{dataset}/{child}")))?;
        }
        if !unseen.is_empty() {
            let clones = self.clones()?;
            for snapshot in unseen.iter().filter(|name| clones.iter().all(|(_, origin)| origin != *name)) {
                // Gone with its generation, or given to a clone, by now.
                let _ = zfs(&["destroy", snapshot]);
            }
        }
        Ok(())
    }
}

impl Driver for Zfs {
    fn kind(&self) -> Kind {
        Kind::Zfs
    }

    fn names(&self) -> Result<Vec<DatasetName>, DatasetError> {
        let text = zfs(&["get", "-H", "-r", "-s", "local,received", "-o", "name", HEAD_OF, &self.base])?;
        Ok(text.lines().filter_map(|dataset| name_of(&self.base, dataset)).collect())
    }

    fn survey(&self) -> Result<Option<Survey>, DatasetError> {
        let all = objects(&self.base)?;
        let mut survey = Survey::default();
        for (dataset, name) in all.keys().filter_map(|dataset| Some((dataset, name_of(&self.base, dataset)?))) {
            // All below it, which the map has side by side.
            let (end, below) = (format!("{dataset}0"), dataset.clone());
            let below: Objects = all
                .range(below..end)
                .map(|(name, object)| {
                    let state::Object { own, origin } = object;
                    (name.clone(), state::Object { own: own.clone(), origin: origin.clone() })
                })
                .collect();
            if let Some(volume) = Volume::of(dataset, &below) {
                let head = self.root.join(name.path()).join(crate::driver::HEAD);
                let (stamps, snapshots) = (volume.head_stamps(), volume.snapshots());
                survey.datasets.push(crate::store::Dataset { name, head, stamps, snapshots });
            }
        }
        survey.datasets.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(survey))
    }

    fn has(&self, at: &Place) -> bool {
        let value = zfs(&["get", "-H", "-s", "local,received", "-o", "value", HEAD_OF, &self.dataset(&at.name)]);
        value.is_ok_and(|value| !value.trim_end().is_empty())
    }

    fn put_right(&self, at: &Place) -> Result<bool, DatasetError> {
        let dataset = self.dataset(&at.name);
        let Some(volume) = Volume::of(&dataset, &objects(&dataset)?) else { return Ok(false) };
        let head = volume.generations.get(&volume.head);
        self.show(&format!("{dataset}/{}", volume.head), head.and_then(|head| head.own.get("mountpoint")), at)?;
        if let Some(head) = head {
            // One that holds more already cannot be limited so: that was said when the limit was asked for.
            let _ = set_quota(&format!("{dataset}/{}", volume.head), &head.own, volume.quota.as_deref())?;
        }
        self.sweep(at, &volume)?;
        Ok(true)
    }

    fn make(&self, at: &Place, fill: Fill<'_>) -> Result<(), DatasetError> {
        let first = |generation: &str| {
            let args = [&["create"], &UNMOUNTED[..], &[generation]].concat();
            zfs(&args).map(drop)
        };
        self.begin(at, first, fill)
    }

    fn adopt(&self, at: &Place, directory: &Path) -> Result<(), DatasetError> {
        let mut fill = |head: &Path| copy(&open(directory)?, &open(head)?).map_err(DatasetError::io("copy", directory));
        self.make(at, &mut fill)?;
        fs::remove_dir_all(directory).map_err(DatasetError::io("remove", directory))
    }

    fn clone_to(&self, at: &Place, snapshot: &SnapshotName, to: &Place) -> Result<(), DatasetError> {
        let volume = self.volume(at)?;
        let (child, own) = volume.find(snapshot).ok_or_else(|| at.no_snapshot(snapshot))?;
        let from = format!("{}/{child}@{snapshot}", self.dataset(&at.name));
        let first = |generation: &str| {
            let mut args = vec!["clone".to_owned()];
            args.extend(UNMOUNTED.map(str::to_owned));
            args.extend(property::options(&property::read(own)));
            args.extend([from, generation.to_owned()]);
            zfs(&args).map(drop)
        };
        self.begin(to, first, &mut |_| Ok(()))
    }

    fn look(&self, at: &Place) -> Result<(Stamps, Vec<Snapshot>), DatasetError> {
        let volume = self.volume(at)?;
        Ok((volume.head_stamps(), volume.snapshots()))
    }

    fn stamp(&self, at: &Place, stamps: &Stamps) -> Result<(), DatasetError> {
        let volume = self.volume(at)?;
        let head = format!("{}/{}", self.dataset(&at.name), volume.head);
        let own = volume.generations.get(&volume.head).map(|head| head.own.clone()).unwrap_or_default();
        let wanted = property::written(stamps);
        for (name, value) in wanted.iter().filter(|(name, value)| own.get(*name) != Some(value)) {
            zfs(&["set", &format!("{name}={value}"), &head])?;
        }
        for name in own.keys().filter(|name| property::is_stamp(name) && !wanted.contains_key(*name)) {
            zfs(&["inherit", name, &head])?;
        }
        Ok(())
    }

    fn snapshot(&self, at: &Place, snapshot: &SnapshotName, more: &Stamps) -> Result<(), DatasetError> {
        let volume = self.volume(at)?;
        if volume.find(snapshot).is_some() {
            return Err(at.taken(snapshot));
        }
        flush(&at.head())?;
        let full = format!("{}/{}@{snapshot}", self.dataset(&at.name), volume.head);
        take(&full, &volume.head_stamps().and(more), &id::new()?)
    }

    fn switch(&self, at: &Place, to: &SnapshotName, keep: &SnapshotName) -> Result<(), DatasetError> {
        let dataset = self.dataset(&at.name);
        let volume = self.volume(at)?;
        let (child, own) = volume.find(to).ok_or_else(|| at.no_snapshot(to))?;
        if volume.find(keep).is_some() {
            return Err(at.taken(keep));
        }
        let next = volume.free();
        flush(&at.head())?;
        take(&format!("{dataset}/{}@{CUT}{next}", volume.head), &volume.head_stamps(), &id::new()?)?;
        let mut clone = vec!["clone".to_owned()];
        clone.extend(UNMOUNTED.map(str::to_owned));
        clone.extend(["-o".to_owned(), format!("{CUT_AS}={keep}")]);
        clone.extend(property::options(&property::read(own)));
        clone.extend([format!("{dataset}/{child}@{to}"), format!("{dataset}/{next}")]);
        zfs(&clone)?;
        zfs(&["set", &format!("{HEAD_OF}={next}"), &dataset])?;
        // It has happened; what is left to do is what is done after a crash here.
        self.put_right(at).map(drop)
    }

    fn rename_snapshot(&self, at: &Place, from: &SnapshotName, to: &SnapshotName) -> Result<(), DatasetError> {
        let volume = self.volume(at)?;
        let (child, _) = volume.find(from).ok_or_else(|| at.no_snapshot(from))?;
        if volume.find(to).is_some() {
            return Err(at.taken(to));
        }
        let full = |name: &SnapshotName| format!("{}/{child}@{name}", self.dataset(&at.name));
        zfs(&["rename".to_owned(), full(from), full(to)]).map(drop)
    }

    fn destroy_snapshot(&self, at: &Place, snapshot: &SnapshotName) -> Result<(), DatasetError> {
        let volume = self.volume(at)?;
        let (child, _) = volume.find(snapshot).ok_or_else(|| at.no_snapshot(snapshot))?;
        let full = format!("{}/{child}@{snapshot}", self.dataset(&at.name));
        if self.clones()?.iter().any(|(_, origin)| *origin == full) {
            self.conceal(&full)?;
        } else {
            zfs(&["destroy", &full])?;
        }
        self.sweep(at, &self.volume(at)?)
    }

    fn destroy(&self, at: &Place) -> Result<(), DatasetError> {
        let dataset = self.dataset(&at.name);
        // From here on there is none.
        zfs(&["inherit", HEAD_OF, &dataset])?;
        self.dissolve_all(at, &objects(&dataset)?)?;
        // The last of its app; where another one is, this is refused.
        if let Some((app, _)) = dataset.rsplit_once('/') {
            let _ = zfs(&["destroy", app]);
        }
        fs::remove_dir_all(&at.folder).map_err(DatasetError::io("remove", &at.folder))
    }

    fn set_properties(&self, at: &Place, properties: &Properties) -> Result<Vec<String>, DatasetError> {
        let dataset = self.dataset(&at.name);
        let found = objects(&dataset)?;
        let empty = BTreeMap::new();
        let own = found.get(&dataset).map_or(&empty, |object| &object.own);
        let mut words = Vec::new();
        // Of the volume's own dataset: its generations inherit them.
        let compression = properties.compression.map(|one| one.as_str().to_owned());
        if let Err(said) = set(&dataset, own, "compression", compression.as_deref())? {
            let asked = compression.unwrap_or_default();
            match set(&dataset, own, "compression", Some("on"))? {
                Ok(()) => words.push(format!("compression = {asked:?}: this ZFS has none ({said}); its own is used")),
                Err(_) => words.push(format!("compression = {asked:?}: {said}")),
            }
        }
        let is_fuse = mounts::on(&self.root)?.is_some_and(|mount| mount.is_fuse);
        if let Some(size) = properties.record_size.filter(|size| is_fuse && *size < FUSE_WRITE) {
            words.push(format!(
                "record_size = {size}: zfs-fuse ends when a quota is reached within a write of {FUSE_WRITE} bytes; ignored here"
            ));
        }
        let size = properties.record_size.filter(|size| !is_fuse || *size >= FUSE_WRITE).map(|size| size.to_string());
        if let Err(said) = set(&dataset, own, "recordsize", size.as_deref())? {
            words.push(format!("record_size = {}: {said}", size.unwrap_or_default()));
        }
        let quota = properties.quota.map(|quota| quota.to_string());
        if let Err(said) = set(&dataset, own, QUOTA, quota.as_deref())? {
            words.push(format!("quota = {}: {said}", quota.as_deref().unwrap_or("none")));
        }
        if let Some(head) = Volume::of(&dataset, &found).map(|volume| volume.head) {
            let head = format!("{dataset}/{head}");
            let own = found.get(&head).map_or(&empty, |object| &object.own);
            if let Err(said) = set_quota(&head, own, quota.as_deref())? {
                words.push(format!("quota = {}: {said}", quota.as_deref().unwrap_or("none")));
            }
        }
        Ok(words)
    }

    fn stage(&self, base: Option<(&Place, &SnapshotName)>) -> Result<Staging, DatasetError> {
        for left in left_behind(&self.root)? {
            // One that is in use still is in nobody's way: this one has a name of its own.
            let _ = self.take_away(left, &|work| work());
        }
        let from = match base {
            None => None,
            Some((at, snapshot)) => {
                let volume = self.volume(at)?;
                let (child, _) = volume.find(snapshot).ok_or_else(|| at.no_snapshot(snapshot))?;
                Some(format!("{}/{child}@{snapshot}", self.dataset(&at.name)))
            }
        };
        let staging = Staging::new(&self.root)?;
        let (dataset, tree) = (self.staged(&staging), staging.tree());
        let verb = if from.is_some() { "clone" } else { "create" };
        let mut args = vec![verb];
        args.extend(UNMOUNTED);
        args.extend(from.as_deref());
        args.push(&dataset);
        let staged = make(&tree)
            .and_then(|()| zfs(&args))
            .and_then(|_| zfs(&["set", &format!("mountpoint={}", tree.display()), &dataset]))
            .and_then(|_| self.mount(&dataset, &tree));
        match staged {
            Ok(()) => Ok(staging),
            Err(error) => {
                let _ = self.discard(staging);
                Err(error)
            }
        }
    }

    fn view(&self, at: &Place, snapshot: &SnapshotName) -> Result<View, DatasetError> {
        let staging = self.stage(Some((at, snapshot)))?;
        Ok((staging.tree(), Some(staging)))
    }

    fn admit(&self, staging: &Staging, at: &Place, is_new: bool, came: &Came<'_>) -> Result<(), DatasetError> {
        let (staged, tree) = (self.staged(staging), staging.tree());
        flush(&tree)?;
        take(&format!("{staged}@{}", came.snapshot), came.stamps, came.id)?;
        hide(&tree)?;
        zfs(&["set", "mountpoint=none", &staged])?;
        let rename = |to: &str| patiently(|| zfs(&["rename", &staged, to]).map(drop));
        if is_new {
            let first = |generation: &str| {
                for (name, value) in property::written(came.stamps) {
                    zfs(&["set", &format!("{name}={value}"), &staged])?;
                }
                rename(generation)
            };
            return self.begin(at, first, &mut |_| Ok(()));
        }
        let volume = self.volume(at)?;
        if volume.find(came.snapshot).is_some() {
            return Err(at.taken(came.snapshot));
        }
        rename(&format!("{}/{}", self.dataset(&at.name), volume.free()))
    }

    fn discard(&self, staging: Staging) -> Result<(), DatasetError> {
        self.take_away(staging, &|work| patiently(work))
    }

    fn size(&self, at: &Place) -> Result<u64, DatasetError> {
        let head = format!("{}/{}", self.dataset(&at.name), self.volume(at)?.head);
        let text = zfs(&["get", "-H", "-p", "-o", "value", "referenced", &head])?;
        text.trim_end().parse().map_err(|_| DatasetError::Zfs { command: "get referenced".into(), said: text })
    }
}

/// Takes a snapshot, with what is written on it, in one.
fn take(full: &str, stamps: &Stamps, id: &str) -> Result<(), DatasetError> {
    let mut args = vec!["snapshot".to_owned()];
    args.extend(property::options(stamps));
    args.extend(["-o".to_owned(), format!("{ID}={id}"), full.to_owned()]);
    zfs(&args).map(drop)
}

/// Gives a dataset a property, or the one it inherits again; says what `zfs` has against it.
fn set(
    dataset: &str,
    own: &BTreeMap<String, String>,
    property: &str,
    value: Option<&str>,
) -> Result<Result<(), String>, DatasetError> {
    let done = match (own.get(property).map(String::as_str), value) {
        (is, wanted) if is == wanted => return Ok(Ok(())),
        (_, Some(value)) => zfs(&["set", &format!("{property}={value}"), dataset]),
        (_, None) => zfs(&["inherit", property, dataset]),
    };
    match done {
        Ok(_) => Ok(Ok(())),
        Err(DatasetError::Zfs { said, .. }) => Ok(Err(said)),
        Err(error) => Err(error),
    }
}

/// Limits a head; its snapshots do not count.
fn set_quota(
    head: &str,
    own: &BTreeMap<String, String>,
    quota: Option<&str>,
) -> Result<Result<(), String>, DatasetError> {
    // It is not inherited: to take it away is to set it.
    match (own.get("refquota").filter(|is| !matches!(is.as_str(), "none" | "0")), quota) {
        (None, None) => Ok(Ok(())),
        _ => set(head, own, "refquota", Some(quota.unwrap_or("none"))),
    }
}

/// Whose dataset it is, two below the base.
fn name_of(base: &str, dataset: &str) -> Option<DatasetName> {
    let (app, volume) = dataset.strip_prefix(base)?.strip_prefix('/')?.split_once('/')?;
    Some(DatasetName { app: app_of(app)?, volume: coppice_base::Name::new(volume).ok()? })
}

fn real(root: &Path) -> Result<PathBuf, DatasetError> {
    root.canonicalize().map_err(DatasetError::io("look at", root))
}

fn is_empty(directory: &Path) -> Result<bool, DatasetError> {
    Ok(fs::read_dir(directory).map_err(DatasetError::io("list", directory))?.next().is_none())
}

/// Has what was written, mapped memory too, reach the filesystem.
fn flush(head: &Path) -> Result<(), DatasetError> {
    rustix::fs::syncfs(open(head)?).map_err(DatasetError::errno("write", head))
}

/// Takes away what is mounted on a head; containers that have it go on with it.
fn hide(head: &Path) -> Result<(), DatasetError> {
    while mounts::on(head)?.is_some_and(|mount| mount.is_zfs) {
        coppice_linux::detach(head).map_err(DatasetError::call("unmount", head))?;
    }
    Ok(())
}

/// Tries again what is busy.
fn patiently(mut work: impl FnMut() -> Result<(), DatasetError>) -> Result<(), DatasetError> {
    for _ in 0..TRIES {
        match work() {
            Err(DatasetError::Zfs { said, .. }) if said.contains("busy") => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    work()
}

fn ignore_busy(result: Result<(), DatasetError>) -> Result<(), DatasetError> {
    match result {
        Err(DatasetError::Zfs { said, .. }) if said.contains("busy") => Ok(()),
        other => other,
    }
}
