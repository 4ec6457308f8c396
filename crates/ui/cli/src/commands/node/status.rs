//! `node status`: the node's own state. Never starts one.

use std::process::ExitCode;
use std::time::Duration;

use coppice_api::NodeStatus;
use coppice_base::Bytes;

use crate::daemon;
use crate::error::{CommandResult, FAILURE};
use crate::output::{Paint, Style, brief, visible};
use crate::settings::Settings;

/// Ends with 1 when no node runs.
pub(crate) async fn run(settings: &Settings) -> CommandResult {
    let client = match daemon::running(settings).await {
        Ok(client) => client,
        Err(error) if error.nobody_there() && !settings.json => {
            settings.print(&format!("no node runs at {}\n", settings.socket.display()))?;
            return Ok(ExitCode::from(FAILURE));
        }
        Err(error) => return Err(error.into()),
    };
    let status = client.node().await?;
    if settings.json {
        settings.print_json(&status)?
    } else {
        settings.print(&text(&status, &settings.stdout))?
    }
    Ok(ExitCode::SUCCESS)
}

fn text(status: &NodeStatus, style: &Style) -> String {
    let up = brief(Duration::from_millis(status.uptime_ms));
    let rows = [
        ("node", format!("version {}, pid {}, up {up}", status.version, status.pid)),
        ("launcher", format!("version {}, pid {}", status.launcher_version, status.launcher_pid)),
        ("root", status.root.clone()),
        ("socket", status.socket.clone()),
        ("cgroup", status.cgroup.clone()),
        ("network", format!("{} {}", status.bridge, status.subnet)),
        ("apps", status.apps.to_string()),
        ("containers", format!("{} running of {}", status.containers_running, status.containers_total)),
        ("images", format!("{}, {}", status.images, Bytes(status.images_bytes))),
    ];
    let mut text: String = rows
        .iter()
        .map(|(key, value)| format!("{} {}\n", style.paint(Paint::Dim, &format!("{key:11}")), visible(value)))
        .collect();
    for word in &status.words {
        text.push_str(&format!("{} {}\n", style.paint(Paint::Yellow, "warning:"), visible(word)));
    }
    text
}
