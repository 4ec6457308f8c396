//! `status --network`: the bridge, and every service as others reach it.

use coppice_api::{BackendNetwork, BreakerState, BridgeStatus, NetworkStatus, PortDetail, ServiceNetwork};

use crate::output::{Paint, Style, moment, visible};

/// Leaves what is of `app`.
pub(crate) fn only(status: &mut NetworkStatus, app: &str) {
    status.services.retain(|service| service.app.as_str() == app);
}

pub(crate) fn text(status: &NetworkStatus, style: &Style) -> String {
    let mut rows = Rows { style, text: String::new() };
    match &status.bridge {
        Some(bridge) => of_bridge(&mut rows, bridge),
        None => rows.row("bridge", "none: no container has had a network yet"),
    }
    rows.row("uplinks", &or(&status.uplinks, "none: there is no way out"));
    rows.row("proxy", &or(&status.proxy, "not running: no app has routes"));
    for service in &status.services {
        rows.text.push('\n');
        of_service(&mut rows, service);
    }
    rows.text
}

struct Rows<'s> {
    style: &'s Style,
    text: String,
}

impl Rows<'_> {
    fn row(&mut self, key: &str, value: &str) {
        self.text.push_str(&format!("{} {}\n", self.style.paint(Paint::Dim, &format!("{key:12}")), visible(value)));
    }
}

fn or(texts: &[String], none: &str) -> String {
    if texts.is_empty() { none.to_owned() } else { texts.join(", ") }
}

fn of_bridge(rows: &mut Rows<'_>, bridge: &BridgeStatus) {
    let up = if bridge.up { "up" } else { "DOWN" };
    rows.row("bridge", &format!("{} {up}", bridge.name));
    let six = bridge.subnet6.as_ref().zip(bridge.gateway6.as_ref());
    rows.row(
        "subnets",
        &match six {
            Some((subnet6, gateway6)) => {
                format!("{} (gateway {}), {subnet6} (gateway {gateway6})", bridge.subnet, bridge.gateway)
            }
            None => format!("{} (gateway {}), no IPv6", bridge.subnet, bridge.gateway),
        },
    );
    rows.row("rules", &bridge.rules);
    rows.row(
        "fast path",
        &match &bridge.fast_path_reason {
            None => "in force (BPF)".to_owned(),
            Some(why) => format!("not in force: {why}"),
        },
    );
    rows.row("name server", if bridge.names { "answers" } else { "NOT RUNNING" });
}

fn of_service(rows: &mut Rows<'_>, service: &ServiceNetwork) {
    let name = rows.style.paint(Paint::Bold, &format!("{}/{}", service.app, service.service));
    rows.text.push_str(&format!("{name}\n"));
    let none = if service.headless { "none: it is headless" } else { "none" };
    rows.row("  address", &or(&service.virtual_addresses, none));
    rows.row("  names", &service.names.join(", "));
    if service.instances.is_empty() {
        rows.row("  instances", "none runs");
    }
    for one in &service.instances {
        let state = match (one.leaving, one.ready) {
            (true, _) => "being stopped",
            (false, true) => "ready",
            (false, false) => "not ready",
        };
        rows.row(&format!("  {}", one.instance), &format!("{} {state}", one.addresses.join(" ")));
    }
    if !service.ports.is_empty() {
        let ports: Vec<String> = service.ports.iter().map(port).collect();
        rows.row("  ports", &ports.join(", "));
    }
    for route in &service.routes {
        let backends: Vec<String> =
            route.backends.iter().map(|one| format!("{} {} {}", one.instance, one.address, state(one))).collect();
        let hosts: Vec<String> = route.hosts.iter().map(|host| format!("{host}{}", route.path)).collect();
        rows.row("  route", &format!("{}: {} -> {}", route.name, hosts.join(", "), or(&backends, "nobody")));
    }
    rows.row(
        "  policy",
        &match service.denied.is_empty() {
            true => "everybody may connect".to_owned(),
            false => format!("denied: {}", service.denied.join(", ")),
        },
    );
    if service.peer_tls != "off" {
        rows.row("  tls.peer", &service.peer_tls);
    }
    for one in &service.certificates {
        let until = one.not_after.map_or_else(|| "there is none yet".to_owned(), |at| format!("until {}", moment(at)));
        rows.row("  certificate", &format!("{} {until}", one.domain));
    }
}

fn port(port: &PortDetail) -> String {
    let host = if port.host_ip.is_empty() { String::new() } else { format!("{}:", port.host_ip) };
    format!("{host}{}->{}/{}", port.host, port.container, port.protocol)
}

fn state(one: &BackendNetwork) -> &'static str {
    match one {
        BackendNetwork { draining: true, .. } => "draining",
        BackendNetwork { ready: false, .. } => "not ready",
        BackendNetwork { ejected: true, .. } => "ejected",
        BackendNetwork { breaker: BreakerState::Open, .. } => "circuit open",
        BackendNetwork { breaker: BreakerState::HalfOpen, .. } => "circuit half open",
        _ => "healthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_said_to_be_what_keeps_requests_from_it() {
        let well = BackendNetwork {
            instance: "web-1".into(),
            address: "10.88.0.2:80".into(),
            ready: true,
            draining: false,
            ejected: false,
            breaker: BreakerState::Closed,
        };
        assert_eq!(state(&well), "healthy");
        assert_eq!(state(&BackendNetwork { ready: false, ..well.clone() }), "not ready");
        assert_eq!(state(&BackendNetwork { ready: false, draining: true, ..well.clone() }), "draining");
        assert_eq!(state(&BackendNetwork { ejected: true, ..well.clone() }), "ejected");
        assert_eq!(state(&BackendNetwork { breaker: BreakerState::Open, ..well }), "circuit open");
    }

    #[test]
    fn an_idle_node_says_what_there_is_not() {
        let status = NetworkStatus { bridge: None, uplinks: vec![], proxy: vec![], services: vec![] };
        let said = text(&status, &Style::plain());
        assert!(said.contains("bridge       none") && said.contains("there is no way out"), "{said}");
    }
}
