//! Verbs on volumes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const VOLUME_HELP: &str =
    "APP/VOLUME; a volume of the coppice.toml in this directory; or VOLUME of containers that `run` made";

/// A snapshot is what a volume was once. On btrfs and ZFS it takes no time and no room; elsewhere files are copied, or share their
/// blocks where the filesystem can do that.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum VolumeVerb {
    /// List volumes
    #[command(visible_alias = "list")]
    Ls,
    /// Show a volume and its snapshots
    Inspect(VolumeArgs),
    /// Keep what a volume is now
    Snapshot(VolumeSnapshotArgs),
    /// Have a volume be what a snapshot is; what it was until now is kept as a snapshot
    Rollback(VolumeRollbackArgs),
    /// Make a volume of another one's snapshot
    Clone(VolumeCloneArgs),
    /// Write a snapshot, or its difference from another one, to a file or pipe
    Send(VolumeSendArgs),
    /// Read what `send` wrote: a volume is made of it, or has one more snapshot
    Receive(VolumeReceiveArgs),
    /// Remove a volume and its snapshots, or one snapshot
    Rm(VolumeRmArgs),
}

#[derive(Args, Debug)]
pub(crate) struct VolumeArgs {
    /// Which
    #[arg(value_name = "VOLUME", long_help = VOLUME_HELP)]
    pub(crate) volume: String,
}

#[derive(Args, Debug)]
pub(crate) struct VolumeSnapshotArgs {
    /// Of which
    #[arg(value_name = "VOLUME", long_help = VOLUME_HELP)]
    pub(crate) volume: String,
    /// What to call it [default: manual-1, manual-2, …]
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct VolumeRollbackArgs {
    /// Which; nothing that runs may use it
    #[arg(value_name = "VOLUME", long_help = VOLUME_HELP)]
    pub(crate) volume: String,
    /// What it is to be again
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,
}

#[derive(Args, Debug)]
pub(crate) struct VolumeCloneArgs {
    /// Of which
    #[arg(value_name = "VOLUME", long_help = VOLUME_HELP)]
    pub(crate) volume: String,
    /// What the new one is
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,
    /// The new one
    #[arg(value_name = "TO", long_help = VOLUME_HELP)]
    pub(crate) to: String,
}

#[derive(Args, Debug)]
pub(crate) struct VolumeSendArgs {
    /// Of which, and which of its snapshots [default: one that is taken now]
    #[arg(value_name = "VOLUME[@SNAPSHOT]", long_help = VOLUME_HELP)]
    pub(crate) volume: String,
    /// Only what is other than in this snapshot, which whoever receives has
    #[arg(long, value_name = "SNAPSHOT")]
    pub(crate) from: Option<String>,
    /// Where to; it is there when it is whole [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct VolumeReceiveArgs {
    /// Into which
    #[arg(value_name = "VOLUME", long_help = VOLUME_HELP)]
    pub(crate) volume: String,
    /// Where from [default: standard input]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct VolumeRmArgs {
    /// Which; nothing that runs may use it
    #[arg(value_name = "VOLUME", long_help = VOLUME_HELP)]
    pub(crate) volume: String,
    /// This snapshot alone
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: Option<String>,
}
