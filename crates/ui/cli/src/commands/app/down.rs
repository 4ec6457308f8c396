//! `down`: an app stopped and gone.

use std::process::ExitCode;

use coppice_client::Client;

use crate::args::DownArgs;
use crate::error::{CommandError, CommandResult, eprint_all};
use crate::settings::Settings;
use crate::{daemon, place};

pub(crate) async fn run(settings: &Settings, args: DownArgs) -> CommandResult {
    let mut apps = place::app_names(settings, args.app.as_deref(), &args.manifest)?;
    // What came up last goes first.
    apps.reverse();
    let client = daemon::client(settings).await?;
    let mut code = ExitCode::SUCCESS;
    for app in &apps {
        match take_down(settings, &client, app, args.volumes).await {
            // One that is not there keeps none of the others from going.
            Err(error) if apps.len() > 1 => code = error.report_of(app, &settings.stderr),
            taken => taken?,
        }
    }
    Ok(code)
}

async fn take_down(settings: &Settings, client: &Client, app: &str, volumes: bool) -> Result<(), CommandError> {
    if settings.stderr.terminal {
        eprint_all(&format!("stopping {app}…\n"));
    }
    let all = client.previews().await?;
    let previews: Vec<String> =
        all.iter().filter(|one| one.of.as_str() == app).map(|one| one.name.to_string()).collect();
    if !previews.is_empty() {
        eprint_all(&format!("{app}: its previews go with it, and their data: {}\n", previews.join(", ")));
    }
    client.remove_app(app, volumes).await?;
    if settings.json {
        return settings.print_json(&serde_json::json!({ "app": app, "volumes_removed": volumes }));
    }
    let volumes = if volumes { "and its volumes are" } else { "is" };
    settings.print(&format!("{app} {volumes} gone\n"))
}
