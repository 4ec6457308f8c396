//! `rollout`: looking at the one that goes on, and ruling it.

use std::process::ExitCode;

use coppice_base::{Clock, SystemClock};

use super::text;
use crate::args::{RolloutArgs, RolloutVerb};
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;
use crate::{daemon, place};

pub(crate) async fn run(settings: &Settings, verb: RolloutVerb) -> CommandResult {
    let (RolloutVerb::Pause(args) | RolloutVerb::Resume(args) | RolloutVerb::Cancel(args) | RolloutVerb::Status(args)) =
        &verb;
    let app = &app_of(settings, args)?;
    let client = daemon::client(settings).await?;
    let said = match &verb {
        RolloutVerb::Status(_) => {
            let status = client.app(app).await?;
            if settings.json {
                settings.print_json(&status.releases)?;
            } else {
                let entry = client.release(app, &status.releases.newest.number.to_string()).await?;
                let now = SystemClock.now();
                let lines = text::status_lines(&status.releases, &settings.stdout, now);
                settings.print(&(text::page(&entry, &settings.stdout, now) + &lines))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        RolloutVerb::Pause(_) => {
            client.pause_rollout(app).await?;
            "rests when the batch that it has begun is done"
        }
        RolloutVerb::Resume(_) => {
            client.resume_rollout(app).await?;
            "goes on"
        }
        RolloutVerb::Cancel(_) => {
            client.cancel_rollout(app).await?;
            "goes back"
        }
    };
    if !settings.json {
        settings.print(&format!("{app}: its rollout {said}; `coppice rollout status {app}` shows it\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The app that is named, or the manifest's only one.
pub(crate) fn app_of(settings: &Settings, args: &RolloutArgs) -> Result<String, CommandError> {
    match args.app.as_ref().or(args.manifest.app.as_ref()) {
        Some(app) => Ok(app.clone()),
        None => Ok(place::app(settings, &args.manifest)?.name.to_string()),
    }
}
