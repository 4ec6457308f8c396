//! The whole of a manifest: limits, sections, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;

use coppice_base::Name;
use coppice_spec::{AppSpec, OnExhausted, SuperviseSpec};

use crate::check::{self, WrittenGroup};
use crate::context::Context;
use crate::cron::{self, ReadCron};
use crate::dev::DevSpec;
use crate::diagnostic::{Diagnostics, Report, quoted};
use crate::fields::{self, Fields};
use crate::keys::{APP, APPS, GROUP, RELEASE, ROOT, SUPERVISE};
use crate::source::Source;
use crate::tree::{self, Entry, Value};
use crate::workload::{self, Read, ReadKind};
use crate::{hooks, include, merge, policy, secret, starter, supervise, volume, when};

/// Longest manifest, in bytes (yoq's bound).
pub const FILE_MAX: usize = 1024 * 1024;

/// Deepest nesting of tables and arrays (yoq's bound).
pub const NESTING_MAX: usize = 64;

/// Most services and workers of one app. Far above any real app; keeps walks over dependencies short.
pub const WORKLOADS_MAX: usize = 1000;

/// A manifest that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// One, unless the manifest says `[app.NAME.…]`; then all of them, in the order they are written. Never empty.
    pub apps: Vec<AppSpec>,
    /// How their services are built while they are developed, by those that say so.
    pub dev: Vec<DevSpec>,
    /// What is allowed and probably not meant; no errors.
    pub warnings: Diagnostics,
}

impl Parsed {
    /// The app of a manifest that has one, else the first.
    pub fn into_first(mut self) -> AppSpec {
        self.apps.swap_remove(0)
    }
}

/// An app that was read.
type Contents = (AppSpec, Vec<DevSpec>);

/// What a manifest is read with.
pub(crate) struct Input<'i, 'c> {
    pub(crate) context: &'i Context<'c>,
    /// A draft (a converted file) may name variables and env files that are not there yet.
    pub(crate) draft: bool,
}

impl Input<'_, '_> {
    /// The directory in which relative paths written at `span` start: that of the file.
    pub(crate) fn dir(&self, span: &Range<usize>, report: &Report<'_>) -> PathBuf {
        report.source.dir(span).unwrap_or(self.context.dir()).to_owned()
    }
}

/// Most environments of one manifest: each is read through.
const ENVIRONMENTS_MAX: usize = 32;

/// Reads `coppice.toml`. `file_name` is only for messages.
///
/// # Errors
/// Everything that is wrong, sorted by position, warnings among it. Nothing outside `context` is touched.
pub fn parse(text: &str, file_name: &str, context: &Context<'_>) -> Result<Parsed, Diagnostics> {
    read(text, file_name, &Input { context, draft: false })
}

/// [`parse`] for bytes straight from a file: says where they stop being UTF-8.
///
/// # Errors
/// As [`parse`].
pub fn parse_bytes(bytes: &[u8], file_name: &str, context: &Context<'_>) -> Result<Parsed, Diagnostics> {
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, file_name, context),
        Err(error) => {
            let text = String::from_utf8_lossy(bytes.get(..FILE_MAX).unwrap_or(bytes));
            let source = Source::new(file_name, &text);
            let mut report = Report::new(&source);
            let at = error.valid_up_to();
            report.error(&(at..at + 3), "the file is not UTF-8 text from here on", "save it as UTF-8");
            Err(report.finish())
        }
    }
}

pub(crate) fn read(text: &str, file_name: &str, input: &Input<'_, '_>) -> Result<Parsed, Diagnostics> {
    if text.len() > FILE_MAX {
        let source = Source::new(file_name, "");
        let mut report = Report::new(&source);
        report.error(&(0..0), "the file is larger than 1 MiB", "split it into several apps");
        return Err(report.finish());
    }
    let (source, mistakes) = include::load(file_name, text, input.context);
    let mut report = Report::new(&source);
    for (span, message, help) in mistakes {
        report.error(&span, message, help);
    }
    let apps = match tree::read(&mut report) {
        Some(files) => environments(merge::join(files, &mut report), input, &mut report),
        None => Vec::new(),
    };
    if report.has_errors() {
        return Err(report.finish());
    }
    let (apps, dev): (Vec<AppSpec>, Vec<Vec<DevSpec>>) = apps.into_iter().unzip();
    Ok(Parsed { apps, dev: dev.into_iter().flatten().collect(), warnings: report.finish() })
}

/// The apps in the chosen environment. The others are read too, so that a mistake in them is found today.
fn environments(mut sections: Vec<Entry>, input: &Input<'_, '_>, report: &mut Report<'_>) -> Vec<Contents> {
    let at = sections.iter().position(|section| section.key == "env");
    let written = at.map(|at| sections.remove(at));
    let mut overlays: Vec<(&Entry, &[Entry])> = Vec::new();
    match written.as_ref().map(|entry| (&entry.node.value, entry)) {
        None => {}
        Some((Value::Table(tables), entry)) => {
            if tables.len() > ENVIRONMENTS_MAX {
                let message = format!("a manifest has at most {ENVIRONMENTS_MAX} environments");
                report.error(&entry.key_span, message, "split it into several apps");
                return Vec::new();
            }
            for table in tables {
                fields::name("an environment", &table.key, &table.key_span, report);
                match &table.node.value {
                    Value::Table(sections) => overlays.push((table, sections)),
                    other => {
                        let message = format!("[env.{}] must be a table, and this is {}", table.key, other.kind());
                        let help = "write what is different below it, as in [env.prod.service.web]";
                        report.error(&table.node.span, message, help);
                    }
                }
            }
        }
        Some((other, entry)) => {
            let message = format!("`env` must be a table of environments, and this is {}", other.kind());
            let help = "write [env.prod.service.web]; a service's own variables are its `env`";
            report.error(&entry.node.span, message, help);
        }
    }
    for (table, sections) in &overlays {
        for section in sections.iter().filter(|section| matches!(section.key.as_str(), "env" | "include")) {
            let message = format!("`{}` cannot be in [env.{}]", section.key, table.key);
            report.error(&section.key_span, message, "write it at the top of the manifest");
        }
    }
    let chosen = input.context.environment();
    let known = || overlays.iter().map(|(table, _)| table.key.as_str());
    let found = chosen.and_then(|chosen| overlays.iter().find(|(table, _)| table.key == chosen.name));
    if let Some(chosen) = chosen.filter(|chosen| found.is_none() && !(chosen.lenient && overlays.is_empty())) {
        let span = written.as_ref().map_or(report.source.end()..report.source.end(), |entry| entry.key_span.clone());
        let help = match known().collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => format!("it has none: add [env.{}], or choose none", chosen.name),
            names => check::did_you_mean(&chosen.name, known(), format!("it has: {names}")),
        };
        report.error(&span, format!("{} is not an environment of the manifest", quoted(&chosen.name)), help);
    }
    let name = found.map_or("", |(table, _)| table.key.as_str());
    let base = sections;
    if overlays.is_empty() {
        return apps(base, name, input, report);
    }
    let whole = match found {
        Some((_, over)) => merge::overlay(&base, over),
        None => base.clone(),
    };
    let apps = apps(whole, name, input, report);
    for (table, over) in overlays.iter().filter(|(table, _)| table.key != name) {
        report.beside = Some(table.key.clone());
        // Its variables and files may be there only where it is used.
        let draft = Input { context: input.context, draft: true };
        self::apps(merge::overlay(&base, over), &table.key, &draft, report);
    }
    report.beside = None;
    apps
}

/// The apps that whole `sections` make, in `environment`.
fn apps(mut sections: Vec<Entry>, environment: &str, input: &Input<'_, '_>, report: &mut Report<'_>) -> Vec<Contents> {
    let at = sections.iter().position(|section| section.key == "app");
    let is_app = |entry: &Entry| matches!(entry.node.value, Value::Table(_)) && entry.key != "labels";
    let several = at.is_some_and(|at| match &sections[at].node.value {
        Value::Table(keys) => keys.iter().any(is_app),
        _ => false,
    });
    let Some(at) = at.filter(|_| several) else {
        settle(&mut sections, environment, input, report);
        let root = Fields::over(&sections, &ROOT, String::new(), report);
        let (name, labels) = app(&root, input, report);
        root.texts("include", report);
        root.entry("env", report);
        return vec![contents(root, name, labels, input, report)];
    };
    let written = sections.remove(at);
    for stray in sections.iter().filter(|section| section.key != "include") {
        let message = format!("`{}` is in no app, and this manifest has several", stray.key);
        report.error(&stray.key_span, message, format!("write it below one of them, as in [app.NAME.{}]", stray.key));
    }
    let Value::Table(tables) = written.node.value else { return Vec::new() };
    let mut apps = Vec::new();
    for table in tables {
        let name = fields::name("an app", &table.key, &table.key_span, report);
        let Value::Table(mut sections) = table.node.value else {
            let message = format!("`{}` is of no app, and this manifest has several", table.key);
            report.error(&table.key_span, message, "write what is an app's own below [app.NAME]");
            continue;
        };
        settle(&mut sections, environment, input, report);
        let fields = Fields::over(&sections, &APPS, format!("[app.{}]", table.key), report);
        let labels = fields.pairs("labels", report).into_iter().collect();
        let Some(name) = name else { continue };
        apps.push(contents(fields, name, labels, input, report));
    }
    apps
}

/// Takes out what is not there in `environment`, then puts the values of variables in.
fn settle(sections: &mut [Entry], environment: &str, input: &Input<'_, '_>, report: &mut Report<'_>) {
    report.left_out = when::prune(sections, environment, input, report);
    tree::expand(sections, input, report);
}

/// One app of the sections in `root`.
fn contents(
    root: Fields<'_>,
    name: Name,
    labels: BTreeMap<String, String>,
    input: &Input<'_, '_>,
    report: &mut Report<'_>,
) -> Contents {
    let (supervise, on_exhausted) = supervision(&root, report);
    let keep = keep(&root, report);

    let mut read: Vec<Read> = Vec::new();
    // Names that are written but unusable: others may refer to them without a second error.
    let mut broken: BTreeSet<String> = BTreeSet::new();
    for kind in ["service", "worker"] {
        for entry in named(&root, kind, report) {
            let one =
                fields::name(&format!("a {kind}"), &entry.key, &entry.key_span, report).and_then(|name| match kind {
                    "service" => workload::service(entry, name, input, report),
                    _ => workload::worker(entry, name, input, report),
                });
            match one {
                Some(one) if read.len() < WORKLOADS_MAX => read.push(one),
                Some(_) => {
                    too_many(entry, report);
                    return (AppSpec { labels, supervise, ..AppSpec::of(name) }, Vec::new());
                }
                None => drop(broken.insert(entry.key.clone())),
            }
        }
    }
    let mut crons: Vec<ReadCron> = Vec::new();
    for entry in named(&root, "cron", report) {
        let cron = fields::name("a cron", &entry.key, &entry.key_span, report);
        let one = cron.and_then(|name| cron::read(entry, name, input, report));
        if one.is_some() && read.len() + crons.len() >= WORKLOADS_MAX {
            too_many(entry, report);
            return (AppSpec { labels, supervise, ..AppSpec::of(name) }, Vec::new());
        }
        crons.extend(one);
    }
    let is_empty = read.is_empty() && broken.is_empty();
    let end = report.source.end();
    if is_empty && crons.is_empty() && report.left_out.keys().any(|name| !name.starts_with("volume ")) {
        let message = format!("every service, worker and cron of {name} is left out by its `when`");
        report.error(&(end..end), message, "let one of them be there, or choose another environment: --env NAME");
    } else if is_empty && !["service", "worker", "cron"].iter().any(|kind| root.has(kind)) {
        report.error(&(end..end), "the app has no service and no worker", "add [service.web] with image = \"…\"");
    }

    let mut groups = Vec::new();
    let mut broken_groups: BTreeSet<String> = BTreeSet::new();
    for entry in named(&root, "group", report) {
        let name = fields::name("a group", &entry.key, &entry.key_span, report);
        let fields = Fields::open(&entry.node, &GROUP, format!("[group.{}]", entry.key), report);
        let (Some(name), Some(fields)) = (name, fields) else {
            broken_groups.insert(entry.key.clone());
            continue;
        };
        let members = fields.texts("members", report).unwrap_or_default();
        let supervise = supervise::read(&fields, report);
        fields.finish();
        groups.push(WrittenGroup { name, key_span: entry.key_span.clone(), members, supervise });
    }

    let mut volumes = BTreeMap::new();
    let mut declared = Vec::new();
    for entry in named(&root, "volume", report) {
        let Some(name) = fields::name("a volume", &entry.key, &entry.key_span, report) else { continue };
        declared.push((name.clone(), entry.key_span.clone()));
        if let Some(spec) = volume::read(entry, input, report) {
            volumes.insert(name, spec);
        }
    }

    let mut secrets = BTreeMap::new();
    for entry in named(&root, "secret", report) {
        let Some(name) = fields::name("a secret", &entry.key, &entry.key_span, report) else { continue };
        if let Some(spec) = secret::read(entry, report) {
            secrets.insert(name, (spec, entry.key_span.clone()));
        }
    }

    check::names(&read, &crons, report);
    check::host_ports(&read, report);
    let cron_mounts = crons.iter().flat_map(|one| &one.mounts);
    let mounts = read.iter().flat_map(|one| &one.mounts).chain(cron_mounts);
    check::volumes(&mut volumes, &declared, mounts, report);
    let cron_uses = crons.iter().flat_map(|one| &one.uses);
    let uses = read.iter().flat_map(|one| &one.uses).chain(cron_uses);
    if broken.is_empty() {
        secret::check(&secrets, uses, report);
    }
    let all: BTreeMap<&str, &Read> = read.iter().map(|one| (one.name.as_str(), one)).collect();
    let policy = policy::read(&root, &all, &broken, report);
    let hooks = hooks::read(&root, &all, &broken, report);
    root.finish();
    check::routes(&read, &all, &broken, report);
    check::circles(&read, &all, report);
    let groups = check::groups(groups, &read, &all, &broken, &broken_groups, &hooks, report);
    let depends_on: Vec<_> = read.iter().map(|one| check::dependencies(one, &all, &broken, report)).collect();

    let spec = AppSpec { labels, supervise, on_exhausted, keep, groups, volumes, policy, hooks, ..AppSpec::of(name) };
    let secrets = secrets.into_iter().map(|(name, (secret, _))| (name, secret)).collect();
    let crons = crons.into_iter().map(|one| (one.name, one.spec)).collect();
    let mut spec = AppSpec { secrets, crons, ..spec };
    let mut dev = Vec::new();
    for (one, depends_on) in read.into_iter().zip(depends_on) {
        match one.kind {
            ReadKind::Service { spec: mut service, dev: of_service, .. } => {
                dev.extend(of_service.map(|read| read.of(&spec.name, &one.name)));
                service.workload.depends_on = depends_on;
                spec.services.insert(one.name, *service);
            }
            ReadKind::Worker(mut worker) => {
                worker.workload.depends_on = depends_on;
                spec.workers.insert(one.name, *worker);
            }
        }
    }
    (spec, dev)
}

fn too_many(entry: &Entry, report: &mut Report<'_>) {
    let message = format!("an app has at most {WORKLOADS_MAX} services and workers");
    report.error(&entry.key_span, message, "split it into several apps");
}

fn supervision(root: &Fields<'_>, report: &mut Report<'_>) -> (SuperviseSpec, OnExhausted) {
    let default = (SuperviseSpec::default(), OnExhausted::default());
    let Some(entry) = root.entry("supervise", report) else { return default };
    let Some(fields) = Fields::open(&entry.node, &SUPERVISE, "[supervise]".to_owned(), report) else { return default };
    let spec = supervise::read(&fields, report);
    let on_exhausted = match fields.choice("on_exhausted", report).map(|found| found.value) {
        Some("rollback") => OnExhausted::Rollback,
        _ => OnExhausted::Stay,
    };
    fields.finish();
    (spec, on_exhausted)
}

/// `[release] keep`.
fn keep(root: &Fields<'_>, report: &mut Report<'_>) -> u32 {
    let Some(entry) = root.entry("release", report) else { return AppSpec::DEFAULT_KEEP };
    let fields = Fields::open(&entry.node, &RELEASE, "[release]".to_owned(), report);
    let Some(fields) = fields else { return AppSpec::DEFAULT_KEEP };
    let keep = fields.integer("keep", report).and_then(|found| u32::try_from(found.value).ok());
    fields.finish();
    keep.unwrap_or(AppSpec::DEFAULT_KEEP)
}

fn app(root: &Fields<'_>, input: &Input<'_, '_>, report: &mut Report<'_>) -> (Name, BTreeMap<String, String>) {
    let dir = input.context.dir().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let default = starter::app_name(&dir);
    let Some(entry) = root.entry("app", report) else { return (default, BTreeMap::new()) };
    let span = &entry.node.span;
    let fields = match &entry.node.value {
        Value::Text { text, .. } => {
            return (fields::name("an app", text, span, report).unwrap_or(default), BTreeMap::new());
        }
        Value::Table(_) | Value::Unknown => Fields::open(&entry.node, &APP, "[app]".to_owned(), report),
        other => {
            let message = format!("`app` must be a name or a table, and this is {}", other.kind());
            report.error(span, message, format!("write app = \"{default}\""));
            None
        }
    };
    let Some(fields) = fields else { return (default, BTreeMap::new()) };
    let name = fields.text("name", report);
    let name = name.and_then(|found| fields::name("an app", &found.value, &found.span, report)).unwrap_or(default);
    let labels = fields.pairs("labels", report).into_iter().collect();
    fields.finish();
    (name, labels)
}

/// The entries of `[service.*]` and its like.
fn named<'n>(root: &Fields<'n>, kind: &'static str, report: &mut Report<'_>) -> &'n [Entry] {
    let Some(entry) = root.entry(kind, report) else { return &[] };
    let example = format!("give each {kind} a section of its own: [{kind}.NAME]");
    match &entry.node.value {
        Value::Table(entries) => entries,
        Value::Unknown => &[],
        other => {
            report.error(
                &entry.key_span,
                format!("`{kind}` must be a table of tables, and this is {}", other.kind()),
                example,
            );
            &[]
        }
    }
}
