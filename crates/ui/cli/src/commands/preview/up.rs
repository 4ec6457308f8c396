//! `up --preview`: a release beside the app that runs.

use std::process::ExitCode;
use std::time::Instant;

use coppice_api::{ApplyRequest, PreviewReply, PreviewRequest};
use coppice_client::Client;

use crate::args::UpArgs;
use crate::commands::app::up::{fetch, settle, verdict};
use crate::commands::release::follow;
use crate::error::{CommandResult, eprint_all};
use crate::output::{moment, visible};
use crate::settings::Settings;

pub(crate) async fn run(
    settings: &Settings,
    client: &Client,
    request: &ApplyRequest,
    name: &str,
    args: &UpArgs,
) -> CommandResult {
    let wanted = &args.preview;
    let request = PreviewRequest {
        spec: request.spec.clone(),
        name: name.to_owned(),
        ttl_ms: wanted.time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        cpus: wanted.cpus,
        memory: wanted.memory,
        only: request.only.clone(),
    };
    fetch(settings, client, &request.spec, args.pull).await?;
    let app = format!("{}-{name}", request.spec.name);
    let reply = follow::in_turn(client, &app, client.preview(&request)).await?;
    let preview = &reply.preview;
    if args.detach && settings.json {
        settings.print_json(&reply)?;
        return Ok(ExitCode::SUCCESS);
    }
    eprint_all(&text(&reply));
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = Instant::now() + args.timeout;
    let arrival = settle(settings, client, preview.app.as_str(), preview.release, deadline, reply.changed).await?;
    verdict(settings, &arrival, args.timeout)
}

fn text(reply: &PreviewReply) -> String {
    let preview = &reply.preview;
    let app = &preview.app;
    let hosts = if preview.hosts.is_empty() {
        String::new()
    } else {
        format!(", answering for {}", visible(&preview.hosts.join(", ")))
    };
    let mut text =
        format!("{app}: preview {} of {} until {}{hosts}\n", preview.name, preview.of, moment(preview.until));
    for word in &reply.words {
        text.push_str(&format!("{app}: {}\n", visible(word)));
    }
    if !reply.changed {
        text.push_str(&format!("{app}: nothing has changed since release {}\n", preview.release));
    }
    text
}
