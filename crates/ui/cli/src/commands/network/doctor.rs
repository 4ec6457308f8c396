//! `net doctor`: what is broken on the way from one to another.

use std::process::ExitCode;

use coppice_api::{DoctorReport, DoctorState};

use crate::args::DoctorArgs;
use crate::daemon;
use crate::error::{CommandResult, FAILURE};
use crate::output::{Paint, Style, visible};
use crate::place::{Place, Target};
use crate::settings::Settings;

/// Ends with 1 when something is broken.
pub(crate) async fn run(settings: &Settings, args: DoctorArgs) -> CommandResult {
    // A service of this directory is meant before one of the same name elsewhere.
    let from = args.from.map(|from| match Place::here().target(&from) {
        Ok(Target::Workload { app, workload }) => format!("{app}/{workload}"),
        _ => from,
    });
    let report = daemon::client(settings).await?.doctor(from.as_deref(), args.to.as_deref()).await?;
    if settings.json {
        settings.print_json(&report)?;
    } else {
        settings.print(&text(&report, &settings.stdout))?;
    }
    Ok(if report.well { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

fn text(report: &DoctorReport, style: &Style) -> String {
    let mut text = String::new();
    for step in &report.steps {
        let (word, paint) = match step.state {
            DoctorState::Fine => ("ok", Paint::Green),
            DoctorState::Broken => ("BROKEN", Paint::Red),
            DoctorState::Doubtful => ("doubt", Paint::Yellow),
            DoctorState::Skipped => ("-", Paint::Dim),
        };
        text.push_str(&format!(
            "{}  {:13}  {}\n",
            style.paint(paint, &format!("{word:6}")),
            step.step,
            visible(&step.found)
        ));
        if let Some(advice) = &step.advice {
            text.push_str(&format!("        {:13}  {} {}\n", "", style.paint(Paint::Cyan, "try:"), visible(advice)));
        }
    }
    let way = match (&report.from, &report.to) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (Some(one), None) | (None, Some(one)) => one.clone(),
        (None, None) => "the network of this node".to_owned(),
    };
    let said = match (&report.problem, report.well) {
        (Some(problem), _) => format!("{}: {problem}", visible(&way)),
        (None, true) => format!("{}: all is well", visible(&way)),
        (None, false) => format!("{}: something is broken", visible(&way)),
    };
    text.push_str(&format!("{}\n", style.paint(Paint::Bold, &said)));
    text
}

#[cfg(test)]
mod tests {
    use coppice_api::DoctorStep;

    use super::*;

    #[test]
    fn each_step_is_a_line_with_its_advice_below_and_the_first_problem_is_the_last_word() {
        let step = |state, problem: Option<&str>, advice: Option<&str>| DoctorStep {
            step: "policy".into(),
            state,
            found: "found".into(),
            problem: problem.map(str::to_owned),
            advice: advice.map(str::to_owned),
        };
        let report = DoctorReport {
            from: Some("shop/web-1".into()),
            to: Some("shop/db".into()),
            well: false,
            problem: Some("policy-denied".into()),
            steps: vec![
                step(DoctorState::Fine, None, None),
                step(DoctorState::Broken, Some("policy-denied"), Some("`x`")),
                step(DoctorState::Skipped, None, None),
            ],
        };
        assert_eq!(
            text(&report, &Style::plain()),
            "ok      policy         found\nBROKEN  policy         found\n                       try: `x`\n-       policy         found\nshop/web-1 -> shop/db: policy-denied\n"
        );
    }
}
