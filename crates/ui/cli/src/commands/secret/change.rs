//! `secret set`, `rotate`, `rm` and `rekey`.

use std::process::ExitCode;

use coppice_api::{RekeyRequest, SecretReply, SecretRequest};
use coppice_spec::SecretKind;

use super::{names_of, value};
use crate::args::{MadeKind, SecretRekeyArgs, SecretRmArgs, SecretRotateArgs, SecretSetArgs};
use crate::commands::for_each;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn set(settings: &Settings, args: SecretSetArgs) -> CommandResult {
    let generate = args.generate.map(|kind| match kind {
        MadeKind::Random256 => SecretKind::Random256,
        MadeKind::Password => SecretKind::Password,
        MadeKind::Ed25519 => SecretKind::Ed25519,
        MadeKind::Tls => SecretKind::Tls { name: args.tls_name.clone().unwrap_or_default() },
    });
    let request = match generate {
        Some(kind) => SecretRequest { value: None, generate: Some(kind) },
        None => SecretRequest { value: Some(value(&args.value, &args.name)?), generate: None },
    };
    let reply = daemon::client(settings).await?.set_secret(&args.name, &request).await?;
    if settings.json {
        settings.print_json(&reply)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!("{}: version {}\n", reply.name, reply.version);
    let behind: Vec<_> = reply.users.into_iter().filter(|user| user.version != reply.version).collect();
    if !behind.is_empty() {
        text.push_str(&format!(
            "{} keeps the version it has until the next `coppice up`; `coppice secret rotate` does not wait for that\n",
            names_of(&behind).join(", ")
        ));
    }
    settings.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn rotate(settings: &Settings, args: SecretRotateArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let is_given = args.value.value.is_some() || args.value.file.is_some();
    let request = if is_given || !is_made(&client.secret_history(&args.name).await?) {
        SecretRequest { value: Some(value(&args.value, &args.name)?), generate: None }
    } else {
        SecretRequest::default()
    };
    let reply = client.rotate_secret(&args.name, &request).await?;
    if settings.json {
        settings.print_json(&reply)?;
    } else {
        settings.print(&rotated(&reply))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the newest version was made by the node, which makes the next one, too.
fn is_made(versions: &[coppice_api::SecretVersionSummary]) -> bool {
    versions.last().is_some_and(|version| version.kind.is_some())
}

/// What a rotation did, and to whom.
pub(super) fn rotated(reply: &SecretReply) -> String {
    let mut text = format!("{}: version {}\n", reply.name, reply.version);
    for user in &reply.users {
        let done = match (user.on_rotate.as_str(), user.target.starts_with("env ")) {
            ("restart", _) => "restarts with it".to_owned(),
            ("nothing", true) => "has it when it starts again".to_owned(),
            ("nothing", false) => "has it in its file".to_owned(),
            (signal, true) => format!("has it when it starts again ({signal} sent)"),
            (signal, false) => format!("has it in its file ({signal} sent)"),
        };
        text.push_str(&format!("  {}/{} ({}): {done}\n", user.app, user.workload, user.target));
    }
    text
}

pub(crate) async fn remove(settings: &Settings, args: SecretRmArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    for_each(settings, &args.names, async |name| Ok(client.remove_secret(name, args.force).await?)).await
}

pub(crate) async fn rekey(settings: &Settings, args: SecretRekeyArgs) -> CommandResult {
    let request = RekeyRequest { keep_old: args.keep_old };
    let reply = daemon::client(settings).await?.change_secrets_key(&request).await?;
    if settings.json {
        settings.print_json(&reply)?;
        return Ok(ExitCode::SUCCESS);
    }
    let old = match &reply.old_key {
        Some(path) => format!("the old key is {path}: move it to where its backups are"),
        None => "the old key is gone".to_owned(),
    };
    let versions = reply.versions;
    settings.print(&format!("{} secrets ({versions} versions) encrypted with a new key; {old}\n", reply.secrets))?;
    Ok(ExitCode::SUCCESS)
}
