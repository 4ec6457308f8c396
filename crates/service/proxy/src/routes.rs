//! The routes and instances the proxy serves: as given from outside, and as the workers read them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use coppice_base::{Name, Timestamp};
use coppice_route::{
    DuplicateRoute, Instance, RetryBudget, RouteTable, TableEntry, TokenBuckets, WeightedChoice, hash,
};
use coppice_spec::RouteSpec;

use tokio::sync::Notify;

use crate::auth::Passwords;
use crate::metrics::{BackendCounts, RouteCounts};
use crate::proxy_protocol::ProxyHeader;

/// Everything the proxy should serve from now on.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    pub routes: Vec<Route>,
    /// The services that routes name, each with its instances. A service that is missing here has none.
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug)]
pub struct Route {
    pub app: Name,
    /// The service whose route it is.
    pub service: Name,
    pub spec: RouteSpec,
    /// Plain requests are redirected to HTTPS (`tls.redirect`).
    pub https_only: bool,
    /// A PROXY protocol header goes before each connection to an instance; connections are then not shared.
    pub send_proxy: Option<ProxyHeader>,
}

#[derive(Clone, Debug)]
pub struct Backend {
    pub app: Name,
    pub service: Name,
    pub instances: Vec<Endpoint>,
    /// The share of the service's requests that those of its instances get that are `fresh`, in percent. `None`: no
    /// difference is made.
    pub fresh_percent: Option<u8>,
}

/// An instance. It keeps its history (breaker, requests in flight) over updates as long as name and address stay.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub name: String,
    /// With the service's first port; a route with `port` goes to that one.
    pub address: SocketAddr,
    pub ready: bool,
    /// It will be stopped: takes no new request, finishes those it has.
    pub draining: bool,
    /// It is of a release that is on its way; see [`Backend::fresh_percent`].
    pub fresh: bool,
}

/// Why an update was not taken. The routes of before stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    #[error(transparent)]
    Duplicate(#[from] DuplicateRoute),
    #[error(
        "route {route}: the password of {user} is not an argon2, bcrypt or {{SHA256}} hash: make one with htpasswd -B"
    )]
    Password { route: String, user: String },
    #[error("route {route}: {what} is not a header an HTTP message can carry: change its name or value")]
    Header { route: String, what: String },
    #[error(
        "route {route}: the redirect {to:?} is not a URL to send in a header: write it as https://{{host}}{{path}}{{query}}"
    )]
    Redirect { route: String, to: String },
}

/// What workers read: immutable, but for atomics.
pub(crate) struct Snapshot {
    pub(crate) table: RouteTable<Arc<Compiled>>,
    members: Vec<Arc<Member>>,
}

/// A route, ready to serve.
pub(crate) struct Compiled {
    pub(crate) app: Name,
    pub(crate) service: Name,
    pub(crate) spec: RouteSpec,
    pub(crate) https_only: bool,
    pub(crate) send_proxy: Option<ProxyHeader>,
    /// In the order of the choice; never empty.
    pub(crate) backends: Vec<Group>,
    pub(crate) choice: WeightedChoice,
    pub(crate) mirror: Option<Group>,
    pub(crate) passwords: Passwords,
    pub(crate) state: Arc<RouteState>,
}

/// What a route remembers over updates.
pub(crate) struct RouteState {
    pub(crate) budget: RetryBudget,
    limiter: Vec<Mutex<TokenBuckets>>,
    pub(crate) counts: Vec<RouteCounts>,
    /// When connections that outlive their request must have ended, because the route is gone; 0: it is there.
    gone_by: AtomicU64,
}

/// Clients a route's rate limit remembers, over all shards.
const LIMITED_CLIENTS: usize = 65_536;
const LIMITER_SHARDS: usize = 16;

/// Instances of one service, at the port of one route.
pub(crate) struct Group {
    pub(crate) service: Name,
    pub(crate) members: Vec<Arc<Member>>,
}

/// An instance at one port.
pub(crate) struct Member {
    /// Unique in this process.
    pub(crate) uid: u64,
    pub(crate) app: Name,
    pub(crate) service: Name,
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) instance: Instance,
    /// Wakes who waits for its last request.
    pub(crate) idle: Notify,
    pub(crate) counts: Vec<BackendCounts>,
    /// As [`RouteState::gone_by`].
    gone_by: AtomicU64,
}

impl AsRef<Instance> for Member {
    fn as_ref(&self) -> &Instance {
        &self.instance
    }
}

impl Member {
    /// Takes a request, which ends with [`Member::leave`]; false when it drains.
    pub(crate) fn enter(&self) -> bool {
        let entered = self.instance.enter();
        if !entered {
            // For a moment it looked as if there was one more.
            self.tell_if_idle();
        }
        entered
    }

    pub(crate) fn leave(&self) {
        self.instance.leave();
        self.tell_if_idle();
    }

    fn tell_if_idle(&self) {
        if self.instance.is_draining() && self.instance.in_flight() == 0 {
            self.idle.notify_waiters();
        }
    }

    /// Returns when it answers no request. Only one that drains comes to that for good, and only then is it told.
    pub(crate) async fn drained(&self) {
        loop {
            let mut idle = pin!(self.idle.notified());
            // Before the look: what happens after it is told.
            idle.as_mut().enable();
            if self.instance.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// When connections to it that outlive their request must have ended.
    pub(crate) fn leave_by(&self) -> Option<Timestamp> {
        Some(Timestamp(self.gone_by.load(Ordering::Relaxed))).filter(|at| at.0 != 0)
    }
}

impl RouteState {
    pub(crate) fn leave_by(&self) -> Option<Timestamp> {
        Some(Timestamp(self.gone_by.load(Ordering::Relaxed))).filter(|at| at.0 != 0)
    }

    pub(crate) fn limiter(&self, client: std::net::IpAddr) -> &Mutex<TokenBuckets> {
        let key = hash::mix(coppice_route::limit::key(client));
        &self.limiter[(key % LIMITER_SHARDS as u64) as usize]
    }
}

/// What instances will be told once the routes that know of it are published: told before, a request that still has the
/// old routes could find all of its instances gone.
pub(crate) struct Changes(Vec<(Arc<Member>, bool, bool)>);

impl Changes {
    pub(crate) fn apply(self) {
        for (member, ready, draining) in self.0 {
            member.instance.set(ready, draining);
            // Its last request may have ended just before.
            member.tell_if_idle();
        }
    }
}

/// Services of which fresh instances get a share of their own become two groups: each takes over from the other when it has
/// nobody to answer.
fn shared_out(routes: &Routes, app: &Name, whole: Vec<(Group, u32)>) -> Vec<(Group, u32)> {
    let backend = |service: &Name| routes.backends.iter().find(|one| one.app == *app && one.service == *service);
    let share = |group: &Group| backend(&group.service)?.fresh_percent.map(|percent| u32::from(percent.min(100)));
    if !whole.iter().any(|(group, _)| share(group).is_some()) {
        return whole;
    }
    let mut all = Vec::new();
    for (group, weight) in whole {
        let is_fresh = |member: &Arc<Member>| {
            let instances = backend(&group.service).into_iter().flat_map(|backend| &backend.instances);
            instances.into_iter().any(|one| one.fresh && one.name == member.name)
        };
        let percent = share(&group).unwrap_or(0);
        let (fresh, others): (Vec<_>, Vec<_>) = group.members.into_iter().partition(is_fresh);
        // Hundredths of each weight; one with nothing to split has all of it.
        let (mut of_fresh, mut of_others) = (weight * percent, weight * (100 - percent));
        if fresh.is_empty() {
            (of_fresh, of_others) = (0, weight * 100);
        } else if others.is_empty() {
            (of_fresh, of_others) = (weight * 100, 0);
        }
        for (members, weight) in [(others, of_others), (fresh, of_fresh)] {
            if !members.is_empty() || weight > 0 {
                all.push((Group { service: group.service.clone(), members }, weight));
            }
        }
    }
    // The order that is dealt is as long as the weights' sum.
    let divisor = all.iter().map(|(_, weight)| *weight).fold(0, gcd).max(1);
    all.into_iter().map(|(group, weight)| (group, weight / divisor)).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Turns [`Routes`] into [`Snapshot`]s, and remembers what lives over them.
#[derive(Default)]
pub(crate) struct Compiler {
    members: HashMap<(Name, Name, String, SocketAddr), Arc<Member>>,
    states: HashMap<(Name, Name, Name), Arc<RouteState>>,
    /// Instances that are gone from the routes, with requests that are not.
    leaving: Vec<Arc<Member>>,
    uids: u64,
}

impl Compiler {
    /// `threads`: counters are kept for so many. Instances and routes that leave are given until `leave_by`.
    pub(crate) fn compile(
        &mut self,
        routes: &Routes,
        threads: usize,
        leave_by: Timestamp,
    ) -> Result<(Snapshot, Changes), UpdateError> {
        for route in &routes.routes {
            check(route)?;
        }
        let mut named = Vec::with_capacity(routes.routes.len());
        for route in &routes.routes {
            let name = format!("{}/{}/{}", route.app, route.service, route.spec.name);
            named.push(TableEntry { name, spec: route.spec.clone(), value: () });
        }
        // First for the error: nothing may change before it is known that the table can be made.
        RouteTable::new(named)?;
        let mut entries = Vec::with_capacity(routes.routes.len());
        let (mut members, mut states) = (HashMap::new(), HashMap::new());
        let mut changes = Vec::new();
        for route in &routes.routes {
            let key = (route.app.clone(), route.service.clone(), route.spec.name.clone());
            let state = self.states.get(&key).cloned().unwrap_or_else(|| Arc::new(state(threads)));
            state.gone_by.store(0, Ordering::Relaxed);
            states.insert(key, Arc::clone(&state));
            let mut group = |service: &Name| Group {
                service: service.clone(),
                members: self.group(routes, route, service, threads, leave_by, &mut members, &mut changes),
            };
            let whole: Vec<(Group, u32)> = match route.spec.backends.is_empty() {
                true => vec![(group(&route.service), 100)],
                false => route.spec.backends.iter().map(|(service, weight)| (group(service), *weight)).collect(),
            };
            let (backends, weights): (Vec<Group>, Vec<u32>) = shared_out(routes, &route.app, whole).into_iter().unzip();
            let mirror = route.spec.mirror.as_ref().map(&mut group);
            let name = format!("{}/{}/{}", route.app, route.service, route.spec.name);
            let compiled = Compiled {
                app: route.app.clone(),
                service: route.service.clone(),
                spec: route.spec.clone(),
                https_only: route.https_only,
                send_proxy: route.send_proxy,
                backends,
                choice: WeightedChoice::new(&weights),
                mirror,
                passwords: Passwords::new(&route.spec.basic_auth),
                state,
            };
            entries.push(TableEntry { name, spec: route.spec.clone(), value: Arc::new(compiled) });
        }
        let table = RouteTable::new(entries)?;
        for (key, state) in &self.states {
            if !states.contains_key(key) {
                let _ = state.gone_by.compare_exchange(0, leave_by.0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
        for (key, member) in &self.members {
            if !members.contains_key(key) {
                changes.push((Arc::clone(member), false, true));
                let _ = member.gone_by.compare_exchange(0, leave_by.0, Ordering::Relaxed, Ordering::Relaxed);
                self.leaving.push(Arc::clone(member));
            }
        }
        // Those of before this update are told by now: what they have in flight can only become less.
        self.leaving.retain(|member| !member.instance.is_draining() || member.instance.in_flight() > 0);
        (self.members, self.states) = (members, states);
        let mut all: Vec<_> = self.members.values().cloned().collect();
        all.sort_by_key(|member| member.uid);
        Ok((Snapshot { table, members: all }, Changes(changes)))
    }

    #[allow(clippy::too_many_arguments)] // the pieces of one compilation
    fn group(
        &mut self,
        routes: &Routes,
        route: &Route,
        service: &Name,
        threads: usize,
        leave_by: Timestamp,
        members: &mut HashMap<(Name, Name, String, SocketAddr), Arc<Member>>,
        changes: &mut Vec<(Arc<Member>, bool, bool)>,
    ) -> Vec<Arc<Member>> {
        let backend = routes.backends.iter().find(|backend| backend.app == route.app && backend.service == *service);
        let mut group = Vec::new();
        for endpoint in backend.iter().flat_map(|backend| &backend.instances) {
            // `port` is the owner's: other services of the route have their own first port.
            let port = route.spec.port.filter(|_| *service == route.service).unwrap_or(endpoint.address.port());
            let address = SocketAddr::new(endpoint.address.ip(), port);
            let key = (route.app.clone(), service.clone(), endpoint.name.clone(), address);
            let known = members.get(&key).or_else(|| self.members.get(&key)).cloned();
            let member = known.unwrap_or_else(|| {
                self.uids += 1;
                let instance = Instance::new(&endpoint.name);
                // Nobody knows it yet: it is told at once, and takes requests as soon as it is seen.
                instance.set(endpoint.ready, endpoint.draining);
                Arc::new(Member {
                    uid: self.uids,
                    app: route.app.clone(),
                    service: service.clone(),
                    name: endpoint.name.clone(),
                    address,
                    instance,
                    idle: Notify::new(),
                    counts: (0..threads).map(|_| BackendCounts::default()).collect(),
                    gone_by: AtomicU64::new(0),
                })
            });
            changes.push((Arc::clone(&member), endpoint.ready, endpoint.draining));
            if !endpoint.draining {
                member.gone_by.store(0, Ordering::Relaxed);
            } else {
                let _ = member.gone_by.compare_exchange(0, leave_by.0, Ordering::Relaxed, Ordering::Relaxed);
            }
            members.insert(key, Arc::clone(&member));
            group.push(member);
        }
        group
    }

    /// Every instance that may have requests in flight.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.values().chain(&self.leaving)
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = (&(Name, Name, Name), &Arc<RouteState>)> {
        self.states.iter()
    }
}

impl Snapshot {
    /// This route in this snapshot.
    pub(crate) fn again(&self, route: &Compiled) -> Option<Arc<Compiled>> {
        let same = |other: &Compiled| {
            (&other.app, &other.service, &other.spec.name) == (&route.app, &route.service, &route.spec.name)
        };
        self.table.entries().map(|entry| &entry.value).find(|other| same(other)).cloned()
    }

    pub(crate) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }
}

fn state(threads: usize) -> RouteState {
    let shard = || Mutex::new(TokenBuckets::new(LIMITED_CLIENTS / LIMITER_SHARDS));
    RouteState {
        budget: RetryBudget::default(),
        limiter: (0..LIMITER_SHARDS).map(|_| shard()).collect(),
        counts: (0..threads).map(|_| RouteCounts::default()).collect(),
        gone_by: AtomicU64::new(0),
    }
}

fn check(route: &Route) -> Result<(), UpdateError> {
    let name = || format!("{}/{}/{}", route.app, route.service, route.spec.name);
    if let Some(user) = Passwords::unreadable(&route.spec.basic_auth) {
        return Err(UpdateError::Password { route: name(), user: user.to_owned() });
    }
    for (field, value) in route.spec.request_headers.iter().chain(&route.spec.response_headers) {
        if http::HeaderName::from_bytes(field.as_bytes()).is_err() || http::HeaderValue::from_str(value).is_err() {
            return Err(UpdateError::Header { route: name(), what: field.clone() });
        }
    }
    if let coppice_spec::RouteAction::Redirect { to, .. } = &route.spec.action
        && http::HeaderValue::from_str(to).is_err()
    {
        return Err(UpdateError::Redirect { route: name(), to: to.clone() });
    }
    Ok(())
}
