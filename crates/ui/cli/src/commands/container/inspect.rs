//! `inspect`: containers and images as JSON.

use std::process::ExitCode;

use crate::args::InspectArgs;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

/// Prints an array, also for one. A name that is a container's and an image's is the container's.
pub(crate) async fn run(settings: &Settings, args: InspectArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    let mut found = Vec::new();
    for name in &args.names {
        let container = match args.kind.as_deref() {
            Some("image") => None,
            _ => match client.container(name).await {
                Ok(detail) => Some(detail),
                Err(error) if error.not_found() && args.kind.is_none() => None,
                Err(error) => return Err(error.into()),
            },
        };
        let value = match container {
            Some(detail) => serde_json::to_value(detail),
            None => serde_json::to_value(client.image(name).await?),
        };
        found.push(value.expect("API values are plain data"));
    }
    settings.print_json(&found)?;
    Ok(ExitCode::SUCCESS)
}
