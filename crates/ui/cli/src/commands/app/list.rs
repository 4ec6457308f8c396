//! `apps`: a table of apps.

use std::process::ExitCode;

use coppice_api::AppSummary;

use crate::args::AppsArgs;
use crate::commands::release::{history::is_wanted, text};
use crate::daemon;
use crate::error::CommandResult;
use crate::output::Table;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: AppsArgs) -> CommandResult {
    let mut apps = daemon::client(settings).await?.apps().await?;
    apps.retain(|app| is_wanted(&args.filter, &app.releases.newest));
    if settings.json {
        settings.print_json(&apps)?
    } else {
        settings.print(&table(&apps))?
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn table(apps: &[AppSummary]) -> String {
    let mut table = Table::new(&["APP", "STATE", "READY", "RELEASE", "STATUS", "ROLLOUT", "CTRL", "C/F/R"]);
    for app in apps {
        table.row(vec![
            app.name.to_string(),
            app.state.clone(),
            format!("{}/{}", app.ready, app.wanted),
            app.release.to_string(),
            app.releases.newest.status.clone(),
            app.releases.newest.rollout_state.clone(),
            app.releases.newest.rollout_control_state.clone(),
            text::counts(&app.releases.newest),
        ]);
    }
    table.render()
}
