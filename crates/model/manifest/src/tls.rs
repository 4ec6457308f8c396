//! `[service.X.tls]`.

use coppice_spec::{AcmeChallenge, AcmeDirectory, AcmeSpec, DnsProvider, DnsProviderKind, PeerTls, TlsSpec};

use crate::diagnostic::{Report, quoted};
use crate::fields::Fields;
use crate::host_name;
use crate::keys::{ACME, DNS, TLS};

/// The `tls` table of a service; `None` when absent or wrong (reported).
pub(crate) fn read(service: &Fields<'_>, report: &mut Report<'_>) -> Option<TlsSpec> {
    let entry = service.entry("tls", report)?;
    let title = format!("{}.tls]", service.title.trim_end_matches(']'));
    let fields = Fields::open(&entry.node, &TLS, title, report)?;
    let domains = fields.texts("domain", report).unwrap_or_default();
    let domains: Vec<String> = domains.iter().filter_map(|domain| host_name::read(domain, report)).collect();
    let acme = acme(&fields, report);
    let peer = match fields.choice("peer", report).map(|found| found.value) {
        Some("warn") => PeerTls::Warn,
        Some("require") => PeerTls::Require,
        _ => PeerTls::Off,
    };
    let redirect = fields.boolean("redirect", report).unwrap_or(true);
    if acme.is_some() && !fields.has("domain") {
        let message = format!("{} orders a certificate for no name", fields.title);
        report.error(&entry.key_span, message, "add domain = \"shop.example.com\"");
    }
    if let Some(AcmeSpec { challenge: AcmeChallenge::Http01 | AcmeChallenge::TlsAlpn01, .. }) = &acme
        && let Some(wildcard) = domains.iter().find(|domain| domain.starts_with("*."))
        && let Some(domain) = fields.entry("domain", report)
    {
        let message =
            format!("{} needs challenge = \"dns-01\": the others cannot show that it is yours", quoted(wildcard));
        report.error(&domain.node.span, message, "set challenge and [….tls.acme.dns], or name hosts one by one");
    }
    fields.finish();
    Some(TlsSpec { domains, acme, peer, redirect })
}

fn acme(parent: &Fields<'_>, report: &mut Report<'_>) -> Option<AcmeSpec> {
    let entry = parent.entry("acme", report)?;
    let title = format!("{}.acme]", parent.title.trim_end_matches(']'));
    let fields = Fields::open(&entry.node, &ACME, title, report)?;
    let email = fields.text("email", report);
    if !fields.has("email") {
        report.error(&entry.key_span, format!("{} has no `email`", fields.title), "add email = \"you@example.com\"");
    }
    if let Some(email) = email.as_ref().filter(|email| !email.value.contains('@') || email.value.contains(':')) {
        let message = format!("{} is not an email address", quoted(&email.value));
        report.error(&email.span, message, "write it as \"you@example.com\"");
    }
    let staging = fields.boolean("staging", report).unwrap_or_default();
    let url = fields.text("directory_url", report);
    if let Some(url) = &url {
        if staging {
            report.error(&url.span, "`directory_url` and `staging` name two authorities", "remove one of the two");
        }
        if !url.value.starts_with("https://") {
            let message = format!("{} is not an address of a directory", quoted(&url.value));
            report.error(&url.span, message, "write one that starts with https://");
        }
    }
    let directory = match url {
        Some(url) => AcmeDirectory::Url(url.value),
        None if staging => AcmeDirectory::LetsEncryptStaging,
        None => AcmeDirectory::LetsEncrypt,
    };
    let kind = fields.choice("challenge", report).map_or("http-01", |found| found.value);
    let provider = provider(&fields, report);
    let challenge = match (kind, provider) {
        ("dns-01", Some(provider)) => AcmeChallenge::Dns01(provider),
        ("dns-01", None) => {
            if !fields.has("dns") {
                let message = format!("{} needs `dns` for challenge = \"dns-01\"", fields.title);
                report.error(&entry.key_span, message, "add dns = { provider = \"exec\", hook = [\"…\"] }");
            }
            AcmeChallenge::Http01
        }
        (kind, found) => {
            if found.is_some()
                && let Some(dns) = fields.entry("dns", report)
            {
                report.error(&dns.key_span, format!("`dns` has no meaning for challenge {kind}"), "remove it");
            }
            if kind == "tls-alpn-01" { AcmeChallenge::TlsAlpn01 } else { AcmeChallenge::Http01 }
        }
    };
    let on_demand = fields.boolean("on_demand", report).unwrap_or_default();
    fields.finish();
    Some(AcmeSpec { email: email?.value, directory, challenge, on_demand })
}

fn provider(parent: &Fields<'_>, report: &mut Report<'_>) -> Option<DnsProvider> {
    let entry = parent.entry("dns", report)?;
    let title = format!("{}.dns]", parent.title.trim_end_matches(']'));
    let fields = Fields::open(&entry.node, &DNS, title, report)?;
    let kind = fields.choice("provider", report);
    if !fields.has("provider") {
        let message = format!("{} has no `provider`", fields.title);
        report.error(&entry.key_span, message, "add provider = \"cloudflare\", \"route53\", \"gcloud\" or \"exec\"");
    }
    let secrets = fields.pairs("secrets", report).into_iter().collect();
    let config = fields.pairs("config", report).into_iter().collect();
    let hook = fields.words("hook", report).unwrap_or_default();
    let propagation = fields.integer("propagation_timeout_secs", report);
    let poll = fields.integer("poll_interval_secs", report);
    let kind = kind.map(|found| match found.value {
        "cloudflare" => DnsProviderKind::Cloudflare,
        "route53" => DnsProviderKind::Route53,
        "gcloud" => DnsProviderKind::Gcloud,
        _ => DnsProviderKind::Exec,
    });
    if kind == Some(DnsProviderKind::Exec) && hook.is_empty() {
        let message = format!("{} has no `hook` to run", fields.title);
        report.error(&entry.key_span, message, "add hook = [\"/path/to/program\"]");
    }
    let provider = DnsProvider {
        kind: kind.unwrap_or(DnsProviderKind::Exec),
        secrets,
        config,
        hook,
        propagation_timeout_secs: propagation.map_or(300, |found| found.value.unsigned_abs()),
        poll_interval_secs: poll.map_or(5, |found| found.value.unsigned_abs()),
    };
    fields.finish();
    kind.map(|_| provider)
}
