//! `volume send` and `receive`.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use coppice_api::VolumeSnapshotRequest;
use coppice_client::{Download, Upload};

use crate::args::{VolumeReceiveArgs, VolumeSendArgs};
use crate::daemon;
use crate::error::{CommandError, CommandResult, eprint_all};
use crate::place::Place;
use crate::settings::Settings;

/// Behind a file's name while it is not whole.
const PART: &str = ".part";

pub(crate) async fn send(settings: &Settings, args: VolumeSendArgs) -> CommandResult {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(CommandError::usage("a volume is not for a terminal", "name a file by -o, or use a pipe"));
    }
    if let Some(path) = &args.output {
        refuse_no_place(path)?;
    }
    let (volume, snapshot) = match args.volume.split_once('@') {
        Some((volume, snapshot)) => (volume, Some(snapshot.to_owned())),
        None => (args.volume.as_str(), None),
    };
    let volume = Place::here().volume(volume);
    let client = daemon::client(settings).await?;
    let snapshot = match snapshot {
        Some(snapshot) => snapshot,
        None => {
            let request = VolumeSnapshotRequest { volume: volume.clone(), snapshot: None };
            let made = client.snapshot_volume(&request).await?.name;
            eprint_all(&format!("{volume}: kept as {made}, which is sent\n"));
            made
        }
    };
    let download = client.send_volume(&volume, &snapshot, args.from.as_deref()).await?;
    match &args.output {
        None => {
            let mut stdout = io::stdout().lock();
            write_out(download, &mut stdout).await?;
        }
        Some(path) => to_file(download, path, 0o666).await?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn receive(settings: &Settings, args: VolumeReceiveArgs) -> CommandResult {
    let stream = match &args.input {
        Some(path) => Upload::new(readable(path)?),
        None if io::stdin().is_terminal() => {
            return Err(CommandError::usage("a volume is not typed", "name a file by -i, or use a pipe"));
        }
        None => Upload::new(io::stdin()),
    };
    let volume = Place::here().volume(&args.volume);
    let reply = daemon::client(settings).await?.receive_volume(&volume, stream).await?;
    if settings.json {
        settings.print_json(&reply)?;
    } else if reply.made {
        settings.print(&format!("{volume}: made of {}\n", reply.snapshot))?;
    } else {
        let snapshot = &reply.snapshot;
        settings.print(&format!(
            "{volume}: has a snapshot {snapshot} now; `coppice volume rollback {volume} {snapshot}` makes it that\n"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A file or pipe that can be read from.
fn readable(path: &Path) -> Result<File, CommandError> {
    let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    });
    opened.map_err(|error| {
        CommandError::usage(
            format!("cannot read {}: {error}", path.display()),
            "name a file that `coppice volume send` wrote",
        )
    })
}

/// Refuses a path that no file can be put at, before anybody has worked for it.
pub(crate) fn refuse_no_place(path: &Path) -> Result<(), CommandError> {
    // The last step would put a file in the place of a device, a pipe or a folder.
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(CommandError::usage(
            format!("{} is there and is no file", path.display()),
            "name another, or write to standard output into a pipe or a device",
        ));
    }
    let folder = folder_of(path);
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        _ => Err(CommandError::usage(
            format!("cannot write {}: there is no folder {}", path.display(), folder.display()),
            "make it first (`mkdir -p`), or name another place",
        )),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes beside, and gives it its name when it is whole.
pub(crate) async fn to_file(download: Download, path: &Path, mode: u32) -> Result<(), CommandError> {
    let mut part = path.as_os_str().to_owned();
    part.push(PART);
    let failed = |source| CommandError::file(format!("cannot write {}", path.display()))(source);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part).map_err(failed)?;
    let written = match write_out(download, &mut file).await {
        Ok(()) => file.sync_all().and_then(|()| put_in_place(Path::new(&part), path)).map_err(failed),
        Err(CommandError::Output(source)) => Err(failed(source)),
        Err(error) => Err(error),
    };
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written
}

fn put_in_place(part: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(part, path)?;
    File::open(folder_of(path))?.sync_all()
}

pub(crate) async fn write_out(mut download: Download, out: &mut impl Write) -> Result<(), CommandError> {
    while let Some(bytes) = download.next().await? {
        out.write_all(&bytes).map_err(CommandError::Output)?;
    }
    out.flush().map_err(CommandError::Output)
}
