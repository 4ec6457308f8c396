//! `release`, `node` and `cookie` of a workload: a release of Erlang or Elixir on top of its image.
//!
//! A cookie is a password for everything in the node, so it is never taken from the manifest's text, only by the name of a
//! secret.

use coppice_spec::{BeamRelease, BeamSpec, NetworkMode, SecretUse, WorkloadSpec};

use crate::diagnostic::{Report, quoted};
use crate::fields::{self, Fields, Placed};
use crate::keys::COOKIE;
use crate::mount::host_path;
use crate::parse::Input;
use crate::tree::Value;

/// Reads them and puts into the workload what follows from them; the use of the cookie's secret, too.
pub(crate) fn read(
    fields: &Fields<'_>,
    workload: &mut WorkloadSpec,
    uses: &mut Vec<Placed<SecretUse>>,
    input: &Input<'_, '_>,
    report: &mut Report<'_>,
) {
    let node = fields.text("node", report).filter(|node| match BeamSpec::check_node(&node.value) {
        Ok(()) => true,
        Err(why) => {
            let message = format!("{} is not the name of a node: {why}", quoted(&node.value));
            report.error(&node.span, message, "write it as in \"shop@web\"");
            false
        }
    });
    let cookie = cookie(fields, report);
    if workload.env.contains_key(BeamSpec::COOKIE)
        && let Some(env) = fields.entry("env", report).or(fields.entry("env_file", report))
    {
        let message = format!("{} has a cookie as plain text in its environment", fields.title);
        report.error(&env.key_span, message, KEEP_SECRET);
    }
    let Some(path) = fields.text("release", report) else {
        for key in ["node", "cookie"] {
            if let Some(entry) = fields.entry(key, report).filter(|_| !fields.has("release")) {
                let message = format!("{} has `{key}` and no `release`", fields.title);
                report.error(&entry.key_span, message, "add release = \"shop.tar.gz\", or remove it");
            }
        }
        return;
    };
    let whole = match host_path(&path.value, &input.dir(&path.span, report)) {
        Ok(whole) if !path.value.is_empty() => whole,
        Ok(_) => {
            return report.error(&path.span, "`release` is empty", "give the path of a tarball, as in \"shop.tar.gz\"");
        }
        Err((message, help)) => return report.error(&path.span, message, help),
    };
    let beam = BeamSpec {
        release: BeamRelease::File(whole),
        node: node.map(|node| node.value),
        cookie: cookie.as_ref().map(|cookie| cookie.value.clone()),
    };
    for (variable, value) in beam.env() {
        workload.env.entry(variable).or_insert(value);
    }
    // The node's own name has to lead to itself.
    if workload.hostname.is_none() && workload.network != NetworkMode::Host {
        workload.hostname = beam.host().map(str::to_owned);
    }
    if let (Some(one), Some(cookie)) = (beam.cookie_use(), &cookie) {
        if uses.iter().any(|other| other.value.target == one.target) {
            let message = format!("{} gets its cookie twice", fields.title);
            report.error(&cookie.span, message, "remove it from `secrets`, or remove `cookie`");
        } else {
            uses.push(Placed::new(one, &cookie.span));
        }
    }
    workload.beam = Some(beam);
}

const KEEP_SECRET: &str = "run `coppice secret set NAME` and write cookie = { secret = \"NAME\" }";

fn cookie(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Placed<coppice_base::Name>> {
    let entry = fields.entry("cookie", report)?;
    if let Value::Text { .. } = &entry.node.value {
        let message =
            format!("{} has its cookie as plain text: whoever reads the manifest owns the node", fields.title);
        report.error(&entry.node.span, message, KEEP_SECRET);
        return None;
    }
    let title = format!("{}.cookie]", fields.title.trim_end_matches(']'));
    let cookie = Fields::open(&entry.node, &COOKIE, title, report)?;
    let secret = cookie.text("secret", report);
    if !cookie.has("secret") {
        report.error(&entry.key_span, format!("{} does not say which secret", cookie.title), KEEP_SECRET);
    }
    cookie.finish();
    let secret = secret?;
    fields::name("a secret", &secret.value, &secret.span, report).map(|name| Placed::new(name, &secret.span))
}
