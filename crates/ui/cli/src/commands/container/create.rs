//! `create`: a container that does not run yet.

use std::process::ExitCode;

use coppice_api::RunRequest;

use super::run::{warn, with_image};
use crate::args::CreateArgs;
use crate::error::CommandResult;
use crate::settings::Settings;
use crate::{daemon, spec, terminal};

pub(crate) async fn run(settings: &Settings, args: CreateArgs) -> CommandResult {
    let spec = spec::of(args.container, args.remove, |name| std::env::var(name).ok())?;
    let size = if spec.tty { terminal::standard_size() } else { None };
    let client = daemon::client(settings).await?;
    let mut request = RunRequest { spec, start: false, size };
    let created = with_image(settings, &client, &mut request, async |request| client.create(request).await).await?;
    warn(settings, &created);
    if settings.json {
        settings.print_json(&created)?;
    } else {
        settings.print(&format!("{}\n", created.id))?;
    }
    Ok(ExitCode::SUCCESS)
}
