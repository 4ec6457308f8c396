//! What a backup has in the place of what a folder has: all of it, or nothing yet.
//!
//! ```text
//!   <root>/restore.new/     unpacked and looked at; a crash leaves the folder as it was, and the next one removes this
//!        │ one rename: from here on it is done, by whoever comes next
//!   <root>/restore.ready/   each name: what is there goes to <root>/<aside>/, what is new takes its place
//! ```
//!
//! Every step can be done again, so [`finish`] after a crash between any two does the rest. Takes plain files only, under the
//! names it was told, and never writes over one.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use tar::{Archive, EntryType};

const NEW: &str = "restore.new";
const READY: &str = "restore.ready";
/// Says where what was there goes.
const ASIDE: &str = "aside";

/// Why nothing was replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    #[error("the backup holds {entry:?}, which {why}; nothing was changed")]
    Entry { entry: String, why: &'static str },
    #[error("what is in the backup cannot be read: {0}; nothing was changed")]
    Tar(io::Error),
    #[error("cannot restore in {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What is to take a place, unpacked beside it; removed when it is dropped.
#[derive(Debug)]
pub struct Replacement {
    root: PathBuf,
    new: PathBuf,
}

impl Replacement {
    /// An empty one.
    pub fn begin(root: &Path) -> Result<Self, ReplaceError> {
        let new = root.join(NEW);
        let made = remove(&new).and_then(|()| DirBuilder::new().mode(0o700).create(&new));
        made.map_err(|source| ReplaceError::Io { path: new.clone(), source })?;
        Ok(Self { root: root.to_owned(), new })
    }

    pub fn path(&self) -> &Path {
        &self.new
    }

    /// Unpacks a tar of plain files, each below one of `names`.
    pub fn unpack(&self, tar: impl Read, names: &[&str]) -> Result<(), ReplaceError> {
        entries(tar, names, &mut |name, content| self.add(name, content))
    }

    /// Writes one file, which must not be there.
    pub fn add(&self, name: &Path, content: &mut dyn Read) -> Result<(), ReplaceError> {
        let failed = |source| ReplaceError::Io { path: self.new.clone(), source };
        let to = self.new.join(name);
        let folder = to.parent().unwrap_or(&self.new);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).map_err(failed)?;
        io::copy(content, &mut file).and_then(|_| file.sync_all()).map_err(failed)
    }

    /// Has it take the place of what is there, which goes to the folder `aside` of the root. On an error before the one
    /// rename nothing is changed; after it, [`finish`] does the rest.
    pub fn commit(self, aside: &str) -> Result<PathBuf, ReplaceError> {
        let failed = |source| ReplaceError::Io { path: self.root.clone(), source };
        let ready = self.root.join(READY);
        let committed = fs::write(self.new.join(ASIDE), aside)
            .and_then(|()| sync_all(&self.new))
            .and_then(|()| fs::rename(&self.new, &ready))
            .and_then(|()| sync(&self.root));
        committed.map_err(failed)?;
        let kept = finish(&self.root)?;
        Ok(kept.unwrap_or_else(|| self.root.join(aside)))
    }
}

/// Has `visit` see each file of a tar, in its order; refuses what no backup has: anything but plain files, each below one of
/// `names`, and none of them twice.
pub fn entries<E: From<ReplaceError>>(
    tar: impl Read,
    names: &[&str],
    visit: &mut dyn FnMut(&Path, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let failed = ReplaceError::Tar;
    let mut seen = BTreeSet::new();
    for entry in Archive::new(tar).entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        let refused = |why| {
            let entry = name.to_string_lossy().chars().take(200).collect();
            ReplaceError::Entry { entry, why }
        };
        let first = match name.components().next() {
            Some(Component::Normal(first)) => first.to_str().unwrap_or_default(),
            _ => "",
        };
        if !names.contains(&first) || !name.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(refused("no backup has").into());
        }
        if entry.header().entry_type() != EntryType::Regular {
            return Err(refused("is no plain file").into());
        }
        if !seen.insert(name.clone()) {
            return Err(refused("is there twice").into());
        }
        visit(&name, &mut entry)?;
    }
    Ok(())
}

/// Where an unfinished replacement is, which [`finish`] leaves alone and the next one removes; `None`: there is none.
pub fn unfinished(root: &Path) -> Option<PathBuf> {
    let new = root.join(NEW);
    (new.is_dir() && !root.join(READY).exists()).then_some(new)
}

impl Drop for Replacement {
    fn drop(&mut self) {
        // What is left is removed by the next one.
        let _ = remove(&self.new);
    }
}

/// Does the rest of a replacement that a crash has cut short; where what was there is kept. `None`: there is none.
pub fn finish(root: &Path) -> Result<Option<PathBuf>, ReplaceError> {
    finish_by(root, &mut || Ok(())).map_err(|source| ReplaceError::Io { path: root.to_owned(), source })
}

/// `step` is asked before each change.
fn finish_by(root: &Path, step: &mut dyn FnMut() -> io::Result<()>) -> io::Result<Option<PathBuf>> {
    let ready = root.join(READY);
    let aside = match fs::read_to_string(ready.join(ASIDE)) {
        Ok(name) => root.join(name),
        // All is in its place; what is left is an empty folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return remove(&ready).map(|()| None),
        Err(error) => return Err(error),
    };
    step()?;
    DirBuilder::new().recursive(true).mode(0o700).create(&aside)?;
    for entry in fs::read_dir(&ready)? {
        let name = entry?.file_name();
        if name == ASIDE {
            continue;
        }
        let (there, kept) = (root.join(&name), aside.join(&name));
        if there.try_exists()? && !kept.try_exists()? {
            step()?;
            fs::rename(&there, &kept)?;
            sync(&aside)?;
        }
        step()?;
        fs::rename(ready.join(&name), &there)?;
        sync(root)?;
    }
    step()?;
    fs::remove_file(ready.join(ASIDE))?;
    step()?;
    remove(&ready)?;
    sync(root)?;
    Ok(Some(aside))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder and all below it.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { sync_all(&entry.path())? } else { sync(&entry.path())? }
    }
    sync(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            // As a hostile tool writes it: `set_path` would refuse.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const NAMES: &[&str] = &["state", "keys"];

    /// A root with an old state and no keys, and a new state and keys beside it.
    fn ground() -> (tempfile::TempDir, Replacement) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("state")).unwrap();
        fs::write(root.path().join("state/log.db"), "old").unwrap();
        let new = Replacement::begin(root.path()).unwrap();
        new.unpack(&tar_of(&[("state/log.db", "new"), ("keys/secrets.key", "key")])[..], NAMES).unwrap();
        (root, new)
    }

    fn text(root: &Path, name: &str) -> String {
        fs::read_to_string(root.join(name)).unwrap_or_default()
    }

    #[test]
    fn what_is_there_is_kept_aside_and_the_new_is_in_its_place() {
        let (root, new) = ground();
        let kept = new.commit("before-restore-1").unwrap();
        assert_eq!(kept, root.path().join("before-restore-1"));
        let seen = |name| text(root.path(), name);
        assert_eq!((seen("state/log.db"), seen("keys/secrets.key")), ("new".to_owned(), "key".to_owned()));
        assert_eq!(seen("before-restore-1/state/log.db"), "old");
        assert_eq!(finish(root.path()).unwrap(), None);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 3, "nothing is left over");
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_and_the_next_one_begins_anew() {
        let (root, new) = ground();
        // As killed: nothing is dropped.
        std::mem::forget(new);
        assert_eq!(finish(root.path()).unwrap(), None);
        assert_eq!(text(root.path(), "state/log.db"), "old");
        drop(Replacement::begin(root.path()).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_crash_at_any_step_after_the_rename_ends_with_the_new_whole_and_the_old_aside() {
        for killed_at in 0.. {
            let (root, new) = ground();
            fs::write(new.path().join(ASIDE), "before").unwrap();
            fs::rename(new.path(), root.path().join(READY)).unwrap();
            let mut steps = 0;
            let done = finish_by(root.path(), &mut || {
                steps += 1;
                if steps > killed_at { Err(io::Error::other("killed")) } else { Ok(()) }
            });
            finish(root.path()).unwrap();
            let seen = |name| text(root.path(), name);
            assert_eq!((seen("state/log.db"), seen("keys/secrets.key")), ("new".to_owned(), "key".to_owned()));
            assert_eq!(seen("before/state/log.db"), "old", "killed at step {killed_at}");
            assert!(!root.path().join(READY).exists());
            if done.is_ok() {
                assert!(killed_at >= 6, "there are steps to be killed at");
                return;
            }
        }
    }

    #[test]
    fn what_no_backup_has_is_refused_and_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        for (bad, why) in [
            ("../etc/passwd", "no backup has"),
            ("/etc/passwd", "no backup has"),
            ("state/../../x", "no backup has"),
            ("images/x", "no backup has"),
            ("state/log.db", "twice"),
        ] {
            let new = Replacement::begin(root.path()).unwrap();
            let error = new.unpack(&tar_of(&[("state/log.db", "new"), (bad, "x")])[..], NAMES).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        let mut link = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        link.append_link(&mut header, "state/log.db", "/etc/passwd").unwrap();
        let new = Replacement::begin(root.path()).unwrap();
        let error = new.unpack(&link.into_inner().unwrap()[..], NAMES).unwrap_err();
        assert!(matches!(error, ReplaceError::Entry { why: "is no plain file", .. }), "{error}");
    }
}
