//! The root filesystem: id-mapped read-only layers under a writable one, as one detached overlay mount.
//!
//! Layers keep the ids that the container sees, so one unpacked layer serves every container: each shows it through
//! a mount that shifts ids into its own range. Files written go to `scratch/upper` with shifted ids, since overlayfs
//! itself cannot be id-mapped.
//!
//! Kernels from 6.13 take layers as fds, and nothing is attached anywhere. Older ones take paths only; there the
//! layers are attached for a moment below a private directory of the launcher's mount namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use coppice_linux::{Attributes, FilesystemContext, SyscallError, SyscallResult, clone_tree, detach, idmap};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, mkdirat, openat};
use rustix::io::Errno;

use crate::config::Rootfs;
use coppice_base::IdRange;

/// Devices in images are never devices: a root filesystem is always `nodev`.
const ROOT_ATTRIBUTES: Attributes = Attributes::NO_DEV;

/// Which ids a root filesystem is shown with: those of `namespace`, whose range is `ids`.
#[derive(Clone, Copy)]
pub struct Shift<'a> {
    pub namespace: BorrowedFd<'a>,
    pub ids: IdRange,
}

/// A root filesystem that is mounted and attached nowhere.
#[derive(Debug)]
pub(crate) struct Detached {
    pub(crate) root: OwnedFd,
    /// The layers' own mounts. Overlayfs has copies, so they may be closed at any time; but a detached mount's close waits
    /// for an RCU grace period, so it is for a moment when nobody waits.
    pub(crate) layers: Vec<OwnedFd>,
}

/// Mounts a root filesystem, attached nowhere. Without `shift`, ids are as on disk.
/// `staging` is a directory in a mount namespace of the caller's own, for kernels before 6.13.
///
/// Errors leave no mount behind. `read_only` is not applied here, because mount points are still to be made.
pub fn mount_detached(rootfs: &Rootfs, shift: Option<Shift<'_>>, staging: &Path) -> SyscallResult<OwnedFd> {
    mount_on_layers(rootfs, shift, staging).map(|detached| detached.root)
}

/// As [`mount_detached`], and the layers stay open.
pub(crate) fn mount_on_layers(rootfs: &Rootfs, shift: Option<Shift<'_>>, staging: &Path) -> SyscallResult<Detached> {
    let layers = rootfs.layers.iter().map(|layer| mount_layer(layer, shift)).collect::<Result<Vec<_>, _>>()?;
    let scratch = open_directory(CWD, &rootfs.scratch)?;
    let (upper, made) = make_directory(&scratch, &rootfs.scratch, "upper", 0o755)?;
    if let (true, Some(top), Some(shift)) = (made, layers.last(), shift) {
        own_root(&upper, top, shift.ids).map_err(|e| SyscallError::new("chown", "upper", e))?;
    }
    let (work, _) = make_directory(&scratch, &rootfs.scratch, "work", 0o700)?;
    let root = match overlay_of_fds(&layers, &upper, &work) {
        // Before 6.5 overlayfs takes no fd of any option, before 6.13 none of these.
        Err(e) if matches!(e.errno, Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP) => {
            overlay_of_paths(&layers, &rootfs.scratch, staging)
        }
        other => other,
    }?;
    Ok(Detached { root, layers })
}

fn mount_layer(layer: &Path, shift: Option<Shift<'_>>) -> SyscallResult<OwnedFd> {
    let mount = clone_tree(layer, false)?;
    if let Some(shift) = shift {
        idmap(&mount, shift.namespace, false)
            .map_err(|e| SyscallError { argument: format!("id-map layer {}", layer.display()), ..e })?;
    }
    Ok(mount)
}

fn open_directory(at: impl AsFd, path: &Path) -> SyscallResult<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty()).map_err(|e| SyscallError::new("open", path.display().to_string(), e))
}

/// Opens `name` in the scratch directory, and says whether it had to be made.
fn make_directory(scratch: &OwnedFd, path: &Path, name: &str, mode: u32) -> SyscallResult<(OwnedFd, bool)> {
    let made = match mkdirat(scratch, name, Mode::from_raw_mode(mode)) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(e) => return Err(SyscallError::new("mkdir", path.join(name).display().to_string(), e)),
    };
    Ok((open_directory(scratch, Path::new(name))?, made))
}

/// The upper directory is the container's `/`: owner and mode are those of the top layer's, shifted.
fn own_root(upper: &OwnedFd, top: &OwnedFd, ids: IdRange) -> Result<(), Errno> {
    // The layer's mount is id-mapped, so its ids are the host's already, or unmapped where the image has strange ones.
    let stat = rustix::fs::fstat(top)?;
    let inside = |id: u32| if id.wrapping_sub(ids.first) < ids.count { id } else { ids.first };
    let (uid, gid) = (Uid::from_raw(inside(stat.st_uid)), Gid::from_raw(inside(stat.st_gid)));
    rustix::fs::chownat(upper, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    if stat.st_mode & 0o7777 != 0o755 {
        rustix::fs::chmodat(upper, ".", Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    Ok(())
}

fn overlay_of_fds(layers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> SyscallResult<OwnedFd> {
    let mut overlay = FilesystemContext::open("overlay")?;
    // `lowerdir+` adds below what was added before: the top comes first.
    for layer in layers.iter().rev() {
        overlay.fd("lowerdir+", layer)?;
    }
    overlay.fd("upperdir", upper)?;
    overlay.fd("workdir", work)?;
    overlay.mount(ROOT_ATTRIBUTES)
}

/// The same for kernels that want paths (before 6.13).
fn overlay_of_paths(layers: &[OwnedFd], scratch: &Path, staging: &Path) -> SyscallResult<OwnedFd> {
    let place = Staging::new(staging, layers)?;
    // Short relative names, because the options of mount(2) share one page.
    let lower: Vec<String> = (0..layers.len()).rev().map(|n| n.to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        escape(&scratch.join("upper")),
        escape(&scratch.join("work"))
    );
    place.overlay(&options)
}

/// Overlayfs reads `\`, `,` and `:` in paths as its own.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for c in path.display().to_string().chars() {
        if matches!(c, '\\' | ',' | ':') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Layers attached below a private directory, and detached again on drop.
struct Staging {
    directory: PathBuf,
    attached: Vec<PathBuf>,
}

impl Staging {
    fn new(directory: &Path, layers: &[OwnedFd]) -> SyscallResult<Self> {
        let mut staging = Self { directory: directory.to_owned(), attached: Vec::new() };
        for (n, layer) in layers.iter().enumerate() {
            let place = staging.place(&n.to_string())?;
            coppice_linux::attach_in(layer, CWD, &place.display().to_string())?;
            staging.attached.push(place);
        }
        Ok(staging)
    }

    fn place(&self, name: &str) -> SyscallResult<PathBuf> {
        let place = self.directory.join(name);
        match mkdirat(CWD, &place, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => Ok(place),
            Err(e) => Err(SyscallError::new("mkdir", place.display().to_string(), e)),
        }
    }

    fn overlay(mut self, options: &str) -> SyscallResult<OwnedFd> {
        let root = self.place("root")?;
        let here = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SyscallError::new("open", ".", e))?;
        rustix::process::chdir(&self.directory).map_err(|e| SyscallError::new("chdir", "staging", e))?;
        let options = std::ffi::CString::new(options).map_err(|_| SyscallError::new("mount", options, Errno::INVAL))?;
        let flags = rustix::mount::MountFlags::NODEV;
        let mounted = rustix::mount::mount("overlay", "root", "overlay", flags, options.as_c_str())
            .map_err(|e| SyscallError::new("mount", "overlay", e));
        rustix::process::fchdir(&here).map_err(|e| SyscallError::new("fchdir", ".", e))?;
        mounted?;
        self.attached.push(root.clone());
        clone_tree(&root, false)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        for place in self.attached.iter().rev() {
            // A place that stays attached is covered by the next container's, and gone with the launcher.
            let _ = detach(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use coppice_linux::{NamespaceFlags, Tree, make_user_namespace, unshare};
    use rustix::mount::{MountPropagationFlags, mount_change};

    use super::*;

    /// A thread in a mount namespace of its own, as the launcher is; ends with the test.
    fn in_own_mount_namespace(test: impl FnOnce() + Send + 'static) {
        let run = std::thread::spawn(|| {
            unshare(NamespaceFlags::MOUNT).expect("unshare");
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).expect("private");
            test();
        });
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    }

    fn stat(root: &OwnedFd, path: &str) -> rustix::fs::Stat {
        let fd = Tree::new(root).open(Path::new(path), OFlags::PATH).expect(path);
        rustix::fs::fstat(fd).expect("fstat")
    }

    #[test]
    fn layers_given_by_path_make_the_same_root_as_layers_given_by_fd() {
        in_own_mount_namespace(|| {
            let directory = tempfile::tempdir().expect("tempdir");
            let at = |name: &str| directory.path().join(name);
            // The names that overlayfs's option syntax could stumble over, too.
            for name in ["lower", "up:per, layer", "scr\\atch", "staging"] {
                std::fs::create_dir(at(name)).expect("mkdir");
            }
            std::fs::write(at("lower").join("below"), "1").expect("write");
            std::fs::write(at("lower").join("both"), "lower").expect("write");
            std::fs::write(at("up:per, layer").join("both"), "the upper one").expect("write");
            let ids = IdRange::nth(77);
            let namespace = make_user_namespace(ids.first, ids.count).expect("user namespace");
            let shift = Shift { namespace: namespace.as_fd(), ids };
            let layers: Vec<OwnedFd> = ["lower", "up:per, layer"]
                .iter()
                .map(|name| mount_layer(&at(name), Some(shift)).expect("layer"))
                .collect();
            let scratch = open_directory(CWD, &at("scr\\atch")).expect("scratch");
            make_directory(&scratch, &at("scr\\atch"), "upper", 0o755).expect("upper");
            make_directory(&scratch, &at("scr\\atch"), "work", 0o700).expect("work");
            let root = overlay_of_paths(&layers, &at("scr\\atch"), &at("staging")).expect("overlay");
            assert_eq!((stat(&root, "/below").st_uid, stat(&root, "/below").st_size), (ids.first, 1));
            assert_eq!(stat(&root, "/both").st_size, "the upper one".len() as i64);
            let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
            assert!(!mounts.contains("staging"), "something stayed attached: {mounts}");
            drop(root);
            // And by fd, from the same directories.
            let rootfs =
                Rootfs { layers: vec![at("lower"), at("up:per, layer")], scratch: at("scr\\atch"), read_only: false };
            let root = mount_detached(&rootfs, Some(shift), &at("staging")).expect("overlay");
            assert_eq!(stat(&root, "/both").st_uid, ids.first);
            assert_eq!(std::fs::metadata(at("lower").join("below")).expect("below").uid(), 0);
        });
    }

    #[test]
    fn a_stopped_containers_root_can_be_mounted_again() {
        in_own_mount_namespace(|| {
            let directory = tempfile::tempdir().expect("tempdir");
            let at = |name: &str| directory.path().join(name);
            for name in ["lower", "scratch", "staging"] {
                std::fs::create_dir(at(name)).expect("mkdir");
            }
            std::fs::write(at("lower").join("file"), "text").expect("write");
            let ids = IdRange::nth(78);
            let namespace = make_user_namespace(ids.first, ids.count).expect("user namespace");
            let rootfs = Rootfs { layers: vec![at("lower")], scratch: at("scratch"), read_only: false };
            for _ in 0..2 {
                let shift = Shift { namespace: namespace.as_fd(), ids };
                let root = mount_detached(&rootfs, Some(shift), &at("staging")).expect("overlay");
                assert_eq!(stat(&root, "/file").st_uid, ids.first);
                assert_eq!(stat(&root, "/").st_uid, ids.first);
            }
            let missing = Rootfs { layers: vec![at("none")], ..rootfs };
            let error = mount_detached(&missing, None, &at("staging")).expect_err("no layer");
            assert!(error.to_string().contains("none"), "{error}");
        });
    }
}
