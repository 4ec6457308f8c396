//! The node's certificates, as the proxy asks for them: by the name a client says, and for the challenges of authorities.
//!
//! Started with the first need, so that a node without certificates has no key and no folder for them. Refuses a client
//! that asks for a name there is no certificate for, in the handshake, unless a service orders on demand for it.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use coppice_acme::{
    Certificates, CertificatesConfig, DemandLimits, Lookup, OrderError, OrderSettings, ProvisionError, StartError,
    StoreError,
};
use coppice_api::ErrorKind;
use coppice_base::{Clock, SystemRandom};
use coppice_proxy::{Challenges, ClientName, TlsSettings};
use rustls::ServerConfig;

use crate::ingress::covers;
use crate::root::Root;
use crate::settings::CertificateSettings;

/// For one request to an authority or a DNS provider.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);

/// For an authority to look at a challenge, and again to sign.
const ORDER_WITHIN: Duration = Duration::from_secs(120);

/// Why something asked of the certificates was not done. The message says whether and what changed.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    #[error("certificates cannot be used: {0}")]
    Start(#[from] StartError),
    #[error("TLS cannot be set up: {0}; is there randomness?")]
    Tls(std::io::Error),
    #[error("cannot read {path}, of `roots` under [certificates] in node.toml: {source}")]
    Root { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Provision(#[from] ProvisionError),
}

impl CertificatesError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Start(StartError::Store(error)) | Self::Store(error) => kind_of_store(error),
            Self::Start(_) | Self::Tls(_) | Self::Root { .. } => ErrorKind::Internal,
            Self::Provision(error) => match error {
                ProvisionError::Order(error) => match &**error {
                    OrderError::WildcardNeedsDns { .. } | OrderError::NotOffered { .. } => ErrorKind::Invalid,
                    OrderError::Disk { source, .. } => kind_of_disk(source),
                    OrderError::Account { .. } => ErrorKind::Internal,
                    _ => ErrorKind::Upstream,
                },
                ProvisionError::Store(error) => kind_of_store(error),
                ProvisionError::Name(_) => ErrorKind::Invalid,
                ProvisionError::NotManaged { .. } => ErrorKind::NotFound,
                ProvisionError::Demand(_) | ProvisionError::Limited { .. } | ProvisionError::Wanted { .. } => {
                    ErrorKind::Conflict
                }
                ProvisionError::Stopped { .. } => ErrorKind::Unavailable,
            },
        }
    }
}

fn kind_of_store(error: &StoreError) -> ErrorKind {
    match error {
        StoreError::Certificate(_) => ErrorKind::Invalid,
        StoreError::Unknown { .. } => ErrorKind::NotFound,
        StoreError::Io { source, .. } => kind_of_disk(source),
    }
}

fn kind_of_disk(error: &std::io::Error) -> ErrorKind {
    if error.kind() == std::io::ErrorKind::StorageFull { ErrorKind::NoSpace } else { ErrorKind::Internal }
}

/// See the module.
pub(crate) struct NodeCertificates {
    folder: PathBuf,
    key_file: PathBuf,
    settings: CertificateSettings,
    clock: Arc<dyn Clock>,
    running: OnceLock<Running>,
    /// Held while it is started.
    starting: Mutex<()>,
    /// Hosts that routes lead to.
    hosts: Arc<RwLock<Vec<String>>>,
}

struct Running {
    certificates: Certificates,
    tls: Arc<ServerConfig>,
}

impl NodeCertificates {
    pub(crate) fn new(root: &Root, settings: CertificateSettings, clock: Arc<dyn Clock>) -> Self {
        Self {
            folder: root.certificates(),
            key_file: root.certificates_key(),
            settings,
            clock,
            running: OnceLock::new(),
            starting: Mutex::default(),
            hosts: Arc::default(),
        }
    }

    /// Whether there are certificates to show or renew, from now or from before the daemon's restart.
    pub(crate) fn is_needed(&self) -> bool {
        self.running.get().is_some() || self.folder.exists()
    }

    /// Starts what is not started yet. Must be called within a tokio runtime.
    pub(crate) fn started(&self) -> Result<Certificates, CertificatesError> {
        let _starting = self.starting.lock().expect("no panic holds this lock");
        if let Some(running) = self.running.get() {
            return Ok(running.certificates.clone());
        }
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|source| CertificatesError::Root { path: path.clone(), source })
        };
        let extra_roots = self.settings.roots.iter().map(read).collect::<Result<_, _>>()?;
        let hosts = self.hosts.clone();
        let certificates = Certificates::start(CertificatesConfig {
            folder: self.folder.clone(),
            key_file: self.key_file.clone(),
            extra_roots,
            request_within: REQUEST_WITHIN,
            order: OrderSettings {
                within: ORDER_WITHIN,
                propagation: Lookup { resolvers: Vec::new(), name_server_port: None },
            },
            demand: DemandLimits::default(),
            routed: Arc::new(move |name| {
                hosts.read().expect("no panic holds this lock").iter().any(|host| covers(host, name))
            }),
            default_domain: self.settings.default.clone(),
            clock: self.clock.clone(),
            random: Box::new(SystemRandom),
        })?;
        for damaged in certificates.damaged() {
            tracing::error!(path = %damaged.path.display(), why = damaged.why, "a certificate cannot be read");
        }
        let tls = coppice_proxy::server_config(certificates.resolver()).map_err(CertificatesError::Tls)?;
        let running = Running { certificates: certificates.clone(), tls: Arc::new(tls) };
        // Nobody else sets it: the lock above is held.
        let _ = self.running.set(running);
        Ok(certificates)
    }

    /// Routes lead to these hosts now.
    pub(crate) fn set_hosts(&self, hosts: Vec<String>) {
        *self.hosts.write().expect("no panic holds this lock") = hosts;
    }
}

impl Challenges for NodeCertificates {
    fn key_authorization(&self, _host: &str, token: &str) -> Option<String> {
        self.running.get()?.certificates.challenges().response(token)
    }
}

impl TlsSettings for NodeCertificates {
    fn settings(&self, client: ClientName) -> Pin<Box<dyn Future<Output = Option<Arc<ServerConfig>>> + Send + '_>> {
        Box::pin(async move {
            let Running { certificates, tls } = self.running.get()?;
            if let Some(name) = client.server_name.filter(|_| !client.acme)
                && certificates.resolver().find(&name).is_none()
            {
                // Waits for an order, if a service orders on demand. Without a certificate the handshake tells the client.
                let _ = certificates.demand(&name).await;
            }
            Some(tls.clone())
        })
    }
}
