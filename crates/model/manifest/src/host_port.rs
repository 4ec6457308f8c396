//! Published ports: `"8080:80"`, `"127.0.0.1:8080:80/udp"`, `"[::1]:80:80"`, `"80"` or `80`.

use std::net::IpAddr;

use coppice_spec::{PortSpec, Protocol};

use crate::diagnostic::{Report, quoted};
use crate::fields::{Fields, Placed, wrong_type};
use crate::tree::Value;

const FORMS: &str = "write \"8080:80\", \"127.0.0.1:8080:80/udp\", or 80 for a free host port";

/// The `ports` of a service.
pub(crate) fn read(fields: &Fields<'_>, report: &mut Report<'_>) -> Vec<Placed<PortSpec>> {
    let Some(entry) = fields.entry("ports", report) else { return Vec::new() };
    let one = std::slice::from_ref(&entry.node);
    let items = match &entry.node.value {
        Value::List(items) => items.as_slice(),
        Value::Text { .. } | Value::Integer(_) => one,
        Value::Unknown => return Vec::new(),
        _ => {
            wrong_type("ports", &entry.node, "an array of ports", FORMS, report);
            return Vec::new();
        }
    };
    let mut ports: Vec<Placed<PortSpec>> = Vec::new();
    for item in items {
        let parsed = match &item.value {
            Value::Text { text, .. } => parse(text),
            Value::Integer(number) => parse(&number.to_string()),
            Value::Unknown => continue,
            other => Err((format!("a port is a string or an integer, and this is {}", other.kind()), FORMS.to_owned())),
        };
        match parsed {
            Ok(port) => ports.push(Placed::new(port, &item.span)),
            Err((message, help)) => report.error(&item.span, message, help),
        }
    }
    ports
}

/// One published port, or what is wrong with it and the fix.
pub(crate) fn parse(text: &str) -> Result<PortSpec, (String, String)> {
    let wrong = |why: String| Err((why, FORMS.to_owned()));
    let (address, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((address, "tcp")) => (address, Protocol::Tcp),
        Some((address, "udp")) => (address, Protocol::Udp),
        Some((_, other)) => {
            return Err((
                format!("{} is not a protocol in port {}", quoted(other), quoted(text)),
                "end it with /tcp or /udp, or with nothing for tcp".to_owned(),
            ));
        }
    };
    let (host_ip, rest) = if let Some(bracketed) = address.strip_prefix('[') {
        let Some((ip, rest)) = bracketed.split_once("]:") else {
            return wrong(format!("port {} has a `[` without `]:`", quoted(text)));
        };
        (Some(ip), rest)
    } else {
        match address.split(':').count() {
            0..=2 => (None, address),
            3 => address.split_once(':').map_or((None, address), |(ip, rest)| (Some(ip), rest)),
            _ => {
                return Err((
                    format!("port {} has too many colons", quoted(text)),
                    "put an IPv6 address in brackets, as in \"[::1]:8080:80\"".to_owned(),
                ));
            }
        }
    };
    let host_ip = match host_ip.map(str::parse::<IpAddr>) {
        None => None,
        Some(Ok(ip)) => Some(ip),
        Some(Err(_)) => {
            return Err((
                format!("{} is not an IP address in port {}", quoted(host_ip.unwrap_or_default()), quoted(text)),
                "write an address such as 127.0.0.1, not a name".to_owned(),
            ));
        }
    };
    if rest.contains('-') {
        return Err((format!("port {} is a range", quoted(text)), "write one entry per port".to_owned()));
    }
    let (host, container) = match rest.split_once(':') {
        None if host_ip.is_some() => return wrong(format!("port {} has an address and one port", quoted(text))),
        None => (None, rest),
        Some(("", container)) => (None, container),
        Some((host, container)) => (Some(host), container),
    };
    let number = |what: &str, digits: &str| match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|c| c.is_ascii_digit()) => Ok(port),
        _ => {
            let message = format!("{} is not a {what} port from 1 to 65535", quoted(digits));
            Err((message, FORMS.to_owned()))
        }
    };
    let host = host.map_or(Ok(0), |digits| number("host", digits))?;
    Ok(PortSpec { host_ip, host, container: number("container", container)?, protocol })
}

/// Whether two published ports ask for the same socket of the host. No address, `0.0.0.0` and `::` mean all.
pub(crate) fn collide(a: &PortSpec, b: &PortSpec) -> bool {
    let all = |ip: Option<IpAddr>| match ip {
        None | Some(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)) => true,
        Some(_) => false,
    };
    let overlap = match (a.host_ip, b.host_ip) {
        (one, other) if all(one) || all(other) => true,
        (Some(IpAddr::V4(one)), Some(IpAddr::V4(other))) => {
            one == other || one.is_unspecified() || other.is_unspecified()
        }
        (one, other) => one == other,
    };
    a.host != 0 && a.host == b.host && a.protocol == b.protocol && overlap
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_port_is_read() {
        let port = |ip: Option<&str>, host, container, protocol| PortSpec {
            host_ip: ip.map(|ip| ip.parse().unwrap()),
            host,
            container,
            protocol,
        };
        assert_eq!(parse("8080:80"), Ok(port(None, 8080, 80, Protocol::Tcp)));
        assert_eq!(parse("80"), Ok(port(None, 0, 80, Protocol::Tcp)));
        assert_eq!(parse("53/udp"), Ok(port(None, 0, 53, Protocol::Udp)));
        assert_eq!(parse("127.0.0.1:8080:80/tcp"), Ok(port(Some("127.0.0.1"), 8080, 80, Protocol::Tcp)));
        assert_eq!(parse("127.0.0.1::80"), Ok(port(Some("127.0.0.1"), 0, 80, Protocol::Tcp)));
        assert_eq!(parse("[::1]:80:80"), Ok(port(Some("::1"), 80, 80, Protocol::Tcp)));
    }

    #[test]
    fn a_bad_port_says_what_is_bad() {
        for (text, part) in [
            ("0:80", "`0` is not a host port"),
            ("80:65536", "`65536` is not a container port"),
            ("80:+80", "`+80` is not a container port"),
            ("", "`` is not a container port"),
            ("80:80/sctp", "`sctp` is not a protocol"),
            ("localhost:80:80", "`localhost` is not an IP address"),
            ("::1:80:80", "too many colons"),
            ("[::1]80", "without `]:`"),
            ("8000-8010:8000-8010", "is a range"),
            ("[::1]:80", "an address and one port"),
        ] {
            let (message, _) = parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn ports_collide_when_one_socket_would_serve_both() {
        let collide = |a, b| super::collide(&parse(a).unwrap(), &parse(b).unwrap());
        assert!(collide("80:80", "127.0.0.1:80:81"));
        assert!(collide("0.0.0.0:80:80", "10.0.0.1:80:81"));
        assert!(!collide("10.0.0.2:80:80", "10.0.0.1:80:81"));
        assert!(!collide("80:80/udp", "80:80"));
        assert!(!collide("80", "80"));
    }
}
