//! `cert install`: a certificate the operator brings.

use std::path::Path;
use std::process::ExitCode;

use coppice_api::InstallRequest;

use crate::args::CertInstallArgs;
use crate::daemon;
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: CertInstallArgs) -> CommandResult {
    let request = InstallRequest { domain: args.domain, chain: read(&args.cert)?, key: read(&args.key)? };
    let installed = daemon::client(settings).await?.install_certificate(&request).await?;
    super::there(settings, &installed)?;
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|error| {
        CommandError::usage(format!("cannot read {}: {error}", path.display()), "name a file of PEM text")
    })
}
