//! `volume snapshot`, `rollback`, `clone` and `rm`.

use std::process::ExitCode;

use coppice_api::{VolumeCloneRequest, VolumeRollbackRequest, VolumeSnapshotRequest};

use crate::args::{VolumeCloneArgs, VolumeRmArgs, VolumeRollbackArgs, VolumeSnapshotArgs};
use crate::daemon;
use crate::error::CommandResult;
use crate::place::Place;
use crate::settings::Settings;

pub(crate) async fn snapshot(settings: &Settings, args: VolumeSnapshotArgs) -> CommandResult {
    let request = VolumeSnapshotRequest { volume: Place::here().volume(&args.volume), snapshot: args.snapshot };
    let made = daemon::client(settings).await?.snapshot_volume(&request).await?;
    said(settings, &made, &format!("{}: kept as {}\n", request.volume, made.name))
}

pub(crate) async fn rollback(settings: &Settings, args: VolumeRollbackArgs) -> CommandResult {
    let request = VolumeRollbackRequest { volume: Place::here().volume(&args.volume), snapshot: args.snapshot };
    let reply = daemon::client(settings).await?.roll_volume_back(&request).await?;
    let VolumeRollbackRequest { volume, snapshot } = &request;
    said(settings, &reply, &format!("{volume}: is what {snapshot} is; what it was is kept as {}\n", reply.kept))
}

pub(crate) async fn clone(settings: &Settings, args: VolumeCloneArgs) -> CommandResult {
    let place = Place::here();
    let (volume, to) = (place.volume(&args.volume), place.volume(&args.to));
    let request = VolumeCloneRequest { volume, snapshot: args.snapshot, to };
    let made = daemon::client(settings).await?.clone_volume(&request).await?;
    said(settings, &made, &format!("{}: made of {} of {}\n", request.to, request.snapshot, request.volume))
}

pub(crate) async fn remove(settings: &Settings, args: VolumeRmArgs) -> CommandResult {
    let volume = Place::here().volume(&args.volume);
    daemon::client(settings).await?.remove_volume(&volume, args.snapshot.as_deref()).await?;
    let what = args.snapshot.map_or_else(|| volume.clone(), |snapshot| format!("{snapshot} of {volume}"));
    said(settings, &what, &format!("{what}: removed\n"))
}

fn said(settings: &Settings, value: &impl serde::Serialize, text: &str) -> CommandResult {
    if settings.json {
        settings.print_json(value)?;
    } else {
        settings.print(text)?;
    }
    Ok(ExitCode::SUCCESS)
}
