//! What can be typed. One file per noun; a doc comment here is a line of `--help`.

mod app;
mod backup;
mod cert;
mod container;
mod cron;
mod image;
mod network;
mod node;
mod policy;
mod preview;
mod release;
mod run;
mod secret;
pub(crate) mod values;
mod volume;

use std::ffi::OsString;
use std::mem::ManuallyDrop;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub(crate) use app::{
    ConvertArgs, DownArgs, InitArgs, ManifestArgs, PlanArgs, PullChoice, RunWorkerArgs, StatusArgs, UpArgs,
    ValidateArgs,
};
pub(crate) use backup::{BackupArgs, RestoreArgs};
pub(crate) use cert::{
    CertAppsArgs, CertDomainArgs, CertDomainsArgs, CertInstallArgs, CertProvisionArgs, CertVerb, Challenge,
    DnsProviderName,
};
pub(crate) use container::{
    AttachArgs, ContainerArgs, CpArgs, EventsArgs, ExecArgs, InspectArgs, KillArgs, LogsArgs, PsArgs, RmArgs,
    StatsArgs, StopArgs, TargetArgs,
};
pub(crate) use cron::{CronArgs, CronLsArgs, CronRunArgs, CronVerb};
pub(crate) use image::{
    ExportArgs, ImageVerb, ImagesArgs, ImportArgs, LoadArgs, LoginArgs, LogoutArgs, NamesArgs, PruneArgs, PullArgs,
    PushArgs, RmiArgs, SaveArgs, TagArgs,
};
pub(crate) use network::{DoctorArgs, NetVerb};
pub(crate) use node::{
    CompletionsArgs, MetricsArgs, NodeInstallArgs, NodeRunArgs, NodeStopArgs, NodeVerb, RecoverArgs,
};
pub(crate) use policy::{PolicyPairArgs, PolicyVerb};
pub(crate) use preview::{PreviewArgs, PreviewNameArgs, PreviewVerb};
pub(crate) use release::{AppsArgs, HistoryArgs, ReleaseFilterArgs, RollbackArgs, RolloutArgs, RolloutVerb};
pub(crate) use run::{CreateArgs, NewContainerArgs, RunArgs};
pub(crate) use secret::{
    BootstrapArgs, BootstrapRotateArgs, BootstrapVerb, MadeKind, SecretGetArgs, SecretNameArgs, SecretRekeyArgs,
    SecretRmArgs, SecretRotateArgs, SecretSetArgs, SecretValueArgs, SecretVerb,
};
pub(crate) use volume::{
    VolumeArgs, VolumeCloneArgs, VolumeReceiveArgs, VolumeRmArgs, VolumeRollbackArgs, VolumeSendArgs,
    VolumeSnapshotArgs, VolumeVerb,
};

/// What to type first, under the list of verbs.
const START: &str = "\
To begin:
  coppice init && coppice up                     an app, from a coppice.toml
  coppice convert compose.yaml -o coppice.toml   the same, from Compose
  coppice run --rm -it debian:12 bash            one container
`coppice VERB --help` says more of each; verbs and flags docker has mean what they mean there.";

/// Runs apps of containers as one supervision tree.
///
/// Exit codes: 0 done, 1 failed, 2 wrong input; `run`, `exec` and `wait` end with the container's own code (125, 126
/// and 127 as docker's).
#[derive(Debug, Parser)]
#[command(
    name = "coppice",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = START
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Args, Debug)]
pub(crate) struct GlobalArgs {
    /// State directory [default: /var/lib/coppice for root, else ~/.local/share/coppice]
    #[arg(long, global = true, env = "COPPICE_ROOT", value_name = "DIR", hide_env_values = true, display_order = 900)]
    pub(crate) root: Option<PathBuf>,
    /// Print JSON: the values of the API
    #[arg(long, global = true, display_order = 901)]
    pub(crate) json: bool,
    /// When to use colour
    #[arg(long, global = true, value_enum, default_value = "auto", value_name = "WHEN", display_order = 902)]
    pub(crate) color: ColorChoice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    Always,
    Never,
}

// One per process, parsed once: the size of the largest variant costs nothing.
#[allow(clippy::large_enum_variant)]
// Deferred: only the verb that is typed gets its flags built, which is most of what parsing costs.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    // Apps
    /// Bring an app to what its coppice.toml says, and wait until it is there
    Up(UpArgs),
    /// Stop an app and remove it
    Down(DownArgs),
    /// Show what `up` would do, and change nothing
    Plan(PlanArgs),
    /// Show an app's supervision tree: what runs, what does not and why
    Status(StatusArgs),
    /// Run a worker once more, now, and end with its exit code
    RunWorker(RunWorkerArgs),
    /// List apps
    Apps(AppsArgs),
    /// List an app's releases: who, when, why, and what became of them
    History(HistoryArgs),
    /// Have an earlier release come back, its data too
    Rollback(RollbackArgs),
    /// Pause, resume, cancel or look at a rollout
    #[command(subcommand)]
    Rollout(RolloutVerb),
    /// List previews, have one become the app, or remove it
    #[command(subcommand)]
    Preview(PreviewVerb),
    /// See when crons run, what became of it, and run one now
    #[command(subcommand)]
    Cron(CronVerb),
    /// Write a coppice.toml to start from
    Init(InitArgs),
    /// Check a coppice.toml and say everything that is wrong with it
    Validate(ValidateArgs),
    /// Print the JSON Schema of coppice.toml, for editors
    Schema,
    /// Turn a compose.yaml into a coppice.toml; what is not carried over is listed
    Convert(ConvertArgs),

    // Containers
    /// Run a command in a new container
    Run(RunArgs),
    /// Make a container without starting it
    Create(CreateArgs),
    /// List containers
    Ps(PsArgs),
    /// Print what services or containers wrote, all instances together in order of time
    Logs(LogsArgs),
    /// Run a command in a running container
    Exec(ExecArgs),
    /// Connect the terminal to a running container
    Attach(AttachArgs),
    /// Start stopped services, instances or containers
    Start(TargetArgs),
    /// Stop services, instances or containers
    Stop(StopArgs),
    /// Stop, then start services, instances or containers
    Restart(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Freeze all processes of containers
    Pause(ContainerArgs),
    /// Let frozen containers go on
    Unpause(ContainerArgs),
    /// Wait until containers end and print their exit codes
    Wait(ContainerArgs),
    /// Remove containers
    Rm(RmArgs),
    /// Show all there is to say about containers or images, as JSON
    Inspect(InspectArgs),
    /// Show what containers use
    Stats(StatsArgs),
    /// Show what services answered and how fast, by route and by instance
    Metrics(MetricsArgs),
    /// Bring back apps of a lost database from what their volumes remember
    Recover(RecoverArgs),
    /// Show a container's processes
    Top(AttachOnly),
    /// Print what happens on the node as it happens
    Events(EventsArgs),
    /// Copy files between a container and this machine, or another container
    Cp(CpArgs),

    // Images
    /// List images
    Images(ImagesArgs),
    /// Work with images
    #[command(subcommand)]
    Image(ImageVerb),
    /// Fetch images from their registries
    Pull(PullArgs),
    /// Send images to their registries
    Push(PushArgs),
    /// Give an image another name
    Tag(TagArgs),
    /// Remove image names, and images that have none left
    Rmi(RmiArgs),
    /// Make an image of a root filesystem's tar
    Import(ImportArgs),
    /// Write images to an archive
    Save(SaveArgs),
    /// Take images in from an archive
    Load(LoadArgs),
    /// Remove images nothing uses
    Prune(PruneArgs),
    /// Keep a registry's name and password in docker's config.json
    Login(LoginArgs),
    /// Forget a registry's name and password
    Logout(LogoutArgs),

    // Certificates
    /// Work with the certificates of this node
    #[command(subcommand)]
    Cert(CertVerb),

    // Secrets
    /// Keep passwords and keys, give them to apps, replace them
    #[command(subcommand)]
    Secret(SecretVerb),
    /// Make, replace and check all secrets of an app
    #[command(subcommand)]
    Bootstrap(BootstrapVerb),

    // Volumes
    /// Keep, and have back, what volumes were
    #[command(subcommand)]
    Volume(VolumeVerb),

    // Policy
    /// Say which services may speak to which
    #[command(subcommand)]
    Policy(PolicyVerb),

    // The network
    /// Look into the network
    #[command(subcommand)]
    Net(NetVerb),

    // The node
    /// Work with this machine's node
    #[command(subcommand)]
    Node(NodeVerb),
    /// Write all that the node knows to a file, while it goes on
    Backup(BackupArgs),
    /// Put a backup in the place of what the node knows, while it is stopped
    Restore(RestoreArgs),
    /// Print the node's OpenAPI document
    Openapi,
    /// Print a shell's completions
    Completions(CompletionsArgs),
    /// Print the version
    Version,
}

/// One container.
#[derive(Args, Debug)]
pub(crate) struct AttachOnly {
    /// Container: name, id or start of an id, or an app's instance such as `web-1`
    pub(crate) container: String,
}

/// Parses arguments, the program's name first.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    // Not taken apart again: that takes a quarter of the time of building it, and the process ends soon.
    let mut command = ManuallyDrop::new(Cli::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The help that nothing typed at all gets, for flags (or COPPICE_ROOT) without a verb: clap's own words are a list of
/// verbs in one line.
pub(crate) fn start_help(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let mut command = Cli::command();
    let bare = matches!(error.get(ContextKind::InvalidSubcommand), Some(ContextValue::String(of)) if *of == command.get_name());
    (bare && error.kind() == ErrorKind::MissingSubcommand).then(|| command.render_help().to_string())
}

#[cfg(test)]
mod tests;
