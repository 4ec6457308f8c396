//! What the node knows, in the API's words. Reading only.

mod release;

use std::time::Duration;

use coppice_api::{
    AppStatus, AppSummary, ChildStatus, ContainerDetail, ContainerSummary, HealthState, HistoryEntry, ImageDetail,
    ImageSummary, MountDetail, PreviewOf, SupervisorStatus,
};
use coppice_base::Timestamp;
use coppice_image::Image;
use coppice_spec::{MountSource, Strategy};
use coppice_supervise::{self as supervise, ChildState, MemberStatus, Overall, What};

use crate::app::App;
use crate::container::{Container, Owner, Phase, exit_text, port_detail};
use crate::containers::Containers;
use crate::error::NodeError;
use crate::prepare;

pub(crate) use release::{InstanceDoing, entry, history, manifest_hash, release_status};

pub(crate) fn container_summary(container: &Container) -> ContainerSummary {
    let record = container.record();
    let (started_at, finished_at) = match &record.phase {
        Phase::Running { started_at, .. } => (Some(*started_at), None),
        Phase::Exited { started_at, exit, .. } => (*started_at, Some(exit.at)),
        _ => (None, None),
    };
    let (app, workload) = match &record.owner {
        Owner::AdHoc => (None, None),
        Owner::App { app, workload, .. } => (Some(app.to_string()), Some(workload.to_string())),
    };
    ContainerSummary {
        id: record.id.to_string(),
        name: record.name.clone(),
        app,
        workload,
        image: record.spec.workload.image.clone(),
        command: record.spec.workload.command.clone(),
        state: record.phase.state(),
        health: if record.phase.is_running() { container.health() } else { HealthState::None },
        pid: record.phase.pid(),
        exit_code: record.phase.exit().map(|exit| exit.code),
        created_at: record.created_at,
        started_at,
        finished_at,
        address: record.address.map(|address| address.to_string()),
        ports: record.ports(),
    }
}

/// `restarts`: those that nobody asked for, which its supervisor counts.
pub(crate) fn container_detail(
    containers: &Containers,
    container: &Container,
    restarts: u32,
) -> Result<ContainerDetail, NodeError> {
    let record = container.record();
    let image = containers.image(&record.image_id)?;
    let hostname = prepare::hostname(&record.spec, &record.name);
    let workload = &record.spec.workload;
    let volumes = prepare::volumes(&record.spec, &image.config);
    let mut mounts: Vec<MountDetail> = volumes
        .into_iter()
        .map(|mount| {
            let (kind, source) = match mount.source {
                MountSource::Host(path) => ("bind", path),
                MountSource::Volume(name) => ("volume", name.to_string()),
                MountSource::Anonymous => ("volume", String::new()),
            };
            MountDetail { kind: kind.to_owned(), source, target: mount.target, read_only: mount.read_only }
        })
        .collect();
    mounts.extend(workload.tmpfs.keys().map(|target| MountDetail {
        kind: "tmpfs".to_owned(),
        source: String::new(),
        target: target.clone(),
        read_only: false,
    }));
    let capabilities = coppice_container::capabilities(&workload.cap_add, &workload.cap_drop, workload.privileged)
        .map_err(prepare::PrepareError::from)?;
    let exit = record.phase.exit();
    Ok(ContainerDetail {
        summary: container_summary(container),
        image_id: record.image_id.clone(),
        hostname: hostname.clone(),
        user: workload.user.clone().unwrap_or_else(|| image.config.user.clone()),
        working_dir: workload.working_dir.clone().unwrap_or_else(|| image.config.working_dir.clone()),
        env: prepare::environment(&record.spec, &image.config, &hostname),
        args: prepare::arguments(&record.spec, &image.config)?,
        mounts,
        uid_first: record.ids().first,
        uid_count: record.ids().count,
        capabilities: coppice_container::capabilities::capability_names(capabilities)
            .into_iter()
            .map(str::to_owned)
            .collect(),
        log_path: containers.root.container(&record.id).join("log/container.log").display().to_string(),
        restarts,
        oom_killed: exit.is_some_and(|exit| exit.oom),
        signal: exit.and_then(|exit| exit.signal),
        words: record.words.clone(),
        spec: record.spec,
    })
}

pub(crate) fn app_summary(app: &App) -> AppSummary {
    let status = app_status(app);
    let (mut ready, mut wanted) = (0, 0);
    let mut count = |child: &ChildStatus| {
        if child.state != "stopped" {
            wanted += 1;
            ready += u32::from(child.ready || child.state == "completed");
        }
    };
    status.tree.children.iter().for_each(&mut count);
    status.tree.groups.iter().flat_map(|group| &group.children).for_each(&mut count);
    AppSummary {
        name: status.name,
        release: status.release,
        state: status.state,
        ready,
        wanted,
        releases: status.releases,
    }
}

/// How long an instance that failed before must run until `up` believes in it.
const STEADY: Duration = Duration::from_secs(1);

/// How long one that has not failed must: programs that cannot run mostly end at once.
const STANDING: Duration = Duration::from_millis(200);

pub(crate) fn app_status(app: &App) -> AppStatus {
    let wanted = app.wanted();
    let (tree, stuck) = app.supervisor().read(|machine| (machine.status(), machine.stuck()));
    let reason = match (&tree.failed, &stuck[..], tree.overall) {
        (Some(escalation), ..) => Some(escalation.to_string()),
        (None, [first, ..], _) => Some(first.to_string()),
        (None, [], Overall::Ready | Overall::Stopped) => None,
        (None, [], _) => first_trouble(&tree.root),
    };
    // A worker that runs may still fail.
    let working = members(&tree.root).into_iter().any(|child| {
        matches!(child.state, ChildState::Running { .. }) && wanted.spec().workers.contains_key(child.key.as_str())
    });
    // One that was started a moment ago has yet to show that it stays, unless its health check did; all the more after a
    // failure.
    let now = app.now();
    let is_healthy =
        |key: &str| app.view(key).container.is_some_and(|container| container.health() == HealthState::Healthy);
    let shaky = members(&tree.root).into_iter().any(|child| {
        let until_believed = match child.attempt {
            0 if is_healthy(&child.key) => Duration::ZERO,
            0 => STANDING,
            _ => STEADY,
        };
        matches!(child.state, ChildState::Running { .. }) && now.since(child.since) < until_believed
    });
    let settled = match tree.overall {
        Overall::Ready => !working && !shaky,
        Overall::Stopped | Overall::Failed => true,
        Overall::Starting | Overall::Stopping => false,
        // All that can still get up has: what is left will not.
        Overall::Degraded => !stuck.is_empty() && !working && !is_moving(&tree.root),
    } && tree.leaving.is_empty()
        // A rollout that rests is left as it is.
        && wanted.rollout().is_none_or(|(record, _)| record.progress.blocked.is_some());
    let current = wanted.current();
    let (state, reason) = match (current.is_void(), &current.verdict) {
        (true, Some(coppice_state::Verdict::Failed { reason })) => {
            ("failed".to_owned(), Some(format!("release {} failed: {reason}", current.number)))
        }
        _ => (tree.overall.to_string(), reason),
    };
    let mut root = supervisor_status(app, &tree.root);
    root.name = app.name.to_string();
    AppStatus {
        name: app.name.clone(),
        release: wanted.current().number,
        applied_at: wanted.current().created_at,
        state,
        reason,
        settled,
        tree: root,
        preview: wanted.state().preview.as_ref().map(|preview| PreviewOf {
            of: preview.of.clone(),
            name: preview.name.clone(),
            until: preview.until,
        }),
        releases: release_status(wanted.state(), &|instance| doing(app, instance)),
    }
}

/// What a release that replaced nothing has to say of an instance.
pub(crate) fn doing(app: &App, instance: &str) -> Option<InstanceDoing> {
    app.supervisor().read(|machine| machine.status_of(&instance.to_owned())).map(|status| (&status.state).into())
}

pub(crate) fn members(supervisor: &supervise::SupervisorStatus<String>) -> Vec<&supervise::ChildStatus<String>> {
    let each = supervisor.members.iter().flat_map(|member| match member {
        MemberStatus::Child(child) => vec![child],
        MemberStatus::Supervisor(group) => members(group),
    });
    each.collect()
}

fn is_moving(supervisor: &supervise::SupervisorStatus<String>) -> bool {
    members(supervisor).into_iter().any(|child| {
        matches!(child.state, ChildState::Starting | ChildState::Stopping | ChildState::Backoff { .. })
            || matches!(child.state, ChildState::Running { ready: false, .. })
    })
}

fn first_trouble(supervisor: &supervise::SupervisorStatus<String>) -> Option<String> {
    members(supervisor).into_iter().find_map(|child| match &child.state {
        ChildState::Backoff { .. } => Some(format!("{}: {}", child.key, cause_text(child))),
        ChildState::Running { ready: true, .. } | ChildState::Completed | ChildState::Stopped => None,
        other => Some(format!("{}: {other}", child.key)),
    })
}

fn cause_text(child: &supervise::ChildStatus<String>) -> String {
    child.cause.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn supervisor_status(app: &App, supervisor: &supervise::SupervisorStatus<String>) -> SupervisorStatus {
    let strategy = match supervisor.strategy {
        Strategy::OneForOne => "one_for_one",
        Strategy::OneForAll => "one_for_all",
        Strategy::RestForOne => "rest_for_one",
    };
    let mut status = SupervisorStatus {
        name: supervisor.name.clone(),
        strategy: strategy.to_owned(),
        restarts_in_window: supervisor.restarts_in_window,
        max_restarts: supervisor.max_restarts,
        window_ms: u64::try_from(supervisor.window.0.as_millis()).unwrap_or(u64::MAX),
        groups: Vec::new(),
        children: Vec::new(),
    };
    for member in &supervisor.members {
        match member {
            MemberStatus::Child(child) => status.children.push(child_status(app, child)),
            MemberStatus::Supervisor(group) => status.groups.push(supervisor_status(app, group)),
        }
    }
    status
}

fn child_status(app: &App, child: &supervise::ChildStatus<String>) -> ChildStatus {
    let wanted = app.wanted();
    let view = app.view(&child.key);
    let workload = app.workload_of(&child.key);
    let image = workload.as_ref().and_then(|name| wanted.spec().workload(name.as_str())).map(|w| w.image.clone());
    let (state, ready) = match &child.state {
        ChildState::Stopped => ("stopped", false),
        ChildState::Waiting { .. } => ("waiting", false),
        ChildState::Backoff { .. } => ("backoff", false),
        ChildState::Starting if view.pulling => ("pulling", false),
        ChildState::Starting => ("starting", false),
        ChildState::Running { ready, .. } => ("running", *ready),
        ChildState::Stopping => ("stopping", false),
        ChildState::Completed => ("completed", false),
        ChildState::Failed(_) => ("failed", false),
    };
    let reason = match &child.state {
        ChildState::Waiting { unmet } if !unmet.is_empty() => {
            Some(format!("waits {}", unmet.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")))
        }
        ChildState::Running { unhealthy: Some(why), .. } => Some(why.clone()),
        ChildState::Failed(failure) => Some(failure.to_string()),
        ChildState::Backoff { .. } => Some(cause_text(child)),
        // A restart says why for as long as it runs.
        _ if child.restarts > 0 => child.cause.as_ref().map(ToString::to_string),
        _ => None,
    };
    let container = view.container.as_ref();
    let record = container.map(|container| container.record());
    let running = record.as_ref().filter(|record| record.phase.is_running());
    let ports = workload.map(|name| app.ports(&name)).unwrap_or_default();
    ChildStatus {
        instance: child.key.clone(),
        workload: app.workload_of(&child.key).map(|name| name.to_string()).unwrap_or_default(),
        image: image.unwrap_or_default(),
        state: state.to_owned(),
        ready,
        health: container.filter(|_| running.is_some()).map(|c| c.health()).unwrap_or_default(),
        reason,
        since: child.since,
        next_retry: child.next_retry,
        restarts: u32::try_from(child.restarts).unwrap_or(u32::MAX),
        history: child.history.iter().filter_map(history_entry).collect(),
        container: container.map(|container| container.id.to_string()),
        container_state: record.as_ref().map(|record| record.phase.state()),
        pid: running.and_then(|record| record.phase.pid()),
        address: running.and_then(|record| record.address).map(|address| address.to_string()),
        ports: ports.iter().map(port_detail).collect(),
    }
}

fn history_entry(note: &supervise::Note<String>) -> Option<HistoryEntry> {
    let what = match &note.what {
        What::Starting { attempt: 0, cause: supervise::Cause::Requested } => return None,
        What::Starting { cause, .. } => format!("restarted: {cause}"),
        other => other.to_string(),
    };
    Some(HistoryEntry { at: note.at, what })
}

pub(crate) fn image_summary(image: &Image, containers: u32) -> ImageSummary {
    ImageSummary {
        id: image.id.to_string(),
        manifest_digest: image.manifest_digest.to_string(),
        names: image.tags.iter().map(ToString::to_string).collect(),
        size_bytes: image.size.0,
        created_at: created_at(image),
        containers,
    }
}

/// When its builder says it was made; when it came here, if the builder says nothing.
fn created_at(image: &Image) -> Timestamp {
    let said = image.config.created.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
    said.and_then(|time| u64::try_from(time.as_millisecond()).ok()).map_or(image.pulled_at, Timestamp)
}

pub(crate) fn image_detail(image: &Image, containers: u32) -> ImageDetail {
    let config = &image.config;
    let dir_name = |path: &std::path::PathBuf| {
        path.parent().and_then(|dir| dir.file_name()).unwrap_or_default().to_string_lossy().into_owned()
    };
    ImageDetail {
        summary: image_summary(image, containers),
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        exposed_ports: config.exposed_ports.clone(),
        volumes: config.volumes.clone(),
        stop_signal: config.stop_signal.clone(),
        labels: config.labels.clone(),
        health: config.healthcheck.as_ref().map(|check| check.test.clone()),
        layers: image.layers.iter().map(|path| format!("sha256:{}", dir_name(path))).collect(),
    }
}

/// One sentence on how a container ended, for `wait` and events.
pub(crate) fn exit_reply(phase: &Phase) -> Option<coppice_api::ExitReply> {
    let exit = phase.exit()?;
    let lost = matches!(phase, Phase::Exited { lost: true, .. });
    Some(coppice_api::ExitReply {
        code: exit.code,
        signal: exit.signal,
        oom: exit.oom,
        error: lost.then(|| exit_text(&exit, true)),
    })
}
