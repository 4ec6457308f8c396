//! `init`: a manifest to start from.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::args::InitArgs;
use crate::error::{CommandError, CommandResult};
use crate::place;
use crate::settings::Settings;

pub(crate) fn run(settings: &Settings, args: InitArgs) -> CommandResult {
    let directory = place::directory(&args.file);
    let absolute = std::fs::canonicalize(&directory)
        .map_err(CommandError::file(format!("cannot use the directory {}", directory.display())))?;
    let name = absolute.file_name().and_then(|name| name.to_str()).unwrap_or("app");
    write(&args.file, &coppice_manifest::init(name), args.force)?;
    settings.print(&format!("{} is there; `coppice up` brings it up\n", args.file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a file; one that is there only with `force`, and then whole or not at all.
pub(crate) fn write(file: &Path, text: &str, force: bool) -> Result<(), CommandError> {
    let failed = || CommandError::file(format!("cannot write {}", file.display()));
    if !force {
        let mut out =
            OpenOptions::new().write(true).create_new(true).open(file).map_err(|error| match error.kind() {
                std::io::ErrorKind::AlreadyExists => CommandError::usage(
                    format!("{} is there already", file.display()),
                    "choose another file, or remove it first (`init --force` replaces it)",
                ),
                _ => failed()(error),
            })?;
        return out.write_all(text.as_bytes()).map_err(failed());
    }
    let draft = file.with_extension(format!("{}.draft", std::process::id()));
    let replaced = std::fs::write(&draft, text).and_then(|()| std::fs::rename(&draft, file));
    if replaced.is_err() {
        // What there was is still there; only the draft goes.
        let _ = std::fs::remove_file(&draft);
    }
    replaced.map_err(failed())
}
