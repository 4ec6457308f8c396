//! `preview ls`: a table of previews.

use std::process::ExitCode;

use coppice_api::PreviewSummary;

use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Table, moment};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings) -> CommandResult {
    let previews = daemon::client(settings).await?.previews().await?;
    if settings.json {
        settings.print_json(&previews)?;
    } else {
        settings.print(&table(&previews))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(previews: &[PreviewSummary]) -> String {
    let mut table = Table::new(&["NAME", "OF", "APP", "STATE", "RELEASE", "UNTIL", "HOSTS"]);
    for preview in previews {
        let hosts = if preview.hosts.is_empty() { "-".to_owned() } else { preview.hosts.join(" ") };
        table.row(vec![
            preview.name.to_string(),
            preview.of.to_string(),
            preview.app.to_string(),
            preview.state.clone(),
            preview.release.to_string(),
            moment(preview.until),
            hosts,
        ]);
    }
    table.render()
}
