//! Where a node keeps what it keeps: every path below the state directory (`--root`), in one place.
//!
//! ```text
//! <root>/run/        sockets, locks, the launcher's journal; gone after a reboot without harm
//! <root>/log/        what the daemon and the launcher say
//! <root>/state/      the Raft log and state (SQLite)
//! <root>/images/     blobs and unpacked layers
//! <root>/containers/<id>/   container.json, etc/, log/, scratch/ (writable layer)
//! <root>/spare/      directories of the next containers, made in advance
//! <root>/mount-points/   a layer below every image's, with what containers have mounts on
//! <root>/volumes/<app>/<name>/   named volumes, as coppice-dataset keeps them; `_node` is the "app" of ad-hoc containers
//! <root>/apps/<app>/supervise.json   the supervisor's memory, so that a returning daemon knows it
//! <root>/certificates/   certificates with their sealed keys, accounts at authorities, orders under way
//! <root>/certificates/authority/   sealed roots of apps that encrypt between their services
//! <root>/keys/certificates.key   what those keys are sealed with
//! <root>/keys/secrets.key   what the secrets in the state are sealed with
//! <root>/before-restore-<time>/   what was there before a restore
//! <root>/restore.new/, restore.ready/, restoring.json   a restore under way
//! <root>/node.toml   settings
//! ```

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use coppice_base::ContainerId;

/// Longest socket path `connect(2)` takes (`sun_path` less its NUL, unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// What the node knows of a container, in its directory.
pub(crate) const RECORD: &str = "container.json";

/// What [`replace_file`] writes first to replace [`RECORD`].
pub(crate) const RECORD_DRAFT: &str = "container.tmp";

/// A node's state directory.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error("cannot make {path}: {source}")]
    Make { path: PathBuf, source: io::Error },
    #[error("state directory {0} is too long for a socket inside it: choose a shorter --root")]
    TooLong(PathBuf),
    #[error("state directory must be absolute, not {0}")]
    Relative(PathBuf),
}

impl Root {
    /// Makes the directories that are missing: the root 0711 (so that containers' ids can pass to what they are
    /// given), everything in it 0700 but what containers must reach.
    pub fn prepare(path: &Path) -> Result<Self, RootError> {
        if !path.is_absolute() {
            return Err(RootError::Relative(path.to_owned()));
        }
        let root = Self(path.to_owned());
        if root.socket().as_os_str().len() > SOCKET_PATH_MAX
            || root.launcher_socket().as_os_str().len() > SOCKET_PATH_MAX
        {
            return Err(RootError::TooLong(path.to_owned()));
        }
        make(&root.0, 0o711)?;
        make(&root.run(), 0o711)?;
        for dir in [root.log(), root.state(), root.images(), root.apps()] {
            make(&dir, 0o700)?;
        }
        for dir in [root.containers(), root.volumes()] {
            make(&dir, 0o711)?;
        }
        Ok(root)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("run/coppice.sock")
    }

    pub fn launcher_socket(&self) -> PathBuf {
        self.0.join("run/launcher.sock")
    }

    pub fn node_lock(&self) -> PathBuf {
        self.0.join("run/node.lock")
    }

    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The proxy's, where it is asked for.
    pub(crate) fn access_log(&self) -> PathBuf {
        self.log().join("access.log")
    }

    pub fn state(&self) -> PathBuf {
        self.0.join("state")
    }

    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    pub fn containers(&self) -> PathBuf {
        self.0.join("containers")
    }

    pub fn container(&self, id: &ContainerId) -> PathBuf {
        self.0.join("containers").join(id.as_str())
    }

    pub(crate) fn spare(&self) -> PathBuf {
        self.0.join("spare")
    }

    pub(crate) fn mount_points(&self) -> PathBuf {
        self.0.join("mount-points")
    }

    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }

    pub fn apps(&self) -> PathBuf {
        self.0.join("apps")
    }

    pub fn app(&self, name: &str) -> PathBuf {
        self.0.join("apps").join(name)
    }

    /// Made with the first certificate.
    pub fn certificates(&self) -> PathBuf {
        self.0.join("certificates")
    }

    pub fn certificates_key(&self) -> PathBuf {
        self.0.join("keys/certificates.key")
    }

    /// Where keys are, apart from what they seal.
    pub(crate) fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    pub fn settings(&self) -> PathBuf {
        self.0.join("node.toml")
    }

    /// Name of the cgroup that holds the containers' cgroups, in every hierarchy.
    pub fn cgroup(&self) -> String {
        format!("coppice-{}", self.key())
    }

    /// Six hex digits that tell this node's kernel objects (bridge, table, cgroups) from those of another root on
    /// the same machine: FNV-1a of the path, folded.
    pub fn key(&self) -> String {
        let hash = self
            .0
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        format!("{:06x}", (hash ^ (hash >> 24) ^ (hash >> 48)) & 0xff_ffff)
    }
}

/// Makes a directory (and its parents) with `mode`; an existing one is left as it is.
pub(crate) fn make(path: &Path, mode: u32) -> Result<(), RootError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|source| RootError::Make { path: path.to_owned(), source })
}

/// Writes a file so that a reader sees the old or the new bytes, never half. Not synced: what is written with
/// this is worth nothing after a power cut (containers are gone too), and the log has what is worth more.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("tmp");
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_roots_have_two_keys() {
        let key = |path: &str| Root(PathBuf::from(path)).key();
        assert_ne!(key("/var/lib/coppice"), key("/tmp/a"));
        assert_ne!(key("/tmp/a"), key("/tmp/b"));
        assert_eq!(key("/tmp/a").len(), 6);
    }

    #[test]
    fn a_root_too_long_for_a_socket_is_refused_with_a_word() {
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        assert!(matches!(Root::prepare(&long), Err(RootError::TooLong(_))));
        assert!(matches!(Root::prepare(Path::new("relative")), Err(RootError::Relative(_))));
    }
}
