//! `history`: an app's releases, the newest first.

use std::process::ExitCode;

use coppice_api::ReleaseEntry;
use coppice_base::{Clock, SystemClock, Timestamp};

use super::text;
use crate::args::{HistoryArgs, ReleaseFilterArgs};
use crate::error::CommandResult;
use crate::output::Style;
use crate::settings::Settings;
use crate::{daemon, place};

pub(crate) async fn run(settings: &Settings, args: HistoryArgs) -> CommandResult {
    let named = args.app.as_deref().or(args.manifest.app.as_deref());
    let apps = place::app_names(settings, named, &args.manifest)?;
    let client = daemon::client(settings).await?;
    let mut all = Vec::new();
    for app in &apps {
        all.extend(client.history(app).await?);
    }
    all.retain(|entry| is_wanted(&args.filter, &entry.fields));
    if settings.json {
        settings.print_json(&all)?;
    } else {
        settings.print(&render(&all, args.verbose, &settings.stdout, SystemClock.now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a release passes the filters; several are all to be met.
pub(crate) fn is_wanted(filter: &ReleaseFilterArgs, fields: &coppice_api::ReleaseFields) -> bool {
    (!filter.failed || fields.is_failed())
        && (!filter.in_progress || fields.is_in_progress())
        && filter.status.as_ref().is_none_or(|status| fields.status == *status || fields.rollout_state == *status)
}

fn render(entries: &[ReleaseEntry], verbose: bool, style: &Style, now: Timestamp) -> String {
    if entries.is_empty() {
        return "no such releases\n".to_owned();
    }
    if verbose {
        return entries.iter().map(|entry| text::page(entry, style, now)).collect();
    }
    text::table(&entries.iter().collect::<Vec<_>>(), now)
}
