//! `[hooks]`.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Name;
use coppice_spec::HooksSpec;

use crate::check::{did_you_mean, left_out};
use crate::diagnostic::Report;
use crate::fields::Fields;
use crate::keys::HOOKS;
use crate::workload::{Read, ReadKind};

/// The `hooks` section; names of what is no worker are reported, and so is whoever waits for a hook.
pub(crate) fn read(
    root: &Fields<'_>,
    all: &BTreeMap<&str, &Read>,
    broken: &BTreeSet<String>,
    report: &mut Report<'_>,
) -> HooksSpec {
    let Some(entry) = root.entry("hooks", report) else { return HooksSpec::default() };
    let Some(fields) = Fields::open(&entry.node, &HOOKS, "[hooks]".to_owned(), report) else {
        return HooksSpec::default();
    };
    let list = |key: &'static str, report: &mut Report<'_>| {
        let mut names: Vec<Name> = Vec::new();
        for found in fields.texts(key, report).unwrap_or_default() {
            match all.get(found.value.as_str()) {
                Some(read) if names.contains(&read.name) => {
                    let message = format!("`{}` is named twice in `hooks.{key}`", found.value);
                    report.error(&found.span, message, "remove one of the two");
                }
                Some(read) if matches!(read.kind, ReadKind::Worker(_)) => names.push(read.name.clone()),
                Some(_) => {
                    let message = format!("`{}` is a service, and a hook runs to its end", found.value);
                    report.error(&found.span, message, format!("make it [worker.{}]", found.value));
                }
                None if broken.contains(&found.value) => {}
                None => {
                    let (message, otherwise) = match left_out(&found.value, report) {
                        Some((why, help)) => (format!("`hooks.{key}` names `{}`, which {why}", found.value), help),
                        None => (
                            format!("`hooks.{key}` names `{}`, which is not defined", found.value),
                            format!("define [worker.{}]", found.value),
                        ),
                    };
                    let workers = all.iter().filter(|(_, read)| matches!(read.kind, ReadKind::Worker(_)));
                    let help = did_you_mean(&found.value, workers.map(|(name, _)| *name), otherwise);
                    report.error(&found.span, message, help);
                }
            }
        }
        names
    };
    let hooks = HooksSpec {
        before_deploy: list("before_deploy", report),
        after_deploy: list("after_deploy", report),
        before_rollback: list("before_rollback", report),
    };
    fields.finish();
    for one in all.values() {
        for on in one.depends_on.iter().filter(|on| hooks.contains(&on.name)) {
            let message = format!("`{}` is a hook, which runs only around a release", on.name);
            report.error(&on.span, message, "remove the dependency, or take it out of [hooks]");
        }
        if let Some(group) = one.group.as_ref().filter(|_| hooks.contains(one.name.as_str())) {
            let message = format!("`{}` is a hook, and hooks are not supervised", one.name);
            report.error(&group.span, message, "remove `group`, or take it out of [hooks]");
        }
    }
    hooks
}
