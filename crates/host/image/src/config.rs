//! An image's configuration: what to run and how, read from the JSON blob whose digest is the image's id.
//!
//! Reading is lenient about what tools leave out or write as `null`, and strict about what could hurt later: lists and
//! words are bounded, and no word may hold a NUL (execve(2) would cut it there).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::limits::{CONFIG_LIST_MAX, CONFIG_MAX, CONFIG_WORD_MAX, LAYERS_MAX};
use crate::platform::Platform;

/// What an image says about running it. Empty lists and strings mean "not said".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `KEY=value`, in the image's order.
    pub env: Vec<String>,
    pub working_dir: String,
    /// `user`, `user:group`, names or numbers.
    pub user: String,
    /// `80/tcp`, sorted.
    pub exposed_ports: Vec<String>,
    /// Paths, sorted.
    pub volumes: Vec<String>,
    pub stop_signal: Option<String>,
    pub healthcheck: Option<ImageHealthcheck>,
    pub labels: BTreeMap<String, String>,
    pub on_build: Vec<String>,
    pub shell: Vec<String>,
    pub architecture: String,
    pub variant: Option<String>,
    pub os: String,
    /// RFC 3339, as the image's builder wrote it.
    pub created: Option<String>,
    pub author: Option<String>,
    pub history: Vec<HistoryEntry>,
}

/// HEALTHCHECK of an image. Zero durations and retries mean "the default".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageHealthcheck {
    /// `["NONE"]`, `["CMD", argument…]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub retries: u32,
}

/// One line of `image history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Why a configuration was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the image configuration is {0} bytes long; at most {CONFIG_MAX} are accepted")]
    TooLong(u64),
    #[error("the image configuration is not what the OCI and Docker formats say: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the image configuration's {field} has {count} entries; at most {max} are accepted")]
    TooMany { field: &'static str, count: usize, max: usize },
    #[error("the image configuration's {field} has an entry of {length} bytes; at most {CONFIG_WORD_MAX} are accepted")]
    LongWord { field: &'static str, length: usize },
    #[error("the image configuration's {field} has an entry with a NUL byte")]
    Nul { field: &'static str },
    #[error("the image configuration lists {diff_ids} layers and its manifest {layers}")]
    LayerCount { diff_ids: usize, layers: usize },
}

impl ImageConfig {
    pub fn platform(&self) -> Platform {
        Platform { os: self.os.clone(), architecture: self.architecture.clone(), variant: self.variant.clone() }
    }

    /// Reads a configuration blob; also returns the layers' diff-ids, bottom first.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, Vec<Digest>), ConfigError> {
        if bytes.len() as u64 > CONFIG_MAX {
            return Err(ConfigError::TooLong(bytes.len() as u64));
        }
        let file: ConfigFile = serde_json::from_slice(bytes)?;
        let run = file.config.unwrap_or_default();
        let config = Self {
            entrypoint: words("Entrypoint", run.entrypoint)?,
            cmd: words("Cmd", run.cmd)?,
            env: words("Env", run.env)?,
            working_dir: word("WorkingDir", run.working_dir.unwrap_or_default())?,
            user: word("User", run.user.unwrap_or_default())?,
            exposed_ports: words("ExposedPorts", run.exposed_ports.map(|m| m.into_keys().collect()))?,
            volumes: words("Volumes", run.volumes.map(|m| m.into_keys().collect()))?,
            stop_signal: run.stop_signal.filter(|s| !s.is_empty()).map(|s| word("StopSignal", s)).transpose()?,
            healthcheck: run.healthcheck.map(ImageHealthcheck::try_from).transpose()?,
            labels: labels(run.labels.unwrap_or_default())?,
            on_build: words("OnBuild", run.on_build)?,
            shell: words("Shell", run.shell)?,
            architecture: file.architecture.unwrap_or_default(),
            variant: file.variant.filter(|v| !v.is_empty()),
            os: file.os.filter(|os| !os.is_empty()).unwrap_or_else(|| "linux".to_owned()),
            created: file.created,
            author: file.author.filter(|a| !a.is_empty()),
            history: bounded("history", file.history.unwrap_or_default())?,
        };
        let diff_ids = file.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
        if diff_ids.len() > LAYERS_MAX {
            return Err(ConfigError::TooMany { field: "rootfs.diff_ids", count: diff_ids.len(), max: LAYERS_MAX });
        }
        Ok((config, diff_ids))
    }

    /// Writes an OCI configuration blob.
    pub(crate) fn to_json(&self, diff_ids: &[Digest]) -> Vec<u8> {
        let set = |list: &[String]| {
            (!list.is_empty()).then(|| list.iter().map(|w| (w.clone(), serde_json::json!({}))).collect())
        };
        let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let file = ConfigFile {
            architecture: Some(self.architecture.clone()),
            variant: self.variant.clone(),
            os: Some(self.os.clone()),
            created: self.created.clone(),
            author: self.author.clone(),
            config: Some(RunFile {
                user: text(&self.user),
                exposed_ports: set(&self.exposed_ports),
                env: list(&self.env),
                entrypoint: list(&self.entrypoint),
                cmd: list(&self.cmd),
                volumes: set(&self.volumes),
                working_dir: text(&self.working_dir),
                labels: (!self.labels.is_empty()).then(|| self.labels.clone()),
                stop_signal: self.stop_signal.clone(),
                healthcheck: self.healthcheck.as_ref().map(HealthFile::from),
                on_build: list(&self.on_build),
                shell: list(&self.shell),
            }),
            rootfs: Some(RootFile { kind: Some("layers".into()), diff_ids: Some(diff_ids.to_vec()) }),
            history: (!self.history.is_empty()).then(|| self.history.clone()),
        };
        serde_json::to_vec(&file).unwrap_or_default()
    }
}

#[derive(Serialize, Deserialize)]
struct ConfigFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    author: Option<String>,
    architecture: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    os: Option<String>,
    config: Option<RunFile>,
    rootfs: Option<RootFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<HistoryEntry>>,
}

#[derive(Serialize, Deserialize)]
struct RootFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<HealthFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Vec<String>>,
}

/// Docker writes durations as nanoseconds.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HealthFile {
    test: Option<Vec<String>>,
    #[serde(default)]
    interval: i64,
    #[serde(default)]
    timeout: i64,
    #[serde(default)]
    start_period: i64,
    #[serde(default)]
    retries: i64,
}

impl TryFrom<HealthFile> for ImageHealthcheck {
    type Error = ConfigError;
    fn try_from(file: HealthFile) -> Result<Self, ConfigError> {
        let span = |ns: i64| Duration::from_nanos(u64::try_from(ns).unwrap_or(0));
        Ok(Self {
            test: words("Healthcheck.Test", file.test)?,
            interval: span(file.interval),
            timeout: span(file.timeout),
            start_period: span(file.start_period),
            retries: u32::try_from(file.retries).unwrap_or(0),
        })
    }
}

impl From<&ImageHealthcheck> for HealthFile {
    fn from(health: &ImageHealthcheck) -> Self {
        let ns = |span: Duration| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
        Self {
            test: Some(health.test.clone()),
            interval: ns(health.interval),
            timeout: ns(health.timeout),
            start_period: ns(health.start_period),
            retries: i64::from(health.retries),
        }
    }
}

fn bounded<T>(field: &'static str, list: Vec<T>) -> Result<Vec<T>, ConfigError> {
    if list.len() > CONFIG_LIST_MAX {
        return Err(ConfigError::TooMany { field, count: list.len(), max: CONFIG_LIST_MAX });
    }
    Ok(list)
}

fn word(field: &'static str, word: String) -> Result<String, ConfigError> {
    if word.len() > CONFIG_WORD_MAX {
        return Err(ConfigError::LongWord { field, length: word.len() });
    }
    if word.contains('\0') {
        return Err(ConfigError::Nul { field });
    }
    Ok(word)
}

fn words(field: &'static str, list: Option<Vec<String>>) -> Result<Vec<String>, ConfigError> {
    bounded(field, list.unwrap_or_default())?.into_iter().map(|w| word(field, w)).collect()
}

fn labels(map: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, ConfigError> {
    if map.len() > CONFIG_LIST_MAX {
        return Err(ConfigError::TooMany { field: "Labels", count: map.len(), max: CONFIG_LIST_MAX });
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_writing_and_reading() {
        let config = ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["a".into(), "b".into()],
            env: vec!["A=1".into()],
            working_dir: "/srv".into(),
            user: "redis:redis".into(),
            exposed_ports: vec!["53/udp".into(), "80/tcp".into()],
            volumes: vec!["/data".into()],
            stop_signal: Some("SIGQUIT".into()),
            healthcheck: Some(ImageHealthcheck {
                test: vec!["CMD".into(), "true".into()],
                interval: Duration::from_secs(3),
                retries: 2,
                ..Default::default()
            }),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            architecture: "amd64".into(),
            os: "linux".into(),
            ..Default::default()
        };
        let ids = vec![Digest::of(b"1"), Digest::of(b"2")];
        assert_eq!(ImageConfig::parse(&config.to_json(&ids)).unwrap(), (config, ids));
    }

    #[test]
    fn what_tools_leave_out_or_write_as_null_is_taken_as_empty() {
        let (config, ids) = ImageConfig::parse(br#"{"config":{"Cmd":null,"Env":null,"Volumes":null}}"#).unwrap();
        assert_eq!((config.cmd.len(), config.env.len(), ids.len()), (0, 0, 0));
        assert_eq!(config.os, "linux");
        ImageConfig::parse(b"{}").unwrap();
    }

    #[test]
    fn a_configuration_with_a_million_env_entries_is_refused() {
        let env: Vec<String> = (0..1_000_000).map(|_| "A=".to_owned()).collect();
        let json = serde_json::to_vec(&serde_json::json!({"config": {"Env": env}})).unwrap();
        let error = ImageConfig::parse(&json).unwrap_err();
        assert!(matches!(error, ConfigError::TooMany { field: "Env", count: 1_000_000, .. }), "{error}");
    }

    #[test]
    fn oversized_and_cut_words_are_refused() {
        let json = serde_json::to_vec(&serde_json::json!({"config": {"Cmd": ["a\u{0}b"]}})).unwrap();
        assert!(matches!(ImageConfig::parse(&json), Err(ConfigError::Nul { field: "Cmd" })));
        let json = serde_json::to_vec(&serde_json::json!({"config": {"Cmd": ["a".repeat(200_000)]}})).unwrap();
        assert!(matches!(ImageConfig::parse(&json), Err(ConfigError::LongWord { .. })));
        assert!(matches!(ImageConfig::parse(&vec![b' '; 9 << 20]), Err(ConfigError::TooLong(_))));
        assert!(matches!(ImageConfig::parse(b"{]"), Err(ConfigError::Malformed(_))));
    }
}
