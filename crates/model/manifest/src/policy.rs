//! `[policy]`.

use std::collections::{BTreeMap, BTreeSet};

use coppice_spec::{Pair, PolicySpec, Verdict};

use crate::check::did_you_mean;
use crate::diagnostic::{Report, quoted};
use crate::fields::{self, Fields};
use crate::keys::POLICY;
use crate::workload::Read;

/// The `policy` section; pairs of what is not defined are reported.
pub(crate) fn read(
    root: &Fields<'_>,
    all: &BTreeMap<&str, &Read>,
    broken: &BTreeSet<String>,
    report: &mut Report<'_>,
) -> PolicySpec {
    let Some(entry) = root.entry("policy", report) else { return PolicySpec::default() };
    let Some(fields) = Fields::open(&entry.node, &POLICY, "[policy]".to_owned(), report) else {
        return PolicySpec::default();
    };
    let default = match fields.choice("default", report).map(|found| found.value) {
        Some("deny") => Verdict::Deny,
        _ => Verdict::Allow,
    };
    let pairs = |key: &'static str, report: &mut Report<'_>| {
        let mut pairs = BTreeSet::new();
        for found in fields.texts(key, report).unwrap_or_default() {
            let Some((from, to)) = found.value.split_once("->") else {
                let message = format!("{} is not a pair of services", quoted(&found.value));
                report.error(&found.span, message, "write it as \"web -> db\"");
                continue;
            };
            let mut known = |text: &str| {
                let name = fields::name("a service", text.trim(), &found.span, report)?;
                let is_left_out = report.left_out.contains_key(name.as_str());
                if is_left_out {
                    // A rule about what is not there rules nothing.
                    return None;
                }
                if !all.contains_key(name.as_str()) && !broken.contains(name.as_str()) {
                    let otherwise = format!("define [service.{name}] or [worker.{name}]");
                    let help = did_you_mean(name.as_str(), all.keys().copied(), otherwise);
                    report.error(&found.span, format!("`policy.{key}` names `{name}`, which is not defined"), help);
                    return None;
                }
                Some(name)
            };
            let (from, to) = (known(from), known(to));
            if let (Some(from), Some(to)) = (from, to) {
                pairs.insert(Pair { from, to });
            }
        }
        pairs
    };
    let (allow, deny) = (pairs("allow", report), pairs("deny", report));
    if let Some(both) = allow.intersection(&deny).next() {
        let message = format!("`{} -> {}` is both allowed and denied", both.from, both.to);
        report.error(&entry.key_span, message, "remove one of the two");
    }
    fields.finish();
    PolicySpec { default, allow, deny }
}
