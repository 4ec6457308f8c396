//! What runs as a preview: the app as its manifest says it, made so that it can stand beside the one that runs.
//!
//! Nothing of it may get into the way of the app that it is a preview of: it answers for names of its own, listens on ports
//! that the node chooses, writes to volumes of its own, and does nothing at times or around releases. Each thing that is
//! other than the manifest says is told in a sentence.

use std::collections::BTreeSet;

use coppice_base::{Bytes, MilliCpu, Name};
use coppice_spec::{
    AppSpec, HooksSpec, MountSource, PeerTls, RolloutSpec, RolloutStrategy, RouteSpec, ServiceSpec, WorkloadSpec,
};
use coppice_state::Preview;

/// On the head of a clone, until the preview has come up with it: the [`mark`] of that. What a preview that did not
/// come to be has left is known by it.
pub(crate) const CLONED_FOR: &str = "preview_of";
/// On the head of every volume of a preview: its [`mark`]. No app comes back from such a volume.
pub(crate) const STAMP: &str = "preview";

/// Longest name of a host, in characters (RFC 1035, 2.3.4, as text without the last dot).
const HOST_MAX: usize = 253;

/// What each instance gets at most.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) cpu: Option<MilliCpu>,
    pub(crate) memory: Option<Bytes>,
}

/// Why a text is no name for a preview, which is to be the first label of host names; `None`: it is one.
pub(crate) fn name_refused(name: &str) -> Option<String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = !name.is_empty() && !name.starts_with('-') && !name.ends_with('-') && name.chars().all(inner);
    (!fits).then(|| {
        format!(
            "{name:?} is no name for a preview, which is the first label of its host names: use a-z, 0-9 and '-', beginning \
             and ending with a letter or digit"
        )
    })
}

/// `APP/NAME`, as a preview's volumes say whose they are.
pub(crate) fn mark(preview: &Preview) -> String {
    format!("{}/{}", preview.of, preview.name)
}

/// Whether an app is called as the preview is that has this mark.
pub(crate) fn is_of(app: &Name, mark: &str) -> bool {
    let names = mark.split_once('/').and_then(|(of, name)| Some((Name::new(of).ok()?, Name::new(name).ok()?)));
    names.is_some_and(|(of, name)| Preview::app_name(&of, &name).as_ref() == Some(app))
}

/// The host names that an app answers for.
pub(crate) fn hosts(spec: &AppSpec) -> Vec<String> {
    let routes = spec.services.values().flat_map(|service| &service.routes);
    routes.flat_map(|route| route.hosts.iter().cloned()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What runs as preview `name` of the app `spec`, called `app`, and what is other than the manifest says.
pub(crate) fn spec_of(spec: &AppSpec, app: Name, name: &str, limits: Limits) -> (AppSpec, Vec<String>) {
    let mut words = Vec::new();
    let mut spec = AppSpec { name: app, ..spec.clone() };
    drop_times(&mut spec, &mut words);
    let shared: BTreeSet<Name> =
        spec.volumes.iter().filter(|(_, volume)| volume.host_path.is_some()).map(|(name, _)| name.clone()).collect();
    for (service_name, service) in &mut spec.services {
        set_apart(service_name, service, name, &mut words);
        share_nothing(service_name, &mut service.workload, &shared, &mut words);
        limit(&mut service.workload, limits);
    }
    for (worker_name, worker) in &mut spec.workers {
        share_nothing(worker_name, &mut worker.workload, &shared, &mut words);
        limit(&mut worker.workload, limits);
    }
    (spec, words)
}

/// Crons, hooks, and the workers that are nothing but hooks.
fn drop_times(spec: &mut AppSpec, words: &mut Vec<String>) {
    if !spec.crons.is_empty() {
        let names: Vec<String> = spec.crons.keys().map(Name::to_string).collect();
        words.push(format!("its crons do not run: {}", names.join(", ")));
        spec.crons.clear();
    }
    let hooks: BTreeSet<Name> = spec.hooks.names().cloned().collect();
    if !hooks.is_empty() {
        let names: Vec<&str> = hooks.iter().map(Name::as_str).collect();
        words.push(format!("its hooks do not run: {}", names.join(", ")));
        spec.hooks = HooksSpec::default();
        spec.workers.retain(|name, _| !hooks.contains(name));
    }
}

/// Names, ports and certificates of a service, and how many instances it has.
fn set_apart(name: &Name, service: &mut ServiceSpec, preview: &str, words: &mut Vec<String>) {
    service.routes.retain_mut(|route| has_own_hosts(name, route, preview, words));
    if let Some(tls) = service.tls.take() {
        if !tls.domains.is_empty() {
            words.push(format!("{name} has no certificate: {}", tls.domains.join(", ")));
        }
        if tls.peer != PeerTls::Off {
            service.tls = Some(coppice_spec::TlsSpec { domains: Vec::new(), acme: None, redirect: false, ..tls });
        }
    }
    for port in service.ports.iter_mut().filter(|port| port.host != 0) {
        words.push(format!("{name} publishes port {} on one that is chosen, not on {}", port.container, port.host));
        port.host = 0;
    }
    if service.replicas > 1 {
        words.push(format!("{name} has 1 instance, not {}", service.replicas));
        service.replicas = 1;
    }
    // How its own releases take each other's place: what the manifest says is about more instances.
    let strategy = match RolloutStrategy::default_of(&service.workload, 1) {
        RolloutStrategy::Switch => RolloutStrategy::Switch,
        _ => RolloutStrategy::Rolling,
    };
    let before = &service.rollout;
    service.rollout = RolloutSpec {
        strategy,
        ready_timeout: before.ready_timeout,
        deadline: before.deadline,
        failure_action: before.failure_action,
        ..RolloutSpec::default()
    };
}

/// Puts the preview's name before each host of a route; false when none is left.
fn has_own_hosts(service: &Name, route: &mut RouteSpec, preview: &str, words: &mut Vec<String>) -> bool {
    route.hosts = std::mem::take(&mut route.hosts)
        .into_iter()
        .filter_map(|host| {
            let own = format!("{preview}.{host}");
            if host.contains('*') {
                words.push(format!("{service} does not answer for {host}, which stands for every name"));
                None
            } else if own.len() > HOST_MAX {
                words.push(format!("{service} does not answer for {own}, which is too long"));
                None
            } else {
                Some(own)
            }
        })
        .collect();
    !route.hosts.is_empty()
}

/// Directories of the host are the other app's too: they can be read only.
fn share_nothing(name: &Name, workload: &mut WorkloadSpec, shared: &BTreeSet<Name>, words: &mut Vec<String>) {
    for mount in workload.volumes.iter_mut().filter(|mount| !mount.read_only) {
        let is_shared = match &mount.source {
            MountSource::Host(_) => true,
            MountSource::Volume(volume) => shared.contains(volume),
            MountSource::Anonymous => false,
        };
        if is_shared {
            words.push(format!("{name} cannot write to {}, a directory of the host that has no clone", mount.target));
            mount.read_only = true;
        }
    }
}

fn limit(workload: &mut WorkloadSpec, limits: Limits) {
    let own = &mut workload.limits;
    own.cpu = [own.cpu, limits.cpu].into_iter().flatten().min();
    own.memory = [own.memory, limits.memory].into_iter().flatten().min();
}

#[cfg(test)]
mod tests {
    use coppice_spec::{PortSpec, Protocol, RestartPolicy, VolumeMount, VolumeSpec, WorkerSpec};

    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn preview(spec: &AppSpec, limits: Limits) -> (AppSpec, Vec<String>) {
        let (made, words) = spec_of(spec, name("shop-fix"), "fix", limits);
        assert_eq!(made.check(), Vec::<String>::new());
        (made, words)
    }

    fn shop() -> AppSpec {
        let mut web = ServiceSpec::of(WorkloadSpec::of("web"));
        web.replicas = 3;
        web.ports = vec![PortSpec { host_ip: None, host: 8080, container: 80, protocol: Protocol::Tcp }];
        let mount = |source, target: &str| VolumeMount { source, target: target.to_owned(), read_only: false };
        web.workload.volumes = vec![
            mount(MountSource::Volume(name("data")), "/data"),
            mount(MountSource::Volume(name("host")), "/host"),
            mount(MountSource::Host("/srv".to_owned()), "/srv"),
        ];
        let worker = || WorkerSpec { workload: WorkloadSpec::of("web"), restart: RestartPolicy::Never };
        let mut shop = AppSpec::of(name("shop"));
        shop.services.insert(name("web"), web);
        shop.workers = [(name("migrate"), worker()), (name("seed"), worker())].into();
        shop.hooks.before_deploy = vec![name("migrate")];
        shop.volumes.insert(name("data"), VolumeSpec::default());
        let host = VolumeSpec { host_path: Some("/var/host".to_owned()), ..VolumeSpec::default() };
        shop.volumes.insert(name("host"), host);
        shop
    }

    #[test]
    fn what_would_get_into_the_apps_way_is_left_out_and_told() {
        let (made, words) = preview(&shop(), Limits::default());
        let web = &made.services["web"];
        assert_eq!((web.replicas, web.ports[0].host, web.ports[0].container), (1, 0, 80));
        let read_only: Vec<bool> = web.workload.volumes.iter().map(|mount| mount.read_only).collect();
        assert_eq!(read_only, [false, true, true], "volumes are its own, the host's directories are not");
        assert_eq!(made.workers.keys().map(Name::as_str).collect::<Vec<_>>(), ["seed"], "a hook is no worker of it");
        assert_eq!(
            words,
            [
                "its hooks do not run: migrate",
                "web publishes port 80 on one that is chosen, not on 8080",
                "web has 1 instance, not 3",
                "web cannot write to /host, a directory of the host that has no clone",
                "web cannot write to /srv, a directory of the host that has no clone",
            ]
        );
    }

    #[test]
    fn the_smaller_limit_holds() {
        let mut shop = shop();
        shop.services.get_mut("web").unwrap().workload.limits.memory = Some(Bytes(64 << 20));
        let (made, _) = preview(&shop, Limits { cpu: Some(MilliCpu(500)), memory: Some(Bytes(128 << 20)) });
        let limits = &made.services["web"].workload.limits;
        assert_eq!((limits.cpu, limits.memory), (Some(MilliCpu(500)), Some(Bytes(64 << 20))));
        assert_eq!(made.workers["seed"].workload.limits.memory, Some(Bytes(128 << 20)));
    }

    #[test]
    fn a_name_is_a_label_of_a_host() {
        for good in ["fix", "pr-17", "2"] {
            assert_eq!(name_refused(good), None, "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "ä"] {
            assert!(name_refused(bad).is_some(), "{bad}");
        }
    }
}
