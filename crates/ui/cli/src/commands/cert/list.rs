//! `cert list`: a table of certificates, and what is wrong with some.

use std::process::ExitCode;

use coppice_api::{CertificateSource, CertificateSummary};

use crate::daemon;
use crate::error::{CommandResult, eprint_all};
use crate::output::{Paint, Table, moment, visible};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings) -> CommandResult {
    let list = daemon::client(settings).await?.certificates().await?;
    let failed = list.failed.iter().map(|failed| {
        let next = moment(failed.next_at);
        format!("the last order for {} failed, the next is at {next}: {}", failed.domain, failed.why)
    });
    for word in list.words.iter().cloned().chain(failed) {
        eprint_all(&format!("{} {}\n", settings.stderr.paint(Paint::Yellow, "warning:"), visible(&word)));
    }
    if settings.json {
        settings.print_json(&list.certificates)?;
    } else {
        settings.print(&table(&list.certificates))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(certificates: &[CertificateSummary]) -> String {
    let mut table = Table::new(&["DOMAIN", "UNTIL", "SOURCE", "CHALLENGE", "RENEWED"]);
    for certificate in certificates {
        let source = match certificate.source {
            CertificateSource::Acme => "acme",
            CertificateSource::Installed => "installed",
        };
        table.row(vec![
            certificate.domain.clone(),
            moment(certificate.not_after),
            source.to_owned(),
            certificate.challenge.clone().unwrap_or_else(|| "-".to_owned()),
            if certificate.managed { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table.render()
}
