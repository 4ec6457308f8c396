//! Who a workload runs as and what it may do: `user`, capabilities, `privileged`; and what it is called.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::diagnostic::{Report, quoted};
use crate::fields::{Fields, Placed, strings, wrong_type};
use crate::names;
use crate::tree::Value;

/// Linux's `HOST_NAME_MAX`.
const HOSTNAME_MAX: usize = 64;

/// `user`: `name|uid[:group|gid]`.
pub(crate) fn user(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let found = fields.text_or_integer("user", report)?;
    if is_user(&found.value) {
        return Some(found.value);
    }
    let message = format!("{} is not a user", quoted(&found.value));
    report.error(&found.span, message, "write a name or uid, and maybe a group: \"app\", 1000, \"1000:1000\"");
    None
}

pub(crate) fn is_user(text: &str) -> bool {
    let part = |part: &str| {
        let character = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b'$');
        let number = part.bytes().all(|c| c.is_ascii_digit());
        // uid 2^32-1 means "no change" to the kernel.
        let in_range = !number || part.parse::<u32>().is_ok_and(|id| id < u32::MAX);
        !part.is_empty() && !part.starts_with('-') && part.bytes().all(character) && in_range
    };
    match text.split_once(':') {
        Some((user, group)) => part(user) && part(group),
        None => part(text),
    }
}

/// `cap_add` or `cap_drop`, in the spec's form, without repeats.
pub(crate) fn capabilities(fields: &Fields<'_>, key: &'static str, report: &mut Report<'_>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for item in fields.texts(key, report).unwrap_or_default() {
        match names::capability(&item.value) {
            Ok(capability) if found.iter().any(|seen| seen == capability) => {}
            Ok(capability) => found.push(capability.to_owned()),
            Err(near) => {
                let help = match near {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => "see capabilities(7); write it as in \"NET_ADMIN\"".to_owned(),
                };
                report.error(&item.span, format!("{} is not a capability", quoted(&item.value)), help);
            }
        }
    }
    found
}

/// `stop_signal`.
pub(crate) fn stop_signal(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let found = fields.text_or_integer("stop_signal", report)?;
    match names::signal(&found.value) {
        Ok(signal) => Some(signal),
        Err(near) => {
            let help = match near {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write a name such as \"TERM\" or \"QUIT\", or a number from 1 to 64".to_owned(),
            };
            report.error(&found.span, format!("{} is not a signal", quoted(&found.value)), help);
            None
        }
    }
}

/// `hostname`.
pub(crate) fn hostname(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<String> {
    let found = fields.text("hostname", report)?;
    if is_hostname(&found.value) {
        return Some(found.value);
    }
    let message = format!("{} is not a host name", quoted(&found.value));
    report.error(&found.span, message, "use up to 64 letters, digits, '-' and '.', starting with a letter or digit");
    None
}

/// Whether a text may be a host name (also `_`, which people use in container names).
pub(crate) fn is_hostname(text: &str) -> bool {
    let character = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_');
    let first = text.bytes().next().is_some_and(|c| c.is_ascii_alphanumeric());
    first && text.len() <= HOSTNAME_MAX && text.bytes().all(character)
}

/// `extra_hosts`: a table name → address, or an array of `"name:address"` (or `"name=address"`).
pub(crate) fn extra_hosts(fields: &Fields<'_>, report: &mut Report<'_>) -> BTreeMap<String, IpAddr> {
    let Some(entry) = fields.entry("extra_hosts", report) else { return BTreeMap::new() };
    let mut lines: Vec<Placed<(String, String)>> = Vec::new();
    match &entry.node.value {
        Value::Table(entries) => {
            for line in entries {
                match &line.node.value {
                    Value::Text { text, .. } => {
                        lines.push(Placed::new((line.key.clone(), text.clone()), &line.node.span));
                    }
                    Value::Unknown => {}
                    _ => wrong_type(&line.key, &line.node, "an address", "write it as in \"10.0.0.5\"", report),
                }
            }
        }
        Value::List(items) => {
            for item in strings("extra_hosts", items, report) {
                match host_line(&item.value) {
                    Some(line) => lines.push(Placed::new(line, &item.span)),
                    None => {
                        let message = format!("{} in `extra_hosts` has no address", quoted(&item.value));
                        report.error(&item.span, message, "write \"name:address\", as in \"db:10.0.0.5\"");
                    }
                }
            }
        }
        Value::Unknown => {}
        _ => wrong_type("extra_hosts", &entry.node, "a table", "write { db = \"10.0.0.5\" }", report),
    }
    let mut hosts = BTreeMap::new();
    for line in lines {
        let (name, address) = line.value;
        let plain = address.trim_start_matches('[').trim_end_matches(']');
        if !is_hostname(&name) {
            let message = format!("{} is not a host name", quoted(&name));
            report.error(&line.span, message, "use letters, digits, '-' and '.'");
        } else if let Ok(address) = plain.parse() {
            hosts.insert(name, address);
        } else {
            let help = match address.as_str() {
                "host-gateway" => "Coppice has no such word: write the host's address",
                _ => "write an address such as 10.0.0.5 or ::1, not a name",
            };
            report.error(&line.span, format!("{} is not an IP address", quoted(&address)), help);
        }
    }
    hosts
}

/// `name:address` or `name=address`.
pub(crate) fn host_line(text: &str) -> Option<(String, String)> {
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':'))?;
    Some((name.to_owned(), address.to_owned()))
}
