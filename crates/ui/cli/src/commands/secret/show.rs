//! `secret ls`, `history` and `get`.

use std::io::Write;
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use coppice_api::{SecretSummary, SecretVersionSummary};

use super::names_of;
use crate::args::{SecretGetArgs, SecretNameArgs};
use crate::daemon;
use crate::error::{CommandError, CommandResult};
use crate::output::{Table, moment};
use crate::settings::Settings;

pub(crate) async fn list(settings: &Settings) -> CommandResult {
    let secrets = daemon::client(settings).await?.secrets().await?;
    if settings.json {
        settings.print_json(&secrets)?;
    } else {
        settings.print(&table(&secrets))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn history(settings: &Settings, args: SecretNameArgs) -> CommandResult {
    let versions = daemon::client(settings).await?.secret_history(&args.name).await?;
    if settings.json {
        settings.print_json(&versions)?;
    } else {
        settings.print(&past(&versions))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes as they are, and nothing else, so that they can go into a file or another program.
pub(crate) async fn get(settings: &Settings, args: SecretGetArgs) -> CommandResult {
    let is_public = args.part.as_deref().is_some_and(|part| matches!(part, "public" | "certificate"));
    if settings.stdout.terminal && !args.show && !is_public {
        return Err(CommandError::usage(
            format!("the value of {} is not shown on a terminal", args.name),
            "send it into a file or a program, or say --show",
        ));
    }
    let client = daemon::client(settings).await?;
    let found = client.secret_value(&args.name, args.version, args.part.as_deref()).await?;
    if settings.json {
        settings.print_json(&found)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut bytes = BASE64_STANDARD.decode(&found.value.0).map_err(|error| CommandError::Failed {
        what: format!("the node's answer cannot be read: {error}"),
        help: None,
    })?;
    if settings.stdout.terminal && !bytes.ends_with(b"\n") {
        bytes.push(b'\n');
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).map_err(CommandError::Output)?;
    Ok(ExitCode::SUCCESS)
}

fn table(secrets: &[SecretSummary]) -> String {
    let mut table = Table::new(&["SECRET", "KIND", "VERSION", "SET", "BY", "USED BY"]);
    for secret in secrets {
        let users = names_of(&secret.used_by);
        table.row(vec![
            secret.name.to_string(),
            secret.kind.clone().unwrap_or_else(|| "-".to_owned()),
            secret.version.to_string(),
            moment(secret.created_at),
            secret.by.clone(),
            if users.is_empty() { "-".to_owned() } else { users.join(", ") },
        ]);
    }
    table.render()
}

fn past(versions: &[SecretVersionSummary]) -> String {
    let mut table = Table::new(&["VERSION", "KIND", "FINGERPRINT", "SET", "BY", "RELEASES"]);
    for version in versions.iter().rev() {
        let releases = if version.pinned_by.is_empty() { "-".to_owned() } else { version.pinned_by.join(", ") };
        table.row(vec![
            version.version.to_string(),
            version.kind.clone().unwrap_or_else(|| "-".to_owned()),
            version.fingerprint.clone(),
            moment(version.created_at),
            version.by.clone(),
            releases,
        ]);
    }
    table.render()
}
