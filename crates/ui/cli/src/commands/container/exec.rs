//! `exec`: a command in a container that runs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use coppice_api::ExecRequest;

use super::run::{finish, refuse_terminal_without_one};
use crate::args::ExecArgs;
use crate::args::values::Env;
use crate::attach::{self, Standard};
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;
use crate::{daemon, spec, terminal};

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
    refuse_terminal_without_one(args.tty && args.interactive && !args.detach)?;
    let mut words = args.words.into_iter();
    let container = words.next().expect("clap requires two words");
    let mut given = BTreeMap::new();
    for file in &args.env_file {
        spec::read_env_file(file, &|name| std::env::var(name).ok(), &mut given)?;
    }
    given.extend(args.env.into_iter().filter_map(|Env(key, value)| {
        let value = value.or_else(|| std::env::var(&key).ok())?;
        Some((key, value))
    }));
    let request = ExecRequest {
        command: words.collect(),
        env: given.into_iter().map(|(key, value)| format!("{key}={value}")).collect(),
        user: args.user,
        working_dir: args.workdir,
        tty: args.tty,
        interactive: args.interactive && !args.detach,
        size: if args.tty { terminal::standard_size() } else { None },
        privileged: args.privileged,
        detach: args.detach,
    };
    let client = daemon::client(settings).await?;
    if args.detach {
        return Ok(client.exec_detached(&container, &request).await.map(|()| ExitCode::SUCCESS)?);
    }
    let attached = client.exec(&container, &request).await?;
    let mut standard = Standard::new(settings.stderr);
    let caller = standard.caller(args.interactive, args.tty, true);
    // No container for signals: they are for the command, not for the container's own process.
    let ending = attach::carry(&client, None, attached.stream, caller).await;
    finish(settings, &container, ending)
}
