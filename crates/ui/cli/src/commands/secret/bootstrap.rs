//! `bootstrap`: the secrets that a manifest declares or uses, all at once.

use std::collections::BTreeMap;
use std::process::ExitCode;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use coppice_api::{RekeyRequest, SecretReply, SecretRequest, SecretState, SecretSummary};
use coppice_base::Name;
use coppice_spec::{AppSpec, SecretKind};
use serde::Serialize;

use super::change::rotated;
use super::names_of;
use crate::args::{BootstrapArgs, BootstrapRotateArgs};
use crate::error::{CommandError, CommandResult, FAILURE};
use crate::output::{Table, moment};
use crate::settings::Settings;
use crate::{daemon, place};

/// A secret of the manifest. `None`: it is set by hand.
type Slots = BTreeMap<Name, Option<SecretKind>>;

fn slots_of(spec: &AppSpec) -> Slots {
    let workloads = spec.workloads().map(|(_, workload)| workload);
    let all = workloads.chain(spec.crons.values().map(|cron| &cron.workload));
    let used = all.flat_map(|workload| workload.secrets.iter().map(|used| (used.secret.clone(), None)));
    let declared = spec.secrets.iter().map(|(name, secret)| (name.clone(), secret.generate.clone()));
    // What is declared comes last, and stays.
    used.chain(declared).collect()
}

fn slots(settings: &Settings, args: &BootstrapArgs) -> Result<Slots, CommandError> {
    let spec = place::app(settings, &args.manifest)?;
    let mut slots = slots_of(&spec);
    if let Some(unknown) = args.names.iter().find(|name| !slots.contains_key(name.as_str())) {
        let known: Vec<&str> = slots.keys().map(Name::as_str).collect();
        return Err(CommandError::usage(
            format!("app {} has no secret {unknown:?}", spec.name),
            format!("it has: {}", known.join(", ")),
        ));
    }
    slots.retain(|name, _| args.names.is_empty() || args.names.iter().any(|named| named == name.as_str()));
    Ok(slots)
}

fn kind_text(kind: Option<&SecretKind>) -> &'static str {
    match kind {
        None => "by hand",
        Some(SecretKind::Random256) => "random-256",
        Some(SecretKind::Password) => "password",
        Some(SecretKind::Ed25519) => "ed25519",
        Some(SecretKind::Tls { .. }) => "tls",
    }
}

#[derive(Serialize)]
struct SlotStatus {
    name: Name,
    /// What it is made as; `by hand`: it is set.
    kind: &'static str,
    set: bool,
    version: Option<u64>,
    fingerprint: Option<String>,
    created_at: Option<coppice_base::Timestamp>,
    rotations: u64,
    consumers: Vec<String>,
}

pub(crate) async fn status(settings: &Settings, args: BootstrapArgs) -> CommandResult {
    let slots = slots(settings, &args)?;
    let there = daemon::client(settings).await?.secrets().await?;
    show(settings, &slots, &there)
}

fn show(settings: &Settings, slots: &Slots, there: &[SecretSummary]) -> CommandResult {
    let status = slots.iter().map(|(name, kind)| {
        let found = there.iter().find(|secret| secret.name == *name);
        SlotStatus {
            name: name.clone(),
            kind: kind_text(kind.as_ref()),
            set: found.is_some(),
            version: found.map(|secret| secret.version),
            fingerprint: found.map(|secret| secret.fingerprint.clone()),
            created_at: found.map(|secret| secret.created_at),
            rotations: found.map_or(0, |secret| secret.version - 1),
            consumers: found.map(|secret| names_of(&secret.used_by)).unwrap_or_default(),
        }
    });
    let status: Vec<SlotStatus> = status.collect();
    if settings.json {
        settings.print_json(&status)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["SECRET", "KIND", "VERSION", "SET", "FINGERPRINT", "USED BY"]);
    for slot in status {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            slot.name.to_string(),
            slot.kind.to_owned(),
            or_dash(slot.version.map(|version| version.to_string())),
            slot.created_at.map_or_else(|| "unset".to_owned(), moment),
            or_dash(slot.fingerprint),
            if slot.consumers.is_empty() { "-".to_owned() } else { slot.consumers.join(", ") },
        ]);
    }
    settings.print(&table.render())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn init(settings: &Settings, args: BootstrapArgs) -> CommandResult {
    let slots = slots(settings, &args)?;
    let client = daemon::client(settings).await?;
    let there = client.secrets().await?;
    let is_there = |name: &Name| there.iter().any(|secret| secret.name == *name);
    let mut left = Vec::new();
    for (name, kind) in slots.iter().filter(|(name, _)| !is_there(name)) {
        match kind {
            Some(kind) => {
                let request = SecretRequest { value: None, generate: Some(kind.clone()) };
                client.set_secret(name.as_str(), &request).await?;
            }
            None => left.push(name.to_string()),
        }
    }
    show(settings, &slots, &client.secrets().await?)?;
    match left.first() {
        None => Ok(ExitCode::SUCCESS),
        Some(first) => Err(CommandError::Failed {
            what: format!("{} cannot be made: nobody says how", left.join(", ")),
            help: Some(format!("`coppice secret set {first}`, or `generate` under [secret.{first}]")),
        }),
    }
}

pub(crate) async fn rotate(settings: &Settings, args: BootstrapRotateArgs) -> CommandResult {
    let slots = slots(settings, &args.slots)?;
    let client = daemon::client(settings).await?;
    let there = client.secrets().await?;
    let mut replies: Vec<SecretReply> = Vec::new();
    for (name, kind) in &slots {
        let Some(found) = there.iter().find(|secret| secret.name == *name) else { continue };
        let is_named = args.slots.names.iter().any(|named| named == name.as_str());
        let generate = match kind {
            Some(kind) if found.kind.is_some() || is_named => Some(kind.clone()),
            // One that was set by hand stays, unless it was meant.
            _ if is_named => {
                return Err(CommandError::usage(
                    format!("{name} is set by hand"),
                    format!("`coppice secret rotate {name}` takes its new value"),
                ));
            }
            _ => continue,
        };
        replies.push(client.rotate_secret(name.as_str(), &SecretRequest { value: None, generate }).await?);
    }
    if args.key {
        client.change_secrets_key(&RekeyRequest::default()).await?;
    }
    if settings.json {
        settings.print_json(&replies)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text: String = replies.iter().map(rotated).collect();
    if args.key {
        text.push_str("all secrets are encrypted with a new key\n");
    }
    settings.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn verify(settings: &Settings, args: BootstrapArgs) -> CommandResult {
    let names: Vec<String> = slots(settings, &args)?.keys().map(ToString::to_string).collect();
    let client = daemon::client(settings).await?;
    let checks = if names.is_empty() { Vec::new() } else { client.check_secrets(&names).await? };
    let all_are_well = checks.iter().all(|check| check.state == SecretState::Ok);
    if settings.json {
        settings.print_json(&checks)?;
    } else {
        let mut table = Table::new(&["SECRET", "STATE", "WHY"]);
        for check in &checks {
            let state = match check.state {
                SecretState::Ok => "ok",
                SecretState::Unset => "unset",
                SecretState::FileMissing => "file_missing",
                SecretState::Drift => "drift",
                SecretState::ReadError => "read_error",
            };
            table.row(vec![check.name.to_string(), state.to_owned(), check.detail.clone()]);
        }
        settings.print(&table.render())?;
    }
    Ok(if all_are_well { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

pub(crate) async fn export(settings: &Settings, args: BootstrapArgs) -> CommandResult {
    let slots = slots(settings, &args)?;
    let client = daemon::client(settings).await?;
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for (name, kind) in &slots {
        let part = match kind {
            Some(SecretKind::Ed25519) => "public",
            Some(SecretKind::Tls { .. }) => "certificate",
            Some(SecretKind::Random256 | SecretKind::Password) | None => continue,
        };
        let value = client.secret_value(name.as_str(), None, Some(part)).await?;
        let bytes = BASE64_STANDARD.decode(&value.value.0).unwrap_or_default();
        found.insert(name.to_string(), String::from_utf8_lossy(&bytes).into_owned());
    }
    if settings.json {
        settings.print_json(&found)?;
    } else {
        settings.print(&found.iter().map(|(name, pem)| format!("# {name}\n{pem}")).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}
