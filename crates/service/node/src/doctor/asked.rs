//! What somebody wrote for the end that is to be reached: `web`, `shop/web:80`, `10.88.0.3:80`, `http://shop.example/cart`.

use std::net::{IpAddr, Ipv6Addr};

/// Understood, not looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A name, an address, or `app/service`.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// It is a URL: a request to the node's HTTP proxy is meant.
    pub(crate) path: Option<String>,
}

/// A sentence why it is neither.
pub(crate) type Wrong = String;

pub(crate) fn parse(text: &str) -> Result<Asked, Wrong> {
    for (scheme, port) in [("http://", 80), ("https://", 443)] {
        if let Some(rest) = text.strip_prefix(scheme) {
            let (place, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            let path = path.split(['?', '#']).next().unwrap_or_default();
            let asked = place_of(place, text)?;
            let path = if path.is_empty() { "/" } else { path };
            return Ok(Asked { port: asked.port.or(Some(port)), path: Some(path.to_owned()), ..asked });
        }
    }
    place_of(text, text)
}

/// Of everything but a path.
fn place_of(place: &str, whole: &str) -> Result<Asked, Wrong> {
    let wrong = |why: &str| {
        format!(
            "{whole:?} names nothing to be reached: {why}; write a service (`web`, `shop/web`), an instance, a name or an address, with `:PORT` where you like"
        )
    };
    let (host, port) = if place.parse::<Ipv6Addr>().is_ok() {
        (place, None)
    } else if let Some(rest) = place.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(|| wrong("a [ is not closed"))?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err(wrong("between [ and ] stands no IPv6 address"));
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(wrong("after ] comes `:PORT` or nothing")),
        }
    } else {
        match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    let port = match port.map(str::parse::<u16>) {
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err(wrong("a port is a number from 1 to 65535")),
        None => None,
    };
    let is_address = host.parse::<IpAddr>().is_ok();
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if !is_address && (host.is_empty() || host.len() > 253 || !host.chars().all(is_name_char)) {
        return Err(wrong("it is no name"));
    }
    Ok(Asked { host: host.to_ascii_lowercase(), port, path: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_urls_are_told_apart_with_their_ports() {
        let asked = |host: &str, port, path: Option<&str>| {
            Ok(Asked { host: host.to_owned(), port, path: path.map(str::to_owned) })
        };
        assert_eq!(parse("web"), asked("web", None, None));
        assert_eq!(parse("shop/web:8080"), asked("shop/web", Some(8080), None));
        assert_eq!(parse("Example.COM:443"), asked("example.com", Some(443), None));
        assert_eq!(parse("10.88.0.3:80"), asked("10.88.0.3", Some(80), None));
        assert_eq!(parse("fd00::2"), asked("fd00::2", None, None));
        assert_eq!(parse("[fd00::2]:80"), asked("fd00::2", Some(80), None));
        assert_eq!(parse("http://shop.example"), asked("shop.example", Some(80), Some("/")));
        assert_eq!(parse("https://shop.example:8443/cart?a#b"), asked("shop.example", Some(8443), Some("/cart")));
    }

    #[test]
    fn what_is_neither_is_refused_with_why() {
        for (bad, why) in [
            ("", "no name"),
            ("web:0", "port"),
            ("web:70000", "port"),
            ("web:http", "port"),
            ("[fd00::2", "not closed"),
            ("[web]:80", "IPv6"),
            ("[::1]80", "after ]"),
            ("a b", "no name"),
            ("http://", "no name"),
            ("web;rm", "no name"),
        ] {
            let said = parse(bad).unwrap_err();
            assert!(said.contains(why), "{bad:?}: {said}");
        }
    }
}
