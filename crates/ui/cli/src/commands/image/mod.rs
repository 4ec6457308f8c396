//! Verbs on images and registries.

pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod prune;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod remove;
pub(crate) mod save;
pub(crate) mod tag;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use coppice_api::LoadReply;
use coppice_client::{Download, Upload};

use crate::error::{CommandError, eprint_all};
use crate::output::{Paint, visible};
use crate::settings::Settings;

/// A file to send, or standard input for none and for `-`.
fn input(file: Option<&Path>) -> Result<Upload, CommandError> {
    match file {
        Some(file) if file != Path::new("-") => {
            let opened = File::open(file).map_err(|error| {
                CommandError::usage(format!("cannot read {}: {error}", file.display()), "check the path")
            })?;
            if opened.metadata().is_ok_and(|meta| meta.is_dir()) {
                return Err(CommandError::usage(
                    format!("{} is a directory", file.display()),
                    format!("make a tar of it: tar -C {} -c .", file.display()),
                ));
            }
            Ok(Upload::new(opened))
        }
        _ => {
            if io::stdin().is_terminal() {
                return Err(CommandError::usage("a terminal is no archive", "name a file, or pipe one in"));
            }
            Ok(Upload::new(io::stdin()))
        }
    }
}

/// Writes an archive to a file (whole or not at all) or to standard output.
async fn output(mut download: Download, file: Option<&Path>) -> Result<(), CommandError> {
    let Some(file) = file.filter(|file| *file != Path::new("-")) else {
        if io::stdout().is_terminal() {
            return Err(CommandError::usage("an archive is not for a terminal", "use -o FILE, or a pipe"));
        }
        let mut stdout = io::stdout().lock();
        while let Some(bytes) = download.next().await? {
            stdout.write_all(&bytes).map_err(CommandError::Output)?;
        }
        return stdout.flush().map_err(CommandError::Output);
    };
    let draft = Draft::of(file)?;
    let mut out = File::create(&draft.path).map_err(CommandError::file(format!("cannot write {}", file.display())))?;
    while let Some(bytes) = download.next().await? {
        out.write_all(&bytes).map_err(CommandError::file(format!("cannot write {}", file.display())))?;
    }
    draft.keep(file)
}

/// A file beside the one wanted, removed unless it is kept.
struct Draft {
    path: PathBuf,
}

impl Draft {
    fn of(file: &Path) -> Result<Self, CommandError> {
        let Some(name) = file.file_name() else {
            return Err(CommandError::usage(format!("{} is not a file's name", file.display()), "name a file"));
        };
        let mut draft = std::ffi::OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}", std::process::id()));
        Ok(Self { path: file.with_file_name(draft) })
    }

    fn keep(self, file: &Path) -> Result<(), CommandError> {
        std::fs::rename(&self.path, file).map_err(CommandError::file(format!("cannot write {}", file.display())))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After `keep` there is nothing under this name.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Prints what came in, and what was left out of it.
fn taken_in(settings: &Settings, reply: &LoadReply, quiet: bool) -> Result<(), CommandError> {
    for word in &reply.words {
        eprint_all(&format!("{} {}\n", settings.stderr.paint(Paint::Yellow, "warning:"), visible(word)));
    }
    if settings.json {
        return settings.print_json(reply);
    }
    for image in &reply.images {
        let name = image.names.first().unwrap_or(&image.id);
        let line = if quiet { image.id.clone() } else { format!("{} {}", visible(name), image.id) };
        settings.print(&format!("{line}\n"))?;
    }
    Ok(())
}
