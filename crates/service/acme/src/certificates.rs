//! The certificates of a node: what [`Renewals`] decides is done here, with clock, disk and network.
//!
//! One task looks what is due, each order is a task of its own, and a new certificate is on disk before it is shown to
//! clients. A node that has no certificates to order asks nobody for anything.
//!
//! Refuses to remove a certificate that a manifest asks for (it would be ordered anew at once), and to order on demand
//! what no route leads to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use coppice_base::{Clock, Random, Timestamp};
use coppice_spec::{AcmeSpec, TlsSpec};

use crate::account::Accounts;
use crate::certificate::{Certificate, CertificateError, date, domain_name};
use crate::challenge::Challenges;
use crate::demand::{Demand, DemandError, DemandLimits};
use crate::https::{Https, HttpsError};
use crate::order::{OrderError, OrderSettings, Orders};
use crate::renewals::{Life, Renewals, Setback};
use crate::resolver::{OnUnknown, Resolver};
use crate::seal::{KeyError, SealKey};
use crate::store::{CertificateRecord, CertificateStore, Damaged, StoreError};
use coppice_secret::durable;

/// The clock is looked at this often at least, so that one that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Failures of names, in the certificates folder.
const SETBACKS: &str = "setbacks.state";

const SETBACK_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Says whether a route leads to a name.
pub type Routed = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What [`Certificates::start`] needs.
pub struct CertificatesConfig {
    /// `certificates/` of the node's root; made when absent.
    pub folder: PathBuf,
    /// The key the folder's keys are sealed with, elsewhere in the root; made when both are absent.
    pub key_file: PathBuf,
    /// PEM certificates of authorities (their web servers') trusted beside the machine's.
    pub extra_roots: Vec<String>,
    /// For one request to an authority or DNS provider.
    pub request_within: Duration,
    pub order: OrderSettings,
    pub demand: DemandLimits,
    pub routed: Routed,
    /// Shown to clients that ask for a name there is nothing for; `None`: they get an alert.
    pub default_domain: Option<String>,
    pub clock: Arc<dyn Clock>,
    pub random: Box<dyn Random>,
}

/// Why certificates did not start. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error("cannot use {path}: {source}; check that it is a folder of the node's user")]
    Io { path: PathBuf, source: std::io::Error },
}

/// Why there is no new certificate for a name. The one before, if any, is still shown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error(transparent)]
    Order(Arc<OrderError>),
    #[error(transparent)]
    Store(Arc<StoreError>),
    #[error(transparent)]
    Name(Arc<CertificateError>),
    #[error(transparent)]
    Demand(#[from] DemandError),
    #[error("the authority limits our requests until {}; ask again then", date(*.until))]
    Limited { until: Timestamp },
    #[error("{domain} was not ordered from an authority; `coppice cert provision {domain}` does")]
    NotManaged { domain: String },
    #[error("{domain} is in a service's tls.domain and would be ordered anew; take it out there first")]
    Wanted { domain: String },
    #[error("the order for {domain} was given up since the node stops; it is taken up at the next start")]
    Stopped { domain: String },
}

type Waiter = oneshot::Sender<Result<CertificateRecord, ProvisionError>>;

struct State {
    renewals: Renewals,
    /// Names with how they are ordered.
    ordered: BTreeMap<String, Ordered>,
    /// Names and wildcards ordered when a client asks.
    on_demand: BTreeMap<String, AcmeSpec>,
    demand: Demand,
    waiters: BTreeMap<String, Vec<Waiter>>,
    random: Box<dyn Random>,
}

#[derive(Clone)]
struct Ordered {
    acme: AcmeSpec,
    reason: Reason,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Manifest,
    Hand,
    Demand,
    /// Kept from before the restart; the first [`Certificates::want`] decides.
    Before,
}

struct Inner {
    folder: PathBuf,
    store: CertificateStore,
    orders: Orders,
    resolver: Arc<Resolver>,
    challenges: Arc<Challenges>,
    state: Mutex<State>,
    wake: Notify,
    clock: Arc<dyn Clock>,
    routed: Routed,
    default_domain: Option<String>,
}

/// The handle; clones share it. When the last is dropped, orders under way are given up (the next start takes them up
/// again).
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
    _running: Arc<Running>,
}

struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Certificates {
    /// Reads what there is and begins to renew it. Must be called within a tokio runtime.
    pub fn start(config: CertificatesConfig) -> Result<Self, StartError> {
        let CertificatesConfig { folder, key_file, clock, mut random, .. } = config;
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StartError::Io { path, source }
        };
        let key = Arc::new(SealKey::of_folder(&key_file, &folder)?);
        let store = CertificateStore::open(&folder, Arc::clone(&key))?;
        let (accounts, orders) = (folder.join("accounts"), folder.join("orders"));
        durable::make_folder(&orders).and_then(|()| durable::sweep(&orders)).map_err(io(&orders))?;
        let challenges = Arc::new(Challenges::default());
        let orders = Orders {
            accounts: Accounts::open(&accounts, Arc::clone(&key)).map_err(io(&accounts))?,
            folder: orders,
            key,
            https: Https::new(&config.extra_roots, config.request_within)?,
            challenges: Arc::clone(&challenges),
            clock: Arc::clone(&clock),
            settings: config.order,
        };
        let mut renewals = Renewals::default();
        let mut ordered = BTreeMap::new();
        for record in store.list() {
            if let Some(acme) = record.acme {
                let reason = if record.by_hand { Reason::Hand } else { Reason::Before };
                ordered.insert(record.domain, Ordered { acme, reason });
            }
        }
        renewals.want(&directories(&ordered));
        for record in store.list() {
            renewals.have(&record.domain, life_of(&record), &mut *random);
        }
        for (name, setback) in read_setbacks(&folder.join(SETBACKS)).map_err(io(&folder))? {
            // Of a name that nobody wanted for so long, nothing is remembered.
            if setback.until.plus(SETBACK_KEPT) > clock.now() {
                renewals.remember(&name, setback);
            }
        }
        let inner = Arc::new_cyclic(|inner: &std::sync::Weak<Inner>| {
            let asked = std::sync::Weak::clone(inner);
            let on_unknown: OnUnknown = Box::new(move |name| {
                if let Some(inner) = asked.upgrade() {
                    // A refusal is told to those who ask through `demand`; the client has its alert already.
                    let _ = inner.demand(name, None);
                }
            });
            Inner {
                folder,
                store,
                orders,
                resolver: Arc::new(Resolver::new(Arc::clone(&challenges), Some(on_unknown))),
                challenges,
                state: Mutex::new(State {
                    renewals,
                    ordered,
                    on_demand: BTreeMap::new(),
                    demand: Demand::new(config.demand),
                    waiters: BTreeMap::new(),
                    random,
                }),
                wake: Notify::new(),
                clock,
                routed: config.routed,
                default_domain: config.default_domain,
            }
        });
        inner.show();
        let running = Running(tokio::spawn(run(Arc::clone(&inner))).abort_handle());
        Ok(Self { inner, _running: Arc::new(running) })
    }

    /// The names of all services' `tls` are to have certificates, and those ordered by hand; names that were wanted
    /// before and are not now keep their certificate but are not renewed.
    pub fn want<'a>(&self, specs: impl IntoIterator<Item = &'a TlsSpec>) {
        let mut state = self.inner.state();
        state.on_demand.clear();
        let mut ordered = BTreeMap::new();
        for spec in specs {
            let Some(acme) = &spec.acme else { continue };
            // Names that are none were refused with the manifest.
            for domain in spec.domains.iter().filter_map(|domain| domain_name(domain).ok()) {
                if acme.on_demand {
                    state.on_demand.insert(domain, acme.clone());
                } else {
                    ordered.insert(domain, Ordered { acme: acme.clone(), reason: Reason::Manifest });
                }
            }
        }
        for (domain, before) in std::mem::take(&mut state.ordered) {
            let kept = match before.reason {
                Reason::Hand => Some(before),
                _ => on_demand(&state.on_demand, &domain)
                    .map(|acme| Ordered { acme: acme.clone(), reason: Reason::Demand }),
            };
            if let Some(kept) = kept {
                ordered.entry(domain).or_insert(kept);
            }
        }
        state.ordered = ordered;
        self.inner.rewant(&mut state);
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Orders a certificate for `domain` by hand, and renews it from then on. Returns the one there is when it was
    /// ordered the same way and is not due. Two callers at once wait for one order.
    pub async fn provision(&self, domain: &str, acme: AcmeSpec) -> Result<CertificateRecord, ProvisionError> {
        let domain = domain_name(domain).map_err(|error| ProvisionError::Name(Arc::new(error)))?;
        let order = {
            let mut state = self.inner.state();
            let held = self.inner.store.get(&domain).filter(|record| record.acme.as_ref() == Some(&acme));
            if let Some(record) = held
                && state.renewals.is_wanted(&domain)
                && record.not_after > self.inner.clock.now()
            {
                return Ok(record);
            }
            let reason = state.ordered.get(&domain).map_or(Reason::Hand, |before| match before.reason {
                Reason::Manifest => Reason::Manifest,
                _ => Reason::Hand,
            });
            state.ordered.insert(domain.clone(), Ordered { acme, reason });
            self.inner.rewant(&mut state);
            self.inner.ask(&mut state, &domain)?
        };
        outcome(order, &domain).await
    }

    /// Orders `domain` anew now, whatever its dates and waits.
    pub async fn renew(&self, domain: &str) -> Result<CertificateRecord, ProvisionError> {
        let domain = domain_name(domain).map_err(|error| ProvisionError::Name(Arc::new(error)))?;
        let order = {
            let mut state = self.inner.state();
            if !state.ordered.contains_key(&domain) {
                return Err(ProvisionError::NotManaged { domain });
            }
            self.inner.ask(&mut state, &domain)?
        };
        outcome(order, &domain).await
    }

    /// Orders a certificate that a client asks for, if a service orders on demand and a route leads to the name; waits
    /// for it. Within a handshake the resolver does the same by itself, but does not wait.
    pub async fn demand(&self, name: &str) -> Result<CertificateRecord, ProvisionError> {
        let domain = domain_name(name).map_err(|error| ProvisionError::Name(Arc::new(error)))?;
        if let Some(record) = self.inner.store.get(&domain) {
            return Ok(record);
        }
        let (sender, receiver) = oneshot::channel();
        self.inner.demand(&domain, Some(sender))?;
        outcome(receiver, &domain).await
    }

    /// Keeps a certificate the operator brings, under `domain` or else its first name, and shows it from now on.
    pub fn install(
        &self,
        domain: Option<&str>,
        chain_pem: &str,
        key_pem: &str,
    ) -> Result<CertificateRecord, StoreError> {
        let certificate = Certificate::parse(chain_pem, key_pem)?;
        let domain = domain.map_or_else(|| certificate.names[0].clone(), ToOwned::to_owned);
        let record = self.inner.store.put(&domain, certificate, None, false, self.inner.clock.now())?;
        let mut state = self.inner.state();
        let State { renewals, random, .. } = &mut *state;
        renewals.have(&record.domain, life_of(&record), &mut **random);
        drop(state);
        self.inner.show();
        Ok(record)
    }

    /// Every certificate there is, by domain.
    pub fn list(&self) -> Vec<CertificateRecord> {
        let state = self.inner.state();
        let mut records = self.inner.store.list();
        for record in &mut records {
            record.managed = record.acme.is_some() && state.renewals.is_wanted(&record.domain);
        }
        records
    }

    /// Names whose last order failed, why, and when the next is.
    pub fn setbacks(&self) -> BTreeMap<String, Setback> {
        self.inner.state().renewals.setbacks()
    }

    /// Files of the folder that could not be read at the start.
    pub fn damaged(&self) -> Vec<Damaged> {
        self.inner.store.damaged().to_vec()
    }

    /// Removes a certificate, and stops renewing one that was ordered by hand.
    pub fn remove(&self, domain: &str) -> Result<CertificateRecord, ProvisionError> {
        let domain = domain_name(domain).map_err(|error| ProvisionError::Name(Arc::new(error)))?;
        let mut state = self.inner.state();
        let ordered = state.ordered.get(&domain).map(|ordered| ordered.reason);
        if ordered == Some(Reason::Manifest) {
            return Err(ProvisionError::Wanted { domain });
        }
        let removed = self.inner.store.remove(&domain).map_err(|error| ProvisionError::Store(Arc::new(error)))?;
        state.renewals.lost(&domain);
        state.ordered.remove(&domain);
        self.inner.rewant(&mut state);
        drop(state);
        self.inner.show();
        Ok(removed)
    }

    /// What a TLS server asks for its certificate. Its configuration also offers [`crate::ACME_TLS_ALPN`] for
    /// TLS-ALPN-01.
    pub fn resolver(&self) -> Arc<Resolver> {
        Arc::clone(&self.inner.resolver)
    }

    /// What an HTTP server on port 80 asks for paths under [`crate::HTTP_CHALLENGE_PREFIX`].
    pub fn challenges(&self) -> Arc<Challenges> {
        Arc::clone(&self.inner.challenges)
    }

    /// Looks at the clock again now: for clocks that were set.
    pub fn wake(&self) {
        self.inner.wake.notify_one();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        self.resolver.set(&self.store.certificates(), self.default_domain.as_deref());
    }

    /// Tells the core what is ordered; a certificate that is there already counts, unless another authority made it.
    fn rewant(&self, state: &mut State) {
        let new: Vec<_> = state.ordered.keys().filter(|name| !state.renewals.is_wanted(name)).cloned().collect();
        state.renewals.want(&directories(&state.ordered));
        for record in new.iter().filter_map(|name| self.store.get(name)) {
            let wanted = state.ordered[&record.domain].acme.directory.url();
            if record.directory().is_none_or(|directory| directory == wanted) {
                state.renewals.have(&record.domain, life_of(&record), &mut *state.random);
            }
        }
    }

    /// Has `domain` ordered now, or joins the order under way.
    fn ask(
        &self,
        state: &mut State,
        domain: &str,
    ) -> Result<oneshot::Receiver<Result<CertificateRecord, ProvisionError>>, ProvisionError> {
        if !state.renewals.under_way().contains(domain) {
            if let Some(until) = state.renewals.limited_until(domain, self.clock.now()) {
                return Err(ProvisionError::Limited { until });
            }
            state.renewals.ask(domain);
        }
        let (sender, receiver) = oneshot::channel();
        state.waiters.entry(domain.to_owned()).or_default().push(sender);
        self.wake.notify_one();
        Ok(receiver)
    }

    fn demand(&self, domain: &str, waiter: Option<Waiter>) -> Result<(), DemandError> {
        // Asked before the lock: the answer is the caller's code.
        if !(self.routed)(domain) {
            return Err(DemandError::NotRouted);
        }
        let mut state = self.state();
        if !state.ordered.contains_key(domain) {
            let acme = on_demand(&state.on_demand, domain).ok_or(DemandError::NotRouted)?.clone();
            let busy = state
                .ordered
                .iter()
                .filter(|(name, ordered)| ordered.reason == Reason::Demand && self.store.get(name).is_none());
            let under_way = busy.count();
            state.demand.admit(domain, under_way, self.clock.now())?;
            state.ordered.insert(domain.to_owned(), Ordered { acme, reason: Reason::Demand });
            self.rewant(&mut state);
        }
        if let Some(waiter) = waiter {
            state.waiters.entry(domain.to_owned()).or_default().push(waiter);
        }
        self.wake.notify_one();
        Ok(())
    }

    async fn order(self: Arc<Self>, domain: String) {
        let Some(Ordered { acme, reason }) = self.state().ordered.get(&domain).cloned() else {
            return self.failed(&domain, ProvisionError::NotManaged { domain: domain.clone() }, None, false);
        };
        match self.orders.certificate(&domain, &acme).await {
            Ok(certificate) => {
                let kept = self.store.put(&domain, certificate, Some(acme), reason == Reason::Hand, self.clock.now());
                match kept {
                    Ok(record) => self.ordered(&domain, record),
                    Err(error) => self.failed(&domain, ProvisionError::Store(Arc::new(error)), None, false),
                }
            }
            Err(error) => {
                let (until, whole_directory) = (error.until(), error.is_about_directory());
                self.failed(&domain, ProvisionError::Order(Arc::new(error)), until, whole_directory);
            }
        }
    }

    fn ordered(&self, domain: &str, record: CertificateRecord) {
        if let Err(error) = self.orders.done(domain) {
            tracing::warn!(domain, %error, "a finished order was not removed; the next one finds it valid");
        }
        self.show();
        let mut state = self.state();
        let State { renewals, random, waiters, .. } = &mut *state;
        renewals.ordered(domain, life_of(&record), &mut **random);
        let waiters = waiters.remove(domain).unwrap_or_default();
        self.keep_setbacks(&state);
        drop(state);
        tracing::info!(domain, not_after = %date(record.not_after), "a certificate was ordered");
        answer(waiters, &Ok(record));
        self.wake.notify_one();
    }

    fn failed(&self, domain: &str, error: ProvisionError, until: Option<Timestamp>, whole_directory: bool) {
        let now = self.clock.now();
        let mut state = self.state();
        let State { renewals, random, waiters, .. } = &mut *state;
        let setback = renewals.failed(domain, error.to_string(), until, whole_directory, now, &mut **random);
        let waiters = waiters.remove(domain).unwrap_or_default();
        let on_demand = state.ordered.get(domain).is_some_and(|ordered| ordered.reason == Reason::Demand);
        if on_demand && self.store.get(domain).is_none() {
            // Nobody but a client asked for it: it is not tried again until one does, and not soon.
            state.ordered.remove(domain);
            state.demand.refuse(domain, now);
            self.rewant(&mut state);
        }
        self.keep_setbacks(&state);
        drop(state);
        let next = setback.map(|setback| date(setback.until));
        tracing::warn!(domain, %error, next, "a certificate was not ordered");
        answer(waiters, &Err(error));
        self.wake.notify_one();
    }

    fn keep_setbacks(&self, state: &State) {
        let text = serde_json::to_vec_pretty(&state.renewals.setbacks()).expect("setbacks are always JSON");
        if let Err(error) = durable::write(&self.folder.join(SETBACKS), &text) {
            tracing::warn!(%error, "failures of orders were not written down; after a restart they are tried sooner");
        }
    }
}

async fn run(inner: Arc<Inner>) {
    let mut orders = JoinSet::new();
    loop {
        let now = inner.clock.now();
        let (due, next) = {
            let mut state = inner.state();
            (state.renewals.due(now), state.renewals.next())
        };
        for domain in due {
            orders.spawn(Arc::clone(&inner).order(domain));
        }
        while orders.try_join_next().is_some() {}
        let sleep = next.map_or(LONGEST_SLEEP, |next| next.since(now)).clamp(Duration::from_millis(10), LONGEST_SLEEP);
        tokio::select! {
            () = inner.wake.notified() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

async fn outcome(
    order: oneshot::Receiver<Result<CertificateRecord, ProvisionError>>,
    domain: &str,
) -> Result<CertificateRecord, ProvisionError> {
    order.await.unwrap_or_else(|_| Err(ProvisionError::Stopped { domain: domain.to_owned() }))
}

fn answer(waiters: Vec<Waiter>, outcome: &Result<CertificateRecord, ProvisionError>) {
    for waiter in waiters {
        // One that does not wait any more need not know.
        let _ = waiter.send(outcome.clone());
    }
}

fn directories(ordered: &BTreeMap<String, Ordered>) -> BTreeMap<String, String> {
    ordered.iter().map(|(name, ordered)| (name.clone(), ordered.acme.directory.url().to_owned())).collect()
}

fn on_demand<'a>(names: &'a BTreeMap<String, AcmeSpec>, domain: &str) -> Option<&'a AcmeSpec> {
    let wildcard = || names.get(&format!("*.{}", domain.split_once('.')?.1));
    names.get(domain).or_else(wildcard)
}

fn life_of(record: &CertificateRecord) -> Life {
    Life { not_before: record.not_before, not_after: record.not_after }
}

fn read_setbacks(path: &Path) -> std::io::Result<BTreeMap<String, Setback>> {
    match std::fs::read(path) {
        // Half a file is not possible; one that somebody changed is not worth a refusal to start.
        Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_default()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}
