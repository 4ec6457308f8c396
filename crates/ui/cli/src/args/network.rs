//! Verbs on the network.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum NetVerb {
    /// Say why one cannot reach another, and what to do about it
    Doctor(DoctorArgs),
}

/// Looks at every step on the way, from the bridge to a TCP connection that is tried from FROM's own network, and names
/// the first that is broken. Without TO: what FROM needs of the network; without both: the node's network.
///
/// Exit codes: 0 all is well, 1 something is broken (or the node cannot be asked), 2 wrong input.
#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Who begins: a service or instance (`web`, `shop/web`, `web-1`), a container, or `host` for this machine
    #[arg(value_name = "FROM")]
    pub(crate) from: Option<String>,
    /// Whom to: the same, a name or an address, with :PORT where you like; or a URL for the node's HTTP proxy
    #[arg(value_name = "TO")]
    pub(crate) to: Option<String>,
}
