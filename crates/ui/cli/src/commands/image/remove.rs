//! `rmi`: names of images away, and images that have none left.

use std::process::ExitCode;

use coppice_base::Bytes;

use crate::args::RmiArgs;
use crate::daemon;
use crate::error::{CommandResult, FAILURE};
use crate::output::visible;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: RmiArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let mut replies = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in &args.images.names {
        match client.remove_image(name, args.force).await {
            Ok(reply) => replies.push(reply),
            Err(error) if args.images.names.len() == 1 => return Err(error.into()),
            Err(error) => {
                crate::error::CommandError::from(error).report(&settings.stderr);
                code = ExitCode::from(FAILURE);
            }
        }
    }
    if settings.json {
        settings.print_json(&replies)?;
        return Ok(code);
    }
    let mut text = String::new();
    for reply in &replies {
        text.extend(reply.untagged.iter().map(|name| format!("untagged: {}\n", visible(name))));
        text.extend(reply.deleted.iter().map(|id| format!("deleted: {id}\n")));
        if reply.freed_bytes > 0 {
            text.push_str(&format!("freed: {}\n", Bytes(reply.freed_bytes)));
        }
    }
    settings.print(&text)?;
    Ok(code)
}
