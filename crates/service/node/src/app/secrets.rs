//! Secrets of an app's instances: which versions each is to have, and that those which run get them.

use std::collections::BTreeMap;

use coppice_base::Name;
use coppice_state::Release;

use super::App;
use super::tree::revision;
use crate::container::Owner;
use crate::secrets::{pins, replacing_pins};

/// Versions of secrets that are part of what an instance is: with another one it is replaced.
pub(super) fn part_of_revision(release: &Release, workload: &Name) -> BTreeMap<Name, u64> {
    let definition = release.spec.definition(workload.as_str());
    definition.map(|definition| replacing_pins(definition, &release.secrets)).unwrap_or_default()
}

/// What an instance that starts now is given.
pub(super) fn pinned(release: &Release, workload: &Name) -> BTreeMap<Name, u64> {
    let definition = release.spec.definition(workload.as_str());
    definition.map(|definition| pins(definition, &release.secrets)).unwrap_or_default()
}

impl App {
    /// Gives instances that run, and that are not about to be replaced, the versions that the current release pins.
    pub(crate) async fn give_secrets(&self) {
        let wanted = self.wanted();
        if wanted.current().secrets.is_empty() {
            return;
        }
        let running: Vec<_> = self.slots().values().filter_map(|slot| slot.container.clone()).collect();
        for container in running {
            let Owner::App { workload, instance, .. } = &container.owner else { continue };
            let release = wanted.release_of_instance(workload.as_str(), instance);
            if container.read(|record| record.revision != revision(release, workload)) {
                continue;
            }
            if let Err(error) = self.containers.give_secrets(&container, &pinned(release, workload)).await {
                tracing::warn!(container = %container.name(), %error, "it runs on with the secrets it has");
                self.tell("fail", &format!("{} runs on with the secrets it has: {error}", container.name()));
            }
        }
    }
}
