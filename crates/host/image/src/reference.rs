//! Image references as docker reads them: `redis`, `redis:7`, `ghcr.io/a/b@sha256:…`, `localhost:5000/x`.
//!
//! The first part is a registry when it has a dot, a colon, is `localhost`, or has an upper-case letter; otherwise
//! the registry is `docker.io`, and a single-part repository there is under `library/`. What does not parse is
//! refused with the reason; nothing is repaired.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::Digest;

/// The registry a bare name means.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Longest repository name with its registry (distribution's `NameTotalLengthMax`).
const NAME_MAX: usize = 255;
/// Longest tag (OCI distribution specification, "Pulling manifests").
const TAG_MAX: usize = 128;

/// Where an image is: registry, repository, and a tag or a digest (or both; the digest decides).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not an image reference: {why}; write it like \"redis:7\" or \"registry.example:5000/team/app:1.2\""
)]
pub struct ReferenceError {
    pub text: String,
    pub why: &'static str,
}

impl Reference {
    /// Host and port of the registry, `docker.io` by default.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry, such as `library/redis`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only when the reference has a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository without tag and digest: `docker.io/library/redis`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The whole reference with nothing left out: `docker.io/library/redis:7`. The key of the store's tags.
    pub fn full(&self) -> String {
        let mut text = self.name();
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push_str(&format!("@{digest}"));
        }
        text
    }

    /// This repository at `digest`, without a tag.
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// This repository at `tag`, without a digest.
    pub fn tagged(&self, tag: &str) -> Result<Self, ReferenceError> {
        check_tag(tag).map_err(|why| ReferenceError { text: tag.to_owned(), why })?;
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// What a registry is asked for: the digest when there is one, else the tag.
    pub(crate) fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

fn looks_like_registry(part: &str) -> bool {
    part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_registry(host: &str) -> Result<(), &'static str> {
    let bad = "the registry must be a host name or address, with an optional port";
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(bad)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| bad)?;
            return match port.strip_prefix(':') {
                Some(port) => port.parse::<u16>().map(|_| ()).map_err(|_| bad),
                None if port.is_empty() => Ok(()),
                None => Err(bad),
            };
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if let Some(port) = port {
        port.parse::<u16>().map_err(|_| bad)?;
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if name.split('.').all(label) { Ok(()) } else { Err(bad) }
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    let part_ok = |part: &str| {
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        if bytes.is_empty() || !alnum(bytes[0]) || !alnum(bytes[bytes.len() - 1]) {
            return false;
        }
        // Separators are one '.', one or two '_', or any number of '-'.
        part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|sep| matches!(sep, "" | "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
    };
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if repository.split('/').all(part_ok) {
        Ok(())
    } else {
        Err("a repository has a-z and 0-9, with '.', '_', '__' or '-' between them, and parts separated by '/'")
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    let rest = tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && tag.len() <= TAG_MAX {
        Ok(())
    } else {
        Err("a tag is 1 to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'")
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let bad = |why| ReferenceError { text: text.chars().take(300).collect(), why };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(digest.parse().map_err(|_| bad("what follows '@' must be sha256: and 64 hex digits"))?))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        // The tag's colon can only be a port's when there is no path after it: "localhost:5000" alone is name:tag.
        let (registry, repository) = match name.split_once('/') {
            Some((first, path)) if looks_like_registry(first) => (first, path.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository
        };
        check_registry(registry).map_err(bad)?;
        check_repository(&repository).map_err(bad)?;
        if let Some(tag) = tag {
            check_tag(tag).map_err(bad)?;
        }
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(bad("registry and repository are longer than 255 characters"));
        }
        let tag = match (tag, digest) {
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

impl fmt::Display for Reference {
    /// As people write it: `redis:7`, `ghcr.io/a/b:1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = self.full();
        let short = full.strip_prefix("docker.io/library/").or_else(|| full.strip_prefix("docker.io/"));
        f.pad(short.unwrap_or(&full))
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full())
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        ser.serialize_str(&self.full())
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        String::deserialize(de)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let digest = Digest::of(b"").to_string();
        for (text, full, short) in [
            ("redis", "docker.io/library/redis:latest".to_owned(), "redis:latest".to_owned()),
            ("redis:7", "docker.io/library/redis:7".into(), "redis:7".into()),
            ("grafana/grafana:1", "docker.io/grafana/grafana:1".into(), "grafana/grafana:1".into()),
            ("docker.io/redis", "docker.io/library/redis:latest".into(), "redis:latest".into()),
            ("index.docker.io/library/redis", "docker.io/library/redis:latest".into(), "redis:latest".into()),
            ("localhost/x", "localhost/x:latest".into(), "localhost/x:latest".into()),
            ("localhost:5000/x", "localhost:5000/x:latest".into(), "localhost:5000/x:latest".into()),
            ("localhost:5000", "docker.io/library/localhost:5000".into(), "localhost:5000".into()),
            ("ghcr.io/a/b__c/d-e:v1", "ghcr.io/a/b__c/d-e:v1".into(), "ghcr.io/a/b__c/d-e:v1".into()),
            ("[::1]:5000/x:1", "[::1]:5000/x:1".into(), "[::1]:5000/x:1".into()),
            (&format!("redis@{digest}"), format!("docker.io/library/redis@{digest}"), format!("redis@{digest}")),
            (&format!("redis:7@{digest}"), format!("docker.io/library/redis:7@{digest}"), format!("redis:7@{digest}")),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.full(), full, "{text}");
            assert_eq!(reference.to_string(), short, "{text}");
            assert_eq!(reference.full().parse::<Reference>().unwrap(), reference, "{text}");
        }
    }

    #[test]
    fn hostile_and_mistyped_references_are_refused() {
        let long = format!("a/{}", "b".repeat(260));
        for bad in [
            "",
            ":",
            "a:",
            "a:-x",
            "/a",
            "a/",
            "a//b",
            "../etc",
            "Redis",
            "a@sha256:0",
            "a@b",
            "a b",
            "a/../b",
            "a.b.c/",
            "http://a/b",
            "-a",
            "a..b",
            "a___b",
            "host:99999/a",
            "a\n",
            "a:\u{0}",
            &long,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?} was taken");
        }
    }
}
