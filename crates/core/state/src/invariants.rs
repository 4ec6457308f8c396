//! What holds of every state, whichever commands led to it.

use std::collections::BTreeSet;

use coppice_base::Name;

use crate::{App, RELEASES_KEPT, SEEN_KEPT, SERVICE_ADDRESSES, State, UID_RANGES, Verdict};

impl State {
    /// Each broken invariant as one sentence; empty for every state that commands can reach. Run after every
    /// apply in debug builds and on every state read from a snapshot.
    pub fn check(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut releases = BTreeSet::new();
        for (name, app) in &self.apps {
            check_app(name, app, &mut broken);
            if self.uid_ranges.get(name) != Some(&app.uid_range) {
                broken.push(format!("app {name} uses uid range {} which is not its own", app.uid_range.0));
            }
            for release in &app.releases {
                if !releases.insert(release.id) {
                    broken.push(format!("release id {} is used twice", release.id));
                }
            }
        }
        let mut ranges = BTreeSet::new();
        for (name, range) in &self.uid_ranges {
            if range.0 >= UID_RANGES {
                broken.push(format!("uid range {} of {name} is out of bounds", range.0));
            }
            if !ranges.insert(range) {
                broken.push(format!("uid range {} of {name} is another app's too", range.0));
            }
        }
        let mut addresses = BTreeSet::new();
        for (name, app) in &self.apps {
            for (service, address) in &app.addresses {
                if address.0 >= SERVICE_ADDRESSES || !addresses.insert(address) {
                    broken.push(format!("address {} of {service} of app {name} is another's, or none", address.0));
                }
                if !app.releases.is_empty()
                    && !app.specs().any(|s| s.services.get(service).is_some_and(|s| !s.headless))
                {
                    broken.push(format!("{service} of app {name} has a virtual address and is to have none"));
                }
            }
        }
        self.check_secrets(&mut broken);
        let mut node_names = BTreeSet::new();
        for (id, node) in &self.nodes {
            if self.removed_nodes.contains(id) {
                broken.push(format!("node {id} is both there and removed"));
            }
            if !node_names.insert(&node.name) {
                broken.push(format!("node name {} is used twice", node.name));
            }
        }
        if self.seen.len() > SEEN_KEPT {
            broken.push(format!("{} command ids are kept, more than {SEEN_KEPT}", self.seen.len()));
        }
        if self.seen.iter().map(|seen| seen.id).collect::<BTreeSet<_>>().len() != self.seen.len() {
            broken.push("a command id was applied twice".to_owned());
        }
        let mut revisions = self.seen.iter().map(|seen| seen.applied.revision).rev();
        if revisions.next().unwrap_or(self.revision) != self.revision {
            broken.push("the last applied command does not carry the state's revision".to_owned());
        }
        broken
    }
}

/// What does not hold of one app, seen by itself.
pub(crate) fn check_app(name: &Name, app: &App, broken: &mut Vec<String>) {
    if app.releases.len() > RELEASES_KEPT {
        broken.push(format!("app {name} keeps {} releases, more than {RELEASES_KEPT}", app.releases.len()));
    }
    let Some((newest, earlier)) =
        app.releases.split_last().filter(|_| app.releases.iter().any(|r| !r.is_rolled_back()))
    else {
        broken.push(format!("app {name} has no release"));
        return;
    };
    for release in &app.releases {
        if release.spec.name != *name {
            broken.push(format!("release {} of app {name} is of app {}", release.id, release.spec.name));
        }
        for rule in release.spec.check() {
            broken.push(format!("release {} of app {name}: {rule}", release.id));
        }
        for workload in release.images.keys().filter(|w| release.spec.definition(w.as_str()).is_none()) {
            broken.push(format!("release {} of app {name} pins an image of {workload}, not defined", release.id));
        }
    }
    broken.extend(app.preview.iter().flat_map(|preview| preview.check(name)));
    if !app.releases.is_sorted_by(|a, b| a.number < b.number) {
        broken.push(format!("release numbers of app {name} do not go up"));
    }
    for release in earlier.iter().filter(|release| release.verdict.is_none()) {
        broken.push(format!("release {} of app {name} was left without a verdict", release.id));
    }
    if newest.verdict == Some(Verdict::Superseded) {
        broken.push(format!("the newest release of app {name} is superseded"));
    }
    let current = app.current();
    if let Some(from) = current.from.filter(|_| current.rollout.is_some() && current.verdict.is_none())
        && app.release(from).is_none()
    {
        broken.push(format!("app {name} is being rolled out from release {from}, which is not kept"));
    }
    for workload in app.stopped.iter().chain(app.restarts.keys()) {
        if current.spec.definition(workload.as_str()).is_none() {
            broken.push(format!("app {name} stops or restarts {workload}, which is not defined"));
        }
    }
    for service in app.scale.keys().filter(|service| !current.spec.services.contains_key(service.as_str())) {
        broken.push(format!("app {name} scales {service}, which is not a service"));
    }
}
