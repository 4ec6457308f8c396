//! Verbs on who may speak to whom.

use clap::{Args, Subcommand};

const PARTY_HELP: &str =
    "APP/SERVICE; a service of the coppice.toml in this directory; or APP for all of an app's services";

/// Rules hold at once, for connections that exist too, and until they are removed. They win over `[policy]` of
/// manifests; of several rules the most specific decides, then deny.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum PolicyVerb {
    /// Let a service connect to another, whatever the manifests say
    Allow(PolicyPairArgs),
    /// Keep a service from connecting to another
    Deny(PolicyPairArgs),
    /// Remove a rule: the manifests decide again
    Rm(PolicyPairArgs),
    /// List the rules in force, those of manifests too
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Args, Debug)]
pub(crate) struct PolicyPairArgs {
    /// Who begins
    #[arg(value_name = "FROM", long_help = PARTY_HELP)]
    pub(crate) from: String,
    /// To whom
    #[arg(value_name = "TO", long_help = PARTY_HELP)]
    pub(crate) to: String,
}
