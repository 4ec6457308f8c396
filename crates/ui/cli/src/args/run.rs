//! `run` and `create`: the flags that describe a container, spelled as docker users know them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use coppice_base::{Bytes, MilliCpu, Name};
use coppice_spec::{NetworkMode, RestartPolicy, VolumeMount};

use super::{PullChoice, values};

/// Ends with the command's exit code; 125 when Coppice failed, 126 when the command cannot be executed, 127 when it is
/// not there. Ctrl-P Ctrl-Q leaves a container started with -it running.
#[derive(Args, Debug)]
#[command(
    override_usage = "coppice run [OPTIONS] IMAGE [COMMAND] [ARG]...",
    after_help = "Examples:\n  coppice run --rm -it debian:12 bash\n  coppice run -d --name db -v data:/var/lib/postgresql/data -e POSTGRES_PASSWORD postgres:16\n  coppice run --rm -p 127.0.0.1:8080:80 -v ./site:/usr/share/nginx/html:ro nginx"
)]
pub(crate) struct RunArgs {
    /// Print the id and return at once
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Remove it when it ends
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) container: NewContainerArgs,
}

#[derive(Args, Debug)]
#[command(override_usage = "coppice create [OPTIONS] IMAGE [COMMAND] [ARG]...")]
pub(crate) struct CreateArgs {
    /// Remove it when it ends
    #[arg(long = "rm")]
    pub(crate) remove: bool,
    #[command(flatten)]
    pub(crate) container: NewContainerArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum NetworkChoice {
    /// Its own address on the node's bridge
    Bridge,
    /// The machine's own network
    Host,
    /// Nothing but loopback
    None,
}

impl From<NetworkChoice> for NetworkMode {
    fn from(choice: NetworkChoice) -> Self {
        match choice {
            NetworkChoice::Bridge => Self::Bridge,
            NetworkChoice::Host => Self::Host,
            NetworkChoice::None => Self::None,
        }
    }
}

/// A container to be made.
#[derive(Args, Debug)]
pub(crate) struct NewContainerArgs {
    /// Pass standard input on
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Name
    #[arg(long, value_parser = values::name)]
    pub(crate) name: Option<Name>,
    /// Environment: KEY=VALUE, or KEY to take this shell's value
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = values::env)]
    pub(crate) env: Vec<values::Env>,
    /// File of KEY=VALUE lines
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Mount a named volume or a path of this machine: [SOURCE:]TARGET[:ro]
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:ro]", value_parser = values::volume)]
    pub(crate) volume: Vec<VolumeMount>,
    /// Publish a port: [[IP:]HOST:]CONTAINER[/udp]; without HOST a free one is chosen
    #[arg(short, long, value_name = "[[IP:]HOST:]CONTAINER[/udp]", value_parser = values::ports)]
    pub(crate) publish: Vec<values::Ports>,
    /// Limit of memory, such as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub(crate) memory: Option<Bytes>,
    /// Limit of CPU in cores, such as 0.5
    #[arg(long, value_name = "CORES")]
    pub(crate) cpus: Option<MilliCpu>,
    /// Weight against others when CPU is short, 1 to 10000 (100 is normal)
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) cpu_weight: Option<u32>,
    /// Limit of processes
    #[arg(long, visible_alias = "pids-limit", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pids: Option<u32>,
    /// Limit of open files: nofile=N
    #[arg(long, value_name = "nofile=N", value_parser = values::ulimit)]
    pub(crate) ulimit: Vec<values::Nofile>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<Bytes>,
    /// Network
    #[arg(long, visible_alias = "net", value_enum, default_value = "bridge", value_name = "MODE")]
    pub(crate) network: NetworkChoice,
    /// User: name or id, with or without :group
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(crate) user: Option<String>,
    /// Directory to start in
    #[arg(short, long, value_name = "DIR", value_parser = values::absolute)]
    pub(crate) workdir: Option<String>,
    /// Program to run instead of the image's entry point; "" for none
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) entrypoint: Option<String>,
    /// Host name [default: the container's name]
    #[arg(long, value_name = "NAME", value_parser = values::hostname)]
    pub(crate) hostname: Option<String>,
    /// A name in /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = values::host)]
    pub(crate) add_host: Vec<values::HostLine>,
    /// Root filesystem that cannot be written
    #[arg(long)]
    pub(crate) read_only: bool,
    /// An empty filesystem in memory: PATH[:size=SIZE]
    #[arg(long, value_name = "PATH[:size=SIZE]", value_parser = values::tmpfs)]
    pub(crate) tmpfs: Vec<values::Tmpfs>,
    /// Add a capability, such as NET_ADMIN
    #[arg(long, value_name = "CAPABILITY", value_parser = values::capability)]
    pub(crate) cap_add: Vec<String>,
    /// Take a capability away; ALL for every one
    #[arg(long, value_name = "CAPABILITY", value_parser = values::capability)]
    pub(crate) cap_drop: Vec<String>,
    /// Every device, capability and path; refused unless the node allows it
    #[arg(long)]
    pub(crate) privileged: bool,
    /// When to start it again: no, on-failure or always
    #[arg(long, value_name = "POLICY", value_parser = values::restart, default_value = "no")]
    pub(crate) restart: RestartPolicy,
    /// Signal that asks it to stop [default: the image's, else TERM]
    #[arg(long, value_name = "SIGNAL", value_parser = values::signal)]
    pub(crate) stop_signal: Option<String>,
    /// How long it may take to stop, in seconds or as `1m30s` [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = values::seconds_or_duration)]
    pub(crate) stop_timeout: Option<Duration>,
    /// Label: KEY[=VALUE]
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = values::label)]
    pub(crate) label: Vec<values::Label>,
    /// Run a small init as process 1
    #[arg(long)]
    pub(crate) init: bool,
    /// Command that exits 0 when it is healthy, for /bin/sh
    #[arg(long, value_name = "COMMAND")]
    pub(crate) health_cmd: Option<String>,
    /// Between two health checks [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, requires = "health_cmd")]
    pub(crate) health_interval: Option<Duration>,
    /// How long a health check may take [default: 5s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, requires = "health_cmd")]
    pub(crate) health_timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), requires = "health_cmd")]
    pub(crate) health_retries: Option<u32>,
    /// Time at the start in which failures do not count [default: 0s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration, requires = "health_cmd")]
    pub(crate) health_start_period: Option<Duration>,
    /// When to fetch the image
    #[arg(long, value_enum, default_value = "missing", value_name = "WHEN")]
    pub(crate) pull: PullChoice,
    /// Image, then the command and its arguments
    #[arg(required = true, num_args = 1.., trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    pub(crate) words: Vec<String>,
}
