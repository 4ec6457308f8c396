//! Where a mount's data is on the host, made on first use.
//!
//! A named or anonymous volume that is new and empty gets what the image has at that path, with its owner and
//! mode, as docker does: databases expect their own directory there. Ids in volumes are the container's own (a
//! file of redis is uid 999 on disk, whatever range the app has), so data outlives the app's range. Where a
//! filesystem cannot show them shifted (zfs-fuse), a named volume's are those of the range that mounts it, one
//! range at a time; a host path of the user's there is refused, since its owners are not ours to change.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use coppice_base::{ContainerId, Name};
use coppice_container::MountSource as KernelSource;
use coppice_dataset::{DatasetError, DatasetName, SnapshotName, Store};
use coppice_image::Image;
use coppice_spec::{MountSource, VolumeMount};

use crate::archive;
use crate::container::{Phase, Record};
use crate::containers::Containers;
use crate::error::NodeError;
use crate::root::{Root, make};
use crate::settings::VolumeSettings;

/// Directory in a container's own that holds its anonymous volumes.
const ANONYMOUS: &str = "volumes";

/// The node's datasets.
pub(crate) fn open(root: &Root, settings: &VolumeSettings) -> Result<Store, DatasetError> {
    match &settings.zfs {
        Some(base) => Store::open_zfs(&root.volumes(), base),
        None => Store::open(&root.volumes()),
    }
}

/// Below the node's directory of what goes with it: where volumes are filled from images.
const FILLING: &str = "filling";

/// What one mount of a container shows.
pub(crate) fn source(
    containers: &Containers,
    record: &Record,
    image: &Image,
    mount: &VolumeMount,
) -> Result<KernelSource, NodeError> {
    let (root, volumes) = (&containers.root, &containers.volumes);
    match &mount.source {
        MountSource::Host(path) => {
            let path = PathBuf::from(path);
            if path.exists() { Ok(KernelSource::Bind { path }) } else { Err(NodeError::NoBindSource(path)) }
        }
        MountSource::Volume(volume) => {
            let name = DatasetName { app: record.owner.app().cloned(), volume: volume.clone() };
            if !volumes.has(&name) {
                // One at a time for a volume, as its dataset is made.
                let scratch = root.run().join(FILLING).join(name.to_string());
                let filled = volumes.create(&name, |head| fill(head, &image.layers, &mount.target, &scratch));
                // Instances that share a volume start side by side: the first fills it.
                if !matches!(filled, Err(DatasetError::Exists(_))) {
                    filled?;
                }
            }
            own(containers, record, &name)
        }
        MountSource::Anonymous => {
            let name: String = mount.target.trim_matches('/').replace('/', "-");
            let path = root.container(&record.id).join(ANONYMOUS).join(name);
            prepare(&path, &image.layers, &mount.target)
                .map_err(|source| NodeError::disk(format!("cannot make the volume for {}", mount.target), source))?;
            Ok(KernelSource::Bind { path })
        }
    }
}

/// Has a volume's files have the ids on disk by which this container's are shown, and says how.
fn own(containers: &Containers, record: &Record, name: &DatasetName) -> Result<KernelSource, NodeError> {
    static OWNING: Mutex<()> = Mutex::new(());
    let volumes = &containers.volumes;
    let path = volumes.ready(name)?;
    let ids = (!volumes.maps_ids(name)?).then(|| record.ids());
    if volumes.owned_by(name)? != [ids; 2] {
        // One at a time: what is looked at stays so until it is changed.
        let _owning = OWNING.lock().expect("no panic holds this lock");
        let owners = volumes.owned_by(name)?;
        let others = containers.table.all().into_iter().filter(|other| {
            let phase = other.phase();
            (phase.is_running() || matches!(phase, Phase::Starting))
                && other.id != record.id
                && other.read(|other| {
                    owners.contains(&Some(other.ids())) && Some(other.ids()) != ids && mounts(other, name)
                })
        });
        let by: Vec<String> = others.map(|other| other.name()).collect();
        if !by.is_empty() {
            let why = "its filesystem has no id-mapped mounts, so it is one app's or one container's at a time";
            return Err(NodeError::VolumeInUse { volume: name.to_string(), by, why });
        }
        volumes.own(name, ids)?;
    }
    Ok(if ids.is_some() { KernelSource::Shifted { path } } else { KernelSource::Bind { path } })
}

/// Whether a container has a volume mounted while it runs.
pub(crate) fn mounts(record: &Record, name: &DatasetName) -> bool {
    let is_it = |mount: &VolumeMount| matches!(&mount.source, MountSource::Volume(volume) if *volume == name.volume);
    record.owner.app() == name.app.as_ref() && record.spec.workload.volumes.iter().any(is_it)
}

/// Makes the directory if it is missing, filled from the image. A crash half-way leaves no half-filled volume: it
/// is filled aside and renamed.
fn prepare(path: &Path, layers: &[PathBuf], target: &str) -> io::Result<()> {
    static FILLING: Mutex<()> = Mutex::new(());
    let _filling = FILLING.lock().expect("no panic holds this lock");
    if path.exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    make(parent, 0o711).map_err(io::Error::other)?;
    let aside = parent.join(format!(".new-{}", path.file_name().unwrap_or_default().to_string_lossy()));
    if aside.exists() {
        std::fs::remove_dir_all(&aside)?;
    }
    std::fs::DirBuilder::new().mode(0o755).create(&aside)?;
    let scratch = parent.join(format!(".scratch-{}", path.file_name().unwrap_or_default().to_string_lossy()));
    fill(&aside, layers, target, &scratch)?;
    std::fs::rename(&aside, path)
}

fn fill(directory: &Path, layers: &[PathBuf], target: &str, scratch: &Path) -> io::Result<()> {
    archive::copy_from_layers(layers, Path::new(target), directory, scratch)
}

/// Moves a container's anonymous volumes to the node's named ones, as `<container>-<path>`, so that a removal
/// without `--volumes` loses nothing.
pub(crate) fn keep_anonymous(root: &Root, volumes: &Store, id: &ContainerId) -> Result<(), NodeError> {
    let from = root.container(id).join(ANONYMOUS);
    let entries = match std::fs::read_dir(&from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(NodeError::disk(format!("cannot list {}", from.display()), error)),
    };
    for entry in entries.flatten() {
        let text = format!("{}-{}", id.short(), kept_name(&entry.file_name().to_string_lossy()));
        let volume = Name::new(text).map_err(|error| NodeError::Invalid(error.to_string()))?;
        volumes.adopt(&DatasetName { app: None, volume }, &entry.path())?;
    }
    Ok(())
}

/// A path as a part of a volume's name, as much of it as fits beside a short id.
fn kept_name(path: &str) -> String {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    path.to_lowercase().chars().map(|c| if fits(c) { c } else { '_' }).take(48).collect()
}

/// Removes an app's named volumes (`down --volumes`). Those on a host path of the user's are not ours to remove.
pub(crate) fn remove_of_app(volumes: &Store, app: &str) -> Result<(), NodeError> {
    for name in volumes.list()?.into_iter().filter(|name| name.app.as_ref().is_some_and(|of| of.as_str() == app)) {
        match volumes.destroy(&name) {
            // Somebody else did.
            Ok(()) | Err(DatasetError::NoDataset(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// `APP/VOLUME`, or `VOLUME` of the containers that are of no app.
pub(crate) fn dataset_of(text: &str) -> Result<DatasetName, NodeError> {
    let name = |text: &str| {
        Name::new(text).map_err(|error| NodeError::Invalid(format!("{error}; volumes are called APP/VOLUME")))
    };
    Ok(match text.split_once('/') {
        Some((app, volume)) => DatasetName { app: Some(name(app)?), volume: name(volume)? },
        None => DatasetName { app: None, volume: name(text)? },
    })
}

pub(crate) fn snapshot_of(text: &str) -> Result<SnapshotName, NodeError> {
    SnapshotName::new(text).map_err(|error| NodeError::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn ids_and_modes_come_from_the_image_once_and_data_stays_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let layer = dir.path().join("layer");
        std::fs::create_dir_all(layer.join("var/lib/db")).unwrap();
        std::fs::write(layer.join("var/lib/db/seed"), "x").unwrap();
        std::os::unix::fs::chown(layer.join("var/lib/db"), Some(999), Some(999)).unwrap();
        std::fs::set_permissions(layer.join("var/lib/db"), std::fs::Permissions::from_mode(0o750)).unwrap();
        let volume = dir.path().join("volumes/app/data");
        let layers = [layer];
        prepare(&volume, &layers, "/var/lib/db").unwrap();
        let meta = volume.metadata().unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o777), (999, 0o750));
        std::fs::write(volume.join("seed"), "changed").unwrap();
        prepare(&volume, &layers, "/var/lib/db").unwrap();
        assert_eq!(std::fs::read_to_string(volume.join("seed")).unwrap(), "changed");
    }
}
