//! Routes back into the manifest.

use coppice_spec::{BackendProtocol, PathMatch, RouteAction, RouteSpec, Sticky};

use super::{pairs, text, texts};
use crate::toml_text::{Document, array, quote};

pub(super) fn routes(document: &mut Document, section: &[&str], routes: &[RouteSpec]) {
    for route in routes {
        let own = match (routes.len(), route.name.as_str()) {
            (1, "default") => vec!["http_proxy"],
            (_, name) => vec!["http_routes", name],
        };
        let section = [section, &own].concat();
        document.section(&section);
        one(document, &section, route);
    }
}

fn one(document: &mut Document, section: &[&str], route: &RouteSpec) {
    let default = RouteSpec::of(route.name.clone(), "");
    document.line("host", &texts(&route.hosts));
    match &route.path {
        PathMatch::Prefix(path) if path == "/" => {}
        PathMatch::Prefix(path) => document.line("path_prefix", &text(path)),
        PathMatch::Exact(path) => document.line("path", &text(path)),
    }
    if let Some(rewrite) = &route.rewrite {
        document.line("rewrite_prefix", &text(rewrite));
    }
    if !route.methods.is_empty() {
        document.line("match_methods", &array(&route.methods));
    }
    if let Some(mirror) = &route.mirror {
        document.line("mirror_service", &quote(mirror.as_str()));
    }
    if let Some(port) = route.port {
        document.line("port", &port.to_string());
    }
    if route.protocol == BackendProtocol::H2c {
        document.line("protocol", &quote("h2c"));
    }
    let numbers = [
        ("retries", route.retry.count, default.retry.count),
        ("retry_budget", route.retry.budget_percent, default.retry.budget_percent),
        ("circuit_breaker_threshold", route.breaker.threshold, default.breaker.threshold),
    ];
    for (name, value, _) in numbers.iter().filter(|(_, value, default)| value != default) {
        document.line(name, &value.to_string());
    }
    let times = [
        ("connect_timeout", route.timeouts.connect, default.timeouts.connect),
        ("request_timeout", route.timeouts.request, default.timeouts.request),
        ("idle_timeout", route.timeouts.idle, default.timeouts.idle),
        ("circuit_breaker_timeout", route.breaker.timeout, default.breaker.timeout),
    ];
    for (name, value, _) in times.iter().filter(|(_, value, default)| value != default) {
        document.line(name, &quote(&value.to_string()));
    }
    for (name, value) in [("retry_on_5xx", route.retry.on_5xx), ("preserve_host", route.preserve_host)] {
        if !value {
            document.line(name, "false");
        }
    }
    match &route.sticky {
        None => {}
        Some(Sticky::Client) => document.line("sticky", &quote("client")),
        Some(Sticky::Cookie(name)) => document.line("sticky", &text(&format!("cookie:{name}"))),
        Some(Sticky::Header(name)) => document.line("sticky", &text(&format!("header:{name}"))),
    }
    if !route.allow.is_empty() {
        document.line("allow", &array(&route.allow.iter().map(ToString::to_string).collect::<Vec<_>>()));
    }
    if let Some(max) = route.max_body {
        document.line("max_body", &max.0.to_string());
    }
    if let RouteAction::Maintenance { html } = &route.action {
        document.line("maintenance", &text(html));
    }
    if !route.backends.is_empty() {
        let shares: Vec<String> = route.backends.iter().map(|(name, share)| format!("{name}={share}")).collect();
        document.line("backend_services", &array(&shares));
    }
    if let Some(limit) = &route.rate_limit {
        document.section(&[section, &["rate_limit"]].concat());
        document.line("per_second", &limit.per_second.to_string());
        document.line("burst", &limit.burst.to_string());
    }
    if let RouteAction::Redirect { to, status } = &route.action {
        document.section(&[section, &["redirect"]].concat());
        document.line("to", &text(to));
        document.line("status", &status.to_string());
    }
    pairs(document, section, "match_headers", &route.headers);
    pairs(document, section, "basic_auth", &route.basic_auth);
    pairs(document, section, "request_headers", &route.request_headers);
    pairs(document, section, "response_headers", &route.response_headers);
}
