//! Verbs on crons.

use clap::{Args, Subcommand};

/// A cron is a `[cron.NAME]` of an app's coppice.toml. `coppice logs APP/CRON` prints what its last runs wrote.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum CronVerb {
    /// List crons: when each runs next, and what became of its last run
    Ls(CronLsArgs),
    /// List what became of a cron's runs, the newest first
    History(CronArgs),
    /// Run a cron now, and end with its exit code
    Run(CronRunArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CronLsArgs {
    /// Only this app's
    pub(crate) app: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct CronArgs {
    /// App
    pub(crate) app: String,
    /// Cron of the app
    pub(crate) cron: String,
}

/// The run obeys the cron's `overlap`: with "skip" there is none while another goes on. What it writes is in its log.
#[derive(Args, Debug)]
pub(crate) struct CronRunArgs {
    #[command(flatten)]
    pub(crate) of: CronArgs,
    /// Do not wait for its end
    #[arg(short, long)]
    pub(crate) detach: bool,
}
