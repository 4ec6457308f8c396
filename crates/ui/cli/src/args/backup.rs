//! Verbs on backups.

use std::path::PathBuf;

use clap::Args;

/// Of a node that goes on meanwhile: apps, releases, history, secrets (as they are sealed), certificates, node.toml. Images are
/// not in it: they are pulled again.
#[derive(Args, Debug)]
pub(crate) struct BackupArgs {
    /// Where to; it is there when it is whole, in the place of what was; `-` is standard output
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The data of all volumes, too, and their snapshots
    #[arg(long)]
    pub(crate) volumes: bool,
    /// Seal it with the key in this file (32 bytes, mode 0600); the node's own keys are in it then [default: anybody can read
    /// it, and the keys are not in it]
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
}

/// All of the backup is looked at before anything changes; what was there before is kept beside. The node must be stopped:
/// `coppice node stop --all`.
#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The backup; `-` is standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The key that it is sealed with
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Look at all of it, say what is in it, and change nothing
    #[arg(long, conflicts_with = "force")]
    pub(crate) check: bool,
    /// Also where there is state already
    #[arg(long)]
    pub(crate) force: bool,
}
