//! `version`: this program's, and the node's when one runs.

use std::process::ExitCode;

use coppice_api::{API, VersionReply};
use serde::Serialize;

use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

#[derive(Serialize)]
struct Versions {
    version: &'static str,
    api: u32,
    /// `null`: none runs, or it cannot be asked.
    node: Option<VersionReply>,
}

pub(crate) async fn run(settings: &Settings) -> CommandResult {
    let node = match daemon::running(settings).await {
        Ok(client) => client.version().await.ok(),
        Err(_) => None,
    };
    let versions = Versions { version: env!("CARGO_PKG_VERSION"), api: API, node };
    if settings.json {
        settings.print_json(&versions)?;
    } else {
        let node = match &versions.node {
            Some(reply) => format!("node {}", reply.version),
            None => "no node runs".to_owned(),
        };
        settings.print(&format!("coppice {} (API {API}); {node}\n", versions.version))?;
    }
    Ok(ExitCode::SUCCESS)
}
