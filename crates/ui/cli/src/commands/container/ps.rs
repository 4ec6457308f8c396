//! `ps`: a table of containers.

use std::process::ExitCode;

use coppice_api::{ContainerState, ContainerSummary, HealthState, PortDetail};
use coppice_base::{Clock, SystemClock, Timestamp};

use crate::args::PsArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Table, ago, shortened, spoken};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: PsArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let containers = client.containers(args.all, args.app.as_deref()).await?;
    if settings.json {
        settings.print_json(&containers)?;
    } else if args.quiet {
        let ids: String = containers.iter().map(|c| format!("{}\n", short(&c.id, args.no_trunc))).collect();
        settings.print(&ids)?;
    } else {
        settings.print(&table(&containers, args.no_trunc, SystemClock.now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn short(id: &str, whole: bool) -> &str {
    if whole { id } else { id.get(..12).unwrap_or(id) }
}

/// The table, as docker's.
pub(crate) fn table(containers: &[ContainerSummary], whole: bool, now: Timestamp) -> String {
    let mut table = Table::new(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAME"]);
    for container in containers {
        let command = container.command.join(" ");
        table.row(vec![
            short(&container.id, whole).to_owned(),
            if whole { container.image.clone() } else { shortened(&container.image, 40) },
            if whole { command } else { shortened(&command, 30) },
            ago(container.created_at, now),
            status(container, now),
            ports(&container.ports),
            container.name.clone(),
        ]);
    }
    table.render()
}

fn status(container: &ContainerSummary, now: Timestamp) -> String {
    let up = || format!("Up {}", spoken(now.since(container.started_at.unwrap_or(now))));
    let health = match container.health {
        HealthState::None => "",
        HealthState::Starting => " (health: starting)",
        HealthState::Healthy => " (healthy)",
        HealthState::Unhealthy => " (unhealthy)",
    };
    match container.state {
        ContainerState::Created => "Created".to_owned(),
        ContainerState::Running => up() + health,
        ContainerState::Paused => up() + " (paused)",
        ContainerState::Exited => {
            let code = container.exit_code.map_or_else(|| "?".to_owned(), |code| code.to_string());
            let when = container.finished_at.map_or_else(String::new, |at| format!(" {}", ago(at, now)));
            format!("Exited ({code}){when}")
        }
    }
}

/// `0.0.0.0:8080->80/tcp, …`.
pub(crate) fn ports(ports: &[PortDetail]) -> String {
    let one = |port: &PortDetail| {
        let ip = match port.host_ip.as_str() {
            "" => "*".to_owned(),
            v6 if v6.contains(':') => format!("[{v6}]"),
            v4 => v4.to_owned(),
        };
        format!("{ip}:{}->{}/{}", port.host, port.container, port.protocol)
    };
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}
