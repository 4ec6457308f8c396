//! Request targets: a path of the API with its `{x}` filled in, and a query.

use std::fmt::Write;

/// A path and query under construction.
pub(crate) struct Target(String);

impl Target {
    pub(crate) fn of(path: &str) -> Self {
        Self(path.to_owned())
    }

    /// `path` with its one `{…}` replaced by `value` as one encoded segment.
    pub(crate) fn with(path: &str, value: &str) -> Self {
        let open = path.find('{').unwrap_or(path.len());
        let close = path.find('}').map_or(path.len(), |at| at + 1);
        let mut text = path[..open].to_owned();
        encode(value, &mut text);
        text.push_str(&path[close..]);
        Self(text)
    }

    /// The next `{…}` replaced likewise.
    pub(crate) fn and(self, value: &str) -> Self {
        Self::with(&self.0, value)
    }

    pub(crate) fn query(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        self.0.push(if self.0.contains('?') { '&' } else { '?' });
        self.0.push_str(key);
        self.0.push('=');
        encode(&value.to_string(), &mut self.0);
        self
    }

    /// The key only when there is a value.
    pub(crate) fn maybe(self, key: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    /// The key only when it is true.
    pub(crate) fn flag(self, key: &str, on: bool) -> Self {
        if on { self.query(key, true) } else { self }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// RFC 3986 percent-encoding of all but unreserved characters.
fn encode(value: &str, into: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => into.push(char::from(byte)),
            other => {
                // Writing to a String cannot fail.
                let _ = write!(into, "%{other:02X}");
            }
        }
    }
    // "." and ".." alone would be taken out of a path by anything that normalizes it.
    if value == "." || value == ".." {
        into.truncate(into.len() - value.len());
        into.push_str(if value == "." { "%2E" } else { "%2E%2E" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_segment() {
        let of = |value: &str| Target::with("/v1/containers/{container}/wait", value).0;
        assert_eq!(of("web-1"), "/v1/containers/web-1/wait");
        assert_eq!(of("../x?y#z"), "/v1/containers/..%2Fx%3Fy%23z/wait");
        assert_eq!(of(".."), "/v1/containers/%2E%2E/wait");
        assert_eq!(of("ä\r\n"), "/v1/containers/%C3%A4%0D%0A/wait");
    }

    #[test]
    fn queries_are_joined_and_encoded() {
        let target = Target::of("/v1/images").query("name", "a:1&b").flag("force", true).flag("x", false);
        assert_eq!(target.0, "/v1/images?name=a%3A1%26b&force=true");
        assert_eq!(Target::of("/x").maybe("tail", None::<u64>).maybe("since", Some(3)).0, "/x?since=3");
    }
}
