//! The node's L7 proxy: started with the first route (an idle node has no port open), told of every change.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_api::ErrorKind;
use coppice_base::Name;
use coppice_proxy::{Backend, Endpoint, Listener, Proxy, Route, Routes};
use coppice_spec::{AppSpec, Protocol, ServiceSpec};

use crate::settings::ProxySettings;
use crate::traffic::Present;

/// Between looks at what an instance that leaves has under way.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Where requests go when neither the spec nor the image names a port.
const PORT: u16 = 80;

pub(crate) struct Ingress {
    settings: ProxySettings,
    node: String,
    proxy: Mutex<Option<Arc<Proxy>>>,
}

#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    #[error("cannot listen on {address} for routes: {source}; free the port, or set `http` under [proxy] in node.toml")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Start(#[from] coppice_proxy::StartError),
    #[error(transparent)]
    Routes(#[from] coppice_proxy::UpdateError),
    #[error("app {app} has a route for the same requests ({condition}): give one of them another host or path")]
    Taken { app: Name, condition: String },
}

impl IngressError {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Listen { .. } | Self::Taken { .. } => ErrorKind::Conflict,
            Self::Routes(_) => ErrorKind::Invalid,
            Self::Start(_) => ErrorKind::Internal,
        }
    }
}

impl Ingress {
    pub(crate) fn new(settings: ProxySettings, node: String) -> Self {
        Self { settings, node, proxy: Mutex::default() }
    }

    /// Binds the ports, if they are not bound yet.
    pub(crate) fn listen(&self) -> Result<(), IngressError> {
        self.proxy().map(drop)
    }

    fn running(&self) -> Option<Arc<Proxy>> {
        self.proxy.lock().expect("no panic holds this lock").clone()
    }

    fn proxy(&self) -> Result<Arc<Proxy>, IngressError> {
        let mut proxy = self.proxy.lock().expect("no panic holds this lock");
        if let Some(proxy) = &*proxy {
            return Ok(proxy.clone());
        }
        let bind = |address: &SocketAddr| {
            TcpListener::bind(address).map_err(|source| IngressError::Listen { address: *address, source })
        };
        let listeners = self.settings.http.iter().map(|address| bind(address).map(Listener::plain));
        let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
        let config = coppice_proxy::Config {
            threads: self.settings.threads,
            trusted: self.settings.trusted.clone(),
            ..coppice_proxy::Config::new(listeners, self.node.clone())
        };
        let started = Arc::new(Proxy::start(config)?);
        tracing::info!(addresses = ?started.addresses(), "the proxy listens");
        *proxy = Some(started.clone());
        Ok(started)
    }

    pub(crate) fn update(&self, apps: &BTreeMap<Name, Present>) -> Result<(), IngressError> {
        if self.running().is_none() && !apps.values().any(|present| has_routes(&present.spec)) {
            return Ok(());
        }
        Ok(self.proxy()?.update(&routes(apps))?)
    }

    /// `None` while it does not run.
    pub(crate) fn metrics(&self) -> Option<coppice_proxy::MetricsSnapshot> {
        self.running().map(|proxy| proxy.metrics())
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.running().map(|proxy| proxy.addresses()).unwrap_or_default()
    }

    pub(crate) async fn drained(&self, app: &Name, service: &Name, instance: &str, patience: Duration) {
        let Some(proxy) = self.running() else { return };
        let none_left = async {
            while proxy.in_flight(app.as_str(), service.as_str(), instance) > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(patience, none_left).await.is_err() {
            tracing::info!(%app, instance, "it is stopped with requests under way: they took longer than its stop_timeout");
        }
    }
}

pub(crate) fn has_routes(spec: &AppSpec) -> bool {
    spec.services.values().any(|service| !service.routes.is_empty())
}

/// Whether `spec`'s routes can stand beside those of the other apps.
pub(crate) fn check(apps: &BTreeMap<Name, Present>, spec: &AppSpec) -> Result<(), IngressError> {
    let conditions = |spec: &AppSpec| -> Vec<String> {
        spec.services.values().flat_map(|service| &service.routes).flat_map(|route| route.conditions()).collect()
    };
    let own = conditions(spec);
    for (app, present) in apps.iter().filter(|(app, _)| **app != spec.name) {
        if let Some(condition) = conditions(&present.spec).into_iter().find(|condition| own.contains(condition)) {
            return Err(IngressError::Taken { app: app.clone(), condition });
        }
    }
    Ok(())
}

fn routes(apps: &BTreeMap<Name, Present>) -> Routes {
    let mut all = Routes::default();
    for (app, present) in apps.iter().filter(|(_, present)| has_routes(&present.spec)) {
        for (name, service) in &present.spec.services {
            all.routes.extend(service.routes.iter().map(|route| Route {
                app: app.clone(),
                service: name.clone(),
                spec: route.clone(),
                https_only: false,
                send_proxy: None,
            }));
            all.backends.push(Backend {
                app: app.clone(),
                service: name.clone(),
                instances: endpoints(name, service, present),
            });
        }
    }
    all
}

fn endpoints(name: &Name, service: &ServiceSpec, present: &Present) -> Vec<Endpoint> {
    let published = service.ports.iter().find(|port| port.protocol == Protocol::Tcp).map(|port| port.container);
    let port = published.or_else(|| present.image_ports.get(name).copied()).unwrap_or(PORT);
    let here = present.instances.get(name).map_or(&[][..], Vec::as_slice);
    let endpoint = here.iter().map(|instance| Endpoint {
        name: instance.key.clone(),
        address: SocketAddr::new(IpAddr::V4(instance.address), port),
        ready: instance.ready,
        draining: instance.leaving,
    });
    endpoint.collect()
}
