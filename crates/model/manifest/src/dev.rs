//! `[service.X.dev]`: what `coppice up --dev` builds and watches for a service.
//!
//! It is about the machine that the manifest is on and is no part of the app: no node hears of it.

use std::path::PathBuf;

use coppice_base::Name;

use crate::diagnostic::Report;
use crate::fields::Fields;
use crate::keys::DEV;
use crate::mount::host_path;
use crate::parse::Input;

/// How a service is built while it is developed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevSpec {
    pub app: Name,
    pub service: Name,
    /// For `sh -c`, in `dir`. `None`: a change only restarts the service.
    pub build: Option<String>,
    /// Files and directories, absolute. Those of a build are never empty.
    pub watch: Vec<PathBuf>,
    /// That of the file that says it.
    pub dir: PathBuf,
}

/// As [`DevSpec`], of a service that is read.
pub(crate) struct ReadDev {
    build: Option<String>,
    watch: Vec<PathBuf>,
    dir: PathBuf,
}

impl ReadDev {
    pub(crate) fn of(self, app: &Name, service: &Name) -> DevSpec {
        let Self { build, watch, dir } = self;
        DevSpec { app: app.clone(), service: service.clone(), build, watch, dir }
    }
}

pub(crate) fn read(parent: &Fields<'_>, input: &Input<'_, '_>, report: &mut Report<'_>) -> Option<ReadDev> {
    let entry = parent.entry("dev", report)?;
    let title = format!("{}.dev]", parent.title.trim_end_matches(']'));
    let fields = Fields::open(&entry.node, &DEV, title, report)?;
    let build = fields.text("build", report);
    if let Some(empty) = build.as_ref().filter(|build| build.value.trim().is_empty()) {
        report.error(&empty.span, "`build` is empty", "give a shell command, as in \"cargo build --release\"");
    }
    let dir = input.dir(&entry.key_span, report);
    let mut watch = Vec::new();
    for path in fields.texts("watch", report).unwrap_or_default() {
        match host_path(&path.value, &dir) {
            Ok(whole) if !path.value.is_empty() => watch.push(PathBuf::from(whole)),
            Ok(_) => report.error(&path.span, "a path in `watch` is empty", "write \".\" for the manifest's directory"),
            Err((message, help)) => report.error(&path.span, message, help),
        }
    }
    if let Some(build) = build.as_ref().filter(|_| !fields.has("watch")) {
        let message = format!("{} does not say what its build is of", fields.title);
        report.error(&build.span, message, "add the sources, and nothing the build writes: watch = [\"src\"]");
    }
    fields.finish();
    Some(ReadDev { build: build.map(|build| build.value), watch, dir })
}
