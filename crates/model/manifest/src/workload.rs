//! `[service.X]` and `[worker.X]`.

use std::collections::BTreeSet;
use std::ops::Range;

use coppice_base::{Bytes, Name};
use coppice_spec::{
    Condition, HealthSpec, Limits, NetworkMode, NetworkPriority, PortSpec, PullPolicy, RestartPolicy, SecretUse,
    ServiceSpec, VolumeMount, WorkerSpec, WorkloadSpec,
};

use crate::dev::{self, ReadDev};
use crate::diagnostic::{Report, quoted};
use crate::fields::{Fields, Placed, wrong_type};
use crate::keys::{LIMITS, SERVICE, WORKER};
use crate::parse::Input;
use crate::route::{self, Mentioned};
use crate::tree::{Entry, Value};
use crate::{beam, env, health, host_port, mount, rollout, secret, security, tls};

/// Smallest memory limit: less cannot hold a program's first pages, and is a forgotten unit.
const MEMORY_MIN: Bytes = Bytes(1 << 20);

/// A dependency as written; what it is on is only known once every section is read.
pub(crate) struct WrittenDependency {
    pub(crate) name: String,
    pub(crate) condition: Option<Condition>,
    pub(crate) span: Range<usize>,
}

/// A service or worker as read, with the places later checks point at.
pub(crate) struct Read {
    pub(crate) name: Name,
    pub(crate) key_span: Range<usize>,
    pub(crate) kind: ReadKind,
    pub(crate) depends_on: Vec<WrittenDependency>,
    pub(crate) mounts: Vec<Placed<VolumeMount>>,
    pub(crate) uses: Vec<Placed<SecretUse>>,
    pub(crate) group: Option<Placed<String>>,
}

pub(crate) enum ReadKind {
    /// `health`: whether one is written, right or wrong.
    Service {
        spec: Box<ServiceSpec>,
        ports: Vec<Placed<PortSpec>>,
        health: bool,
        /// Services its routes name.
        mentioned: Vec<Mentioned>,
        dev: Option<ReadDev>,
    },
    Worker(Box<WorkerSpec>),
}

pub(crate) fn service(entry: &Entry, name: Name, input: &Input<'_, '_>, report: &mut Report<'_>) -> Option<Read> {
    let fields = Fields::open(&entry.node, &SERVICE, format!("[service.{}]", entry.key), report)?;
    let Body { workload, mounts, uses } = Body::read(&fields, entry, input, report);
    let depends_on = depends_on(&fields, report);
    let group = fields.text("group", report);
    let replicas = fields.integer("replicas", report).map_or(1, |found| found.value.unsigned_abs() as u32);
    let ports = host_port::read(&fields, report);
    let restart = fields.choice("restart", report).map_or(RestartPolicy::Always, |found| restart_policy(found.value));
    let health: Option<HealthSpec> = health::read(&fields, &workload, report);
    if let Some(entry) = fields.entry("ports", report).filter(|_| !ports.is_empty()) {
        let title = &fields.title;
        match workload.network {
            NetworkMode::Bridge => {}
            NetworkMode::None => report.error(
                &entry.key_span,
                format!("{title} publishes ports and has network = \"none\""),
                "remove `ports`, or use network = \"bridge\"",
            ),
            NetworkMode::Host => report.error(
                &entry.key_span,
                format!("{title} publishes ports and has network = \"host\", where its ports are the host's"),
                "remove `ports`, or use network = \"bridge\"",
            ),
        }
    }
    let (routes, mentioned) = route::read(&fields, report);
    if let Some(entry) = fields.entry("http_proxy", report).or(fields.entry("http_routes", report))
        && workload.network == NetworkMode::None
    {
        let message = format!("{} has routes and network = \"none\"", fields.title);
        report.error(&entry.key_span, message, "remove the routes, or use network = \"bridge\"");
    }
    let tls = tls::read(&fields, report);
    let headless = fields.boolean("headless", report).unwrap_or_default();
    let wrote_health = fields.has("health");
    let rollout = rollout::read(&fields, &workload, replicas, report);
    let dev = dev::read(&fields, input, report);
    fields.finish();
    let published = ports.iter().map(|port| port.value).collect();
    let spec = ServiceSpec { workload, replicas, ports: published, restart, health, routes, tls, headless, rollout };
    let kind = ReadKind::Service { spec: Box::new(spec), ports, health: wrote_health, mentioned, dev };
    Some(Read { name, key_span: entry.key_span.clone(), kind, depends_on, mounts, uses, group })
}

pub(crate) fn worker(entry: &Entry, name: Name, input: &Input<'_, '_>, report: &mut Report<'_>) -> Option<Read> {
    let fields = Fields::open(&entry.node, &WORKER, format!("[worker.{}]", entry.key), report)?;
    let Body { workload, mounts, uses } = Body::read(&fields, entry, input, report);
    let depends_on = depends_on(&fields, report);
    let group = fields.text("group", report);
    let restart = fields.choice("restart", report).map_or(RestartPolicy::Never, |found| restart_policy(found.value));
    fields.finish();
    let kind = ReadKind::Worker(Box::new(WorkerSpec { workload, restart }));
    Some(Read { name, key_span: entry.key_span.clone(), kind, depends_on, mounts, uses, group })
}

fn restart_policy(word: &str) -> RestartPolicy {
    match word {
        "always" => RestartPolicy::Always,
        "on-failure" | "on_failure" => RestartPolicy::OnFailure,
        _ => RestartPolicy::Never,
    }
}

/// What services, workers and crons share.
pub(crate) struct Body {
    pub(crate) workload: WorkloadSpec,
    pub(crate) mounts: Vec<Placed<VolumeMount>>,
    pub(crate) uses: Vec<Placed<SecretUse>>,
}

impl Body {
    pub(crate) fn read(fields: &Fields<'_>, entry: &Entry, input: &Input<'_, '_>, report: &mut Report<'_>) -> Self {
        let image = image(fields, entry, report);
        let mounts = mount::volumes(fields, input, report);
        let mut workload = WorkloadSpec::of(image);
        workload.pull = match fields.choice("pull", report).map(|found| found.value) {
            Some("always") => PullPolicy::Always,
            Some("never") => PullPolicy::Never,
            _ => PullPolicy::Missing,
        };
        workload.entrypoint = fields.words("entrypoint", report);
        workload.command = fields.words("command", report).unwrap_or_default();
        workload.env = env::read(fields, input, report);
        workload.user = security::user(fields, report);
        workload.working_dir = working_dir(fields, report);
        workload.tmpfs = mount::tmpfs(fields, &mounts, report);
        workload.volumes = mounts.iter().map(|mount| mount.value.clone()).collect();
        workload.limits = limits(fields, report);
        workload.network = match fields.choice("network", report).map(|found| found.value) {
            Some("host") => NetworkMode::Host,
            Some("none") => NetworkMode::None,
            _ => NetworkMode::Bridge,
        };
        workload.network_priority = network_priority(fields, workload.network, report);
        workload.stop_signal = security::stop_signal(fields, report);
        if let Some(found) = fields.duration("stop_timeout", report) {
            workload.stop_timeout = found.value;
        }
        workload.labels = fields.pairs("labels", report).into_iter().collect();
        workload.read_only = fields.boolean("read_only", report).unwrap_or_default();
        workload.cap_add = security::capabilities(fields, "cap_add", report);
        workload.cap_drop = security::capabilities(fields, "cap_drop", report);
        workload.privileged = fields.boolean("privileged", report).unwrap_or_default();
        workload.hostname = security::hostname(fields, report);
        workload.extra_hosts = security::extra_hosts(fields, report);
        workload.init = fields.boolean("init", report).unwrap_or_default();
        // Whoever is read is there: it was left out before.
        fields.text("when", report);
        let mut uses = secret::uses(fields, &workload, report);
        beam::read(fields, &mut workload, &mut uses, input, report);
        workload.secrets = uses.iter().map(|one| one.value.clone()).collect();
        Self { workload, mounts, uses }
    }
}

/// Where there is no bridge, nothing tells its traffic from the host's.
fn network_priority(fields: &Fields<'_>, network: NetworkMode, report: &mut Report<'_>) -> NetworkPriority {
    let Some(found) = fields.choice("network_priority", report) else { return NetworkPriority::Normal };
    if network != NetworkMode::Bridge {
        report.error(
            &found.span,
            format!("{} has network_priority and is not on the node's bridge", fields.title),
            "remove `network_priority`, or use network = \"bridge\"",
        );
    }
    match found.value {
        "low" => NetworkPriority::Low,
        "high" => NetworkPriority::High,
        _ => NetworkPriority::Normal,
    }
}

fn image(fields: &Fields<'_>, entry: &Entry, report: &mut Report<'_>) -> String {
    if !fields.has("image") {
        let message = format!("{} has no `image`", fields.title);
        report.error(&entry.key_span, message, "add image = \"…\", as in image = \"redis:7\"");
    }
    let Some(found) = fields.text("image", report) else { return String::new() };
    if let Err(why) = check_image(&found.value) {
        let message = format!("{} is not an image reference: {why}", quoted(&found.value));
        report.error(&found.span, message, "write it as in \"redis:7\" or \"ghcr.io/owner/name:1.2\"");
    }
    found.value
}

/// The shape of an image reference: `[host[:port]/]path[:tag][@algorithm:digest]`.
pub(crate) fn check_image(text: &str) -> Result<(), &'static str> {
    let (rest, digest) = text.split_once('@').map_or((text, None), |(rest, digest)| (rest, Some(digest)));
    if let Some(digest) = digest {
        let hex = digest.split_once(':').map_or("", |(_, hex)| hex);
        if hex.len() < 32 || !hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            return Err("what follows the @ is not a digest such as sha256:0123…");
        }
    }
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match rest[slash..].split_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    if path.is_empty() {
        return Err("it has no name");
    }
    let word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.');
    if let Some(tag) = tag
        && (tag.is_empty() || tag.len() > 128 || !tag.bytes().all(word))
    {
        return Err("what follows the last colon is not a tag");
    }
    let mut parts = path.split('/').peekable();
    let first = parts.peek().copied().unwrap_or_default();
    let is_host = path.contains('/') && (first.contains(['.', ':', '[']) || first == "localhost");
    if is_host {
        parts.next();
        if first.starts_with(['.', ':']) || first.bytes().any(|c| !(word(c) || matches!(c, b':' | b'[' | b']'))) {
            return Err("the part before the first slash is not a registry");
        }
    }
    for part in parts {
        if part.bytes().any(|c| c.is_ascii_uppercase()) {
            return Err("names of images are in lower case");
        }
        if part.is_empty() || !part.bytes().all(word) || !part.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric())
        {
            return Err("a name is made of a-z, 0-9, '-', '_' and '.', between slashes");
        }
    }
    Ok(())
}

fn working_dir(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let found = fields.text("working_dir", report)?;
    if found.value == "/" {
        return Some(found.value);
    }
    match mount::container_path(&found.value, "`working_dir`") {
        Ok(path) => Some(path),
        Err((message, help)) => {
            report.error(&found.span, message, help);
            None
        }
    }
}

fn limits(parent: &Fields<'_>, report: &mut Report<'_>) -> Limits {
    let Some(entry) = parent.entry("limits", report) else { return Limits::default() };
    let title = format!("{}.limits]", parent.title.trim_end_matches(']'));
    let Some(fields) = Fields::open(&entry.node, &LIMITS, title, report) else { return Limits::default() };
    let memory = fields.size("memory", report);
    if let Some(memory) = memory.as_ref().filter(|memory| memory.value < MEMORY_MIN) {
        let message = format!("a memory limit of {} is too small to run anything", memory.value);
        report.error(&memory.span, message, "write the unit too, as in \"512m\"");
    }
    let limits = Limits {
        cpu: fields.cpu("cpu", report),
        cpu_weight: fields.integer("cpu_weight", report).map(|found| found.value.unsigned_abs() as u32),
        memory: memory.map(|found| found.value),
        pids: fields.integer("pids", report).map(|found| found.value.unsigned_abs() as u32),
        nofile: fields.integer("nofile", report).map(|found| found.value.unsigned_abs()),
        shm_size: fields.size("shm_size", report).map(|found| found.value),
    };
    fields.finish();
    limits
}

/// The words for a [`Condition`].
pub(crate) const CONDITIONS: &[&str] = &["started", "healthy", "completed"];

fn depends_on(fields: &Fields<'_>, report: &mut Report<'_>) -> Vec<WrittenDependency> {
    let Some(entry) = fields.entry("depends_on", report) else { return Vec::new() };
    let mut found: Vec<WrittenDependency> = Vec::new();
    let mut names = BTreeSet::new();
    let mut add = |name: &str, condition: Option<&str>, span: &Range<usize>, report: &mut Report<'_>| {
        let condition = match condition {
            None => None,
            Some("started") => Some(Condition::Started),
            Some("healthy") => Some(Condition::Healthy),
            Some("completed") => Some(Condition::Completed),
            Some(other) => {
                let near = match other {
                    "service_started" => Some("started"),
                    "service_healthy" => Some("healthy"),
                    "service_completed_successfully" => Some("completed"),
                    _ => crate::suggest::nearest(other, CONDITIONS.iter().copied()),
                };
                let help = match near {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "write started, healthy or completed".to_owned(),
                };
                report.error(span, format!("{} is not a condition to wait for", quoted(other)), help);
                None
            }
        };
        if !names.insert(name.to_owned()) {
            report.error(span, format!("{} is listed twice in `depends_on`", quoted(name)), "remove one of the two");
            return;
        }
        found.push(WrittenDependency { name: name.to_owned(), condition, span: span.clone() });
    };
    match &entry.node.value {
        Value::Table(entries) => {
            for one in entries {
                match &one.node.value {
                    Value::Text { text, .. } => add(&one.key, Some(text), &one.node.span, report),
                    Value::Unknown => {}
                    _ => wrong_type(
                        &one.key,
                        &one.node,
                        "a condition",
                        "write \"started\", \"healthy\" or \"completed\"",
                        report,
                    ),
                }
            }
        }
        Value::List(_) | Value::Text { .. } => {
            for one in fields.texts("depends_on", report).unwrap_or_default() {
                match one.value.split_once(':') {
                    Some((name, condition)) => add(name, Some(condition), &one.span, report),
                    None => add(&one.value, None, &one.span, report),
                }
            }
        }
        Value::Unknown => {}
        _ => wrong_type("depends_on", &entry.node, "an array of names", "write [\"db\", \"cache:healthy\"]", report),
    }
    found
}

#[cfg(test)]
mod tests {
    use super::check_image;

    #[test]
    fn image_references_are_told_from_slips() {
        let digest = format!("redis@sha256:{}", "a1".repeat(32));
        for good in ["redis", "redis:7", "a/b/c:1.2-x", "localhost:5000/z", "[::1]:5000/z:1", "ghcr.io/x/y", &digest] {
            assert_eq!(check_image(good), Ok(()), "{good}");
        }
        for bad in ["", ":7", "Redis", "a//b", "a b", "redis:", "redis:a/b c", "redis@sha256:xyz", "-x", "/x", "x/"] {
            assert!(check_image(bad).is_err(), "{bad}");
        }
    }
}
