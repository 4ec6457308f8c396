//! `backup` and `restore`.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use coppice_api::RestoreReply;
use coppice_base::{Bytes, Timestamp};

use crate::args::{BackupArgs, RestoreArgs};
use crate::commands::volume::transfer::{refuse_no_place, to_file, write_out};
use crate::error::{CommandError, CommandResult, eprint_all};
use crate::output::{moment, visible};
use crate::settings::Settings;
use crate::{Hooks, RestoreOptions, daemon};

/// The file is for the one who makes it: it has all that is known of apps.
const MODE: u32 = 0o600;

pub(crate) async fn backup(settings: &Settings, args: BackupArgs) -> CommandResult {
    let to_stdout = args.file == Path::new("-");
    if to_stdout && io::stdout().is_terminal() {
        return Err(CommandError::usage("a backup is not for a terminal", "name a file, or use a pipe"));
    }
    if !to_stdout {
        refuse_no_place(&args.file)?;
    }
    let here = CommandError::file("cannot find the current directory");
    let key_file = args.key_file.as_deref().map(std::path::absolute).transpose().map_err(here)?;
    let download = daemon::client(settings).await?.backup(args.volumes, key_file.as_deref()).await?;
    if to_stdout {
        write_out(download, &mut io::stdout().lock()).await?;
    } else {
        to_file(download, &args.file, MODE).await?;
    }
    if key_file.is_none() {
        eprint_all(&format!(
            "not sealed: the keys in {} are not in it, and secrets do not open without; keep a copy of them apart from it\n",
            settings.root.join("keys").display()
        ));
    }
    if !to_stdout {
        let size = std::fs::metadata(&args.file).map(|found| found.len()).unwrap_or_default();
        if settings.json {
            settings
                .print_json(&serde_json::json!({ "file": args.file, "bytes": size, "sealed": key_file.is_some() }))?;
        } else {
            settings.print(&format!("{}: written, {}\n", args.file.display(), Bytes(size)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn restore(hooks: &Hooks, settings: &Settings, args: RestoreArgs) -> CommandResult {
    let options = RestoreOptions {
        root: settings.root.clone(),
        file: args.file,
        key_file: args.key_file,
        check: args.check,
        force: args.force,
    };
    let reply = (hooks.restore)(options).map_err(|refused| match refused.is_usage {
        true => CommandError::Usage { what: refused.what, help: None },
        false => CommandError::Failed { what: refused.what, help: None },
    })?;
    if settings.json {
        settings.print_json(&reply)?;
    } else {
        settings.print(&text(&reply))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(reply: &RestoreReply) -> String {
    let sealed = if reply.sealed { "sealed" } else { "not sealed" };
    let mut text = format!(
        "a backup of {}, by coppice {}, {sealed}\n",
        moment(Timestamp(reply.created_at)),
        visible(&reply.made_by)
    );
    for app in &reply.apps {
        text.push_str(&format!("  app {}: release {} of {}\n", visible(&app.app), app.release, app.releases));
    }
    text.extend(reply.volumes.iter().map(|volume| format!("  volume {}\n", visible(volume))));
    text.extend(reply.images.iter().map(|image| format!("  needs image {}\n", visible(image))));
    if !reply.restored {
        text.push_str("it can be restored; nothing was changed\n");
        return text;
    }
    text.push_str("restored: `coppice node start` brings it up; images that are not here are pulled then\n");
    if let Some(kept) = &reply.kept {
        text.push_str(&format!("what was there before is kept in {kept}: remove it when it is not needed\n"));
    }
    text.extend(reply.words.iter().map(|word| format!("{}\n", visible(word))));
    text
}
