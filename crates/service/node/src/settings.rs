//! A node's settings: `<root>/node.toml`, all optional.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use coppice_base::Bytes;
use coppice_spec::Cidr;
use serde::Deserialize;

use crate::telemetry::TelemetrySettings;

/// What an operator can set for one node. Unknown keys are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub api: ApiSettings,
    pub containers: ContainerSettings,
    pub logs: LogSettings,
    pub network: NetworkSettings,
    pub images: ImageSettings,
    pub proxy: ProxySettings,
    pub certificates: CertificateSettings,
    pub peer: PeerSettings,
    pub metrics: MetricsSettings,
    pub secrets: SecretSettings,
    pub volumes: VolumeSettings,
    pub telemetry: Option<TelemetrySettings>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiSettings {
    /// Group whose members may use the socket (mode 0660); else only the daemon's user (0600).
    pub group: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerSettings {
    /// Let `--privileged` through.
    pub allow_privileged: bool,
    /// Processes per container when nobody says (yoq's default).
    pub pids: u32,
    /// Open files per process when nobody says.
    pub nofile: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// Size at which a log file is rotated, in bytes.
    pub max_size: u64,
    /// Files kept of each log, the current one included.
    pub max_files: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// The bridge's IPv4 subnet, e.g. `10.88.0.0/16`; else the first free one.
    pub subnet: Option<String>,
    /// Use BPF where the kernel has it: connections between services are balanced before its stack, and traffic is counted
    /// by pair and by service's address. Without, nftables balances, and nothing counts that. Requests to disks are counted
    /// with it too, else by control groups.
    pub bpf: bool,
    /// Lead published ports of services into their instances by XDP, on the machine's Ethernet links, before its stack. Rules
    /// of other programs (a firewall's) do not see these connections, and in its generic form XDP makes a link's large packets
    /// be copied: for machines that do little else than answer at such ports. Needs `bpf`; without, nftables does the same.
    pub xdp: bool,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self { subnet: None, bpf: true, xdp: false }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// Disk budget in bytes: after a pull, images unused for longest are removed until the store fits.
    pub budget: Option<u64>,
    /// Registry host → mirrors tried before it.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registry hosts spoken to in plain HTTP.
    pub insecure: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxySettings {
    /// Where the proxy listens for HTTP, from the first route of an app on.
    pub http: Vec<SocketAddr>,
    /// Where it listens for HTTPS, from the first service with `tls.domain` on. A redirect to HTTPS names no port: on
    /// another one than 443, clients must reach this through something that listens there.
    pub https: Vec<SocketAddr>,
    /// Its threads; 0: one for each processor.
    pub threads: usize,
    /// Each request as a line of JSON in `<root>/log/access.log`, rotated as containers' logs are.
    pub access_log: bool,
    /// Other proxies, whose X-Forwarded-For and Forwarded are believed, as in `10.0.0.0/8`.
    pub trusted: Vec<Cidr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where a Prometheus may read `/metrics`, as in `127.0.0.1:9180`, without asking who it is; absent: only the socket.
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeSettings {
    /// The dataset of a ZFS pool that volumes are children of, as in `tank/coppice`; made when it is missing, and mounted on
    /// `<root>/volumes`. Absent: they lie on the filesystem that is there, as what that can keep.
    pub zfs: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSettings {
    /// What protects the key that secrets are sealed with.
    pub key: SecretKeySettings,
    /// What protected it before: the key's file is written anew for `key` when it is opened with this.
    pub previous_key: Option<SecretKeySettings>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretKeySettings {
    /// `"file"`: the mode of its file, `<root>/keys/secrets.key`, and nothing else.
    #[default]
    File,
    /// `{ passphrase-file = "/run/passphrase" }`: a passphrase, in a file that nobody else may read.
    PassphraseFile(PathBuf),
    /// `{ credential = "coppice" }`: a credential that systemd gives the node (32 bytes, or their 64 hex digits).
    Credential(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateSettings {
    /// PEM files of authorities that ACME directories are trusted by, beside the machine's own.
    pub roots: Vec<PathBuf>,
    /// The domain whose certificate is shown to clients that ask for a name there is none for; else they are refused.
    pub default: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerSettings {
    /// How long a service's certificate for `tls.peer` lives, in seconds; it is made anew when a third of that is left.
    pub certificate_secs: u64,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self { certificate_secs: coppice_acme::LEAF_LIFE.as_secs() }
    }
}

impl Default for ProxySettings {
    fn default() -> Self {
        let at = |port| vec![SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))];
        Self { http: at(80), https: at(443), threads: 0, access_log: false, trusted: Vec::new() }
    }
}

impl Default for ContainerSettings {
    fn default() -> Self {
        Self { allow_privileged: false, pids: 4096, nofile: None }
    }
}

impl Default for LogSettings {
    /// 10 MiB in 5 files: at most 50 MiB of log per container.
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5 }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
}

impl Settings {
    /// Reads the file; a missing one means all defaults.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|source| SettingsError::Parse { path: path.to_owned(), source: Box::new(source) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(SettingsError::Read { path: path.to_owned(), source }),
        }
    }

    pub(crate) fn log_max_size(&self) -> Bytes {
        // Below this a file would hold fewer lines than `--tail` usually asks for.
        Bytes(self.logs.max_size.max(64 << 10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_setting_is_refused_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, "[logs]\nmax_sice = 1\n").unwrap();
        let error = Settings::read(&path).unwrap_err().to_string();
        assert!(error.contains("max_sice") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn what_protects_the_key_is_a_word_or_names_its_place() {
        let read = |text: &str| toml::from_str::<Settings>(text).map(|settings| settings.secrets);
        let key = |text: &str| read(&format!("[secrets]\nkey = {text}\n")).unwrap().key;
        assert_eq!(key("\"file\""), SecretKeySettings::File);
        assert_eq!(key("{ passphrase-file = \"/p\" }"), SecretKeySettings::PassphraseFile("/p".into()));
        assert_eq!(key("{ credential = \"c\" }"), SecretKeySettings::Credential("c".to_owned()));
        assert!(read("[secrets]\nkey = \"passphrase\"\n").is_err());
        assert!(read("[secrets]\nkeys = \"file\"\n").is_err());
    }

    #[test]
    fn no_file_means_defaults() {
        assert_eq!(Settings::read(Path::new("/nonexistent/node.toml")).unwrap(), Settings::default());
    }
}
