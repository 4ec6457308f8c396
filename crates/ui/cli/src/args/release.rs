//! Verbs on releases.

use clap::{Args, Subcommand};

use super::{ManifestArgs, values};

/// Which releases.
#[derive(Args, Debug, Default)]
pub(crate) struct ReleaseFilterArgs {
    /// Only failed, partially failed, blocked and degraded ones
    #[arg(long)]
    pub(crate) failed: bool,
    /// Only those whose outcome is not known yet
    #[arg(long)]
    pub(crate) in_progress: bool,
    /// Only those with this status or rollout state, such as completed, rolled_back, blocked
    #[arg(long, value_name = "STATUS")]
    pub(crate) status: Option<String>,
}

/// With ROLLOUT and CTRL: what its rollout does, and whether it is paused. C/F/R: completed, failed and remaining
/// instances.
#[derive(Args, Debug)]
pub(crate) struct AppsArgs {
    #[command(flatten)]
    pub(crate) filter: ReleaseFilterArgs,
}

/// Of each: who, when, how long it took, what became of it and why. `*` is the one that runs.
#[derive(Args, Debug)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    #[command(flatten)]
    pub(crate) filter: ReleaseFilterArgs,
    /// With every step
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// App; without it, the one the manifest names
    pub(crate) app: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct RolloutArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// App; without it, the one the manifest names
    pub(crate) app: Option<String>,
}

/// Code, configuration and versions of secrets come back as a new release, by default of the newest successful release
/// before the current one. With --data the volumes' data too; what they hold now is kept, and --undo brings it back.
#[derive(Args, Debug)]
pub(crate) struct RollbackArgs {
    #[command(flatten)]
    pub(crate) of: RolloutArgs,
    /// The release to go back to: its number or id
    #[arg(long, value_name = "RELEASE")]
    pub(crate) release: Option<String>,
    /// With the volumes' data
    #[arg(long)]
    pub(crate) data: bool,
    /// Take the last rollback with data back
    #[arg(long, conflicts_with_all = ["release", "data"])]
    pub(crate) undo: bool,
    /// Show what would come back and how, and change nothing
    #[arg(long, conflicts_with = "detach")]
    pub(crate) print: bool,
    /// Return as soon as the node has begun
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// How long to wait for its end; it goes on then, and the exit code is 1
    #[arg(long, value_name = "DURATION", value_parser = values::duration, default_value = "5m")]
    pub(crate) timeout: std::time::Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutVerb {
    /// Have the rollout rest when the batch that it has begun is done
    Pause(RolloutArgs),
    /// Have a rollout that rests go on
    Resume(RolloutArgs),
    /// Have the rollout go back
    Cancel(RolloutArgs),
    /// Show how far the newest release is
    Status(RolloutArgs),
}
