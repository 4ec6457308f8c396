//! `ports` of a Compose service: short and long form, ranges.

use super::ledger::{Ledger, Map};
use super::mounts::colons;
use super::yaml::{Node, Value};
use crate::host_port;

/// Longest range of ports written out one by one.
const RANGE_MAX: u16 = 100;

/// One entry of `ports`, ranges written out.
pub(super) fn convert(item: &Node, path: &str, ports: &mut Vec<String>, ledger: &mut Ledger<'_>) {
    if let Value::Map(_) = &item.value {
        return long_port(item, path, ports, ledger);
    }
    let Some(text) = ledger.text(item, path) else { return };
    add_port(&text, item, path, ports, ledger);
}

fn long_port(item: &Node, path: &str, ports: &mut Vec<String>, ledger: &mut Ledger<'_>) {
    let Some(map) = Map::open(item, path, ledger) else { return };
    let mut take = |key: &str| map.take(key).and_then(|(path, node)| ledger.text(node, &path));
    let (target, published, host_ip, protocol) = (take("target"), take("published"), take("host_ip"), take("protocol"));
    match target {
        None => ledger.leave(path, &item.span, "it has no usable `target`"),
        Some(target) => {
            let ip = match &host_ip {
                None => String::new(),
                Some(ip) if ip.contains(':') && !ip.starts_with(['[', '$']) => format!("[{ip}]:"),
                Some(ip) => format!("{ip}:"),
            };
            let host = match (&published, ip.is_empty()) {
                (Some(published), _) => format!("{published}:"),
                (None, true) => String::new(),
                (None, false) => ":".to_owned(),
            };
            let protocol = protocol.map_or_else(String::new, |protocol| format!("/{protocol}"));
            add_port(&format!("{ip}{host}{target}{protocol}"), item, path, ports, ledger);
        }
    }
    map.finish(|_| "it changes nothing on one machine".to_owned(), ledger);
}

fn add_port(text: &str, item: &Node, path: &str, ports: &mut Vec<String>, ledger: &mut Ledger<'_>) {
    if text.contains("${") {
        ports.push(text.to_owned());
        return;
    }
    match written_out(text) {
        Some(all) => {
            for one in all {
                match host_port::parse(&one) {
                    Ok(_) => ports.push(one),
                    Err((why, _)) => return ledger.leave(path, &item.span, why),
                }
            }
        }
        None => {
            let why = format!(
                "range `{text}` is not carried: write one port per entry (at most {RANGE_MAX} are written out)"
            );
            ledger.leave(path, &item.span, why);
        }
    }
}

/// `3000-3002:80-82` → three ports; what is no range → itself; `None`: sides of different length, or too long.
fn written_out(text: &str) -> Option<Vec<String>> {
    if !text.contains('-') {
        return Some(vec![text.to_owned()]);
    }
    let (address, protocol) = text.split_once('/').map_or((text, String::new()), |(a, p)| (a, format!("/{p}")));
    let range = |part: &str| -> Option<Vec<u16>> {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u16, u16) = (from.parse().ok()?, to.parse().ok()?);
        (from <= to && to - from < RANGE_MAX).then(|| (from..=to).collect())
    };
    let parts = colons(address);
    let container = range(parts.last()?)?;
    let before = &parts[..parts.len() - 1];
    let Some((host, ip)) = before.split_last() else {
        return Some(container.iter().map(|port| format!("{port}{protocol}")).collect());
    };
    let host = range(host).filter(|host| host.len() == container.len())?;
    let ip = if ip.is_empty() { String::new() } else { format!("{}:", ip.join(":")) };
    Some(host.iter().zip(&container).map(|(host, port)| format!("{ip}{host}:{port}{protocol}")).collect())
}

#[cfg(test)]
mod tests {
    use super::written_out;

    #[test]
    fn ranges_of_ports_are_written_out() {
        assert_eq!(written_out("80-81"), Some(vec!["80".into(), "81".into()]));
        assert_eq!(written_out("8080-8081:80-81/udp"), Some(vec!["8080:80/udp".into(), "8081:81/udp".into()]));
        assert_eq!(written_out("127.0.0.1:90-90:80"), Some(vec!["127.0.0.1:90:80".into()]));
        assert_eq!(written_out("80:80"), Some(vec!["80:80".into()]));
        for bad in ["8000-9000:80", "1-60000:1-60000", "9-1:9-1", "a-b"] {
            assert_eq!(written_out(bad), None, "{bad}");
        }
    }
}
