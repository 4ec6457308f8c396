//! Verbs on containers, and on the services they belong to.

use std::time::Duration;

use clap::Args;
use coppice_base::Timestamp;

use super::values;

/// What a target may be, in one place: `start`, `stop`, `restart` and `logs` read it alike.
const TARGET_HELP: &str = "APP/SERVICE; a service of the coppice.toml in this directory; or a container: name, id or \
                           start of an id, or an app's instance such as web-1";

#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// Those that have stopped too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Only ids
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Do not shorten ids, commands and images
    #[arg(long)]
    pub(crate) no_trunc: bool,
    /// Only of this app
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<String>,
    /// Only those of which this holds: id, name, status, health, ancestor (the image) or app = VALUE; of several with one
    /// key any, of different keys all
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::filter)]
    pub(crate) filter: Vec<values::Filter>,
}

/// Some containers.
#[derive(Args, Debug)]
pub(crate) struct ContainerArgs {
    /// Containers: names, ids or starts of ids, or instances such as `web-1`
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

/// Services, instances or containers.
#[derive(Args, Debug)]
pub(crate) struct TargetArgs {
    #[arg(required = true, value_name = "TARGET", help = TARGET_HELP)]
    pub(crate) targets: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// How long to wait before killing, in seconds or as `1m30s` [default: the container's own]
    #[arg(short, long = "timeout", visible_alias = "time", value_name = "DURATION", value_parser = values::seconds_or_duration)]
    pub(crate) timeout: Option<Duration>,
    #[arg(required = true, value_name = "TARGET", help = TARGET_HELP)]
    pub(crate) targets: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    /// Signal: a name with or without SIG, or a number
    #[arg(short, long, default_value = "KILL", value_parser = values::signal)]
    pub(crate) signal: String,
    #[command(flatten)]
    pub(crate) containers: ContainerArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Kill it first where it runs
    #[arg(short, long)]
    pub(crate) force: bool,
    /// Remove its anonymous volumes too
    #[arg(short, long)]
    pub(crate) volumes: bool,
    #[command(flatten)]
    pub(crate) containers: ContainerArgs,
}

/// Several targets are merged in order of time, each line behind its instance's name. Without a target: the whole app
/// of the coppice.toml in this directory.
#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Go on as more is written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only lines since: a duration ago (`10m`) or a moment (`2026-01-31T12:00:00Z`)
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) since: Option<Timestamp>,
    /// Only lines before: a duration ago or a moment
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) until: Option<Timestamp>,
    /// Only the last N lines of each instance
    #[arg(short = 'n', long, value_name = "N", value_parser = values::tail)]
    pub(crate) tail: Option<values::Tail>,
    /// Each line's time
    #[arg(short, long)]
    pub(crate) timestamps: bool,
    /// No names before the lines
    #[arg(long)]
    pub(crate) no_prefix: bool,
    /// Only standard output
    #[arg(long, conflicts_with = "stderr")]
    pub(crate) stdout: bool,
    /// Only standard error
    #[arg(long)]
    pub(crate) stderr: bool,
    #[arg(value_name = "TARGET", help = format!("{TARGET_HELP}; or an app"))]
    pub(crate) targets: Vec<String>,
}

/// Ends with the command's exit code; 125 when Coppice failed, 126 when the command cannot be executed, 127 when it is
/// not there.
#[derive(Args, Debug)]
#[command(
    override_usage = "coppice exec [OPTIONS] CONTAINER COMMAND [ARG]...",
    after_help = "Examples:\n  coppice exec -it web-1 sh\n  coppice exec -u root -e DEBUG=1 -w /srv web-1 ./migrate\n  coppice exec -d web-1 tcpdump -w /tmp/out"
)]
pub(crate) struct ExecArgs {
    /// Return as soon as it has started; it runs on by itself, and what it writes is not kept
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Environment: KEY=VALUE, or KEY to take this shell's value
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = values::env)]
    pub(crate) env: Vec<values::Env>,
    /// File of KEY=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<std::path::PathBuf>,
    /// User: name or id, with or without :group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Directory to start in
    #[arg(short, long, value_name = "DIR", value_parser = values::absolute)]
    pub(crate) workdir: Option<String>,
    /// With every capability; refused unless the node allows it
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Container, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, value_names = ["CONTAINER", "COMMAND"])]
    pub(crate) words: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct AttachArgs {
    /// Do not pass standard input on
    #[arg(long)]
    pub(crate) no_stdin: bool,
    /// Do not pass signals on
    #[arg(long)]
    pub(crate) no_signals: bool,
    /// Container: name, id or start of an id, or an app's instance such as `web-1`
    pub(crate) container: String,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// Only containers, or only images
    #[arg(long = "type", value_parser = ["container", "image"], value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Containers or images
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// Measure once (over one second) and end
    #[arg(long)]
    pub(crate) no_stream: bool,
    /// Containers; none: all that run
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct EventsArgs {
    /// From this moment on: a duration ago (`10m`) or a moment (`2026-01-31T12:00:00Z`)
    #[arg(long, value_name = "TIME", value_parser = values::moment)]
    pub(crate) since: Option<Timestamp>,
    /// Only of this app
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<String>,
    /// End after what has happened so far instead of waiting for more
    #[arg(long)]
    pub(crate) no_follow: bool,
}

/// One of the two is CONTAINER:PATH, the other too, or a local path, or `-` (a tar on standard input or output). Directories as
/// docker does: into DST when it is a directory, as DST when it is not there; `SRC/.` copies what is inside.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  coppice cp web-1:/var/log/app.log .\n  coppice cp ./site/. web-1:/srv\n  coppice cp web-1:/data web-2:/data"
)]
pub(crate) struct CpArgs {
    /// Keep the owners of files (needs root when copying here)
    #[arg(short, long)]
    pub(crate) archive: bool,
    /// What to copy
    #[arg(value_name = "SRC")]
    pub(crate) source: String,
    /// Where to
    #[arg(value_name = "DST")]
    pub(crate) target: String,
}
