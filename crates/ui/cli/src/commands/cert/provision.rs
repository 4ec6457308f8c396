//! `cert provision`: a certificate from an authority.

use std::collections::BTreeMap;
use std::process::ExitCode;

use coppice_api::ProvisionRequest;
use coppice_spec::{AcmeChallenge, AcmeDirectory, AcmeSpec, DnsProvider, DnsProviderKind};

use crate::args::values::Label;
use crate::args::{CertProvisionArgs, Challenge, DnsProviderName};
use crate::daemon;
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: CertProvisionArgs) -> CommandResult {
    let challenge = challenge(&args)?;
    let directory = match (args.staging, args.directory_url) {
        (_, Some(url)) => AcmeDirectory::Url(url),
        (true, None) => AcmeDirectory::LetsEncryptStaging,
        (false, None) => AcmeDirectory::LetsEncrypt,
    };
    let acme = AcmeSpec { email: args.email, directory, challenge, on_demand: false };
    let request = ProvisionRequest { domain: args.domain, acme };
    let ordered = daemon::client(settings).await?.provision_certificate(&request).await?;
    super::there(settings, &ordered)?;
    Ok(ExitCode::SUCCESS)
}

fn challenge(args: &CertProvisionArgs) -> Result<AcmeChallenge, CommandError> {
    let provider = match (args.challenge, args.dns_provider) {
        (None | Some(Challenge::Http01), None) => return Ok(AcmeChallenge::Http01),
        (Some(Challenge::TlsAlpn01), None) => return Ok(AcmeChallenge::TlsAlpn01),
        (Some(Challenge::Dns01), None) => {
            return Err(CommandError::usage("dns-01 needs to know who holds the zone", "add --dns-provider"));
        }
        (None | Some(Challenge::Dns01), Some(provider)) => provider,
        (Some(_), Some(_)) => {
            return Err(CommandError::usage("--dns-provider is for dns-01", "remove it, or --challenge"));
        }
    };
    let kind = match provider {
        DnsProviderName::Cloudflare => DnsProviderKind::Cloudflare,
        DnsProviderName::Route53 => DnsProviderKind::Route53,
        DnsProviderName::Gcloud => DnsProviderKind::Gcloud,
        DnsProviderName::Exec => DnsProviderKind::Exec,
    };
    if kind == DnsProviderKind::Exec && args.dns_hook.is_none() {
        return Err(CommandError::usage("--dns-provider exec has no program to run", "add --dns-hook PROGRAM"));
    }
    let pairs = |labels: &[Label]| -> BTreeMap<String, String> {
        labels.iter().map(|Label(key, value)| (key.clone(), value.clone())).collect()
    };
    Ok(AcmeChallenge::Dns01(DnsProvider {
        kind,
        secrets: pairs(&args.dns_secret),
        config: pairs(&args.dns_config),
        hook: args.dns_hook.iter().chain(&args.dns_hook_arg).cloned().collect(),
        propagation_timeout_secs: args.dns_propagation_timeout_secs,
        poll_interval_secs: args.dns_poll_interval_secs,
    }))
}
