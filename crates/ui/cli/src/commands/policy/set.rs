//! `policy allow` and `policy deny`: a rule, in force when the command returns.

use std::process::ExitCode;

use coppice_api::PolicyRuleRequest;
use coppice_spec::Verdict;

use crate::args::PolicyPairArgs;
use crate::commands::policy::pair;
use crate::daemon;
use crate::error::CommandResult;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: PolicyPairArgs, verdict: Verdict) -> CommandResult {
    let (from, to) = pair(&args)?;
    let request = PolicyRuleRequest { from, to, verdict };
    daemon::client(settings).await?.set_policy_rule(&request).await?;
    if settings.json {
        settings.print_json(&request)?;
    } else {
        let may = match verdict {
            Verdict::Allow => "may connect to",
            Verdict::Deny => "cannot connect to",
        };
        settings.print(&format!("{} {may} {}\n", request.from, request.to))?;
    }
    Ok(ExitCode::SUCCESS)
}
