//! A backup put in the place of what a node has, while no daemon runs.
//!
//! ```text
//!   digest ─▶ seals, files, streams, the log opens ─▶ volumes' data, as snapshots beside what is there
//!                                                        │ one rename: before it the old, after it the new
//!                                                        ▼
//!                     state and keys take their places, heads are switched, what is not needed goes
//! ```
//!
//! Nothing that is there changes before everything was looked at. After the rename, whoever comes next ([`finish`]: a daemon
//! that opens, or another restore) does the rest. Nothing is removed: what was there before is kept in a folder, and what
//! volumes held as snapshots, both named after the restore.
//!
//! Refuses to work beside a daemon or a launcher, and takes nothing but what a backup of ours has.

mod content;
mod volumes;

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use coppice_api::{RestoreReply, RestoredApp};
use coppice_backup::{Backup, ReplaceError, Replacement};
use coppice_base::{Clock, SystemClock};
use coppice_log::Log;
use coppice_secret::{Key, KeyFileError};
use coppice_state::State;

use crate::backup::{Manifest, SETTINGS, STATE};
use crate::error::NodeError;
use crate::node::{NODE, OpenError, lock};
use crate::root::{Root, RootError};
use crate::settings::{Settings, SettingsError};
use crate::{removal, secrets, volume};
use content::Content;

/// Before the names of what a restore has kept.
const KEPT: &str = "before-restore-";

/// The path of a backup that comes by standard input.
const STDIN: &str = "-";
/// What comes by a pipe, in the root, until it is open.
const SPOOL: &str = ".restore-input";

/// What to restore, and where.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub root: PathBuf,
    /// `-`: standard input.
    pub file: PathBuf,
    /// Has the key that the backup is sealed with.
    pub key_file: Option<PathBuf>,
    /// Look at all of it, and change nothing.
    pub check: bool,
    /// Also where there is state already.
    pub force: bool,
}

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("a restore needs root, as the node does: use sudo")]
    NotRoot,
    #[error("cannot read {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{} is neither a file nor a pipe: name what `coppice backup FILE` wrote, or `-` for standard input", path.display()
    )]
    NoFile { path: PathBuf },
    #[error(
        "cannot keep what is read from {} in {}, to look at all of it first: {source}; free some space there, or name a file; \
         nothing was changed", path.display(), folder.display()
    )]
    Spool { path: PathBuf, folder: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Backup { path: PathBuf, source: coppice_backup::OpenError },
    #[error("{}: {why}; nothing was changed", path.display())]
    Content { path: PathBuf, why: String },
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error("a node daemon runs on {0}: `coppice node stop --all` first; nothing was changed")]
    Running(PathBuf),
    #[error(
        "containers of the node on {0} still run, without its daemon: `coppice node start`, then `coppice node stop --all`; \
         nothing was changed"
    )]
    Containers(PathBuf),
    #[error(
        "there is state of a node in {0} already: --force puts the backup in its place and keeps what is there beside; nothing \
         was changed"
    )]
    Occupied(PathBuf),
    #[error(transparent)]
    Replace(#[from] ReplaceError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Volumes(#[from] NodeError),
    #[error(transparent)]
    Open(Box<OpenError>),
}

impl RestoreError {
    /// What was given is wrong, or is not for now, rather than this machine.
    pub fn is_input(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
            }
            Self::Backup { source, .. } => !matches!(source, coppice_backup::OpenError::Io(_)),
            Self::Replace(error) => matches!(error, ReplaceError::Entry { .. } | ReplaceError::Tar(_)),
            Self::Spool { .. } => false,
            Self::NotRoot
            | Self::NoFile { .. }
            | Self::Content { .. }
            | Self::Key(_)
            | Self::Root(_)
            | Self::Running(_)
            | Self::Containers(_)
            | Self::Occupied(_)
            | Self::Settings(_) => true,
            Self::Volumes(_) => false,
            Self::Open(error) => error.is_input(),
        }
    }
}

impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Locked(root) => Self::Running(root),
            other => Self::Open(Box::new(other)),
        }
    }
}

/// Restores a backup, or only looks whether it could be. Blocks where it reads and writes.
pub async fn restore(options: &RestoreOptions) -> Result<RestoreReply, RestoreError> {
    if !rustix::process::geteuid().is_root() {
        return Err(RestoreError::NotRoot);
    }
    let wrong = |source| RestoreError::Backup { path: options.file.clone(), source };
    let mut backup = Backup::open(opened(options)?).map_err(wrong)?;
    let key = options.key_file.as_deref().map(Key::read).transpose()?;
    backup.admits(key.as_ref()).map_err(wrong)?;

    let root = Root::prepare(&options.root)?;
    let _lock = match lock(&root.node_lock()) {
        Err(OpenError::Locked(_)) => return Err(RestoreError::Running(options.root.clone())),
        other => other?,
    };
    if UnixStream::connect(root.launcher_socket()).is_ok() {
        return Err(RestoreError::Containers(options.root.clone()));
    }
    finish(&root)?;
    let is_occupied = root.state().join(coppice_log::FILE).exists();
    if is_occupied && !options.force && !options.check {
        return Err(RestoreError::Occupied(options.root.clone()));
    }

    let replacement = Replacement::begin(root.path())?;
    let mut content = Content { file: &options.file, backup: &mut backup, key: key.as_ref() };
    let manifest = content.check(&replacement, root.settings().exists())?;
    let state = staged_state(&options.file, &replacement).await?;
    let mut reply = describe(&manifest, &state);
    reply.sealed = content.backup.header().key.is_some();
    if options.check {
        return Ok(reply);
    }

    let settings = match root.settings().exists() {
        true => Settings::read(&root.settings())?,
        false => Settings::read(&replacement.path().join(SETTINGS))?,
    };
    let aside = free_name(&root);
    volumes::receive(&root, &settings, &mut content, &replacement, &manifest, &aside)?;
    // What was never used is nothing to keep.
    let _ = fs::remove_dir(root.state());
    let kept = replacement.commit(&aside)?;
    finish(&root)?;
    let something_is_kept = fs::remove_dir(&kept).is_err();
    reply.kept = something_is_kept.then(|| kept.display().to_string());
    reply.restored = true;
    reply.words.extend(key_word(&root, &settings, &state));
    Ok(reply)
}

/// The backup as a file that can be read twice: what comes by a pipe is kept below the root, without a name, until then.
fn opened(options: &RestoreOptions) -> Result<File, RestoreError> {
    let path = options.file.clone();
    let opened = match path == Path::new(STDIN) {
        true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        false => File::open(&path),
    };
    let typed = opened.and_then(|file| file.metadata().map(|found| (file, found.file_type())));
    let (mut file, kind) = typed.map_err(|source| RestoreError::File { path: path.clone(), source })?;
    if kind.is_file() {
        return Ok(file);
    }
    if !kind.is_fifo() && !kind.is_socket() {
        return Err(RestoreError::NoFile { path });
    }
    let folder = Root::prepare(&options.root)?.path().to_owned();
    let spooled = spool(&mut file, &folder.join(SPOOL));
    spooled.map_err(|source| RestoreError::Spool { path, folder, source })
}

fn spool(from: &mut File, at: &Path) -> io::Result<File> {
    match fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().read(true).write(true).create_new(true).mode(0o600).open(at)?;
    fs::remove_file(at)?;
    io::copy(from, &mut file)?;
    file.rewind()?;
    Ok(file)
}

/// Does what a restore that was cut short has left to do, and gives the settings of the node that is then. Called by whoever
/// has the node's lock, before anything else is read.
pub(crate) fn finish(root: &Root) -> Result<Settings, OpenError> {
    coppice_backup::finish(root.path())?;
    let settings = Settings::read(&root.settings())?;
    if let Some(unfinished) = coppice_backup::unfinished(root.path()) {
        volumes::discard(root, &settings, &unfinished)?;
    }
    volumes::settle(root, &settings)?;
    Ok(settings)
}

/// Opens the log that was unpacked, as the node will.
async fn staged_state(file: &Path, replacement: &Replacement) -> Result<std::sync::Arc<State>, RestoreError> {
    let wrong = |why: String| RestoreError::Content { path: file.to_owned(), why };
    let folder = replacement.path().join(STATE);
    if !folder.join(coppice_log::FILE).is_file() {
        return Err(wrong("it has no log in it".to_owned()));
    }
    let log = Log::open(&folder, NODE).await.map_err(|error| wrong(format!("its log does not open: {error}")))?;
    let state = log.read();
    log.shutdown().await;
    Ok(state)
}

fn describe(manifest: &Manifest, state: &State) -> RestoreReply {
    let apps = state.apps().map(|(name, app)| RestoredApp {
        app: name.to_string(),
        release: app.current().number,
        releases: app.releases.len(),
    });
    let mut images: Vec<String> = (state.apps())
        .flat_map(|(_, app)| app.spec().definitions().map(|(_, workload)| workload.image.clone()).collect::<Vec<_>>())
        .collect();
    images.sort();
    images.dedup();
    RestoreReply {
        created_at: manifest.created_ms,
        made_by: manifest.program.clone(),
        apps: apps.collect(),
        volumes: manifest.volumes.iter().filter(|known| known.head.is_some()).map(|known| known.name.clone()).collect(),
        images,
        ..RestoreReply::default()
    }
}

/// What a restore's leftovers are called: no folder of the root has it.
fn free_name(root: &Root) -> String {
    let now = i64::try_from(SystemClock.now().0).unwrap_or_default();
    let time = jiff::Timestamp::from_millisecond(now).unwrap_or_default().strftime("%Y%m%d-%H%M%S").to_string();
    let names = std::iter::once(format!("{KEPT}{time}")).chain((2u32..).map(|n| format!("{KEPT}{time}-{n}")));
    let mut free = names.skip_while(|name| root.path().join(name).exists());
    free.next().unwrap_or_default()
}

/// What to do where the key of the secrets is not there.
fn key_word(root: &Root, settings: &Settings, state: &State) -> Option<String> {
    let id = state.secret_key()?;
    let opened = secrets::keyring(root, &settings.secrets).open(Some(id));
    let error = opened.err()?;
    Some(format!(
        "the secrets do not open yet: {error}; apps that use them start when {} is there",
        root.keys().join("secrets.key").display()
    ))
}

/// The node's datasets, as the settings have them.
fn open_store(root: &Root, settings: &Settings) -> Result<coppice_dataset::Store, NodeError> {
    Ok(volume::open(root, &settings.volumes)?)
}

/// Marks of removals that are of another time.
fn forget_removals(root: &Root) -> Result<(), NodeError> {
    for entry in fs::read_dir(root.apps()).into_iter().flatten().flatten() {
        let app = entry.file_name().to_string_lossy().into_owned();
        let unmarked = removal::mark_volumes(root, &app, false);
        unmarked.map_err(|source| NodeError::disk(format!("cannot look after {app}"), source))?;
    }
    Ok(())
}
