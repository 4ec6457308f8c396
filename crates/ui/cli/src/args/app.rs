//! Verbs on apps and manifests.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{PreviewArgs, values};

/// Where the manifest is.
#[derive(Args, Debug)]
pub(crate) struct ManifestArgs {
    /// Manifest
    #[arg(short, long, value_name = "FILE", default_value = "coppice.toml")]
    pub(crate) file: PathBuf,
    /// Environment: the manifest with what [env.NAME] changes [default: the variable COPPICE_ENV]
    #[arg(long = "env", value_name = "NAME")]
    pub(crate) environment: Option<String>,
    /// Only this app of a manifest with several
    #[arg(long = "app", value_name = "NAME", id = "app_of_manifest")]
    pub(crate) app: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PullChoice {
    /// Ask the registry each time
    Always,
    /// Fetch what is not here
    Missing,
    /// Use only what is here
    Never,
}

/// By default `up` waits until all is ready, completed or failed for good, and shows the way there; it ends with 1 and
/// the reasons when something failed.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Stay, show what all services write, and follow the files: apply the manifest when it changes, build what
    /// [service.X.dev] says, restart who has changed files in a bind mount. Ctrl-C stops the app; its volumes stay
    #[arg(long, conflicts_with_all = ["detach", "dry_run", "wait"])]
    pub(crate) dev: bool,
    /// Wait until the app has settled (the default)
    #[arg(long, conflicts_with_all = ["detach", "dry_run"])]
    pub(crate) wait: bool,
    /// Return as soon as the node has taken it on
    #[arg(short, long, conflicts_with = "dry_run")]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) preview: PreviewArgs,
    /// How long to wait for the app to settle; it is left as it is then, and the exit code is 1
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "5m")]
    pub(crate) timeout: std::time::Duration,
    /// When to fetch images, for every service
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) pull: Option<PullChoice>,
    /// Only these services and workers, and what they depend on
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

/// Stops in the reverse order of dependencies. Named volumes stay unless --volumes is given.
#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Remove the app's named volumes and all that is in them too
    #[arg(long)]
    pub(crate) volumes: bool,
    /// App; without it, the one the manifest names
    pub(crate) app: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Only these services and workers, and what they depend on
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
}

/// Without an app: the one of the manifest in this directory, or all of them where there is none.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Show it again and again until interrupted
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// Show the network instead: addresses, names, ports, routes and who may connect
    #[arg(long)]
    pub(crate) network: bool,
    /// App
    pub(crate) app: Option<String>,
}

/// A run of the current release's worker, beside the tree: what depends on the worker does not hear of it, and it waits for
/// nothing itself. There is one run of a worker at a time, and none during a rollout. Interrupted, it goes on.
#[derive(Args, Debug)]
#[command(allow_missing_positional = true)]
pub(crate) struct RunWorkerArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// App; without it, the one the manifest names
    pub(crate) app: Option<String>,
    /// Worker of the app
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct InitArgs {
    /// Replace a file that is there
    #[arg(long)]
    pub(crate) force: bool,
    /// File to write
    #[arg(short, long, value_name = "FILE", default_value = "coppice.toml")]
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Say nothing when it is right
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// Compose file
    #[arg(value_name = "COMPOSE")]
    pub(crate) compose: PathBuf,
    /// File to write instead of standard output; one that is there is not replaced
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}
