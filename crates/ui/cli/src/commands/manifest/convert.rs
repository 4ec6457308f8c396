//! `convert`: a Compose file as a manifest.

use std::process::ExitCode;

use coppice_manifest::{Context, convert_compose};

use crate::args::ConvertArgs;
use crate::error::{CommandError, CommandResult, eprint_all};
use crate::output::{Paint, visible};
use crate::place;
use crate::settings::Settings;

/// The manifest goes to standard output or the file, what was left out to standard error.
pub(crate) fn run(settings: &Settings, args: ConvertArgs) -> CommandResult {
    let file = &args.compose;
    let text = std::fs::read_to_string(file)
        .map_err(|error| CommandError::usage(format!("cannot read {}: {error}", file.display()), "check the path"))?;
    let context = Context::from_host(place::directory(file));
    let converted = convert_compose(&text, &file.display().to_string(), &context)
        .map_err(|wrong| CommandError::Manifest { rendered: wrong.render(settings.stderr.color) })?;
    match &args.output {
        Some(output) => super::init::write(output, &converted.toml, false)?,
        None => settings.print(&converted.toml)?,
    }
    if settings.json {
        let list = serde_json::to_string_pretty(&converted.left_out).expect("plain data");
        eprint_all(&(list + "\n"));
        return Ok(ExitCode::SUCCESS);
    }
    if !converted.left_out.is_empty() {
        let style = &settings.stderr;
        let mut text = format!("{} not carried over:\n", style.paint(Paint::Yellow, "warning:"));
        for left in &converted.left_out {
            let place = format!("{}:{}", file.display(), left.line);
            text.push_str(&format!(
                "  {} {}: {}\n",
                style.paint(Paint::Dim, &place),
                visible(&left.path),
                visible(&left.why)
            ));
        }
        eprint_all(&text);
    }
    Ok(ExitCode::SUCCESS)
}
