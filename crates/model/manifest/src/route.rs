//! `[service.X.http_proxy]` and `[service.X.http_routes.NAME]`.

use std::collections::BTreeMap;
use std::time::Duration;

use coppice_base::{DurationText, Name};
use coppice_spec::{
    BackendProtocol, BreakerSpec, Cidr, PathMatch, RateLimit, RetrySpec, RouteAction, RouteSpec, RouteTimeouts, Sticky,
};

use crate::diagnostic::{Report, quoted};
use crate::fields::{self, Fields, Placed};
use crate::host_name;
use crate::keys::{RATE_LIMIT, REDIRECT, ROUTE};
use crate::tree::{Entry, Value};

/// Name of the cookie that `sticky = "cookie"` sets.
const COOKIE: &str = "coppice_instance";

/// A service that a route names, with its place; whether it exists is only known when all sections are read.
pub(crate) type Mentioned = Placed<Name>;

/// The routes of a service, with the services they name.
pub(crate) fn read(service: &Fields<'_>, report: &mut Report<'_>) -> (Vec<RouteSpec>, Vec<Mentioned>) {
    let (mut routes, mut mentioned) = (Vec::new(), Vec::new());
    let parent = service.title.trim_end_matches(']').to_owned();
    if let Some(entry) = service.entry("http_proxy", report) {
        let name = Name::new("default").unwrap_or_else(|_| unreachable!("a name"));
        routes.extend(one(entry, name, format!("{parent}.http_proxy]"), &mut mentioned, report));
    }
    let Some(entry) = service.entry("http_routes", report) else { return (routes, mentioned) };
    if service.has("http_proxy") {
        let message = format!("{} has both `http_proxy` and `http_routes`", service.title);
        report.error(&entry.key_span, message, "put them all under `http_routes`");
    }
    let entries = match &entry.node.value {
        Value::Table(entries) => entries.as_slice(),
        Value::Unknown => &[],
        other => {
            let message = format!("`http_routes` must be a table of tables, and this is {}", other.kind());
            report.error(&entry.key_span, message, format!("give each route a section: {parent}.http_routes.NAME]"));
            &[]
        }
    };
    if matches!(&entry.node.value, Value::Table(entries) if entries.is_empty()) {
        report.error(&entry.key_span, "`http_routes` is empty", "add a route, or remove it");
    }
    for entry in entries {
        let Some(name) = fields::name("a route", &entry.key, &entry.key_span, report) else { continue };
        routes.extend(one(entry, name, format!("{parent}.http_routes.{}]", entry.key), &mut mentioned, report));
    }
    (routes, mentioned)
}

fn one(
    entry: &Entry,
    name: Name,
    title: String,
    mentioned: &mut Vec<Mentioned>,
    report: &mut Report<'_>,
) -> Option<RouteSpec> {
    let fields = Fields::open(&entry.node, &ROUTE, title, report)?;
    if !fields.has("host") {
        let message = format!("{} has no `host`", fields.title);
        report.error(&entry.key_span, message, "add host = \"shop.example.com\"");
    }
    fields.text("when", report);
    let mut route = RouteSpec::of(name, "");
    let hosts = fields.texts("host", report).unwrap_or_default();
    route.hosts = hosts.iter().filter_map(|host| host_name::read(host, report)).collect();
    route.path = path(&fields, report);
    route.rewrite = fields.text("rewrite_prefix", report).and_then(|found| checked_path(found, report));
    route.methods = methods(&fields, report);
    let headers = fields.pairs("match_headers", report);
    route.headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    check_headers(&fields, "match_headers", route.headers.keys(), report);
    route.backends = backends(&fields, mentioned, report);
    if let Some(found) = fields.text("mirror_service", report) {
        route.mirror = fields::name("a service", &found.value, &found.span, report);
        mentioned.extend(route.mirror.clone().map(|name| Placed::new(name, &found.span)));
    }
    route.port = fields.integer("port", report).and_then(|found| u16::try_from(found.value).ok());
    if fields.choice("protocol", report).is_some_and(|found| found.value == "h2c") {
        route.protocol = BackendProtocol::H2c;
    }
    let number = |found: Placed<i64>| found.value.unsigned_abs() as u32;
    let retry = RetrySpec::default();
    route.retry = RetrySpec {
        count: fields.integer("retries", report).map_or(retry.count, number),
        on_5xx: fields.boolean("retry_on_5xx", report).unwrap_or(retry.on_5xx),
        budget_percent: fields.integer("retry_budget", report).map_or(retry.budget_percent, number),
    };
    let times = RouteTimeouts::default();
    route.timeouts = RouteTimeouts {
        connect: time(&fields, "connect_timeout", "connect_timeout_ms", report).unwrap_or(times.connect),
        request: time(&fields, "request_timeout", "request_timeout_ms", report).unwrap_or(times.request),
        idle: time(&fields, "idle_timeout", "http2_idle_timeout_ms", report).unwrap_or(times.idle),
    };
    let breaker = BreakerSpec::default();
    route.breaker = BreakerSpec {
        threshold: fields.integer("circuit_breaker_threshold", report).map_or(breaker.threshold, number),
        timeout: time(&fields, "circuit_breaker_timeout", "circuit_breaker_timeout_ms", report)
            .unwrap_or(breaker.timeout),
    };
    route.preserve_host = fields.boolean("preserve_host", report).unwrap_or(true);
    route.sticky = sticky(&fields, report);
    route.rate_limit = rate_limit(&fields, report);
    route.basic_auth = basic_auth(&fields, report);
    for found in fields.texts("allow", report).unwrap_or_default() {
        match found.value.parse::<Cidr>() {
            Ok(network) => route.allow.push(network),
            Err(error) => {
                let help = "write it as 192.0.2.0/24, 2001:db8::/32 or one address";
                report.error(&found.span, error.to_string(), help);
            }
        }
    }
    route.request_headers = edited(&fields, "request_headers", report);
    route.response_headers = edited(&fields, "response_headers", report);
    route.max_body = fields.size("max_body", report).map(|found| found.value);
    route.action = action(&fields, report);
    if route.action != RouteAction::Forward && (!route.backends.is_empty() || route.mirror.is_some()) {
        let message = format!("{} answers by itself and also names services", fields.title);
        report.error(&entry.key_span, message, "remove `backend_services` and `mirror_service`, or the answer");
    }
    fields.finish();
    Some(route)
}

fn path(fields: &Fields<'_>, report: &mut Report<'_>) -> PathMatch {
    let prefix = fields.text("path_prefix", report);
    let exact = fields.text("path", report);
    if let (Some(_), Some(exact)) = (&prefix, &exact) {
        let message = format!("{} has both `path` and `path_prefix`", fields.title);
        report.error(&exact.span, message, "remove one of the two");
    }
    let exact = exact.and_then(|found| checked_path(found, report)).map(PathMatch::Exact);
    let prefix = prefix.and_then(|found| checked_path(found, report)).map(PathMatch::Prefix);
    exact.or(prefix).unwrap_or_else(|| PathMatch::Prefix("/".to_owned()))
}

/// A path as requests have it: no dots to climb by, no query, nothing that needs encoding.
fn checked_path(found: Placed<String>, report: &mut Report<'_>) -> Option<String> {
    let text = &found.value;
    let plain =
        text.starts_with('/') && text.bytes().all(|c| c.is_ascii_graphic() && !matches!(c, b'?' | b'#' | b'\\'));
    if plain && !text.split('/').any(|segment| segment == "." || segment == "..") {
        return Some(found.value);
    }
    let message = format!("{} is not a path", quoted(text));
    report.error(&found.span, message, "start it with /, without blanks, ?, #, and . or .. between slashes");
    None
}

fn methods(fields: &Fields<'_>, report: &mut Report<'_>) -> Vec<String> {
    let mut methods: Vec<String> = Vec::new();
    for found in fields.texts("match_methods", report).unwrap_or_default() {
        let method = found.value.to_ascii_uppercase();
        if method.is_empty() || !method.bytes().all(|c| c.is_ascii_uppercase() || c == b'-') || method == "CONNECT" {
            let message = format!("{} is not a method to route", quoted(&found.value));
            report.error(&found.span, message, "write methods such as \"GET\" or \"POST\"");
        } else if methods.contains(&method) {
            report.error(&found.span, format!("{method} is listed twice"), "remove one of the two");
        } else {
            methods.push(method);
        }
    }
    methods
}

fn is_header_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
}

fn check_headers<'a>(
    fields: &Fields<'_>,
    key: &'static str,
    names: impl Iterator<Item = &'a String>,
    report: &mut Report<'_>,
) {
    for name in names.filter(|name| !is_header_name(name)) {
        if let Some(entry) = fields.entry(key, report) {
            let message = format!("{} is not a header name", quoted(name));
            report.error(&entry.node.span, message, "header names are of letters, digits and -");
        }
    }
}

/// Headers that belong to a connection, or say where a request ends; they are the proxy's to set.
const OWN_HEADERS: &[&str] =
    &["connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

fn edited(fields: &Fields<'_>, key: &'static str, report: &mut Report<'_>) -> BTreeMap<String, String> {
    let pairs = fields.pairs(key, report).into_iter();
    let found: BTreeMap<String, String> = pairs.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect();
    check_headers(fields, key, found.keys(), report);
    let refuse = |message: String, help: &str, report: &mut Report<'_>| {
        if let Some(entry) = fields.entry(key, report) {
            report.error(&entry.node.span, message, help);
        }
    };
    for (name, value) in &found {
        if OWN_HEADERS.contains(&name.as_str()) {
            refuse(format!("`{name}` is the proxy's own to set"), "remove it; see `preserve_host` for Host", report);
        }
        if value.chars().any(char::is_control) {
            refuse(format!("the value of `{name}` has a line break or control character"), "write one line", report);
        }
    }
    found
}

fn backends(fields: &Fields<'_>, mentioned: &mut Vec<Mentioned>, report: &mut Report<'_>) -> BTreeMap<Name, u32> {
    let mut backends = BTreeMap::new();
    let Some(entry) = fields.entry("backend_services", report) else { return backends };
    let mut sum = 0;
    for (service, share) in fields.pairs("backend_services", report) {
        let Some(name) = fields::name("a service", &service, &entry.node.span, report) else { continue };
        match share.parse::<u32>() {
            Ok(share @ 1..=100) => {
                sum += share;
                mentioned.push(Placed::new(name.clone(), &entry.node.span));
                if backends.insert(name, share).is_some() {
                    report.error(&entry.node.span, format!("{service} is listed twice"), "remove one of the two");
                }
            }
            _ => {
                let message = format!("{} is not a share of requests", quoted(&share));
                report.error(&entry.node.span, message, "write percent from 1 to 100, as in \"web=90\"");
            }
        }
    }
    if !backends.is_empty() && sum != 100 {
        report.error(&entry.node.span, format!("the shares add up to {sum}"), "make them 100 together");
    }
    backends
}

/// A time under its own key, or in milliseconds under yoq's.
fn time(fields: &Fields<'_>, name: &'static str, ms: &'static str, report: &mut Report<'_>) -> Option<DurationText> {
    let own = fields.some_duration(name, report).map(|found| found.value);
    let Some(found) = fields.integer(ms, report) else { return own };
    if own.is_some() {
        report.error(&found.span, format!("`{ms}` and `{name}` say the same"), "remove one of the two");
    }
    Some(DurationText(Duration::from_millis(found.value.unsigned_abs())))
}

fn sticky(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Sticky> {
    let found = fields.text("sticky", report)?;
    let sticky = match found.value.split_once(':') {
        None if found.value == "cookie" => Some(Sticky::Cookie(COOKIE.to_owned())),
        None if found.value == "client" => Some(Sticky::Client),
        Some(("cookie", name)) if is_header_name(name) => Some(Sticky::Cookie(name.to_owned())),
        Some(("header", name)) if is_header_name(name) => Some(Sticky::Header(name.to_ascii_lowercase())),
        _ => None,
    };
    if sticky.is_none() {
        let message = format!("{} does not say what keeps a client with its instance", quoted(&found.value));
        report.error(&found.span, message, "write \"cookie\", \"cookie:NAME\", \"header:NAME\" or \"client\"");
    }
    sticky
}

fn rate_limit(parent: &Fields<'_>, report: &mut Report<'_>) -> Option<RateLimit> {
    let entry = parent.entry("rate_limit", report)?;
    let title = format!("{}.rate_limit]", parent.title.trim_end_matches(']'));
    let fields = Fields::open(&entry.node, &RATE_LIMIT, title, report)?;
    if !fields.has("per_second") {
        report.error(&entry.key_span, format!("{} has no `per_second`", fields.title), "add per_second = 10");
    }
    let per_second = fields.integer("per_second", report).map(|found| found.value.unsigned_abs() as u32);
    let burst = fields.integer("burst", report).map(|found| found.value.unsigned_abs() as u32);
    fields.finish();
    let per_second = per_second?;
    Some(RateLimit { per_second, burst: burst.unwrap_or(per_second) })
}

fn basic_auth(fields: &Fields<'_>, report: &mut Report<'_>) -> BTreeMap<String, String> {
    let found: BTreeMap<String, String> = fields.pairs("basic_auth", report).into_iter().collect();
    let known = |hash: &str| {
        let sha = hash.strip_prefix("{SHA256}").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(is_hex));
        sha || hash.starts_with("$argon2") || ["$2a$", "$2b$", "$2y$"].iter().any(|kind| hash.starts_with(kind))
    };
    for (user, _) in found.iter().filter(|(user, hash)| !known(hash) || user.contains(':')) {
        if let Some(entry) = fields.entry("basic_auth", report) {
            // The value is not shown: it may be a password.
            let message = format!("what stands for {} is not a password hash", quoted(user));
            report.error(
                &entry.node.span,
                message,
                "write $argon2…, $2b$… (htpasswd -B) or {SHA256} and 64 hex digits",
            );
        }
    }
    found
}

fn is_hex(c: u8) -> bool {
    c.is_ascii_hexdigit()
}

fn action(parent: &Fields<'_>, report: &mut Report<'_>) -> RouteAction {
    let maintenance = parent.text("maintenance", report);
    let Some(entry) = parent.entry("redirect", report) else {
        return maintenance.map_or(RouteAction::Forward, |found| RouteAction::Maintenance { html: found.value });
    };
    if maintenance.is_some() {
        let message = format!("{} has both `redirect` and `maintenance`", parent.title);
        report.error(&entry.key_span, message, "remove one of the two");
    }
    let (to, status) = match &entry.node.value {
        Value::Text { text, .. } => (Placed::new(text.clone(), &entry.node.span), 308),
        _ => {
            let title = format!("{}.redirect]", parent.title.trim_end_matches(']'));
            let Some(fields) = Fields::open(&entry.node, &REDIRECT, title, report) else { return RouteAction::Forward };
            if !fields.has("to") {
                report.error(
                    &entry.key_span,
                    format!("{} has no `to`", fields.title),
                    "add to = \"https://{host}{path}\"",
                );
            }
            let to = fields.text("to", report);
            let status = fields.integer("status", report);
            fields.finish();
            let status = match status {
                None => 308,
                Some(found) if matches!(found.value, 301 | 302 | 303 | 307 | 308) => found.value as u16,
                Some(found) => {
                    let message = format!("{} is not a redirect's status", found.value);
                    report.error(&found.span, message, "write 301, 302, 303, 307 or 308");
                    308
                }
            };
            let Some(to) = to else { return RouteAction::Forward };
            (to, status)
        }
    };
    let good = ["http://", "https://", "/"].iter().any(|start| to.value.starts_with(start))
        && to.value.bytes().all(|c| c.is_ascii_graphic());
    if !good {
        let message = format!("{} is not an address to redirect to", quoted(&to.value));
        report.error(&to.span, message, "write it as \"https://{host}{path}\", or a path that starts with /");
    }
    RouteAction::Redirect { to: to.value, status }
}
