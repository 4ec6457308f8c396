//! Manifests and indexes, OCI's and Docker's (v2 schema 2): parsing with bounds, and choosing from an index.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::{CONFIG_MAX, LAYERS_MAX, MANIFEST_MAX};
use crate::platform::Platform;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Types of layers that are tar streams, compressed or not; what they are is told from their first bytes.
const LAYER_TYPES: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

pub(crate) const OCI_LAYER: &str = LAYER_TYPES[0];
pub(crate) const OCI_LAYER_GZIP: &str = LAYER_TYPES[1];
pub(crate) const OCI_LAYER_ZSTD: &str = LAYER_TYPES[2];

/// Why a manifest was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is {0} bytes long; at most {MANIFEST_MAX} are accepted")]
    TooLong(u64),
    #[error("the manifest is not what the OCI and Docker formats say: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "the manifest is of Docker's schema 1, which is no longer supported: push the image again with a current tool"
    )]
    Schema1,
    #[error("the manifest claims to be an image and an index at once: it was refused")]
    Ambiguous,
    #[error("the manifest lists {0} layers; at most {LAYERS_MAX} are accepted")]
    TooManyLayers(usize),
    #[error("the manifest is of type {0:?}, which is not a container image")]
    NotAnImage(String),
    #[error("the manifest has a layer of type {0:?}, which is not supported")]
    LayerType(String),
    #[error("the image's configuration is said to be {0} bytes long; at most {CONFIG_MAX} are accepted")]
    ConfigTooLong(u64),
    #[error("the image is not made for {wanted}; it is there for {}", Listed(.available))]
    Platform { wanted: Platform, available: Vec<String> },
}

struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("no platform at all") } else { f.write_str(&self.0.join(", ")) }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<std::collections::BTreeMap<String, String>>,
}

/// One image's manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) manifests: Vec<Descriptor>,
}

pub(crate) enum Document {
    Image(Manifest),
    Index(Index),
}

/// Only to see what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u32>,
    media_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

/// Reads a manifest or index; `content_type` is the registry's word, used when the document does not say.
pub(crate) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, ManifestError> {
    if bytes.len() as u64 > MANIFEST_MAX {
        return Err(ManifestError::TooLong(bytes.len() as u64));
    }
    let shape: Shape = serde_json::from_slice(bytes)?;
    if shape.schema_version == Some(1) {
        return Err(ManifestError::Schema1);
    }
    let is_image = shape.config.is_some() || shape.layers.is_some();
    if is_image && shape.manifests.is_some() {
        return Err(ManifestError::Ambiguous);
    }
    let said = shape.media_type.or_else(|| content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_owned()));
    match said.as_deref() {
        Some(OCI_INDEX | DOCKER_LIST) if is_image => return Err(ManifestError::Ambiguous),
        Some(OCI_MANIFEST | DOCKER_MANIFEST) if shape.manifests.is_some() => return Err(ManifestError::Ambiguous),
        _ => {}
    }
    if shape.manifests.is_some() {
        return Ok(Document::Index(serde_json::from_slice(bytes)?));
    }
    if !is_image {
        return Err(ManifestError::NotAnImage(said.unwrap_or_default()));
    }
    let mut manifest: Manifest = serde_json::from_slice(bytes)?;
    if manifest.layers.len() > LAYERS_MAX {
        return Err(ManifestError::TooManyLayers(manifest.layers.len()));
    }
    if !matches!(manifest.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG | "") {
        return Err(ManifestError::NotAnImage(manifest.config.media_type));
    }
    if manifest.config.size > CONFIG_MAX {
        return Err(ManifestError::ConfigTooLong(manifest.config.size));
    }
    if let Some(layer) = manifest.layers.iter().find(|l| !LAYER_TYPES.contains(&l.media_type.as_str())) {
        return Err(ManifestError::LayerType(layer.media_type.clone()));
    }
    if manifest.media_type.is_empty() {
        manifest.media_type = match said.as_deref() {
            Some(DOCKER_MANIFEST) => DOCKER_MANIFEST.to_owned(),
            _ => OCI_MANIFEST.to_owned(),
        };
    }
    Ok(Document::Image(manifest))
}

impl Index {
    /// The entry for `wanted`. An entry without a platform is taken only when it is the only one (archives of one image).
    pub(crate) fn choose(&self, wanted: &Platform) -> Result<&Descriptor, ManifestError> {
        let is_manifest = |d: &&Descriptor| {
            matches!(d.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST | OCI_INDEX | DOCKER_LIST | "")
        };
        if let [only] = &self.manifests[..]
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let suited = self.manifests.iter().filter(is_manifest).filter_map(|descriptor| {
            let level = wanted.suits(descriptor.platform.as_ref()?)?;
            Some((level, descriptor))
        });
        suited.min_by_key(|(level, _)| *level).map(|(_, descriptor)| descriptor).ok_or_else(|| {
            // Attestations are listed as "unknown/unknown".
            let named = self.manifests.iter().filter_map(|d| d.platform.as_ref()).filter(|p| p.os != "unknown");
            let mut available: Vec<String> = named.map(Platform::to_string).take(50).collect();
            available.sort();
            available.dedup();
            ManifestError::Platform { wanted: wanted.clone(), available }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: &str) -> serde_json::Value {
        let p: Platform = platform.parse().unwrap();
        serde_json::json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(platform.as_bytes()), "size": 1, "platform": p})
    }

    fn index(platforms: &[&str]) -> Index {
        let manifests: Vec<_> = platforms.iter().map(|p| entry(p)).collect();
        let json = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        match parse(&serde_json::to_vec(&json).unwrap(), None).unwrap() {
            Document::Index(index) => index,
            Document::Image(_) => panic!("an index was read as an image"),
        }
    }

    #[test]
    fn an_index_gives_the_entry_of_the_wanted_architecture() {
        let index = index(&["linux/arm/v6", "linux/arm/v7", "linux/amd64", "linux/arm64/v8"]);
        for wanted in ["linux/amd64", "linux/arm/v7", "linux/arm64/v8"] {
            let chosen = index.choose(&wanted.parse().unwrap()).unwrap();
            assert_eq!(chosen.digest, Digest::of(wanted.as_bytes()));
        }
    }

    #[test]
    fn a_missing_architecture_is_an_error_that_names_what_there_is() {
        let error = index(&["linux/arm64", "linux/s390x"]).choose(&"linux/amd64".parse().unwrap()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("linux/amd64") && text.contains("linux/arm64, linux/s390x"), "{text}");
    }

    #[test]
    fn a_manifest_with_a_million_layers_is_refused() {
        let digest = Digest::of(b"");
        let layer = format!(r#"{{"mediaType":"{OCI_LAYER}","digest":"{digest}","size":1}}"#);
        let with = |count: usize| {
            let layers = format!("{layer},").repeat(count);
            let config = format!(r#"{{"mediaType":"{OCI_CONFIG}","digest":"{digest}","size":2}}"#);
            let layers = layers.trim_end_matches(',');
            parse(format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#).as_bytes(), None)
        };
        assert!(matches!(with(1_000_000), Err(ManifestError::TooLong(_))));
        assert!(matches!(with(501), Err(ManifestError::TooManyLayers(501))));
        assert!(with(500).is_ok());
    }

    #[test]
    fn documents_that_are_two_things_or_none_are_refused() {
        let d = Digest::of(b"");
        for (json, type_) in [
            (serde_json::json!({"schemaVersion": 2, "manifests": [], "layers": []}), None),
            (serde_json::json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "manifests": []}), None),
            (serde_json::json!({"schemaVersion": 2, "manifests": []}), Some(DOCKER_MANIFEST)),
            (serde_json::json!({"schemaVersion": 1, "fsLayers": []}), None),
            (serde_json::json!({"schemaVersion": 2}), None),
            (
                serde_json::json!({"schemaVersion": 2, "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json",
                    "digest": d, "size": 2}, "layers": []}),
                None,
            ),
            (
                serde_json::json!({"schemaVersion": 2, "config": {"digest": d, "size": 2}, "layers": [
                    {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": d, "size": 1}]}),
                None,
            ),
            (serde_json::json!({"schemaVersion": 2, "config": {"digest": d, "size": -2}, "layers": []}), None),
        ] {
            assert!(parse(&serde_json::to_vec(&json).unwrap(), type_).is_err(), "{json}");
        }
    }
}
