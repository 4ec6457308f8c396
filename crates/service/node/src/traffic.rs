//! How traffic finds instances: the proxy's routes and the name server's zone, kept equal to what runs.
//!
//! Each app tells what it has ([`Present`]); whenever that differs from before, routes and names are made anew, whole,
//! and handed over. Nothing here is stored: a returning daemon's apps tell again.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_base::{Clock, Name};
use coppice_spec::{AcmeChallenge, AppSpec, TlsSpec};

use crate::certificates::NodeCertificates;
use crate::error::NodeError;
use crate::ingress::{self, Ingress, IngressError};
use crate::names::NameServer;
use crate::peer::NodePeers;
use crate::root::Root;
use crate::settings::Settings;

/// What an app has, as far as traffic is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) wanted: Arc<coppice_state::App>,
    /// Instances that run, by workload.
    pub(crate) instances: BTreeMap<Name, Vec<Here>>,
    /// The first port that a service's image exposes.
    pub(crate) image_ports: BTreeMap<Name, u16>,
    /// Virtual addresses of its services, IPv4 first.
    pub(crate) addresses: BTreeMap<Name, Vec<IpAddr>>,
}

impl Present {
    pub(crate) fn spec(&self) -> &AppSpec {
        self.wanted.spec()
    }
}

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Here {
    /// As in `web-1`.
    pub(crate) key: String,
    /// From 0: `0.web.shop`.
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) ready: bool,
    /// It is being stopped: finishes what it has.
    pub(crate) leaving: bool,
}

/// What all apps have, and who is told.
pub(crate) struct Traffic {
    apps: Mutex<BTreeMap<Name, Present>>,
    certificates: Arc<NodeCertificates>,
    ingress: Ingress,
    peers: NodePeers,
    names: Mutex<Option<NameServer>>,
}

impl Traffic {
    pub(crate) fn new(settings: &Settings, root: &Root, clock: Arc<dyn Clock>) -> Self {
        let peers = NodePeers::new(root, settings.peer.clone(), clock.clone());
        let certificates = Arc::new(NodeCertificates::new(root, settings.certificates.clone(), clock));
        // The root's key tells this node's proxy from others.
        let ingress = Ingress::new(settings.proxy.clone(), root.key(), certificates.clone());
        Self { apps: Mutex::default(), certificates, ingress, peers, names: Mutex::default() }
    }

    /// What `of` makes of each app, in one list.
    pub(crate) fn each<T>(&self, of: impl Fn(&Name, &Present) -> Vec<T>) -> Vec<T> {
        let apps = self.apps.lock().expect("no panic holds this lock");
        apps.iter().flat_map(|(app, present)| of(app, present)).collect()
    }

    /// `app` has this now; nobody is told until [`tell`](Self::tell). False when it is what was told before.
    pub(crate) fn note(&self, app: &Name, present: Present) -> bool {
        let mut apps = self.apps.lock().expect("no panic holds this lock");
        let is_new = apps.get(app) != Some(&present);
        if is_new {
            apps.insert(app.clone(), present);
        }
        is_new
    }

    /// Tells proxy and name server what all apps have.
    pub(crate) fn tell(&self) {
        self.publish(&self.apps.lock().expect("no panic holds this lock"));
    }

    /// Whether `app` has told what it has.
    pub(crate) fn has(&self, app: &Name) -> bool {
        self.apps.lock().expect("no panic holds this lock").contains_key(app)
    }

    /// Virtual addresses of a service.
    pub(crate) fn virtual_addresses(&self, app: &Name, service: &Name) -> Vec<IpAddr> {
        let apps = self.apps.lock().expect("no panic holds this lock");
        apps.get(app).and_then(|present| present.addresses.get(service)).cloned().unwrap_or_default()
    }

    /// `app` is no more.
    pub(crate) fn remove(&self, app: &Name) {
        let mut apps = self.apps.lock().expect("no panic holds this lock");
        if apps.remove(app).is_some() {
            self.publish(&apps);
        }
        drop(apps);
        self.peers.forget(app);
    }

    fn publish(&self, apps: &BTreeMap<Name, Present>) {
        if let Err(error) = self.ingress.update(apps) {
            tracing::warn!(%error, "the routes of before are served");
        }
        if let Some(names) = self.names.lock().expect("no panic holds this lock").as_mut() {
            names.update(apps);
        }
    }

    /// Whether the routes of `spec` can be served: the proxy's ports can be had, no other app takes the same requests,
    /// and there is a place for certificates where some are wanted.
    pub(crate) fn check(&self, spec: &AppSpec) -> Result<(), NodeError> {
        self.peers.check(spec)?;
        if !ingress::has_routes(spec) && !ingress::has_tls(spec) {
            return Ok(());
        }
        ingress::check(&self.apps.lock().expect("no panic holds this lock"), spec)?;
        let tls = ingress::has_tls(spec);
        if tls {
            self.certificates.started()?;
        }
        Ok(self.ingress.listen(tls)?)
    }

    /// These are all apps there are: the names of their `tls` are to have certificates, and so are services with
    /// `tls.peer`. Must be called within a tokio runtime.
    pub(crate) fn want<'a>(&self, specs: impl Iterator<Item = &'a AppSpec>) {
        let specs: Vec<&AppSpec> = specs.collect();
        self.peers.want(specs.iter().copied());
        let tls: Vec<&TlsSpec> = specs.into_iter().flat_map(ingress::tls_of).collect();
        if tls.is_empty() && !self.certificates.is_needed() {
            return;
        }
        let certificates = match self.certificates.started() {
            Ok(certificates) => certificates,
            Err(error) => return tracing::error!(%error, "no certificate is shown or renewed"),
        };
        // Before an order begins: the authority asks at these ports. Those ordered by hand are renewed the same way.
        let mut by_hand =
            certificates.list().into_iter().filter(|record| record.by_hand).filter_map(|record| record.acme);
        if let Err(error) = by_hand.try_for_each(|acme| self.listen_for(&acme.challenge)) {
            tracing::warn!(%error, "authorities cannot ask this node");
        }
        if !tls.is_empty()
            && let Err(error) = self.ingress.listen(true)
        {
            tracing::warn!(%error, "HTTPS is not served");
        }
        certificates.want(tls);
    }

    pub(crate) fn peers(&self) -> &NodePeers {
        &self.peers
    }

    /// Whether an instance is ready, as its app told last.
    pub(crate) fn is_ready(&self, app: &Name, workload: &Name, instance: &str) -> bool {
        let apps = self.apps.lock().expect("no panic holds this lock");
        let here = apps.get(app).and_then(|present| present.instances.get(workload));
        here.is_some_and(|here| here.iter().any(|one| one.key == instance && one.ready && !one.leaving))
    }

    pub(crate) fn certificates(&self) -> &NodeCertificates {
        &self.certificates
    }

    /// Opens the port on which an authority asks.
    pub(crate) fn listen_for(&self, challenge: &AcmeChallenge) -> Result<(), IngressError> {
        match challenge {
            AcmeChallenge::Http01 => self.ingress.listen(false),
            AcmeChallenge::TlsAlpn01 => self.ingress.listen(true),
            AcmeChallenge::Dns01(_) => Ok(()),
        }
    }

    /// Answers names at the bridge's own address; nothing when it does already. Without (the port is taken) names are
    /// those of the hosts files.
    pub(crate) fn serve_names(&self, gateway: Ipv4Addr, prefix: u8, gateway6: Option<Ipv6Addr>) {
        // In this order everywhere: apps, then names.
        let apps = self.apps.lock().expect("no panic holds this lock");
        let mut names = self.names.lock().expect("no panic holds this lock");
        if names.is_some() {
            return;
        }
        match NameServer::start(gateway, prefix, gateway6, &apps) {
            Ok(server) => *names = Some(server),
            Err(error) => tracing::warn!(%error, "names are in hosts files only"),
        }
    }

    /// Whether names are answered at the bridge's address.
    pub(crate) fn has_names(&self) -> bool {
        self.names.lock().expect("no panic holds this lock").is_some()
    }

    /// What proxy and name server have counted, where they run.
    pub(crate) fn metrics(&self) -> (Option<coppice_proxy::MetricsSnapshot>, Option<coppice_dns::Metrics>) {
        let names = self.names.lock().expect("no panic holds this lock").as_ref().map(NameServer::metrics);
        (self.ingress.metrics(), names)
    }

    /// Where the proxy listens; empty while there are no routes.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.ingress.addresses()
    }

    /// Resolves when the proxy has no request left at an instance that is [leaving](Here::leaving), or after `patience`.
    pub(crate) async fn drained(&self, app: &Name, service: &Name, instance: &str, patience: Duration) {
        self.ingress.drained(app, service, instance, patience).await;
    }
}
