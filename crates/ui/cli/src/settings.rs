//! What the global flags and the environment mean on this machine.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::args::{ColorChoice, GlobalArgs};
use crate::error::CommandError;
use crate::output::Style;

/// Root's state directory.
const SYSTEM_ROOT: &str = "/var/lib/coppice";

/// Where and how a command works.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// State directory, absolute.
    pub(crate) root: PathBuf,
    /// `<root>/run/coppice.sock`.
    pub(crate) socket: PathBuf,
    /// Print API values instead of text for people.
    pub(crate) json: bool,
    pub(crate) stdout: Style,
    pub(crate) stderr: Style,
}

impl Settings {
    pub(crate) fn resolve(global: &GlobalArgs) -> Result<Self, CommandError> {
        let root = match &global.root {
            Some(root) if root.as_os_str().is_empty() => {
                return Err(CommandError::usage(
                    "--root (or COPPICE_ROOT) is empty",
                    "name a directory, or leave it out",
                ));
            }
            Some(root) => root.clone(),
            None => default_root(
                rustix::process::geteuid().is_root(),
                std::env::var_os("HOME"),
                std::env::var_os("XDG_DATA_HOME"),
            )?,
        };
        let root = std::path::absolute(&root).map_err(CommandError::file("cannot find the current directory"))?;
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let color = |terminal: bool| match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Ok(Self {
            socket: socket_of(&root),
            root,
            json: global.json,
            stdout: Style { color: color(stdout), terminal: stdout, json: global.json },
            stderr: Style { color: color(stderr), terminal: stderr, json: global.json },
        })
    }

    /// Writes a finished text to standard output.
    pub(crate) fn print(&self, text: &str) -> Result<(), CommandError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CommandError::Output)
    }

    /// Writes an API value as indented JSON.
    pub(crate) fn print_json(&self, value: &impl Serialize) -> Result<(), CommandError> {
        let text = serde_json::to_string_pretty(value).expect("API values are plain data");
        self.print(&(text + "\n"))
    }

    /// Writes an API value as one line of JSON, for reads that go on.
    pub(crate) fn print_json_line(&self, value: &impl Serialize) -> Result<(), CommandError> {
        let text = serde_json::to_string(value).expect("API values are plain data");
        self.print(&(text + "\n"))
    }
}

/// The node's socket under a state directory.
pub(crate) fn socket_of(root: &Path) -> PathBuf {
    root.join("run/coppice.sock")
}

fn default_root(
    is_root: bool,
    home: Option<std::ffi::OsString>,
    data_home: Option<std::ffi::OsString>,
) -> Result<PathBuf, CommandError> {
    if is_root {
        return Ok(SYSTEM_ROOT.into());
    }
    if let Some(data) = data_home.map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(data.join("coppice"));
    }
    match home.map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(home) => Ok(home.join(".local/share/coppice")),
        None => Err(CommandError::usage(
            "there is no HOME to keep state in",
            "choose a directory with --root or COPPICE_ROOT",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_keeps_state_in_var_lib_and_others_in_their_home() {
        assert_eq!(default_root(true, Some("/root".into()), None).unwrap(), PathBuf::from("/var/lib/coppice"));
        assert_eq!(
            default_root(false, Some("/home/ada".into()), None).unwrap(),
            PathBuf::from("/home/ada/.local/share/coppice")
        );
        assert_eq!(default_root(false, None, Some("/data".into())).unwrap(), PathBuf::from("/data/coppice"));
        assert!(default_root(false, None, None).is_err());
    }
}
