//! `status`: an app's tree, or all apps'.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use coppice_api::AppStatus;
use coppice_base::{Clock, SystemClock};
use coppice_client::Client;

use super::tree;
use crate::args::StatusArgs;
use crate::commands::network;
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;
use crate::{daemon, place};

/// Between two looks with --watch.
const INTERVAL: Duration = Duration::from_millis(500);

pub(crate) async fn run(settings: &Settings, args: StatusArgs) -> CommandResult {
    let file = &args.manifest.file;
    let here = file == Path::new(place::MANIFEST) && args.app.is_none();
    let named = match args.app.or(args.manifest.app.clone()) {
        Some(app) => vec![app],
        None if here && !file.exists() => Vec::new(),
        None => place::app_names(settings, None, &args.manifest)?,
    };
    let client = daemon::client(settings).await?;
    let clear = if args.watch && settings.stdout.terminal && !settings.json { "\x1b[H\x1b[J" } else { "" };
    loop {
        if args.network {
            show_network(settings, &client, &named, args.watch, clear).await?;
            if !args.watch {
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(INTERVAL).await;
            continue;
        }
        let (apps, missing) = look(&client, &named).await?;
        if settings.json && args.watch {
            settings.print_json_line(&apps)?;
        } else if settings.json {
            match (&named[..], apps.as_slice()) {
                ([_], [app]) => settings.print_json(app)?,
                _ => settings.print_json(&apps)?,
            }
        } else {
            settings.print(&format!("{clear}{}", text(settings, &apps)))?;
        }
        if !args.watch {
            let code = |_, error: CommandError| error.report(&settings.stderr);
            return Ok(missing.into_iter().fold(ExitCode::SUCCESS, code));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn show_network(
    settings: &Settings,
    client: &Client,
    named: &[String],
    watch: bool,
    clear: &str,
) -> Result<(), CommandError> {
    let mut status = client.network().await?;
    for app in named {
        // One that is not there is missed by name.
        client.app(app).await?;
    }
    if let [app] = named {
        network::status::only(&mut status, app);
    }
    match (settings.json, watch) {
        (true, true) => settings.print_json_line(&status),
        (true, false) => settings.print_json(&status),
        (false, _) => settings.print(&format!("{clear}{}", network::status::text(&status, &settings.stdout))),
    }
}

/// The apps, and why some of several are not among them.
async fn look(client: &Client, named: &[String]) -> Result<(Vec<AppStatus>, Vec<CommandError>), CommandError> {
    let (mut apps, mut missing) = (Vec::new(), Vec::new());
    for app in named {
        match client.app(app).await {
            Ok(app) => apps.push(app),
            Err(error) if error.not_found() && named.len() > 1 => missing.push(error.into()),
            Err(error) => return Err(error.into()),
        }
    }
    if !named.is_empty() {
        return Ok((apps, missing));
    }
    for summary in client.apps().await? {
        match client.app(summary.name.as_str()).await {
            Ok(app) => apps.push(app),
            // Removed between the two requests.
            Err(error) if error.not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok((apps, missing))
}

fn text(settings: &Settings, apps: &[AppStatus]) -> String {
    if apps.is_empty() {
        return "no apps; `coppice up` brings one up\n".to_owned();
    }
    let now = SystemClock.now();
    let trees: Vec<String> = apps.iter().map(|app| tree::render(app, true, &settings.stdout, now)).collect();
    trees.join("\n")
}
