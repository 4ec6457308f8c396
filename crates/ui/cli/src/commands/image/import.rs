//! `import`: an image of a root filesystem's tar.

use std::process::ExitCode;

use coppice_client::ImportOptions;

use crate::args::ImportArgs;
use crate::args::values::Env;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: ImportArgs) -> CommandResult {
    let upload = super::input(Some(&args.file))?;
    let given = args.env.into_iter().filter_map(|Env(key, value)| {
        let value = value.or_else(|| std::env::var(&key).ok())?;
        Some(format!("{key}={value}"))
    });
    let options = ImportOptions {
        name: args.name,
        base: args.base,
        command: args.cmd.map(|words| words.0),
        entrypoint: args.entrypoint.map(|words| words.0),
        env: given.collect(),
        working_dir: args.workdir,
        user: args.user,
    };
    let client = daemon::client(settings).await?;
    let reply = client.import(&options, upload).await?;
    super::taken_in(settings, &reply, false)?;
    Ok(ExitCode::SUCCESS)
}
