//! `node start`: a daemon where none runs.

use std::process::ExitCode;

use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings) -> CommandResult {
    let (client, started) = match daemon::running(settings).await {
        Ok(client) => (client, false),
        Err(error) if error.nobody_there() => daemon::start(settings).await?,
        Err(error) => return Err(error.into()),
    };
    let status = client.node().await?;
    if settings.json {
        settings.print_json(&status)?;
    } else {
        let word = if started { "started" } else { "runs already" };
        settings.print(&format!("node {word}: pid {}, socket {}\n", status.pid, settings.socket.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
