//! Who calls and who is called, by address: compiled whole from the apps at each change, read by each new connection.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use coppice_acme::{Authority, Identity};
use coppice_base::Name;
use coppice_spec::PeerTls;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use sha2::{Digest, Sha256};

use crate::counts::Counts;

/// An app, as far as encryption is concerned.
#[derive(Clone, Debug)]
pub struct App {
    pub name: Name,
    /// Needed as soon as one of its services has `tls.peer`; without, its workloads are strangers to everybody.
    pub authority: Option<Arc<Authority>>,
    pub workloads: Vec<Workload>,
}

/// A service, or a worker (which only calls).
#[derive(Clone, Debug)]
pub struct Workload {
    pub name: Name,
    pub mode: PeerTls,
    pub instances: Vec<Instance>,
    /// Addresses that stand for all ready instances.
    pub virtual_addresses: Vec<IpAddr>,
    pub published: Vec<Published>,
}

#[derive(Clone, Debug)]
pub struct Instance {
    /// As in `web-1`.
    pub key: String,
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    /// The inbound half of the node that runs it; `None`: this node.
    pub node: Option<SocketAddr>,
}

/// A TCP port of the host that leads to a port of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// `None`: every address of the host.
    pub host_ip: Option<IpAddr>,
    pub host: u16,
    pub container: u16,
}

/// Who calls, by its address.
pub(crate) struct Caller {
    pub(crate) app: Name,
    pub(crate) workload: Name,
    pub(crate) instance: String,
    pub(crate) identity: Option<Arc<Identity>>,
}

/// A service that is called.
pub(crate) struct Service {
    pub(crate) app: Name,
    pub(crate) name: Name,
    pub(crate) mode: PeerTls,
    pub(crate) authority: Arc<Authority>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) counts: Arc<Counts>,
    instances: Vec<Instance>,
    published: Vec<Published>,
    next: AtomicUsize,
    /// By calling workload; `None`: strangers.
    clients: Mutex<HashMap<Option<Name>, Arc<ClientConfig>>>,
}

impl Service {
    /// How `caller`, a workload of the same app, calls it; `None`: somebody who is none of it.
    pub(crate) fn client(&self, caller: Option<&Caller>) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut clients = self.clients.lock().expect("no panic holds this lock");
        let identity = caller.and_then(|caller| Some((&caller.workload, caller.identity.as_ref()?)));
        let key = identity.map(|(workload, _)| workload.clone());
        if let Some(config) = clients.get(&key) {
            return Ok(config.clone());
        }
        let mut config = match identity {
            Some((_, identity)) => identity.client_config(Some(&self.name))?,
            None => self.authority.stranger_config(&self.name)?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(clients.entry(key).or_insert(Arc::new(config)).clone())
    }

    /// Whether an instance of it on this node has this address.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.instances.iter().any(|instance| instance.node.is_none() && instance.addresses.contains(&address))
    }

    /// The next instance in turn: of those that are ready, where there are some.
    fn pick(&self) -> Option<&Instance> {
        let ready: Vec<&Instance> = self.instances.iter().filter(|instance| instance.ready).collect();
        let among = if ready.is_empty() { self.instances.iter().collect() } else { ready };
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        among.get(turn.checked_rem(among.len())?).copied()
    }
}

/// Where a redirected connection goes.
pub(crate) struct Target {
    pub(crate) service: Arc<Service>,
    /// Of the instance.
    pub(crate) to: SocketAddr,
    /// See [`Instance::node`].
    pub(crate) node: Option<SocketAddr>,
}

/// What a TLS connection between halves says it speaks.
pub(crate) const ALPN: &[u8] = b"coppice-peer/1";

#[derive(Default)]
pub(crate) struct Directory {
    callers: HashMap<IpAddr, Caller>,
    services: Vec<Arc<Service>>,
    by_address: HashMap<IpAddr, (Arc<Service>, Option<SocketAddr>)>,
    by_virtual: HashMap<IpAddr, Arc<Service>>,
    by_server_name: HashMap<String, Arc<Service>>,
}

impl Directory {
    /// `before`: identities and counts of services that stay are kept from it.
    pub(crate) fn of(apps: Vec<App>, before: &Self) -> Result<Self, rustls::Error> {
        let mut all = Self::default();
        for app in apps {
            let mut identities: HashMap<Name, Arc<Identity>> = HashMap::new();
            if let Some(authority) = &app.authority {
                for workload in &app.workloads {
                    let identity = before.identity(authority, &workload.name).unwrap_or_else(|| {
                        authority.identity(&workload.name, vec![server_name(&app.name, &workload.name)])
                    });
                    identities.insert(workload.name.clone(), identity);
                }
            }
            for workload in &app.workloads {
                for instance in &workload.instances {
                    all.callers.extend(instance.addresses.iter().map(|address| {
                        let caller = Caller {
                            app: app.name.clone(),
                            workload: workload.name.clone(),
                            instance: instance.key.clone(),
                            identity: identities.get(&workload.name).cloned(),
                        };
                        (*address, caller)
                    }));
                }
                if let (Some(authority), Some(identity)) = (&app.authority, identities.get(&workload.name))
                    && workload.mode != PeerTls::Off
                {
                    all.serve(&app.name, workload, authority, identity, before)?;
                }
            }
        }
        Ok(all)
    }

    fn serve(
        &mut self,
        app: &Name,
        workload: &Workload,
        authority: &Arc<Authority>,
        identity: &Arc<Identity>,
        before: &Self,
    ) -> Result<(), rustls::Error> {
        let mut server = identity.server_config(workload.mode)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        let name = server_name(app, &workload.name);
        let counts = before.service(app, &workload.name).map(|before| before.counts.clone()).unwrap_or_default();
        let service = Arc::new(Service {
            app: app.clone(),
            name: workload.name.clone(),
            mode: workload.mode,
            authority: authority.clone(),
            identity: identity.clone(),
            server: Arc::new(server),
            server_name: ServerName::try_from(name.clone()).expect("digits and letters are a name"),
            counts,
            instances: workload.instances.clone(),
            published: workload.published.clone(),
            next: AtomicUsize::new(0),
            clients: Mutex::default(),
        });
        for instance in &workload.instances {
            let addresses = instance.addresses.iter();
            self.by_address.extend(addresses.map(|address| (*address, (service.clone(), instance.node))));
        }
        self.by_virtual.extend(workload.virtual_addresses.iter().map(|address| (*address, service.clone())));
        self.by_server_name.insert(name, service.clone());
        self.services.push(service);
        Ok(())
    }

    fn identity(&self, authority: &Arc<Authority>, workload: &Name) -> Option<Arc<Identity>> {
        let of = |caller: &&Caller| caller.app == *authority.app() && caller.workload == *workload;
        let served = self.service(authority.app(), workload).map(|service| &service.identity);
        let identity = served.or_else(|| self.callers.values().find(of)?.identity.as_ref())?;
        identity.is_of(authority).then(|| identity.clone())
    }

    fn service(&self, app: &Name, name: &Name) -> Option<&Arc<Service>> {
        self.services.iter().find(|service| service.app == *app && service.name == *name)
    }

    pub(crate) fn services(&self) -> &[Arc<Service>] {
        &self.services
    }

    /// Identities of everybody who may call or be called.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &Arc<Identity>> {
        let callers = self.callers.values().filter_map(|caller| caller.identity.as_ref());
        callers.chain(self.services.iter().map(|service| &service.identity))
    }

    pub(crate) fn caller(&self, address: IpAddr) -> Option<&Caller> {
        self.callers.get(&address.to_canonical())
    }

    /// Where a connection to `to` goes; `None`: it is nobody's who is to be called with TLS.
    pub(crate) fn target(&self, to: SocketAddr) -> Option<Target> {
        let address = to.ip().to_canonical();
        if let Some((service, node)) = self.by_address.get(&address) {
            return Some(Target { service: service.clone(), to: SocketAddr::new(address, to.port()), node: *node });
        }
        let (service, port) = match self.by_virtual.get(&address) {
            Some(service) => (service, to.port()),
            None => self.services.iter().find_map(|service| {
                let leads = |published: &&Published| {
                    published.host == to.port() && published.host_ip.is_none_or(|ip| ip == address)
                };
                Some((service, service.published.iter().find(leads)?.container))
            })?,
        };
        let instance = service.pick()?;
        // The family by which it was called, where it has that.
        let same = instance.addresses.iter().find(|one| one.is_ipv4() == address.is_ipv4());
        let to = SocketAddr::new(*same.or(instance.addresses.first())?, port);
        Some(Target { service: service.clone(), to, node: instance.node })
    }

    pub(crate) fn by_server_name(&self, name: &str) -> Option<&Arc<Service>> {
        self.by_server_name.get(name)
    }
}

/// What a service's certificate is asked for by. A digest, because names of ours may have what names of DNS may not, and
/// because two pairs of names never give the same.
fn server_name(app: &Name, service: &Name) -> String {
    let digest = Sha256::digest(format!("{app}/{service}"));
    format!("{}.peer.internal", hex::encode(&digest[..16]))
}
