//! Where a mount's data is on the host, made on first use.
//!
//! A named or anonymous volume that is new and empty gets what the image has at that path, with its owner and
//! mode, as docker does: databases expect their own directory there. Ids in volumes are the container's own (a
//! file of redis is uid 999 on disk, whatever range the app has), so data outlives the app's range.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use coppice_base::ContainerId;
use coppice_image::Image;
use coppice_spec::{MountSource, VolumeMount};

use crate::archive;
use crate::container::Record;
use crate::error::NodeError;
use crate::root::{Root, make};

/// Directory in a container's own that holds its anonymous volumes.
const ANONYMOUS: &str = "volumes";

/// The host path of one mount of a container.
pub(crate) fn source(root: &Root, record: &Record, image: &Image, mount: &VolumeMount) -> Result<PathBuf, NodeError> {
    let path = match &mount.source {
        MountSource::Host(path) => {
            let path = PathBuf::from(path);
            return if path.exists() { Ok(path) } else { Err(NodeError::NoBindSource(path)) };
        }
        MountSource::Volume(name) => root.volume(record.owner.app().map(|app| app.as_str()), name.as_str()),
        MountSource::Anonymous => {
            let name: String = mount.target.trim_matches('/').replace('/', "-");
            root.container(&record.id).join(ANONYMOUS).join(name)
        }
    };
    prepare(&path, &image.layers, &mount.target)
        .map_err(|source| NodeError::disk(format!("cannot make the volume for {}", mount.target), source))?;
    Ok(path)
}

/// Makes the directory if it is missing, filled from the image. A crash half-way leaves no half-filled volume: it
/// is filled aside and renamed.
fn prepare(path: &Path, layers: &[PathBuf], target: &str) -> io::Result<()> {
    // Instances that share a volume start side by side: the first fills it.
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
    archive::copy_from_layers(layers, Path::new(target), &aside)?;
    std::fs::rename(&aside, path)
}

/// Moves a container's anonymous volumes to the node's named ones, as `<container>-<path>`, so that a removal
/// without `--volumes` loses nothing.
pub(crate) fn keep_anonymous(root: &Root, id: &ContainerId) -> io::Result<()> {
    let from = root.container(id).join(ANONYMOUS);
    let entries = match std::fs::read_dir(&from) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries.flatten() {
        let name = format!("{}-{}", id.short(), entry.file_name().to_string_lossy());
        let to = root.volume(None, &name);
        make(to.parent().unwrap_or(Path::new("/")), 0o711).map_err(io::Error::other)?;
        std::fs::rename(entry.path(), to)?;
    }
    Ok(())
}

/// Removes an app's named volumes (`down --volumes`). Those on a host path of the user's are not ours to remove.
pub(crate) fn remove_of_app(root: &Root, app: &str) -> io::Result<()> {
    match std::fs::remove_dir_all(root.volumes().join(app)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
