//! Which virtual address a service has, as a number: nodes make addresses of it, each in its own subnet.
//!
//! The number is given with the release that brings the service and stays while the app has it. One that was given up is
//! the last to be given again, because somebody may still believe the old owner is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_base::Name;
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};

use crate::{Rejection, State};

/// Services that can have one: the upper half of a /16 less its first and last address.
pub const SERVICE_ADDRESSES: u32 = 32_766;

/// Numbers that were given up and are not given again before as many others were.
const RESTING: usize = 64;

/// From 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceAddress(pub u32);

impl State {
    /// Numbers for the services of `spec` that are to have one and have none yet.
    pub(crate) fn addresses_for(&self, spec: &AppSpec) -> Result<Vec<(Name, ServiceAddress)>, Rejection> {
        let has = self.app(spec.name.as_str()).map(|app| &app.addresses);
        let wanting = spec
            .services
            .iter()
            .filter(|(name, service)| !service.headless && has.is_none_or(|has| !has.contains_key(name.as_str())));
        let taken: BTreeSet<u32> = self.apps().flat_map(|(_, app)| app.addresses.values()).map(|a| a.0).collect();
        let free = |number: &u32| !taken.contains(number);
        let rested = |number: &u32| !self.resting.contains(&ServiceAddress(*number));
        let mut numbers = (0..SERVICE_ADDRESSES).filter(free).filter(rested);
        let mut tired = self.resting.iter().map(|resting| resting.0).filter(free);
        wanting
            .map(|(name, _)| {
                let number = numbers.next().or_else(|| tired.next()).ok_or(Rejection::NoServiceAddress)?;
                Ok((name.clone(), ServiceAddress(number)))
            })
            .collect()
    }

    /// Those of services that are in none of `specs`, or headless in all of them, are given up.
    pub(crate) fn give_up_addresses<'a>(&mut self, app: &Name, specs: impl IntoIterator<Item = &'a AppSpec> + Clone) {
        let Some(app) = self.apps.get_mut(app.as_str()) else { return };
        let stays = |name: &Name| {
            let mut services = specs.clone().into_iter().filter_map(|spec| spec.services.get(name.as_str()));
            services.any(|service| !service.headless)
        };
        let gone: Vec<Name> = app.addresses.keys().filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            if let Some(address) = Arc::make_mut(app).addresses.remove(&name) {
                self.resting.push_back(address);
            }
        }
        while self.resting.len() > RESTING {
            self.resting.pop_front();
        }
    }
}
