//! `policy list`: what is in force, the rules that win first.

use std::process::ExitCode;

use coppice_api::{PolicyRuleSummary, PolicySource};
use coppice_spec::Verdict;

use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Table, moment};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings) -> CommandResult {
    let rules = daemon::client(settings).await?.policy_rules().await?;
    if settings.json {
        settings.print_json(&rules)?;
    } else {
        settings.print(&table(&rules))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(rules: &[PolicyRuleSummary]) -> String {
    let mut table = Table::new(&["FROM", "TO", "VERDICT", "SOURCE", "SINCE", "BY"]);
    for rule in rules {
        let verdict = match rule.verdict {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        };
        let source = match rule.source {
            PolicySource::Rule => "rule",
            PolicySource::Manifest => "manifest",
        };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            rule.from.as_ref().map_or_else(|| "everybody else".to_owned(), ToString::to_string),
            rule.to.to_string(),
            verdict.to_owned(),
            source.to_owned(),
            or_dash(rule.at.map(moment)),
            or_dash(rule.by.clone()),
        ]);
    }
    table.render()
}
