//! `run`: a new container, its output here, its exit code ours.

use std::io::IsTerminal;
use std::process::ExitCode;

use coppice_api::{Created, RunRequest};
use coppice_client::{Client, ClientError};
use coppice_spec::PullPolicy;

use crate::args::RunArgs;
use crate::attach::{self, Ending, Standard};
use crate::error::{CommandError, CommandResult, RUN_FAILURE, eprint_all};
use crate::output::{Paint, visible};
use crate::settings::Settings;
use crate::{daemon, spec, terminal, transfer};

pub(crate) async fn run(settings: &Settings, args: RunArgs) -> CommandResult {
    match attempt(settings, args).await {
        Ok(code) => Ok(code),
        Err(error) => {
            let code = error.run_code();
            Ok(error.report_as(&settings.stderr, code))
        }
    }
}

async fn attempt(settings: &Settings, args: RunArgs) -> CommandResult {
    let spec = spec::of(args.container, args.remove, |name| std::env::var(name).ok())?;
    refuse_terminal_without_one(spec.tty && spec.interactive && !args.detach)?;
    let size = if spec.tty { terminal::standard_size() } else { None };
    let (tty, interactive) = (spec.tty, spec.interactive);
    let client = daemon::client(settings).await?;
    let mut request = RunRequest { spec, start: true, size };
    if args.detach {
        let created = with_image(settings, &client, &mut request, async |request| client.create(request).await).await?;
        warn(settings, &created);
        return if settings.json {
            settings.print_json(&created).map(|()| ExitCode::SUCCESS)
        } else {
            settings.print(&format!("{}\n", created.id)).map(|()| ExitCode::SUCCESS)
        };
    }
    let attached = with_image(settings, &client, &mut request, async |request| client.run(request).await).await?;
    let mut standard = Standard::new(settings.stderr);
    let caller = standard.caller(interactive, tty, true);
    let container = attached.container.as_deref();
    let ending = attach::carry(&client, container, attached.stream, caller).await;
    finish(settings, container.unwrap_or("it"), ending)
}

/// `-it` needs a terminal to read keys from.
pub(crate) fn refuse_terminal_without_one(wanted: bool) -> Result<(), CommandError> {
    if wanted && !std::io::stdin().is_terminal() {
        return Err(CommandError::usage(
            "-t with -i needs a terminal, and standard input is none",
            "leave out -t to pass a pipe or file on",
        ));
    }
    Ok(())
}

/// What `run`, `exec` and `attach` end with.
pub(crate) fn finish(settings: &Settings, container: &str, ending: Ending) -> CommandResult {
    let style = &settings.stderr;
    match ending {
        Ending::Exit(reply) => {
            if let Some(error) = &reply.error {
                eprint_all(&format!("{} {}\n", style.paint(Paint::Red, "error:"), visible(error)));
            } else if reply.oom {
                eprint_all(&format!(
                    "{} it was killed because it used more memory than its limit\n",
                    style.paint(Paint::Yellow, "warning:")
                ));
            }
            Ok(ExitCode::from(reply.code))
        }
        Ending::Detached => {
            eprint_all(&format!("detached; `coppice attach {container}` comes back to it\n"));
            Ok(ExitCode::SUCCESS)
        }
        Ending::Signalled(signal) => {
            // 128 + signal, as a shell reports a program that a signal ended.
            Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(RUN_FAILURE)))
        }
        Ending::Lost(error) => {
            let error = CommandError::Failed {
                what: error.to_string(),
                help: Some(format!(
                    "the container goes on without the node; `coppice attach {container}` and `coppice logs {container}` \
                     find it again once a node runs"
                )),
            };
            Ok(error.report_as(style, RUN_FAILURE))
        }
        Ending::Output(error) => {
            let broken = error.kind() == std::io::ErrorKind::BrokenPipe;
            let code = CommandError::Output(error).report_as(style, RUN_FAILURE);
            // 141: what a program killed by SIGPIPE would have left.
            Ok(if broken { ExitCode::from(141) } else { code })
        }
    }
}

/// Does `ask` with the image there: fetched first when `--pull always`, and when the node says it is missing, so that
/// the fetch has progress and the caller's credentials. An image that is here costs no extra request.
pub(crate) async fn with_image<T>(
    settings: &Settings,
    client: &Client,
    request: &mut RunRequest,
    ask: impl AsyncFn(&RunRequest) -> Result<T, ClientError>,
) -> Result<T, CommandError> {
    let policy = request.spec.workload.pull;
    let image = request.spec.workload.image.clone();
    if policy == PullPolicy::Always {
        transfer::pull(settings, client, &image, true, false).await?;
    }
    request.spec.workload.pull = PullPolicy::Never;
    match ask(request).await {
        Err(error) if policy == PullPolicy::Missing && missing_image(&error) => {
            transfer::pull(settings, client, &image, false, false).await?;
            Ok(ask(request).await?)
        }
        other => Ok(other?),
    }
}

/// A 404 for a request to create can only mean the image.
fn missing_image(error: &ClientError) -> bool {
    error.not_found()
}

/// Says what could not be had.
pub(crate) fn warn(settings: &Settings, created: &Created) {
    for word in &created.words {
        eprint_all(&format!("{} {}\n", settings.stderr.paint(Paint::Yellow, "warning:"), visible(word)));
    }
}
