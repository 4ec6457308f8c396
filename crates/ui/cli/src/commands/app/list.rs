//! `apps`: a table of apps.

use std::process::ExitCode;

use coppice_api::AppSummary;

use crate::daemon;
use crate::error::CommandResult;
use crate::output::Table;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings) -> CommandResult {
    let apps = daemon::client(settings).await?.apps().await?;
    if settings.json {
        settings.print_json(&apps)?
    } else {
        settings.print(&table(&apps))?
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn table(apps: &[AppSummary]) -> String {
    let mut table = Table::new(&["APP", "STATE", "READY", "RELEASE"]);
    for app in apps {
        table.row(vec![
            app.name.to_string(),
            app.state.clone(),
            format!("{}/{}", app.ready, app.wanted),
            app.release.to_string(),
        ]);
    }
    table.render()
}
