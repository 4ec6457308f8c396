//! `ps`: a table of containers.

use std::process::ExitCode;

use coppice_api::{ContainerState, ContainerSummary, HealthState, PortDetail};
use coppice_base::{Clock, SystemClock, Timestamp};

use crate::args::PsArgs;
use crate::args::values::{Filter, FilterKey};
use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Table, ago, shortened, spoken};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: PsArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    // As with docker, asking for a status asks among all.
    let all = args.all || args.filter.iter().any(|filter| filter.key == FilterKey::Status);
    let mut containers = client.containers(all, args.app.as_deref()).await?;
    containers.retain(|container| passes(container, &args.filter));
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

/// Of filters with one key any has to hold, of different keys all.
fn passes(container: &ContainerSummary, filters: &[Filter]) -> bool {
    let holds = |filter: &Filter| {
        let value = filter.value.as_str();
        match filter.key {
            FilterKey::Id => container.id.starts_with(value),
            // A part of it, as docker does.
            FilterKey::Name => container.name.contains(value),
            FilterKey::Status => state(container.state) == value,
            FilterKey::Health => health(container.health) == value,
            FilterKey::Ancestor => container.image == value || container.image.split([':', '@']).next() == Some(value),
            FilterKey::App => container.app.as_deref() == Some(value),
        }
    };
    filters.iter().all(|one| filters.iter().any(|other| other.key == one.key && holds(other)))
}

fn state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Exited => "exited",
    }
}

fn health(health: HealthState) -> &'static str {
    match health {
        HealthState::None => "none",
        HealthState::Starting => "starting",
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, state: ContainerState) -> ContainerSummary {
        ContainerSummary {
            id: "0123456789abcdef".into(),
            name: name.into(),
            app: None,
            workload: None,
            image: "redis:7".into(),
            command: vec!["redis-server".into(), "--appendonly".into(), "yes".into(), "--port".into(), "6379".into()],
            state,
            health: HealthState::None,
            pid: None,
            exit_code: None,
            created_at: Timestamp(1_000),
            started_at: None,
            finished_at: None,
            address: None,
            ports: vec![],
        }
    }

    #[test]
    fn containers_are_listed_as_docker_lists_them() {
        let mut web = container("shop.web-1", ContainerState::Running);
        web.started_at = Some(Timestamp(61_000));
        web.health = HealthState::Healthy;
        web.ports = vec![
            PortDetail { host_ip: String::new(), host: 8080, container: 80, protocol: "tcp".into() },
            PortDetail { host_ip: "::1".into(), host: 53, container: 53, protocol: "udp".into() },
        ];
        let mut job = container("job", ContainerState::Exited);
        job.exit_code = Some(137);
        job.finished_at = Some(Timestamp(118_000));
        let mut frozen = container("frozen", ContainerState::Paused);
        frozen.started_at = Some(Timestamp(1_000));
        let list = [web, job, frozen, container("new", ContainerState::Created)];
        insta::assert_snapshot!(table(&list, false, Timestamp(121_000)), @r"
        CONTAINER ID  IMAGE    COMMAND                         CREATED        STATUS                       PORTS                             NAME
        0123456789ab  redis:7  redis-server --appendonly yes…  2 minutes ago  Up About a minute (healthy)  *:8080->80/tcp, [::1]:53->53/udp  shop.web-1
        0123456789ab  redis:7  redis-server --appendonly yes…  2 minutes ago  Exited (137) 3 seconds ago                                     job
        0123456789ab  redis:7  redis-server --appendonly yes…  2 minutes ago  Up 2 minutes (paused)                                          frozen
        0123456789ab  redis:7  redis-server --appendonly yes…  2 minutes ago  Created                                                        new
        ");
    }
}
