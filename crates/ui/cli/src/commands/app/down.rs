//! `down`: an app stopped and gone.

use std::process::ExitCode;

use crate::args::DownArgs;
use crate::error::{CommandResult, eprint_all};
use crate::settings::Settings;
use crate::{daemon, place};

pub(crate) async fn run(settings: &Settings, args: DownArgs) -> CommandResult {
    let mut apps = place::app_names(settings, args.app.as_deref(), &args.manifest)?;
    // What came up last goes first.
    apps.reverse();
    let client = daemon::client(settings).await?;
    for app in &apps {
        if settings.stderr.terminal {
            eprint_all(&format!("stopping {app}…\n"));
        }
        let all = client.previews().await?;
        let previews: Vec<String> =
            all.iter().filter(|one| one.of.as_str() == app).map(|one| one.name.to_string()).collect();
        if !previews.is_empty() {
            eprint_all(&format!("{app}: its previews go with it, and their data: {}\n", previews.join(", ")));
        }
        client.remove_app(app, args.volumes).await?;
        let volumes = if args.volumes { "and its volumes are" } else { "is" };
        if settings.json {
            settings.print_json(&serde_json::json!({ "app": app, "volumes_removed": args.volumes }))?;
        } else {
            settings.print(&format!("{app} {volumes} gone\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
