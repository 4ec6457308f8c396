//! The node's L7 proxy: started with the first route (an idle node has no port open), told of every change. The ports of
//! HTTPS are added with the first service that has `tls.domain`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_api::ErrorKind;
use coppice_base::Name;
use coppice_proxy::{Backend, Endpoint, Listener, Proxy, Route, Routes};
use coppice_spec::{AppSpec, Protocol, RouteSpec, ServiceSpec, TlsSpec};

use crate::certificates::NodeCertificates;
use crate::settings::ProxySettings;
use crate::traffic::Present;

/// Where requests go when nothing else tells an instance's port.
const PORT: u16 = 80;

pub(crate) struct Ingress {
    settings: ProxySettings,
    node: String,
    certificates: Arc<NodeCertificates>,
    running: Mutex<Option<Running>>,
}

struct Running {
    proxy: Arc<Proxy>,
    /// The ports of HTTPS are open.
    tls: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    #[error(
        "cannot listen on {address} for routes: {source}; free the port, or set `{setting}` under [proxy] in node.toml"
    )]
    Listen { address: SocketAddr, setting: &'static str, source: std::io::Error },
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
    pub(crate) fn new(settings: ProxySettings, node: String, certificates: Arc<NodeCertificates>) -> Self {
        Self { settings, node, certificates, running: Mutex::default() }
    }

    /// Binds the ports, those of HTTPS too with `tls`, as far as they are not bound yet.
    pub(crate) fn listen(&self, tls: bool) -> Result<(), IngressError> {
        self.proxy(tls).map(drop)
    }

    fn running(&self) -> Option<Arc<Proxy>> {
        self.running.lock().expect("no panic holds this lock").as_ref().map(|running| running.proxy.clone())
    }

    fn proxy(&self, tls: bool) -> Result<Arc<Proxy>, IngressError> {
        let mut running = self.running.lock().expect("no panic holds this lock");
        if running.is_none() {
            let listeners = bind(&self.settings.http, "http")?.into_iter().map(Listener::plain).collect();
            let config = coppice_proxy::Config {
                threads: self.settings.threads,
                trusted: self.settings.trusted.clone(),
                tls: Some(self.certificates.clone()),
                challenges: Some(self.certificates.clone()),
                ..coppice_proxy::Config::new(listeners, self.node.clone())
            };
            let proxy = Arc::new(Proxy::start(config)?);
            tracing::info!(addresses = ?proxy.addresses(), "the proxy listens");
            *running = Some(Running { proxy, tls: false });
        }
        let running = running.as_mut().expect("it was started above");
        if tls && !running.tls {
            // All of them first: on an error none is open.
            for socket in bind(&self.settings.https, "https")? {
                running.proxy.listen(Listener::tls(socket))?;
            }
            running.tls = true;
            tracing::info!(addresses = ?running.proxy.addresses(), "the proxy listens for HTTPS too");
        }
        Ok(running.proxy.clone())
    }

    pub(crate) fn update(&self, apps: &BTreeMap<Name, Present>) -> Result<(), IngressError> {
        let tls = apps.values().any(|present| has_tls(present.spec()));
        if self.running().is_none() && !tls && !apps.values().any(|present| has_routes(present.spec())) {
            return Ok(());
        }
        let routes = routes(apps);
        self.certificates.set_hosts(routes.routes.iter().flat_map(|route| route.spec.hosts.iter().cloned()).collect());
        let proxy = self.proxy(tls).or_else(|error| {
            tracing::warn!(%error, "HTTPS is not served");
            self.proxy(false)
        });
        Ok(proxy?.update(&routes)?)
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
        let none_left = proxy.drained(app.as_str(), service.as_str(), instance);
        if tokio::time::timeout(patience, none_left).await.is_err() {
            tracing::info!(%app, instance, "it is stopped with requests under way: they took longer than its stop_timeout");
        }
    }
}

fn bind(addresses: &[SocketAddr], setting: &'static str) -> Result<Vec<TcpListener>, IngressError> {
    let bind = |address: &SocketAddr| {
        TcpListener::bind(address).map_err(|source| IngressError::Listen { address: *address, setting, source })
    };
    addresses.iter().map(bind).collect()
}

/// The `tls` of services that have names to show a certificate for.
pub(crate) fn tls_of(spec: &AppSpec) -> impl Iterator<Item = &TlsSpec> {
    spec.services.values().filter_map(|service| service.tls.as_ref()).filter(|tls| !tls.domains.is_empty())
}

pub(crate) fn has_tls(spec: &AppSpec) -> bool {
    tls_of(spec).next().is_some()
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
        if let Some(condition) = conditions(present.spec()).into_iter().find(|condition| own.contains(condition)) {
            return Err(IngressError::Taken { app: app.clone(), condition });
        }
    }
    Ok(())
}

fn routes(apps: &BTreeMap<Name, Present>) -> Routes {
    let mut all = Routes::default();
    for (app, present) in apps.iter().filter(|(_, present)| has_routes(present.spec())) {
        for (name, service) in &present.spec().services {
            all.routes.extend(service.routes.iter().flat_map(|route| shown(app, name, service, route)));
            all.backends.push(Backend {
                app: app.clone(),
                service: name.clone(),
                instances: endpoints(name, service, present),
            });
        }
    }
    all
}

/// A route as the proxy is told: hosts whose plain requests are redirected apart from those that may stay.
fn shown(app: &Name, name: &Name, service: &ServiceSpec, route: &RouteSpec) -> impl Iterator<Item = Route> {
    let redirected = |host: &String| {
        let tls = service.tls.as_ref().filter(|tls| tls.redirect);
        tls.is_some_and(|tls| tls.domains.iter().any(|domain| covers(domain, host)))
    };
    let (redirected, others): (Vec<_>, Vec<_>) = route.hosts.iter().cloned().partition(redirected);
    let parts = [(redirected, true), (others, false)].into_iter().filter(|(hosts, _)| !hosts.is_empty());
    parts.map(|(hosts, https_only)| Route {
        app: app.clone(),
        service: name.clone(),
        spec: RouteSpec { hosts, ..route.clone() },
        https_only,
        send_proxy: None,
    })
}

/// Whether a certificate for `domain` is one for `host`, which may be a wildcard itself.
pub(crate) fn covers(domain: &str, host: &str) -> bool {
    let parent = || Some(host.split_once('.')?.1 == domain.strip_prefix("*.")?);
    domain == host || parent() == Some(true)
}

fn endpoints(name: &Name, service: &ServiceSpec, present: &Present) -> Vec<Endpoint> {
    let published = service.ports.iter().find(|port| port.protocol == Protocol::Tcp).map(|port| port.container);
    let probed = || service.health.as_ref().and_then(|health| health.probe.port());
    let port = published.or_else(|| present.image_ports.get(name).copied()).or_else(probed).unwrap_or(PORT);
    let here = present.instances.get(name).map_or(&[][..], Vec::as_slice);
    let endpoint = here.iter().map(|instance| Endpoint {
        name: instance.key.clone(),
        address: SocketAddr::new(IpAddr::V4(instance.address), port),
        ready: instance.ready,
        draining: instance.leaving,
    });
    endpoint.collect()
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_wildcard_covers_one_label_and_nothing_else() {
        assert!(covers("shop.example", "shop.example"));
        assert!(covers("*.example", "shop.example"));
        assert!(covers("*.example", "*.example"));
        assert!(!covers("*.example", "a.shop.example"));
        assert!(!covers("*.example", "example"));
        assert!(!covers("shop.example", "*.example"));
    }
}
