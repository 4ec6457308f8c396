//! `preview promote|discard`: the two ends of a preview before its time.

use std::process::ExitCode;

use super::find;
use crate::args::PreviewNameArgs;
use crate::commands::release::follow;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn promote(settings: &Settings, args: PreviewNameArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let preview = find(&client, &args.preview).await?;
    let (name, of, app) = (&preview.name, preview.of.as_str(), preview.app.as_str());
    let reply = follow::in_turn(&client, of, client.promote_preview(app)).await?;
    if settings.json {
        settings.print_json(&reply)?;
    } else {
        let said = if reply.changed {
            format!("release {} is what preview {name} was", reply.release)
        } else {
            format!("release {} is what preview {name} was already", reply.release)
        };
        settings.print(&format!("{of}: {said}, on the data that {of} has; the preview and its data are gone\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn discard(settings: &Settings, args: PreviewNameArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let preview = find(&client, &args.preview).await?;
    client.discard_preview(preview.app.as_str()).await?;
    if settings.json {
        settings.print_json(&preview)?;
    } else {
        settings.print(&format!("preview {} of {} and its data are gone\n", preview.name, preview.of))?;
    }
    Ok(ExitCode::SUCCESS)
}
