//! Verbs on the node.

use clap::{Args, Subcommand};
use clap_complete::Shell;

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum NodeVerb {
    /// Start the node daemon where none runs (other verbs do so by themselves)
    Start,
    /// Stop the node daemon; containers go on unless --all is given
    Stop(NodeStopArgs),
    /// Show the node: processes, version, what runs, what this machine cannot give
    Status,
    /// Write a systemd unit for the node
    Install(NodeInstallArgs),
    /// Run the node daemon here, until it is told to stop
    #[command(hide = true)]
    Run(NodeRunArgs),
}

/// For a node whose database is lost: apps, releases and history as the volumes' datasets remember them. Apps that the node
/// knows are left alone.
#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// From what is written beside the volumes
    #[arg(long, required = true)]
    pub(crate) from_datasets: bool,
    /// Show what would come back, and change nothing
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Args, Debug)]
pub(crate) struct NodeStopArgs {
    /// Stop all apps, containers and the launcher too
    #[arg(long)]
    pub(crate) all: bool,
}

/// Writes /etc/systemd/system/coppice.service (root), then `systemctl enable --now coppice` starts it.
#[derive(Args, Debug)]
pub(crate) struct NodeInstallArgs {
    /// For this user: ~/.config/systemd/user/coppice.service
    #[arg(long)]
    pub(crate) user: bool,
    /// Print the unit and write nothing
    #[arg(long)]
    pub(crate) print: bool,
}

#[derive(Args, Debug)]
pub(crate) struct NodeRunArgs {
    /// Leave the caller's session first
    #[arg(long)]
    pub(crate) apart: bool,
}

/// Counts begin with the daemon, or with their route or instance. Percentiles are estimated from a histogram's buckets.
#[derive(Args, Debug)]
pub(crate) struct MetricsArgs {
    /// Go on, measuring every second, until interrupted
    #[arg(long, conflicts_with = "prometheus")]
    pub(crate) watch: bool,
    /// Print all of the node's metrics as text for Prometheus
    #[arg(long, conflicts_with = "service")]
    pub(crate) prometheus: bool,
    /// Who spoke to whom: connections, packets and bytes from service to service, and what the policy dropped
    #[arg(long, conflicts_with_all = ["prometheus", "watch"])]
    pub(crate) pairs: bool,
    /// Only this service: `web`, or `APP/web` where several apps have one
    #[arg(value_name = "SERVICE")]
    pub(crate) service: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Shell
    #[arg(value_parser = clap::value_parser!(Shell))]
    pub(crate) shell: Shell,
}
