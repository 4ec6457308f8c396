//! How traffic finds instances: the proxy's routes and the name server's zone, kept equal to what runs.
//!
//! Each app tells what it has ([`Present`]); whenever that differs from before, routes and names are made anew, whole,
//! and handed over. Nothing here is stored: a returning daemon's apps tell again, and those who wait in an earlier one's
//! sockets are let in when all have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coppice_base::{Clock, Name};
use coppice_proxy::Callers;
use coppice_proxy::SpanSource;
use coppice_spec::{AcmeChallenge, AppSpec, TlsSpec};
use tokio::sync::Notify;

use crate::app::Wanted;
use crate::certificates::NodeCertificates;
use crate::error::NodeError;
use crate::ingress::{self, Ingress, IngressError};
use crate::names::{KernelNames, NameServer};
use crate::peer::NodePeers;
use crate::rollout::Seen;
use crate::root::Root;
use crate::settings::Settings;
use crate::sockets::Sockets;
use crate::telemetry;

/// What an app has, as far as traffic is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Present {
    pub(crate) wanted: Arc<Wanted>,
    /// Instances that run, by workload.
    pub(crate) instances: BTreeMap<Name, Vec<Here>>,
    /// Shares of the requests by routes that new instances get, in percent, by service.
    pub(crate) weights: BTreeMap<Name, u8>,
    /// The first port that a service's image exposes.
    pub(crate) image_ports: BTreeMap<Name, u16>,
    /// Virtual addresses of its services, IPv4 first.
    pub(crate) addresses: BTreeMap<Name, Vec<IpAddr>>,
}

impl Present {
    pub(crate) fn spec(&self) -> &AppSpec {
        self.wanted.spec()
    }

    /// Whether this leads as `other` does: how far a rollout has come is in what is wanted, and leads nowhere.
    fn leads_as(&self, other: &Self) -> bool {
        let Self { wanted, instances, weights, image_ports, addresses } = self;
        wanted.spec() == other.spec()
            && *instances == other.instances
            && *weights == other.weights
            && *image_ports == other.image_ports
            && *addresses == other.addresses
    }

    /// The instances of a workload, without what stands beside them.
    pub(crate) fn own(&self, workload: &str) -> impl Iterator<Item = &Here> {
        self.instances.get(workload).into_iter().flatten().filter(|here| !here.beside)
    }
}

/// An instance that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Here {
    /// As in `web-1`.
    pub(crate) instance: String,
    /// What the proxy calls it: the same for one container's whole life.
    pub(crate) key: String,
    /// From 0: `0.web.shop`.
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) ready: bool,
    /// It is being stopped: finishes what it has.
    pub(crate) leaving: bool,
    /// It is none of the service's instances: requests by routes may come to it, by weight, and nothing else does.
    pub(crate) beside: bool,
    /// It is of the release that the weight is for.
    pub(crate) fresh: bool,
}

/// What all apps have, and who is told.
pub(crate) struct Traffic {
    apps: Mutex<BTreeMap<Name, Present>>,
    certificates: Arc<NodeCertificates>,
    ingress: Ingress,
    peers: NodePeers,
    names: Mutex<Option<NameServer>>,
    /// Until all apps have told what they have, where clients wait in an earlier daemon's sockets.
    resuming: Mutex<Option<Resuming>>,
    /// An earlier daemon's sockets for names, until they are used.
    name_sockets: Mutex<Vec<OwnedFd>>,
    sockets_changed: Arc<Notify>,
    /// What the proxy tells of its requests, until somebody takes it.
    spans: Mutex<Option<SpanSource>>,
    /// Nobody is to hold them any more.
    pub(crate) sockets_given_up: tokio::sync::Mutex<bool>,
}

/// What is waited for before anybody is answered.
struct Resuming {
    /// Apps that have not told.
    awaited: BTreeSet<Name>,
    /// Where names are to be answered.
    names_at: Option<NamesAt>,
}

/// The bridge's own addresses, and bits of its subnet.
#[derive(Clone, Copy)]
struct NamesAt {
    gateway: Ipv4Addr,
    prefix: u8,
    gateway6: Option<Ipv6Addr>,
}

impl Traffic {
    pub(crate) fn new(settings: &Settings, root: &Root, clock: Arc<dyn Clock>) -> Self {
        let peers = NodePeers::new(root, settings.peer.clone(), clock.clone());
        let certificates = Arc::new(NodeCertificates::new(root, settings.certificates.clone(), clock));
        // The root's key tells this node's proxy from others.
        let sockets_changed = Arc::new(Notify::new());
        let mut ingress =
            Ingress::new(settings.proxy.clone(), root.key(), certificates.clone(), sockets_changed.clone());
        if settings.proxy.access_log {
            ingress.log_requests(root.access_log(), settings.logs.clone());
        }
        let spans = settings.telemetry.as_ref().map(|telemetry| {
            let (sink, source) = telemetry::queue(telemetry);
            ingress.collect_spans(sink);
            source
        });
        Self {
            apps: Mutex::default(),
            certificates,
            ingress,
            peers,
            names: Mutex::default(),
            resuming: Mutex::default(),
            name_sockets: Mutex::default(),
            sockets_changed,
            spans: Mutex::new(spans),
            sockets_given_up: tokio::sync::Mutex::default(),
        }
    }

    /// See [`Node::take_spans`](crate::Node::take_spans).
    pub(crate) fn take_spans(&self) -> Option<SpanSource> {
        self.spans.lock().expect("no panic holds this lock").take()
    }

    /// Goes on with an earlier daemon's sockets, as far as they fit; who waits in them is let in when each of `apps` has
    /// told what it has. False when there is nothing to go on with.
    pub(crate) fn take_up(&self, sockets: Sockets, apps: BTreeSet<Name>) -> bool {
        let resumes = self.ingress.take_up(sockets.http, sockets.https) || !sockets.names.is_empty();
        *self.name_sockets.lock().expect("no panic holds this lock") = sockets.names;
        if resumes {
            let resuming = Resuming { awaited: apps, names_at: None };
            *self.resuming.lock().expect("no panic holds this lock") = Some(resuming);
        }
        resumes
    }

    /// Whoever has not told by now is not waited for any longer.
    pub(crate) fn resume_anyway(&self) {
        if let Some(resuming) = self.resuming.lock().expect("no panic holds this lock").as_mut() {
            tracing::warn!(apps = ?resuming.awaited, "they have not told what they have: requests are let in without them");
            resuming.awaited.clear();
        } else {
            return;
        }
        self.tell();
    }

    /// Whether `apps` are not yet all. When they are, clients are let in: names at once, requests with the next update.
    fn is_resuming(&self, apps: &BTreeMap<Name, Present>) -> bool {
        let mut resuming = self.resuming.lock().expect("no panic holds this lock");
        let Some(waiting) = resuming.as_mut() else { return false };
        waiting.awaited.retain(|app| !apps.contains_key(app));
        if !waiting.awaited.is_empty() {
            return true;
        }
        let names_at = resuming.take().and_then(|resuming| resuming.names_at);
        self.ingress.resumed();
        if let Some(at) = names_at {
            self.start_names(at, apps);
        }
        false
    }

    /// The sockets there are, for whoever holds them while there is no daemon.
    pub(crate) fn sockets(&self) -> std::io::Result<Sockets> {
        let [http, https] = self.ingress.sockets()?;
        let names = match self.names.lock().expect("no panic holds this lock").as_ref() {
            Some(server) => server.sockets()?,
            None => {
                let taken_up = self.name_sockets.lock().expect("no panic holds this lock");
                taken_up.iter().map(OwnedFd::try_clone).collect::<Result<_, _>>()?
            }
        };
        Ok(Sockets { http, https, names })
    }

    /// As [`Ingress::finish`].
    pub(crate) async fn finish(&self, patience: Duration) {
        self.ingress.finish(patience).await;
    }

    /// Hears of changes of [`sockets`](Self::sockets).
    pub(crate) fn sockets_changed(&self) -> &Notify {
        &self.sockets_changed
    }

    /// What `of` makes of each app, in one list.
    pub(crate) fn each<T>(&self, of: impl Fn(&Name, &Present) -> Vec<T>) -> Vec<T> {
        let apps = self.apps.lock().expect("no panic holds this lock");
        apps.iter().flat_map(|(app, present)| of(app, present)).collect()
    }

    /// `app` has this now; nobody is told until [`tell`](Self::tell). False when it is what was told before.
    pub(crate) fn note(&self, app: &Name, present: Present) -> bool {
        let mut apps = self.apps.lock().expect("no panic holds this lock");
        let is_new = !apps.get(app).is_some_and(|before| before.leads_as(&present));
        apps.insert(app.clone(), present);
        is_new
    }

    /// Tells proxy and name server what all apps have.
    pub(crate) fn tell(&self) {
        self.publish(&self.apps.lock().expect("no panic holds this lock"));
    }

    /// Requests are judged by this from now on. The first time, that is what routes have waited for.
    pub(crate) fn judge(&self, callers: Callers) {
        if self.ingress.judge(callers) {
            self.tell();
        }
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
        if let Some(resuming) = self.resuming.lock().expect("no panic holds this lock").as_mut() {
            resuming.awaited.remove(app);
        }
        if apps.remove(app).is_some() {
            self.publish(&apps);
        }
        drop(apps);
        self.peers.forget(app);
    }

    fn publish(&self, apps: &BTreeMap<Name, Present>) {
        if self.is_resuming(apps) {
            return;
        }
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

    /// What the proxy has counted of a service's instances that are `chosen`.
    pub(crate) fn seen(&self, app: &Name, service: &Name, chosen: impl Fn(&str) -> bool) -> Seen {
        let mut seen = Seen::default();
        for one in self.ingress.metrics().into_iter().flat_map(|metrics| metrics.backends) {
            if one.app != *app || one.service != *service || !chosen(&one.instance) {
                continue;
            }
            seen.requests += one.requests;
            seen.failures += one.failures;
            seen.taken_out |= one.ejected || one.breaker != coppice_proxy::BreakerState::Closed;
            for (at, count) in one.latency.counts.iter().enumerate() {
                match seen.latency.get_mut(at) {
                    Some((_, sum)) => *sum += count,
                    None => seen.latency.push((coppice_proxy::BUCKETS.get(at).copied(), *count)),
                }
            }
        }
        seen
    }

    /// Whether an instance is ready, as its app told last.
    pub(crate) fn is_ready(&self, app: &Name, workload: &Name, instance: &str) -> bool {
        let apps = self.apps.lock().expect("no panic holds this lock");
        let present = apps.get(app);
        present.is_some_and(|present| {
            present.own(workload.as_str()).any(|one| one.instance == instance && one.ready && !one.leaving)
        })
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
        let at = NamesAt { gateway, prefix, gateway6 };
        if let Some(resuming) = self.resuming.lock().expect("no panic holds this lock").as_mut() {
            resuming.names_at = Some(at);
            return;
        }
        self.start_names(at, &apps);
    }

    fn start_names(&self, at: NamesAt, apps: &BTreeMap<Name, Present>) {
        let mut names = self.names.lock().expect("no panic holds this lock");
        if names.is_some() {
            return;
        }
        let sockets = std::mem::take(&mut *self.name_sockets.lock().expect("no panic holds this lock"));
        match NameServer::start(at.gateway, at.prefix, at.gateway6, apps, sockets) {
            Ok(server) => {
                *names = Some(server);
                self.sockets_changed.notify_one();
            }
            Err(error) => tracing::warn!(%error, "names are in hosts files only"),
        }
    }

    /// Whether names are answered at the bridge's address.
    pub(crate) fn has_names(&self) -> bool {
        let resuming = self.resuming.lock().expect("no panic holds this lock");
        resuming.as_ref().is_some_and(|resuming| resuming.names_at.is_some())
            || self.names.lock().expect("no panic holds this lock").is_some()
    }

    /// What the kernel is to answer in the name server's place: nothing where there is none. `None` while a returning daemon
    /// does not know all names yet: the kernel goes on with what it was told before.
    pub(crate) fn kernel_names(&self) -> Option<Arc<KernelNames>> {
        if self.resuming.lock().expect("no panic holds this lock").is_some() {
            return None;
        }
        let names = self.names.lock().expect("no panic holds this lock");
        Some(names.as_ref().map(NameServer::kernel).unwrap_or_default())
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
