//! `node stop`: the daemon ends; containers only with --all.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use coppice_api::StopNodeRequest;

use crate::args::NodeStopArgs;
use crate::daemon;
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;

/// After it has agreed to stop, the daemon only closes its files.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn run(settings: &Settings, args: NodeStopArgs) -> CommandResult {
    let client = match daemon::running(settings).await {
        Ok(client) => client,
        Err(error) if error.nobody_there() && args.all => {
            return Err(CommandError::Failed {
                what: "no node runs, so nothing can be told to stop its containers".into(),
                help: Some("`coppice node start`, then `coppice node stop --all`".into()),
            });
        }
        Err(error) if error.nobody_there() => return said(settings, "no node runs"),
        Err(error) => return Err(error.into()),
    };
    let pid = client.node().await?.pid;
    client.stop_node(&StopNodeRequest { containers: args.all }).await?;
    let deadline = Instant::now() + STOP_LIMIT;
    while alive(pid) {
        if Instant::now() >= deadline {
            return Err(CommandError::Failed {
                what: format!("the node (pid {pid}) agreed to stop and has not within {} s", STOP_LIMIT.as_secs()),
                help: Some(format!("`kill {pid}`; containers go on")),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
    said(settings, if args.all { "node stopped, and all its containers" } else { "node stopped; containers go on" })
}

fn said(settings: &Settings, words: &str) -> CommandResult {
    if settings.json {
        settings.print_json(&serde_json::json!({ "stopped": true }))?;
    } else {
        settings.print(&format!("{words}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn alive(pid: u32) -> bool {
    // A zombie (its parent has not looked yet) has stopped.
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}
