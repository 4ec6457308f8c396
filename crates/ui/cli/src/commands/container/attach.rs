//! `attach`: the caller's terminal on a container that runs.

use std::io::IsTerminal;

use super::run::finish;
use crate::args::AttachArgs;
use crate::attach::{self, Standard};
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: AttachArgs) -> CommandResult {
    let client = daemon::client(settings).await?;
    // What the container was made with decides whether it has a terminal and takes input.
    let detail = client.container(&args.container).await?;
    let attached = client.attach(&args.container).await?;
    let tty = detail.spec.tty && std::io::stdin().is_terminal();
    let interactive = detail.spec.interactive && !args.no_stdin;
    let mut standard = Standard::new(settings.stderr);
    let caller = standard.caller(interactive, tty, !args.no_signals);
    let ending = attach::carry(&client, Some(&detail.summary.id), attached.stream, caller).await;
    finish(settings, &args.container, ending)
}
