//! What can be asked of a node's certificates.

use coppice_acme::{CertificateRecord, Source};
use coppice_api::{
    CertificateFailure, CertificateList, CertificateSource, CertificateSummary, InstallRequest, ProvisionRequest,
};
use coppice_spec::{AcmeChallenge, AcmeDirectory, DnsProviderKind};

use super::Node;
use crate::certificates::CertificatesError;
use crate::error::NodeError;

impl Node {
    /// Every certificate there is, by domain, and the names whose last order failed.
    pub fn certificates(&self) -> Result<CertificateList, NodeError> {
        let traffic = &self.containers.traffic;
        if !traffic.certificates().is_needed() {
            return Ok(CertificateList::default());
        }
        let certificates = traffic.certificates().started()?;
        let failed = certificates.setbacks().into_iter().map(|(domain, setback)| CertificateFailure {
            domain,
            failures: setback.failures,
            next_at: setback.until,
            why: setback.why,
        });
        let damaged = certificates.damaged();
        let words = damaged.iter().map(|file| format!("{} cannot be read: {}", file.path.display(), file.why));
        Ok(CertificateList {
            certificates: certificates.list().into_iter().map(summary).collect(),
            failed: failed.collect(),
            words: words.collect(),
        })
    }

    /// Keeps a certificate the operator brings, and shows it from now on.
    pub fn install_certificate(&self, request: &InstallRequest) -> Result<CertificateSummary, NodeError> {
        let certificates = self.containers.traffic.certificates().started()?;
        let installed = certificates.install(request.domain.as_deref(), &request.chain, &request.key);
        Ok(summary(installed.map_err(CertificatesError::from)?))
    }

    /// Orders a certificate, and renews it from then on; resolves when it is there, or could not be had.
    pub async fn provision_certificate(&self, request: ProvisionRequest) -> Result<CertificateSummary, NodeError> {
        let ProvisionRequest { domain, acme } = request;
        if !acme.email.contains('@') || acme.email.contains(':') {
            let text = format!("{:?} is not an email address: write it as you@example.com", acme.email);
            return Err(NodeError::Invalid(text));
        }
        if let AcmeDirectory::Url(url) = &acme.directory
            && !url.starts_with("https://")
        {
            return Err(NodeError::Invalid(format!("{url:?} is not a directory's address: it starts with https://")));
        }
        let traffic = &self.containers.traffic;
        let certificates = traffic.certificates().started()?;
        traffic.listen_for(&acme.challenge)?;
        Ok(summary(certificates.provision(&domain, acme).await.map_err(CertificatesError::from)?))
    }

    /// Orders a certificate anew, whatever its dates.
    pub async fn renew_certificate(&self, domain: &str) -> Result<CertificateSummary, NodeError> {
        let certificates = self.containers.traffic.certificates().started()?;
        Ok(summary(certificates.renew(domain).await.map_err(CertificatesError::from)?))
    }

    /// Begins a new root of an app's own authority; the one before is trusted until what it signed has ended.
    pub fn rotate_authority(&self, app: &str) -> Result<(), NodeError> {
        let app = self.app(app)?;
        Ok(self.containers.traffic.peers().rotate(&app.name)?)
    }

    /// Removes a certificate, and stops renewing it.
    pub fn remove_certificate(&self, domain: &str) -> Result<(), NodeError> {
        let certificates = self.containers.traffic.certificates().started()?;
        certificates.remove(domain).map_err(CertificatesError::from)?;
        Ok(())
    }
}

fn summary(record: CertificateRecord) -> CertificateSummary {
    let provider = record.acme.as_ref().and_then(|acme| match &acme.challenge {
        AcmeChallenge::Dns01(provider) => Some(match provider.kind {
            DnsProviderKind::Cloudflare => "cloudflare",
            DnsProviderKind::Route53 => "route53",
            DnsProviderKind::Gcloud => "gcloud",
            DnsProviderKind::Exec => "exec",
        }),
        AcmeChallenge::Http01 | AcmeChallenge::TlsAlpn01 => None,
    });
    CertificateSummary {
        challenge: record.challenge().map(str::to_owned),
        provider: provider.map(str::to_owned),
        directory_url: record.directory().map(str::to_owned),
        source: match record.source {
            Source::Acme => CertificateSource::Acme,
            Source::Installed => CertificateSource::Installed,
        },
        domain: record.domain,
        names: record.names,
        not_before: record.not_before,
        not_after: record.not_after,
        created_at: record.created_at,
        managed: record.managed,
        fingerprint: record.fingerprint,
    }
}
