//! `tls` back into the manifest.

use coppice_spec::{AcmeChallenge, AcmeDirectory, DnsProviderKind, PeerTls, TlsSpec};

use super::{pairs, text, texts};
use crate::toml_text::{Document, quote};

pub(super) fn tls(document: &mut Document, section: &[&str], spec: &TlsSpec) {
    let section = [section, &["tls"]].concat();
    document.section(&section);
    if !spec.domains.is_empty() {
        document.line("domain", &texts(&spec.domains));
    }
    match spec.peer {
        PeerTls::Off => {}
        PeerTls::Warn => document.line("peer", &quote("warn")),
        PeerTls::Require => document.line("peer", &quote("require")),
    }
    if !spec.redirect {
        document.line("redirect", "false");
    }
    let Some(acme) = &spec.acme else { return };
    let section = [&section[..], &["acme"]].concat();
    document.section(&section);
    document.line("email", &text(&acme.email));
    match &acme.directory {
        AcmeDirectory::LetsEncrypt => {}
        AcmeDirectory::LetsEncryptStaging => document.line("staging", "true"),
        AcmeDirectory::Url(url) => document.line("directory_url", &text(url)),
    }
    if acme.on_demand {
        document.line("on_demand", "true");
    }
    let provider = match &acme.challenge {
        AcmeChallenge::Http01 => return,
        AcmeChallenge::TlsAlpn01 => return document.line("challenge", &quote("tls-alpn-01")),
        AcmeChallenge::Dns01(provider) => provider,
    };
    document.line("challenge", &quote("dns-01"));
    let section = [&section[..], &["dns"]].concat();
    document.section(&section);
    let kind = match provider.kind {
        DnsProviderKind::Cloudflare => "cloudflare",
        DnsProviderKind::Route53 => "route53",
        DnsProviderKind::Gcloud => "gcloud",
        DnsProviderKind::Exec => "exec",
    };
    document.line("provider", &quote(kind));
    if !provider.hook.is_empty() {
        document.line("hook", &texts(&provider.hook));
    }
    document.line("propagation_timeout_secs", &provider.propagation_timeout_secs.to_string());
    document.line("poll_interval_secs", &provider.poll_interval_secs.to_string());
    pairs(document, &section, "secrets", &provider.secrets);
    pairs(document, &section, "config", &provider.config);
}
