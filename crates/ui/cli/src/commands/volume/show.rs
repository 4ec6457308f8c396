//! `volume ls` and `volume inspect`.

use std::process::ExitCode;

use coppice_api::{VolumeDetail, VolumeKind, VolumeSummary};
use coppice_base::{Bytes, Timestamp};

use crate::args::VolumeArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Table, moment};
use crate::place::Place;
use crate::settings::Settings;

pub(crate) async fn list(settings: &Settings) -> CommandResult {
    let volumes = daemon::client(settings).await?.volumes().await?;
    if settings.json {
        settings.print_json(&volumes)?;
    } else {
        settings.print(&table(&volumes))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn inspect(settings: &Settings, args: VolumeArgs) -> CommandResult {
    let volume = Place::here().volume(&args.volume);
    let detail = daemon::client(settings).await?.volume(&volume).await?;
    if settings.json {
        settings.print_json(&detail)?;
    } else {
        settings.print(&page(&detail))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn kind(kind: VolumeKind) -> &'static str {
    match kind {
        VolumeKind::Btrfs => "btrfs",
        VolumeKind::Zfs => "zfs",
        VolumeKind::Directory => "directory",
    }
}

fn table(volumes: &[VolumeSummary]) -> String {
    let mut table = Table::new(&["VOLUME", "KIND", "SNAPSHOTS", "USED BY"]);
    for volume in volumes {
        let users = if volume.used_by.is_empty() { "-".to_owned() } else { volume.used_by.join(", ") };
        table.row(vec![volume.name.clone(), kind(volume.kind).to_owned(), volume.snapshots.to_string(), users]);
    }
    table.render()
}

fn page(volume: &VolumeDetail) -> String {
    let mut text = format!("{} ({}), {} at {}\n", volume.name, kind(volume.kind), Bytes(volume.size), volume.path);
    if !volume.snapshots.is_empty() {
        let mut table = Table::new(&["SNAPSHOT", "CREATED", "BY"]);
        for snapshot in &volume.snapshots {
            let stamp = |key: &str| snapshot.stamps.get(key);
            let at = stamp("created_at").and_then(|text| text.parse().ok()).map(|at| moment(Timestamp(at)));
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            table.row(vec![snapshot.name.clone(), or_dash(at), or_dash(stamp("created_by").cloned())]);
        }
        text.push_str(&table.render());
    }
    text
}
