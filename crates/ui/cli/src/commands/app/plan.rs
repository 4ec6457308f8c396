//! `plan`: what `up` would do.

use std::process::ExitCode;

use coppice_api::{ApplyRequest, PlanReply, PlanSummary, StepAction, StepEffect};
use coppice_base::Name;
use coppice_client::Client;
use coppice_spec::AppSpec;

use crate::args::PlanArgs;
use crate::error::{CommandError, CommandResult};
use crate::output::{Paint, Style, visible};
use crate::settings::Settings;
use crate::{daemon, place, release};

pub(crate) async fn run(settings: &Settings, args: PlanArgs) -> CommandResult {
    let mut requests = Vec::new();
    for (spec, only) in place::apps(settings, &args.manifest).and_then(|apps| selections(apps, &args.services))? {
        requests.push(ApplyRequest { spec, only });
    }
    let client = daemon::client(settings).await?;
    release::send(settings, &client, requests.iter_mut().map(|request| &mut request.spec)).await?;
    show(settings, &client, &requests).await
}

/// Shows what applying each would do; of several apps, JSON is a list.
pub(crate) async fn show(settings: &Settings, client: &Client, requests: &[ApplyRequest]) -> CommandResult {
    let mut plans = Vec::new();
    for request in requests {
        plans.push(client.plan(request).await?);
    }
    match &plans[..] {
        [plan] if settings.json => settings.print_json(plan)?,
        plans if settings.json => settings.print_json(&plans)?,
        [plan] => settings.print(&render(plan, &settings.stdout))?,
        plans => {
            for (plan, request) in plans.iter().zip(requests) {
                settings.print(&format!("{}:\n{}", request.spec.name, render(plan, &settings.stdout)))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The apps with the services and workers named of them.
pub(crate) fn selections(apps: Vec<AppSpec>, names: &[String]) -> Result<Vec<(AppSpec, Vec<Name>)>, CommandError> {
    if apps.len() > 1 && !names.is_empty() {
        let all: Vec<&str> = apps.iter().map(|app| app.name.as_str()).collect();
        let help = format!("say which: --app NAME, of {}", all.join(", "));
        return Err(CommandError::usage("the manifest has several apps", help));
    }
    let with = |app: AppSpec| selection(&app, names).map(|only| (app, only));
    apps.into_iter().map(with).collect()
}

/// The services and workers named, each of which the manifest must have.
fn selection(spec: &AppSpec, names: &[String]) -> Result<Vec<Name>, CommandError> {
    let known = || spec.workloads().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let find = |name: &String| match spec.workloads().find(|(known, _)| known.as_str() == name) {
        Some((name, _)) => Ok(name.clone()),
        None => Err(CommandError::usage(
            format!("{name:?} is not a service or worker of app {}", spec.name),
            format!("it has: {}", known()),
        )),
    };
    names.iter().map(find).collect()
}

pub(crate) fn render(plan: &PlanReply, style: &Style) -> String {
    if plan.steps.is_empty() {
        return "nothing to do\n".to_owned();
    }
    let mut text = String::new();
    let mut counts = [0u32; 3];
    for step in &plan.steps {
        let (sign, paint, count) = match step.action {
            StepAction::Create => ("+", Paint::Green, 0),
            StepAction::Change => ("~", Paint::Yellow, 1),
            StepAction::Remove => ("-", Paint::Red, 2),
        };
        counts[count] += 1;
        text.push_str(&format!("{} {}\n", style.paint(paint, sign), visible(&step.target)));
        for why in &step.why {
            text.push_str(&format!("    {}\n", style.paint(Paint::Dim, &visible(why))));
        }
        if let Some(how) = &step.how {
            let paint = if step.effect == StepEffect::Interrupts { Paint::Yellow } else { Paint::Dim };
            text.push_str(&format!("    {}\n", style.paint(paint, &visible(how))));
        }
    }
    text.push_str(&format!("{} to create, {} to change, {} to remove\n", counts[0], counts[1], counts[2]));
    text + &consequences(plan, style)
}

/// What all of it does to what runs and to data, in one line; nothing where it does nothing to either.
fn consequences(plan: &PlanReply, style: &Style) -> String {
    let PlanSummary { create: _, change: _, remove: _, starts: _, replaces, interrupts, stops, snapshots } =
        plan.summary;
    let mut clauses: Vec<String> = Vec::new();
    for (count, what, paint) in [
        (replaces, "replaced without a gap", Paint::Green),
        (interrupts, "down for a moment", Paint::Yellow),
        (stops, "stopped", Paint::Red),
    ] {
        if count > 0 {
            clauses.push(style.paint(paint, &format!("{count} {what}")).to_string());
        }
    }
    if snapshots > 0 {
        clauses.push(format!("{snapshots} volume{} snapshotted", if snapshots == 1 { "" } else { "s" }));
    }
    if clauses.is_empty() { String::new() } else { clauses.join(", ") + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coppice_api::PlanStep;

    #[test]
    fn a_plan_is_signs_targets_and_reasons() {
        let step = |action, target: &str, why: &[&str]| PlanStep {
            action,
            kind: String::new(),
            target: target.into(),
            workload: None,
            effect: StepEffect::None,
            strategy: None,
            how: None,
            data: None,
            why: why.iter().map(|why| (*why).to_owned()).collect(),
            changes: Vec::new(),
        };
        let mut replaced = step(StepAction::Change, "instance web-1", &["image: redis:6 -> redis:7"]);
        (replaced.effect, replaced.how) = (StepEffect::Interrupts, Some("switch: stopped first".into()));
        let plan = PlanReply {
            steps: vec![
                step(StepAction::Create, "volume data", &[]),
                step(StepAction::Create, "snapshot of volume data", &["taken before web"]),
                replaced,
                step(StepAction::Remove, "instance web-2", &["replicas: 2 -> 1"]),
            ],
            summary: PlanSummary { interrupts: 1, stops: 1, snapshots: 1, ..PlanSummary::default() },
            ..PlanReply::default()
        };
        insta::assert_snapshot!(render(&plan, &Style::plain()), @r"
        + volume data
        + snapshot of volume data
            taken before web
        ~ instance web-1
            image: redis:6 -> redis:7
            switch: stopped first
        - instance web-2
            replicas: 2 -> 1
        2 to create, 1 to change, 1 to remove
        1 down for a moment, 1 stopped, 1 volume snapshotted
        ");
        assert_eq!(render(&PlanReply::default(), &Style::plain()), "nothing to do\n");
    }
}
