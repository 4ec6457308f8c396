//! Verbs on certificates.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::values;

#[allow(clippy::large_enum_variant)] // one per process
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum CertVerb {
    /// List certificates
    #[command(visible_alias = "ls")]
    List,
    /// Keep a certificate of your own, and show it to clients from now on
    Install(CertInstallArgs),
    /// Order a certificate from an ACME authority, and renew it from then on
    Provision(CertProvisionArgs),
    /// Order a certificate anew, whatever its dates
    Renew(CertDomainArgs),
    /// Begin a new root of apps' own authorities, which sign for tls.peer
    Rotate(CertAppsArgs),
    /// Remove certificates, and stop renewing them
    Rm(CertDomainsArgs),
}

/// Replaces the one kept under the same name; connections there are go on with that.
#[derive(Args, Debug)]
pub(crate) struct CertInstallArgs {
    /// Chain in PEM, leaf first
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: PathBuf,
    /// Private key in PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Name to keep it under [default: its first]
    pub(crate) domain: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Challenge {
    /// An answer on port 80
    #[value(name = "http-01")]
    Http01,
    /// A handshake on port 443
    #[value(name = "tls-alpn-01")]
    TlsAlpn01,
    /// A record in the zone
    #[value(name = "dns-01")]
    Dns01,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DnsProviderName {
    Cloudflare,
    Route53,
    Gcloud,
    /// A program of your own
    Exec,
}

#[derive(Args, Debug)]
pub(crate) struct CertProvisionArgs {
    /// Where the authority writes to
    #[arg(long)]
    pub(crate) email: String,
    /// Order from Let's Encrypt's staging authority, which clients do not trust
    #[arg(long, conflicts_with = "directory_url")]
    pub(crate) staging: bool,
    /// Order from this ACME directory [default: Let's Encrypt's]
    #[arg(long, value_name = "URL")]
    pub(crate) directory_url: Option<String>,
    /// How the authority is shown that the name is yours [default: dns-01 with --dns-provider, else http-01]
    #[arg(long, value_enum)]
    pub(crate) challenge: Option<Challenge>,
    /// Who holds the zone
    #[arg(long, value_enum, value_name = "PROVIDER")]
    pub(crate) dns_provider: Option<DnsProviderName>,
    /// A secret of the provider, as the path of a file on the node
    #[arg(long, value_name = "KEY=PATH", value_parser = values::label, requires = "dns_provider")]
    pub(crate) dns_secret: Vec<values::Label>,
    /// A setting of the provider, such as zone_id=…
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::label, requires = "dns_provider")]
    pub(crate) dns_config: Vec<values::Label>,
    /// Program for --dns-provider exec
    #[arg(long, value_name = "PROGRAM", requires = "dns_provider")]
    pub(crate) dns_hook: Option<String>,
    /// Argument of the program
    #[arg(long, value_name = "ARG", requires = "dns_hook", allow_hyphen_values = true)]
    pub(crate) dns_hook_arg: Vec<String>,
    /// Seconds until the record must be seen
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) dns_propagation_timeout_secs: u64,
    /// Seconds between looks
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) dns_poll_interval_secs: u64,
    /// Name the certificate is for
    pub(crate) domain: String,
}

#[derive(Args, Debug)]
pub(crate) struct CertDomainArgs {
    /// Name the certificate is kept under
    pub(crate) domain: String,
}

/// Services get new certificates at once; those of before are trusted until they end, so that no connection breaks.
#[derive(Args, Debug)]
pub(crate) struct CertAppsArgs {
    /// Apps that have a service with tls.peer
    #[arg(required = true, value_name = "APP")]
    pub(crate) apps: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct CertDomainsArgs {
    /// Names the certificates are kept under
    #[arg(required = true, value_name = "DOMAIN")]
    pub(crate) domains: Vec<String>,
}
