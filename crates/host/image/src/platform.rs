//! The platform an image is for, and which entry of an index suits a machine.
//!
//! An index without the wanted architecture is an error that names what there is: running another architecture's
//! image would only fail later, with a worse message.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Operating system and architecture, in Go's words as registries use them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// A text that is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a platform: write it like \"linux/amd64\" or \"linux/arm/v7\"")]
pub struct PlatformError(pub String);

impl Platform {
    /// The machine this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }

    /// How well an entry for `offered` suits a machine of this platform: `None` when it does not, else smaller is
    /// better. A variant counts by its number: a v7 machine runs v6; a machine of unnamed variant takes the base.
    pub(crate) fn suits(&self, offered: &Platform) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let base = match self.architecture.as_str() {
            "arm64" => 8,
            "arm" => 7,
            _ => 1,
        };
        let level = |variant: &Option<String>| match variant.as_deref() {
            None | Some("") => Some(base),
            Some(text) => text.strip_prefix('v').and_then(|number| number.parse::<u32>().ok()),
        };
        level(&self.variant)?.checked_sub(level(&offered.variant)?)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |w: &str| !w.is_empty() && w.len() <= 32 && w.bytes().all(|b| b.is_ascii_alphanumeric());
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(PlatformError(text.to_owned())),
        };
        if !word(os) || !word(architecture) || !variant.is_none_or(word) {
            return Err(PlatformError(text.to_owned()));
        }
        let architecture = match architecture {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_takes_its_own_or_an_older_variant_and_nothing_else() {
        let p = |t: &str| t.parse::<Platform>().unwrap();
        assert_eq!(p("linux/amd64").suits(&p("linux/amd64")), Some(0));
        assert_eq!(p("linux/amd64").suits(&p("linux/amd64/v1")), Some(0));
        assert_eq!(p("linux/amd64").suits(&p("linux/amd64/v3")), None);
        assert_eq!(p("linux/arm64/v8").suits(&p("linux/arm64")), Some(0));
        assert_eq!(p("linux/arm/v7").suits(&p("linux/arm/v6")), Some(1));
        assert_eq!(p("linux/arm/v6").suits(&p("linux/arm/v7")), None);
        assert_eq!(p("linux/amd64").suits(&p("linux/arm64")), None);
        assert_eq!(p("linux/amd64").suits(&p("windows/amd64")), None);
        assert!("linux".parse::<Platform>().is_err());
        assert!("linux/../x".parse::<Platform>().is_err());
    }
}
