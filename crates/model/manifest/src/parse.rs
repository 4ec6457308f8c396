//! The whole of a manifest: limits, sections, and what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Name;
use coppice_spec::{AppSpec, OnExhausted, SuperviseSpec};

use crate::check::{self, WrittenGroup};
use crate::context::Context;
use crate::cron::{self, ReadCron};
use crate::diagnostic::{Diagnostics, Report};
use crate::fields::{self, Fields};
use crate::keys::{APP, GROUP, RELEASE, ROOT, SUPERVISE};
use crate::source::Source;
use crate::tree::{self, Entry, Value};
use crate::workload::{self, Read, ReadKind};
use crate::{hooks, policy, secret, starter, supervise, volume};

/// Longest manifest, in bytes (yoq's bound).
pub const FILE_MAX: usize = 1024 * 1024;

/// Deepest nesting of tables and arrays (yoq's bound).
pub const NESTING_MAX: usize = 64;

/// Most services and workers of one app. Far above any real app; keeps walks over dependencies short.
pub const WORKLOADS_MAX: usize = 1000;

/// A manifest that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    pub spec: AppSpec,
    /// What is allowed and probably not meant; no errors.
    pub warnings: Diagnostics,
}

/// What a manifest is read with.
pub(crate) struct Input<'i, 'c> {
    pub(crate) context: &'i Context<'c>,
    /// A draft (a converted file) may name variables and env files that are not there yet.
    pub(crate) draft: bool,
}

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
    let too_long = text.len() > FILE_MAX;
    let source = Source::new(file_name, if too_long { "" } else { text });
    let mut report = Report::new(&source);
    if too_long {
        report.error(&(0..0), "the file is larger than 1 MiB", "split it into several apps");
        return Err(report.finish());
    }
    let spec = tree::read(input, &mut report).map(|entries| root(&entries, input, &mut report));
    match spec {
        Some(spec) if !report.has_errors() => Ok(Parsed { spec, warnings: report.finish() }),
        _ => Err(report.finish()),
    }
}

fn root(entries: &[Entry], input: &Input<'_, '_>, report: &mut Report<'_>) -> AppSpec {
    let root = Fields::over(entries, &ROOT, String::new(), report);
    let (name, labels) = app(&root, input, report);
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
                    return AppSpec { labels, supervise, ..AppSpec::of(name) };
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
            return AppSpec { labels, supervise, ..AppSpec::of(name) };
        }
        crons.extend(one);
    }
    let is_empty = read.is_empty() && broken.is_empty();
    if is_empty && !["service", "worker", "cron"].iter().any(|kind| root.has(kind)) {
        let end = report.source.text.len();
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
    for (one, depends_on) in read.into_iter().zip(depends_on) {
        match one.kind {
            ReadKind::Service { spec: mut service, .. } => {
                service.workload.depends_on = depends_on;
                spec.services.insert(one.name, *service);
            }
            ReadKind::Worker(mut worker) => {
                worker.workload.depends_on = depends_on;
                spec.workers.insert(one.name, *worker);
            }
        }
    }
    spec
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
