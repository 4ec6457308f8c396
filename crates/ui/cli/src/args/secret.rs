//! Verbs on secrets.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::app::ManifestArgs;

/// Values are kept encrypted, by version. Each release of an app runs with the versions that were the newest when it came
/// (`rotate` gives the current one a newer one), and rolling back to it brings them back.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum SecretVerb {
    /// Give a secret a value, or another one, for releases from now on
    Set(SecretSetArgs),
    /// Print a secret's value (root only)
    Get(SecretGetArgs),
    /// List secrets, without their values
    #[command(visible_alias = "list")]
    Ls,
    /// Remove secrets with all their versions
    Rm(SecretRmArgs),
    /// Give a secret another value, and the apps that run it, too: one that was made is made anew
    Rotate(SecretRotateArgs),
    /// List a secret's versions, and the releases that have them
    History(SecretNameArgs),
    /// Encrypt all secrets with another key
    Rekey(SecretRekeyArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MadeKind {
    /// 256 random bits, as 64 hex digits
    #[value(name = "random-256")]
    Random256,
    /// A password; its part `hash` is its argon2id hash
    Password,
    /// A private key in PEM; its part `public` is the public one
    Ed25519,
    /// A private key in PEM; its part `certificate` is a self-signed certificate for --tls-name
    Tls,
}

/// Where the value comes from: else from standard input, to its end; on a terminal it is asked for.
#[derive(Args, Debug)]
pub(crate) struct SecretValueArgs {
    /// The value; others can see it in the list of processes
    #[arg(long, value_name = "VALUE", conflicts_with = "file")]
    pub(crate) value: Option<String>,
    /// A file with the value
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct SecretSetArgs {
    #[command(flatten)]
    pub(crate) value: SecretValueArgs,
    /// Have the node make it
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["value", "file"])]
    pub(crate) generate: Option<MadeKind>,
    /// Name of the certificate
    #[arg(long, value_name = "NAME", required_if_eq("generate", "tls"))]
    pub(crate) tls_name: Option<String>,
    /// Secret
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct SecretGetArgs {
    /// Print it on a terminal, too
    #[arg(long)]
    pub(crate) show: bool,
    /// This version [default: the newest]
    #[arg(long, value_name = "N")]
    pub(crate) version: Option<u64>,
    /// This part of it: hash, public or certificate
    #[arg(long, value_name = "PART")]
    pub(crate) part: Option<String>,
    /// Secret
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct SecretNameArgs {
    /// Secret
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct SecretRmArgs {
    /// Also those that releases use: they would not start again
    #[arg(long)]
    pub(crate) force: bool,
    /// Secrets
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct SecretRotateArgs {
    #[command(flatten)]
    pub(crate) value: SecretValueArgs,
    /// Secret
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct SecretRekeyArgs {
    /// Leave the old key beside the new one: backups from before need it
    #[arg(long)]
    pub(crate) keep_old: bool,
}

/// The secrets that an app's manifest declares or uses.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum BootstrapVerb {
    /// Make those that are to be made and are not there
    Init(BootstrapArgs),
    /// Show which are there
    Status(BootstrapArgs),
    /// Make those that are made anew, and say what restarts
    Rotate(BootstrapRotateArgs),
    /// Check that they open, and that instances have them; exit code 1 where one does not
    Verify(BootstrapArgs),
    /// Print the public parts of key pairs
    ExportPubkey(BootstrapArgs),
}

#[derive(Args, Debug)]
pub(crate) struct BootstrapArgs {
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Only these
    #[arg(value_name = "SECRET")]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct BootstrapRotateArgs {
    #[command(flatten)]
    pub(crate) slots: BootstrapArgs,
    /// Also encrypt all secrets of the node with another key
    #[arg(long)]
    pub(crate) key: bool,
}
