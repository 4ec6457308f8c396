//! The request target and the authority, made one of a kind: what is matched is what is sent on.
//!
//! A path that the proxy and an instance read differently is a hole in every rule about paths, so what has two readings
//! is refused rather than repaired: `.` and `..` segments however they are written, encoded slashes, backslashes and NUL,
//! bad percent signs, bytes outside of visible ASCII. Only spellings that RFC 3986 (6.2.2) calls equal are unified
//! (`%41` → `A`, `%3a` → `%3A`), and runs of slashes become one, as most servers read them.

use std::borrow::Cow;

/// Path and query of a request, normalised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Starts with `/`, or is `*` of `OPTIONS *`.
    pub path: Cow<'a, str>,
    /// What stands after `?`, as the client wrote it.
    pub query: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the request target is empty")]
    Empty,
    #[error("the request target does not start with a slash: this is not a forward proxy")]
    NotOriginForm,
    #[error("the path has a dot segment: send the path it resolves to")]
    DotSegment,
    #[error("the path has an encoded slash or backslash, or a backslash")]
    HiddenSeparator,
    #[error("the path has a NUL")]
    Nul,
    #[error("the path has a percent sign without two hex digits")]
    BadEscape,
    #[error("the request target has a byte that must be percent-encoded")]
    BadByte,
}

impl<'a> Target<'a> {
    /// Reads a target in origin form (RFC 9112, 3.2.1). Absolute and authority forms are refused.
    pub fn parse(text: &'a [u8]) -> Result<Self, TargetError> {
        match text.first() {
            None => return Err(TargetError::Empty),
            Some(b'*') if text.len() == 1 => return Ok(Self { path: Cow::Borrowed("*"), query: None }),
            Some(b'/') => {}
            Some(_) => return Err(TargetError::NotOriginForm),
        }
        // Printable ASCII, so that the bytes are a string too; `#` never goes over the wire.
        if text.iter().any(|byte| !(0x21..=0x7e).contains(byte) || *byte == b'#') {
            return Err(TargetError::BadByte);
        }
        let text = std::str::from_utf8(text).map_err(|_| TargetError::BadByte)?;
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        Ok(Self { path: normal(path)?, query })
    }
}

fn normal(path: &str) -> Result<Cow<'_, str>, TargetError> {
    let bytes = path.as_bytes();
    if bytes.contains(&b'\\') {
        return Err(TargetError::HiddenSeparator);
    }
    let plain =
        !bytes.contains(&b'%') && !bytes.windows(2).any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'));
    if plain {
        return Ok(Cow::Borrowed(path));
    }
    let mut out = String::with_capacity(path.len());
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'%' {
            let decoded = escape(bytes.get(at + 1..at + 3)).ok_or(TargetError::BadEscape)?;
            match decoded {
                0 => return Err(TargetError::Nul),
                b'/' | b'\\' => return Err(TargetError::HiddenSeparator),
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(decoded)),
                _ => {
                    out.push('%');
                    out.push_str(&path[at + 1..at + 3].to_ascii_uppercase());
                }
            }
            at += 3;
        } else {
            if byte != b'/' || !out.ends_with('/') {
                out.push(char::from(byte));
            }
            at += 1;
        }
    }
    // After decoding, so that `%2e%2e` counts; what follows `;` is a parameter some servers cut off first.
    let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if out.split('/').any(dots) {
        return Err(TargetError::DotSegment);
    }
    Ok(if out == path { Cow::Borrowed(path) } else { Cow::Owned(out) })
}

fn escape(digits: Option<&[u8]>) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match digits {
        Some([high, low]) => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    }
}

/// `path` with the `matched` prefix (or exact path) replaced by `rewrite`. Never has an empty or doubled slash at the seam,
/// and never a dot segment that was not in `rewrite`: the rest of `path` has none.
pub fn rewritten(path: &str, matched: &str, rewrite: &str) -> String {
    let rest = path.strip_prefix(matched.trim_end_matches('/')).unwrap_or(path).trim_start_matches('/');
    let base = rewrite.trim_end_matches('/');
    if rest.is_empty() {
        let slash = path.ends_with('/') && !matched.ends_with('/');
        return match (base.is_empty(), slash || rewrite.ends_with('/')) {
            (true, _) => "/".to_owned(),
            (false, true) => format!("{base}/"),
            (false, false) => base.to_owned(),
        };
    }
    format!("{base}/{rest}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("the Host header is missing or empty")]
    Empty,
    #[error("the Host header is not a host name with an optional port")]
    Malformed,
}

/// The host of a Host header or `:authority`: lower case, without port, brackets or final dot.
pub fn authority(text: &[u8]) -> Result<Cow<'_, str>, AuthorityError> {
    if text.is_empty() {
        return Err(AuthorityError::Empty);
    }
    let text = std::str::from_utf8(text).map_err(|_| AuthorityError::Malformed)?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or(AuthorityError::Malformed)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| AuthorityError::Malformed)?;
            match after {
                "" => (host, None),
                _ => (host, Some(after.strip_prefix(':').ok_or(AuthorityError::Malformed)?)),
            }
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if port.is_some_and(|port| port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(AuthorityError::Malformed);
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    let fits = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') || (byte == b':' && text.starts_with('['))
    };
    if host.is_empty() {
        return Err(AuthorityError::Empty);
    }
    // 253: the longest name in text (RFC 1035, 2.3.4).
    if host.len() > 253 || !host.bytes().all(fits) {
        return Err(AuthorityError::Malformed);
    }
    let upper = host.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(if upper { Cow::Owned(host.to_ascii_lowercase()) } else { Cow::Borrowed(host) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<String, TargetError> {
        Target::parse(text.as_bytes()).map(|target| target.path.into_owned())
    }

    #[test]
    fn equal_spellings_of_a_path_become_one() {
        for (written, read) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%41bc", "/Abc"),
            ("/a%3ab", "/a%3Ab"),
            ("//a///b/", "/a/b/"),
            ("/a%7Eb", "/a~b"),
            ("/a.b/..c/c..", "/a.b/..c/c.."),
            ("/.well-known/x", "/.well-known/x"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("*", "*"),
        ] {
            assert_eq!(path(written).as_deref(), Ok(read), "{written}");
        }
        let target = Target::parse(b"/a?b=%2e%2e/../c?d").unwrap();
        assert_eq!((target.path.as_ref(), target.query), ("/a", Some("b=%2e%2e/../c?d")));
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        use TargetError::*;
        for (written, why) in [
            ("", Empty),
            ("http://example.com/", NotOriginForm),
            ("example.com:443", NotOriginForm),
            ("*a", NotOriginForm),
            ("/..", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/./b", DotSegment),
            ("/a/.", DotSegment),
            ("/%2e%2E/b", DotSegment),
            ("/.%2e/b", DotSegment),
            ("/a/..;x=1/b", DotSegment),
            ("/a//../b", DotSegment),
            ("/a%2fb", HiddenSeparator),
            ("/a%5Cb", HiddenSeparator),
            ("/a\\b", HiddenSeparator),
            ("/a%00", Nul),
            ("/a%", BadEscape),
            ("/a%4", BadEscape),
            ("/a%zz", BadEscape),
            ("/a b", BadByte),
            ("/a\r\nX: y", BadByte),
            ("/a#b", BadByte),
            ("/ä", BadByte),
        ] {
            assert_eq!(path(written), Err(why), "{written:?}");
        }
    }

    #[test]
    fn a_rewrite_replaces_whole_segments_only_and_joins_with_one_slash() {
        for (path, matched, rewrite, sent) in [
            ("/api/x", "/api", "/", "/x"),
            ("/api/x", "/api", "/v1", "/v1/x"),
            ("/api/x", "/api/", "/v1/", "/v1/x"),
            ("/api", "/api", "/", "/"),
            ("/api", "/api", "/v1", "/v1"),
            ("/api/", "/api", "/v1", "/v1/"),
            ("/x/y", "/", "/base", "/base/x/y"),
            ("/", "/", "/base", "/base"),
        ] {
            assert_eq!(rewritten(path, matched, rewrite), sent, "{path} {matched} {rewrite}");
        }
    }

    #[test]
    fn an_authority_is_a_name_with_an_optional_port() {
        for (written, host) in [
            ("example.com", "example.com"),
            ("Example.COM:8080", "example.com"),
            ("example.com.", "example.com"),
            ("[::1]:80", "::1"),
            ("127.0.0.1", "127.0.0.1"),
            ("a_b:", "a_b"),
        ] {
            assert_eq!(authority(written.as_bytes()).as_deref(), Ok(host), "{written}");
        }
        for bad in ["", ":80", ".", "user@example.com", "a b", "a:b", "a:123456", "[::1", "[::1]x", "a,b", "a/b", "ä"]
        {
            assert!(authority(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
