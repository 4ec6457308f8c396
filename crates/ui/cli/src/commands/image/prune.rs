//! `prune`: images nothing uses, away.

use std::process::ExitCode;

use coppice_api::PruneRequest;
use coppice_base::Bytes;

use crate::args::PruneArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::output::visible;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: PruneArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let request = PruneRequest { all: args.all, budget_bytes: args.budget.map(|budget| budget.0) };
    let reply = client.prune(&request).await?;
    if settings.json {
        settings.print_json(&reply)?;
    } else {
        let mut text: String = reply.images.iter().map(|image| format!("deleted: {}\n", visible(image))).collect();
        text.push_str(&format!("{} images removed, {} freed\n", reply.images.len(), Bytes(reply.freed_bytes)));
        settings.print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
