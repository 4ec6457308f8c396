//! What a manifest's text refers to outside itself: its directory, variables and env files.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Longest env file read, in bytes.
const ENV_FILE_MAX: u64 = 1024 * 1024;

type Variables<'c> = Box<dyn Fn(&str) -> Option<String> + 'c>;
type Files<'c> = Box<dyn Fn(&Path) -> io::Result<Vec<u8>> + 'c>;

/// The world as a manifest may see it. Tests give maps; the program gives the host ([`Context::from_host`]).
pub struct Context<'c> {
    dir: PathBuf,
    variables: Variables<'c>,
    files: Files<'c>,
    environment: Option<Environment>,
    files_read: RefCell<BTreeSet<PathBuf>>,
}

/// Which `[env.NAME]` a manifest is read with.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    pub(crate) name: String,
    /// A manifest without environments is no mistake.
    pub(crate) lenient: bool,
}

impl<'c> Context<'c> {
    /// A context for a manifest in `dir` (absolute), without variables or files.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let nothing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        Self {
            dir: dir.into(),
            variables: Box::new(|_| None),
            files: Box::new(nothing),
            environment: None,
            files_read: RefCell::default(),
        }
    }

    /// The process's environment and the host's files. `dir` is made absolute; a variable that is not UTF-8
    /// counts as unset; env files over 1 MiB and what is not a plain file are refused.
    pub fn from_host(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: whole(dir.as_ref()),
            variables: Box::new(|name| std::env::var(name).ok()),
            files: Box::new(read_plain_file),
            environment: None,
            files_read: RefCell::default(),
        }
    }

    pub fn with_variables(mut self, lookup: impl Fn(&str) -> Option<String> + 'c) -> Self {
        self.variables = Box::new(lookup);
        self
    }

    pub fn with_files(mut self, read: impl Fn(&Path) -> io::Result<Vec<u8>> + 'c) -> Self {
        self.files = Box::new(read);
        self
    }

    /// Chooses the environment whose `[env.NAME]` is put over the manifest; one it does not have is an error.
    pub fn with_environment(mut self, name: impl Into<String>) -> Self {
        self.environment = Some(Environment { name: name.into(), lenient: false });
        self
    }

    /// Like [`with_environment`](Self::with_environment), where the choice is not for this manifest alone (a variable
    /// of the shell): one without any environments is read as it is.
    pub fn with_environment_if_any(mut self, name: impl Into<String>) -> Self {
        self.environment = Some(Environment { name: name.into(), lenient: true });
        self
    }

    pub(crate) fn environment(&self) -> Option<&Environment> {
        self.environment.as_ref()
    }

    /// The manifest's directory; relative paths start here.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        (self.variables)(name)
    }

    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files_read.borrow_mut().insert(path.to_owned());
        (self.files)(path)
    }

    /// The files a manifest was read with beside itself: what it includes, and env files. Also those that were not there.
    pub fn files_read(&self) -> BTreeSet<PathBuf> {
        self.files_read.borrow().clone()
    }
}

/// `dir` from the root on. `""` is the current directory; where there is a `..`, links are resolved, since only then
/// is it known what is above.
fn whole(dir: &Path) -> PathBuf {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let above = dir.components().any(|part| part == Component::ParentDir);
    let whole = if above { dir.canonicalize() } else { std::path::absolute(dir) };
    whole.unwrap_or_else(|_| dir.to_owned())
}

fn read_plain_file(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let meta = std::fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    if meta.len() > ENV_FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is larger than 1 MiB"));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(ENV_FILE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_a_directory_is_made_absolute() {
        let here = std::env::current_dir().expect("tests have a directory");
        for dir in ["", ".", "./", "src/.."] {
            assert_eq!(Context::from_host(dir).dir(), here, "{dir:?}");
        }
        assert_eq!(Context::from_host("src").dir(), here.join("src"));
    }
}
