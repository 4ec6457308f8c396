//! `recover`: apps that only their volumes know.

use std::process::ExitCode;

use coppice_api::RecoveredApp;

use crate::args::RecoverArgs;
use crate::daemon;
use crate::error::{CommandResult, FAILURE};
use crate::output::visible;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: RecoverArgs) -> CommandResult {
    debug_assert!(args.from_datasets, "there is no other way yet, and it is required");
    let reply = daemon::client(settings).await?.recover_from_datasets(args.print).await?;
    if settings.json {
        settings.print_json(&reply)?;
    } else if reply.apps.is_empty() {
        settings.print("no volume knows an app that this node does not\n")?;
    } else {
        let text: String = reply.apps.iter().map(|app| text(app, args.print)).collect();
        settings.print(&text)?;
    }
    let failed = reply.apps.iter().any(|app| app.error.is_some());
    Ok(if failed { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS })
}

fn text(app: &RecoveredApp, print: bool) -> String {
    let name = visible(&app.app);
    let mut text = match (&app.error, app.release) {
        (Some(error), _) => format!("{name}: not recovered: {}\n", visible(error)),
        (None, Some(release)) if print => format!("{name}: release {release} of {} would run again\n", app.releases),
        (None, release) => {
            format!("{name}: recovered at release {} of {}\n", release.unwrap_or_default(), app.releases)
        }
    };
    text.extend(app.words.iter().map(|word| format!("  {}\n", visible(word))));
    text
}
