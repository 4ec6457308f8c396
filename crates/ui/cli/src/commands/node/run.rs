//! `node run`: this process becomes the node daemon.

use crate::args::NodeRunArgs;
use crate::error::CommandResult;
use crate::settings::Settings;
use crate::{Hooks, NodeOptions};

pub(crate) fn run(hooks: &Hooks, settings: &Settings, args: NodeRunArgs) -> CommandResult {
    if args.apart {
        // Fails only for a process group's leader, which is apart already as far as signals of the terminal go.
        let _ = rustix::process::setsid();
    }
    Ok((hooks.node)(NodeOptions { root: settings.root.clone(), socket: settings.socket.clone() }))
}
