//! `rollback`: an earlier release comes back, as a release of its own.

use std::process::ExitCode;
use std::time::Instant;

use coppice_api::{RollbackPreview, RollbackReply, RollbackRequest};

use super::{follow, rollout};
use crate::args::RollbackArgs;
use crate::commands::app::{plan, up};
use crate::daemon;
use crate::error::CommandResult;
use crate::output::{Paint, Style, visible};
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: RollbackArgs) -> CommandResult {
    let app = rollout::app_of(settings, &args.of)?;
    let client = daemon::client(settings).await?;
    let request =
        RollbackRequest { release: args.release.clone(), data: args.data, undo: args.undo, print: args.print };
    let reply = follow::in_turn(&client, &app, client.rollback(&app, &request)).await?;
    if let Some(preview) = &reply.preview {
        if settings.json {
            settings.print_json(&reply)?;
        } else {
            settings.print(&render(&reply, preview, &settings.stdout))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let number = reply.release.unwrap_or_default();
    let said = format!("{app}: release {number} brings back release {}", reply.source);
    if args.detach {
        if settings.json {
            settings.print_json(&reply)?;
        } else {
            settings.print(&format!("{said}; `coppice rollout status {app}` shows how far it is\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    crate::error::eprint_all(&format!("{said}\n"));
    let arrival = up::settle(settings, &client, &app, number, Instant::now() + args.timeout, true).await?;
    up::verdict(settings, &arrival, args.timeout)
}

/// What would come back: the manifest, then what is done for it.
fn render(reply: &RollbackReply, preview: &RollbackPreview, style: &Style) -> String {
    let manifest = coppice_manifest::to_toml(&preview.spec);
    let mut text = format!("# release {} of {}, which would come back:\n{manifest}", reply.source, visible(&reply.app));
    for (secret, version) in &preview.secrets {
        text.push_str(&format!("# secret {secret}: version {version}\n"));
    }
    let mut line = |what: String| text.push_str(&format!("{} {}\n", style.paint(Paint::Dim, "#"), visible(&what)));
    line(String::new());
    line("what would be done:".to_owned());
    for hook in &preview.hooks {
        line(format!("  hook {hook} runs"));
    }
    for one in &preview.snapshots {
        line(format!("  the data of {} is kept as snapshot {}", one.volume, one.snapshot));
    }
    if !preview.halts.is_empty() {
        line(format!("  stops {}", preview.halts.join(", ")));
    }
    for switch in &preview.switches {
        line(format!(
            "  {} gets the data of snapshot {}; what it holds now is kept as {}",
            switch.volume, switch.to, switch.keep
        ));
    }
    for stage in &preview.stages {
        let how = if stage.strategy == "tree" { "is started anew" } else { &stage.strategy };
        line(format!("  {} ({}): {how}", stage.workload, stage.instances.join(", ")));
    }
    if !preview.removes.is_empty() {
        line(format!("  removes {}", preview.removes.join(", ")));
    }
    line(String::new());
    line("what differs from the release of now:".to_owned());
    for steps in plan::render(&reply.plan, &Style::plain()).lines() {
        line(format!("  {steps}"));
    }
    text
}
