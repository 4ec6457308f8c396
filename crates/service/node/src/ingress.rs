//! The node's L7 proxy: started with the first route (an idle node has no port open), told of every change. The ports of
//! HTTPS are added with the first service that has `tls.domain`. No route is served before the policy is known: a returning
//! daemon lets nobody in whom the one before it kept out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coppice_api::ErrorKind;
use coppice_base::Name;
use coppice_proxy::{Backend, Callers, Endpoint, Listener, Proxy, Route, Routes, SpanSink};
use coppice_spec::{AppSpec, Protocol, RouteSpec, ServiceSpec, TlsSpec};
use tokio::sync::Notify;

use crate::certificates::NodeCertificates;
use crate::rotating::RotatingFile;
use crate::settings::{LogSettings, ProxySettings};
use crate::traffic::Present;

/// Where requests go when nothing else tells an instance's port.
const PORT: u16 = 80;
/// Between two looks at what is left of a proxy that ends.
const LOOK: Duration = Duration::from_millis(10);

pub(crate) struct Ingress {
    settings: ProxySettings,
    node: String,
    certificates: Arc<NodeCertificates>,
    sockets_changed: Arc<Notify>,
    /// Where requests are written, if anywhere.
    access_log: Option<(PathBuf, LogSettings)>,
    /// `None`: none are collected.
    spans: Option<SpanSink>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Option<Arc<Proxy>>,
    /// `None` before the policy is known.
    callers: Option<Callers>,
    http: Port,
    https: Port,
    /// Its sockets are those of an earlier daemon, in which clients wait: nobody is let in before all routes are known.
    waits: bool,
}

/// The sockets of one setting.
#[derive(Default)]
struct Port {
    sockets: Vec<TcpListener>,
    /// The proxy accepts from them.
    open: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum IngressError {
    #[error(
        "cannot listen on {address} for routes: {source}; free the port, or set `{setting}` under [proxy] in node.toml"
    )]
    Listen { address: SocketAddr, setting: &'static str, source: std::io::Error },
    #[error("cannot write {path}: {source}; make room, or set access_log = false under [proxy] in node.toml")]
    AccessLog { path: PathBuf, source: std::io::Error },
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
            Self::Start(_) | Self::AccessLog { .. } => ErrorKind::Internal,
        }
    }
}

impl Ingress {
    /// `sockets_changed` hears of every socket that is bound.
    pub(crate) fn new(
        settings: ProxySettings,
        node: String,
        certificates: Arc<NodeCertificates>,
        sockets_changed: Arc<Notify>,
    ) -> Self {
        Self { settings, node, certificates, sockets_changed, access_log: None, spans: None, state: Mutex::default() }
    }

    /// Has the proxy, once it runs, write each request to a file.
    pub(crate) fn log_requests(&mut self, path: PathBuf, logs: LogSettings) {
        self.access_log = Some((path, logs));
    }

    /// Has the proxy, once it runs, tell of its requests.
    pub(crate) fn collect_spans(&mut self, sink: SpanSink) {
        self.spans = Some(sink);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }

    fn running(&self) -> Option<Arc<Proxy>> {
        self.state().running.clone()
    }

    /// Sockets of an earlier daemon's proxy, as far as they are where this one is to listen; the others are closed. Nobody
    /// is let in before [`resumed`](Self::resumed). False when there are none.
    pub(crate) fn take_up(&self, http: Vec<OwnedFd>, https: Vec<OwnedFd>) -> bool {
        let fit = |fds: Vec<OwnedFd>, addresses: &[SocketAddr]| -> Vec<TcpListener> {
            let sockets = fds.into_iter().map(TcpListener::from);
            sockets.filter(|one| one.local_addr().is_ok_and(|address| addresses.contains(&address))).collect()
        };
        let mut state = self.state();
        state.http.sockets = fit(http, &self.settings.http);
        state.https.sockets = fit(https, &self.settings.https);
        state.waits = !state.http.sockets.is_empty() || !state.https.sockets.is_empty();
        state.waits
    }

    /// All routes are known: with the next [`update`](Self::update), who waits is let in.
    pub(crate) fn resumed(&self) {
        self.state().waits = false;
    }

    /// The sockets for HTTP and those for HTTPS, once more.
    pub(crate) fn sockets(&self) -> std::io::Result<[Vec<OwnedFd>; 2]> {
        let state = self.state();
        let again = |port: &Port| port.sockets.iter().map(|socket| Ok(socket.try_clone()?.into())).collect();
        let both: [std::io::Result<_>; 2] = [again(&state.http), again(&state.https)];
        let [http, https] = both;
        Ok([http?, https?])
    }

    /// Judges requests by this from now on. True when it is the first word of the policy.
    pub(crate) fn judge(&self, callers: Callers) -> bool {
        let mut state = self.state();
        if state.callers.as_ref() == Some(&callers) {
            return false;
        }
        if let Some(proxy) = &state.running {
            proxy.set_callers(callers.clone());
        }
        state.callers.replace(callers).is_none()
    }

    /// Binds the ports, those of HTTPS too with `tls`, as far as they are not bound yet, and lets clients in.
    pub(crate) fn listen(&self, tls: bool) -> Result<(), IngressError> {
        let mut state = self.state();
        self.bind(&mut state, tls)?;
        if state.waits {
            return Ok(());
        }
        self.started(&mut state)?;
        Self::open(&mut state)
    }

    /// All of them, or none.
    fn bind(&self, state: &mut State, tls: bool) -> Result<(), IngressError> {
        let http = missing(&state.http.sockets, &self.settings.http, "http")?;
        let https = if tls { missing(&state.https.sockets, &self.settings.https, "https")? } else { Vec::new() };
        for (port, bound) in [(&mut state.http, http), (&mut state.https, https)] {
            if !bound.is_empty() {
                port.sockets.extend(bound);
                self.sockets_changed.notify_one();
            }
        }
        Ok(())
    }

    /// The proxy, at work on whatever it is given.
    fn started(&self, state: &mut State) -> Result<Arc<Proxy>, IngressError> {
        if let Some(proxy) = &state.running {
            return Ok(proxy.clone());
        }
        let log = self.access_log.as_ref().map(|(path, logs)| {
            RotatingFile::open(path.clone(), logs.max_size, logs.max_files)
                .map_err(|source| IngressError::AccessLog { path: path.clone(), source })
        });
        let config = coppice_proxy::Config {
            access_log: log.transpose()?.map(|file| Box::new(file) as _),
            threads: self.settings.threads,
            trusted: self.settings.trusted.clone(),
            callers: state.callers.clone().unwrap_or_default(),
            spans: self.spans.clone(),
            tls: Some(self.certificates.clone()),
            challenges: Some(self.certificates.clone()),
            ..coppice_proxy::Config::new(Vec::new(), self.node.clone())
        };
        let proxy = Arc::new(Proxy::start(config)?);
        state.running = Some(proxy.clone());
        Ok(proxy)
    }

    /// Has a proxy that runs accept from all sockets there are.
    fn open(state: &mut State) -> Result<(), IngressError> {
        let Some(proxy) = &state.running else { return Ok(()) };
        for (port, listener) in
            [(&mut state.http, Listener::plain as fn(TcpListener) -> Listener), (&mut state.https, Listener::tls)]
        {
            if port.open || port.sockets.is_empty() {
                continue;
            }
            for socket in &port.sockets {
                proxy.listen(listener(socket.try_clone().map_err(coppice_proxy::StartError::Listener)?))?;
            }
            port.open = true;
            tracing::info!(addresses = ?proxy.addresses(), "the proxy listens");
        }
        Ok(())
    }

    pub(crate) fn update(&self, apps: &BTreeMap<Name, Present>) -> Result<(), IngressError> {
        let tls = apps.values().any(|present| has_tls(present.spec()));
        let mut state = self.state();
        if state.callers.is_none() || state.waits {
            return Ok(());
        }
        let is_idle = state.running.is_none() && state.http.sockets.is_empty();
        if is_idle && !tls && !apps.values().any(|present| has_routes(present.spec())) {
            return Ok(());
        }
        let routes = routes(apps);
        self.certificates.set_hosts(routes.routes.iter().flat_map(|route| route.spec.hosts.iter().cloned()).collect());
        // Before it accepts: who waited for it finds its routes.
        self.started(&mut state)?.update(&routes)?;
        self.bind(&mut state, tls).or_else(|error| {
            tracing::warn!(%error, "HTTPS is not served");
            self.bind(&mut state, false)
        })?;
        Self::open(&mut state)
    }

    /// Lets nobody in any more, and resolves when all requests that are under way have their answers, or after `patience`.
    pub(crate) async fn finish(&self, patience: Duration) {
        let Some(proxy) = self.running() else { return };
        proxy.close();
        let last = async {
            while !proxy.has_ended() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(patience, last).await.is_err() {
            let connections = proxy.metrics().connections;
            tracing::info!(connections, "the daemon ends before they do");
        }
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

/// Binds those of `addresses` that none of `sockets` is at.
fn missing(
    sockets: &[TcpListener],
    addresses: &[SocketAddr],
    setting: &'static str,
) -> Result<Vec<TcpListener>, IngressError> {
    let is_there = |address: &SocketAddr| sockets.iter().any(|one| one.local_addr().is_ok_and(|at| at == *address));
    let bind = |address: &SocketAddr| {
        TcpListener::bind(address).map_err(|source| IngressError::Listen { address: *address, setting, source })
    };
    addresses.iter().filter(|address| !is_there(address)).map(bind).collect()
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
                fresh_percent: present.weights.get(name).copied(),
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
        fresh: instance.fresh,
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
