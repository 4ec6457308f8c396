//! `policy rm`: a rule away.

use std::process::ExitCode;

use crate::args::PolicyPairArgs;
use crate::commands::policy::pair;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: PolicyPairArgs) -> CommandResult {
    let (from, to) = pair(&args)?;
    daemon::client(settings).await?.remove_policy_rule(&from.to_string(), &to.to_string()).await?;
    if settings.json {
        settings.print_json(&[from, to])?;
    } else {
        settings.print(&format!("{from} → {to}: removed, the manifests decide\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
