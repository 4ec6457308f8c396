//! `run-worker`: a worker once more, its output here, its exit code ours.

use std::io::Write;
use std::process::ExitCode;

use coppice_api::{ErrorKind, LogQuery};
use coppice_client::{Client, ClientError, LogFilter};

use crate::args::RunWorkerArgs;
use crate::commands::container::logs::{Merge, Printer};
use crate::error::{CommandError, CommandResult, eprint_all};
use crate::output::{Paint, visible};
use crate::settings::Settings;
use crate::{daemon, place};

pub(crate) async fn run(settings: &Settings, args: RunWorkerArgs) -> CommandResult {
    let (app, worker) = named(settings, &args)?;
    let client = daemon::client(settings).await?;
    let begun = client.run_worker(&app, &worker).await.map_err(refused)?;
    if args.detach {
        if settings.json {
            settings.print_json(&begun)?;
        } else {
            settings.print(&format!("{}\n", begun.container))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !settings.json {
        show(settings, &client, &begun.container).await?;
    }
    let ended = client.wait(&begun.container).await?;
    if settings.json {
        settings.print_json(&ended)?;
    } else if let Some(error) = &ended.error {
        eprint_all(&format!("{} {}\n", settings.stderr.paint(Paint::Red, "error:"), visible(error)));
    }
    Ok(ExitCode::from(ended.code))
}

/// What is not there was not run, which the exit code of a worker does not say.
fn refused(error: ClientError) -> CommandError {
    match error {
        ClientError::Api(error) if error.kind == ErrorKind::NotFound => {
            CommandError::Usage { what: error.message, help: None }
        }
        other => other.into(),
    }
}

/// The app and the worker: both named, `APP/WORKER`, or one of the manifest here.
fn named(settings: &Settings, args: &RunWorkerArgs) -> Result<(String, String), CommandError> {
    let (first, second) = match (&args.app, args.name.split_once('/')) {
        (Some(app), _) => return Ok((app.clone(), args.name.clone())),
        (None, Some((app, worker))) => return Ok((app.to_owned(), worker.to_owned())),
        (None, None) => (&args.name, &args.manifest),
    };
    let apps = place::apps(settings, second)?;
    let has = |app: &&coppice_spec::AppSpec| app.workers.contains_key(first.as_str());
    match (apps.iter().find(has), &apps[..]) {
        (Some(app), _) => Ok((app.name.to_string(), first.clone())),
        // The node says what it is, and which there are.
        (None, [app]) => Ok((app.name.to_string(), first.clone())),
        (None, _) => Err(CommandError::usage(
            format!("no app of {} has a worker {first:?}", second.file.display()),
            "name the app, too: coppice run-worker APP NAME",
        )),
    }
}

/// What the container writes, until it has ended.
async fn show(settings: &Settings, client: &Client, container: &str) -> Result<(), CommandError> {
    let query = LogQuery { since: None, until: None, tail: None, follow: true };
    let filter = LogFilter { query, stdout: true, stderr: true };
    let mut lines = Merge::new(vec![client.container_logs(container, &filter).await?]);
    let mut printer = Printer::plain(settings.stdout);
    let stdout = std::io::stdout();
    let mut out = std::io::BufWriter::new(stdout.lock());
    while let Some(line) = lines.next(&mut out).await? {
        printer.print(&line, &mut out).map_err(CommandError::Output)?;
    }
    out.flush().map_err(CommandError::Output)
}
