//! Compose file → `coppice.toml`, with a list of everything that is not carried over.
//!
//! The result is text, not a spec: `${VAR}`s stay variables, and a person goes on editing it. It refuses to guess:
//! what has no counterpart is listed with its path, its line and what to do instead, in [`Converted::left_out`] and as
//! a comment at the top of the file.

mod health;
mod ledger;
mod mounts;
mod ports;
mod reasons;
mod service;
mod variables;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};

pub use ledger::LeftOut;
use ledger::{Ledger, Map};
use serde::Serialize;
use yaml::{Node, Value};

use crate::context::Context;
use crate::diagnostic::{Diagnostics, Report};
use crate::parse::{self, FILE_MAX, Input};
use crate::source::Source;
use crate::starter::app_name;
use crate::toml_text::{Document, quote};

/// A converted Compose file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Converted {
    /// A manifest that [`parse`](crate::parse) takes, once its variables and env files are there.
    pub toml: String,
    /// What it does not say, by line of the Compose file.
    pub left_out: Vec<LeftOut>,
}

/// What the services of a file need to know of each other, and of its volumes.
struct File {
    /// Compose's name → ours.
    names: BTreeMap<String, String>,
    /// Services others wait for to complete: they become workers.
    workers: BTreeSet<String>,
    volumes: BTreeMap<String, String>,
    /// The app's name, for images that Compose would build.
    app: String,
}

/// Converts a Compose file. `file_name` is for messages; `context` gives the directory (and the app its name).
///
/// # Errors
/// The text is no YAML, has no services, or says something a manifest refuses (a circle of dependencies, a host port
/// twice); the latter point into the manifest that would have been.
pub fn convert_compose(yaml: &str, file_name: &str, context: &Context<'_>) -> Result<Converted, Diagnostics> {
    let too_long = yaml.len() > FILE_MAX;
    let text = yaml.strip_prefix('\u{feff}').unwrap_or(yaml);
    let source = Source::new(file_name, if too_long { "" } else { text });
    let mut report = Report::new(&source);
    if too_long {
        report.error(&(0..0), "the file is larger than 1 MiB", "split it");
        return Err(report.finish());
    }
    let Some(root) = yaml::read(&mut report) else { return Err(report.finish()) };
    if !matches!(&root.value, Value::Map(pairs) if pairs.iter().any(|(key, _)| key.text == "services")) {
        report.error(
            &root.span,
            "this is no Compose file: it has no `services`",
            "give a file with services: at the top",
        );
        return Err(report.finish());
    }
    let Body { text: body, left_out, default_restart } = file(&root, &source, context);

    let mut document = Document::default();
    document.comment(&format!("Converted from {file_name}. Check it with `coppice validate`."));
    if !left_out.is_empty() {
        document.comment("\nNot carried over, or not quite the same (line of the Compose file, what, why):");
        for left in &left_out {
            document.comment(&format!("  {}: {}: {}", left.line, left.path, left.why));
        }
    }
    if default_restart {
        document.comment("\nServices without `restart` are restarted here, always; Compose would leave them stopped.");
    }
    let toml = format!("{}\n{body}", document.finish());
    let input = Input { context, draft: true };
    parse::read(&toml, "coppice.toml", &input).map(|_| Converted { toml, left_out })
}

/// The sections of the manifest, and what is to be said about them.
#[derive(Default)]
struct Body {
    text: String,
    left_out: Vec<LeftOut>,
    /// Whether a service leaves `restart` to the default.
    default_restart: bool,
}

fn file(root: &Node, source: &Source<'_>, context: &Context<'_>) -> Body {
    let mut ledger = Ledger::new(source);
    let mut document = Document::default();
    let Some(top) = Map::open(root, "", &mut ledger) else { return Body::default() };
    let dir = context.dir().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut app = app_name(&dir).as_str().to_owned();
    if let Some((path, node)) = top.take("name")
        && let Some(name) = ledger.text(node, &path)
    {
        app = name.clone();
        if !name.contains("${") {
            app = renamed(&name, &path, &node.span, &mut ledger);
        }
        document.section(&["app"]);
        document.line("name", &quote(&app));
    }
    if context.read(&context.dir().join(".env")).is_ok() {
        let why = "variables come from the environment alone: run `set -a; . ./.env; set +a` first";
        ledger.leave(".env", &(0..0), why);
    }

    let volumes_node = top.take("volumes");
    let mut volumes = BTreeMap::new();
    if let Some((path, node)) = &volumes_node
        && let Value::Map(pairs) = &node.value
    {
        for (key, _) in pairs {
            let name = renamed(&key.text, &format!("{path}.{}", key.text), &key.span, &mut ledger);
            if volumes.values().any(|taken| *taken == name) {
                let why = format!("another volume is already called `{name}`; rename this one");
                ledger.leave(&format!("{path}.{}", key.text), &key.span, why);
                continue;
            }
            volumes.insert(key.text.clone(), name);
        }
    }

    let services = top.take("services").and_then(|(path, node)| Map::open(node, &path, &mut ledger));
    let mut found: Vec<(&str, &Node, String)> = Vec::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    for (key, node) in services.iter().flat_map(Map::take_all) {
        let path = format!("services.{}", key.text);
        let name = renamed(&key.text, &path, &key.span, &mut ledger);
        if !taken.insert(name.clone()) {
            ledger.leave(&path, &key.span, format!("another service is already called `{name}`; rename this one"));
            continue;
        }
        names.insert(key.text.clone(), name);
        found.push((&key.text, node, path));
    }
    let workers = found.iter().flat_map(|(_, node, _)| service::waits_to_complete(node)).collect();
    let file = File { names, workers, volumes, app };
    let mut default_restart = false;
    for (name, node, path) in &found {
        default_restart |= service::convert(name, node, path, &file, &mut document, &mut ledger);
    }
    if let Some((path, node)) = &volumes_node {
        mounts::declared(node, path, &file, &mut document, &mut ledger);
    }
    top.finish(reasons::top, &mut ledger);
    Body { text: document.finish(), left_out: ledger.finish(), default_restart }
}

/// A name as Coppice allows it; a change is listed.
fn renamed(name: &str, path: &str, span: &std::ops::Range<usize>, ledger: &mut Ledger<'_>) -> String {
    let ours = app_name(name).as_str().to_owned();
    if ours != name {
        ledger.leave(path, span, format!("renamed to `{ours}`: names are up to 63 of a-z, 0-9, '-', '_' and '.'"));
    }
    ours
}
