//! Which virtual address a service has, as a number: nodes make addresses of it, each in its own subnet.
//!
//! The number is given with the release that brings the service and stays while the app has it. One that was given up
//! rests, by the time of the commands: somebody may still believe the old owner is there. It refuses to give one that has
//! not rested, even where there is no other; of those that have, the one given up first is given first, and only after
//! numbers that nobody had of late.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_base::{Name, Timestamp};
use coppice_spec::AppSpec;
use serde::{Deserialize, Serialize};

use crate::{Rejection, State};

/// Services that can have one: the upper half of a /16 less its first and last address.
pub const SERVICE_ADDRESSES: u32 = 32_766;

/// How long, in milliseconds, a number that was given up is nobody's: as long as containers' addresses are. The name
/// server's answers are kept for at most 5 s (`TTL_MAX_S` of coppice-dns), and programs hold on to theirs for a minute more;
/// the node's network is built only where both rest equally long.
pub const SERVICE_ADDRESS_REST_MS: u64 = 65_000;

/// Numbers given up that are remembered when they have rested, to be the last that are given again.
const REMEMBERED: usize = 64;

/// From 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServiceAddress(pub u32);

/// A number that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Form")]
pub(crate) struct Resting {
    address: ServiceAddress,
    /// `None`: the program that wrote it down did not keep the time; it has not rested.
    since: Option<Timestamp>,
}

/// Snapshots hold bare numbers where they were written before there were times.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Number(ServiceAddress),
    Since { address: ServiceAddress, since: Option<Timestamp> },
}

impl From<Form> for Resting {
    fn from(form: Form) -> Self {
        match form {
            Form::Number(address) => Self { address, since: None },
            Form::Since { address, since } => Self { address, since },
        }
    }
}

impl Resting {
    /// Milliseconds from `at` until it has rested; 0 when it has.
    fn left_ms(&self, at: Timestamp) -> u64 {
        SERVICE_ADDRESS_REST_MS.saturating_sub(self.since.map_or(0, |since| at.0.saturating_sub(since.0)))
    }
}

impl State {
    /// Numbers for the services of `spec` that are to have one and have none yet, at the command's time.
    pub(crate) fn addresses_for(
        &self,
        spec: &AppSpec,
        at: Timestamp,
    ) -> Result<Vec<(Name, ServiceAddress)>, Rejection> {
        let has = self.app(spec.name.as_str()).map(|app| &app.addresses);
        let wanting = spec
            .services
            .iter()
            .filter(|(name, service)| !service.headless && has.is_none_or(|has| !has.contains_key(name.as_str())));
        let taken: BTreeSet<u32> = self.apps().flat_map(|(_, app)| app.addresses.values()).map(|a| a.0).collect();
        let known: BTreeSet<u32> = self.resting.iter().map(|resting| resting.address.0).collect();
        let mut fresh = (0..SERVICE_ADDRESSES).filter(|number| !taken.contains(number) && !known.contains(number));
        let tired = || self.resting.iter().filter(|resting| !taken.contains(&resting.address.0));
        let mut rested = tired().filter(|resting| resting.left_ms(at) == 0).map(|resting| resting.address.0);
        let none = || match tired().map(|resting| resting.left_ms(at)).filter(|left| *left > 0).min() {
            Some(left) => Rejection::ServiceAddressesRest { wait_s: left.div_ceil(1000) },
            None => Rejection::NoServiceAddress,
        };
        wanting
            .map(|(name, _)| {
                let number = fresh.next().or_else(|| rested.next()).ok_or_else(none)?;
                Ok((name.clone(), ServiceAddress(number)))
            })
            .collect()
    }

    /// Those of services that are in none of `specs`, or headless in all of them, are given up at the command's time.
    pub(crate) fn give_up_addresses<'a>(
        &mut self,
        app: &Name,
        specs: impl IntoIterator<Item = &'a AppSpec> + Clone,
        at: Timestamp,
    ) {
        // Of an unknown time, or of one that is yet to come because the clock was set back: they rest from now on.
        for resting in &mut self.resting {
            resting.since = Some(resting.since.map_or(at, |since| since.min(at)));
        }
        let Some(app) = self.apps.get_mut(app.as_str()) else { return };
        let stays = |name: &Name| {
            let mut services = specs.clone().into_iter().filter_map(|spec| spec.services.get(name.as_str()));
            services.any(|service| !service.headless)
        };
        let gone: Vec<Name> = app.addresses.keys().filter(|name| !stays(name)).cloned().collect();
        for name in gone {
            if let Some(address) = Arc::make_mut(app).addresses.remove(&name) {
                self.resting.retain(|resting| resting.address != address);
                self.resting.push_back(Resting { address, since: Some(at) });
            }
        }
        while self.resting.len() > REMEMBERED && self.resting.front().is_some_and(|oldest| oldest.left_ms(at) == 0) {
            self.resting.pop_front();
        }
    }
}
