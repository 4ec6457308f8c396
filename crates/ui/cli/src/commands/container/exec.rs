//! `exec`: a command in a container that runs.

use std::process::ExitCode;

use coppice_api::ExecRequest;

use super::run::{finish, refuse_terminal_without_one};
use crate::args::ExecArgs;
use crate::args::values::Env;
use crate::attach::{self, Standard};
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;
use crate::{daemon, terminal};

pub(crate) async fn run(settings: &Settings, args: ExecArgs) -> CommandResult {
    match attempt(settings, args).await {
        Ok(code) => Ok(code),
        Err(error) => {
            let code = error.run_code();
            Ok(error.report_as(&settings.stderr, code))
        }
    }
}

async fn attempt(settings: &Settings, args: ExecArgs) -> Result<ExitCode, CommandError> {
    refuse_terminal_without_one(args.tty && args.interactive)?;
    let mut words = args.words.into_iter();
    let container = words.next().expect("clap requires two words");
    let given = args.env.into_iter().filter_map(|Env(key, value)| {
        let value = value.or_else(|| std::env::var(&key).ok())?;
        Some(format!("{key}={value}"))
    });
    let request = ExecRequest {
        command: words.collect(),
        env: given.collect(),
        user: args.user,
        working_dir: args.workdir,
        tty: args.tty,
        interactive: args.interactive,
        size: if args.tty { terminal::standard_size() } else { None },
        privileged: args.privileged,
    };
    let client = daemon::client(settings).await?;
    let attached = client.exec(&container, &request).await?;
    let mut standard = Standard::new();
    let caller = standard.caller(args.interactive, args.tty, true);
    // No container for signals: they are for the command, not for the container's own process.
    let ending = attach::carry(&client, None, attached.stream, caller).await;
    finish(settings, &container, ending)
}
