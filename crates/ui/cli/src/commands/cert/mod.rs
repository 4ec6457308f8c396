//! Verbs on certificates.

pub(crate) mod install;
pub(crate) mod list;
pub(crate) mod provision;
pub(crate) mod remove;
pub(crate) mod renew;
pub(crate) mod rotate;

use coppice_api::CertificateSummary;

use crate::error::CommandError;
use crate::output::{moment, visible};
use crate::settings::Settings;

/// Says which certificate is there now.
fn there(settings: &Settings, certificate: &CertificateSummary) -> Result<(), CommandError> {
    if settings.json {
        return settings.print_json(certificate);
    }
    settings.print(&format!("{} until {}\n", visible(&certificate.domain), moment(certificate.not_after)))
}
