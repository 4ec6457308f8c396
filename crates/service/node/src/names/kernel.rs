//! What the kernel is told of the names, so that it answers questions for addresses as the name server would, without
//! waking it.
//!
//! Both are told at once, from the same zone, so they say the same: ready instances only, the same addresses, kept for as
//! long. What the kernel does not hold (other types, names that are not there or have too many addresses, questions of an
//! odd shape or over TCP) goes up to the server.
//!
//! While there is no daemon, the kernel goes on answering what it was told last, as hosts files do: most of it is still
//! true, instances that die are not restarted meanwhile either, and answers are kept for seconds only. It refuses to answer
//! where the server could not be started: somebody else answers there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use coppice_bpf::{Answer, View};
use coppice_dns::Zone;

/// Names and, by address, who sees those of an app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelNames {
    pub(crate) answers: Vec<Answer>,
    pub(crate) views: BTreeMap<Ipv4Addr, View>,
}

impl KernelNames {
    pub(crate) fn of(zone: &Zone) -> Self {
        let views = views(zone.clients().map(|(_, app)| app));
        let ttl_s = zone.ttl_s();
        let answer = |entry: coppice_dns::Entry| {
            let view = match entry.app {
                Some(app) => Some(*views.get(&app)?),
                None => None,
            };
            Some(Answer { view, name: entry.name, ttl_s, addresses: entry.addresses })
        };
        let mut answers: Vec<Answer> = zone.entries().into_iter().filter_map(answer).collect();
        // Where there is no room for all, the same ones are left out each time.
        answers.sort_unstable_by(|a, b| (a.name.len(), &a.name, a.view).cmp(&(b.name.len(), &b.name, b.view)));
        // A container's IPv6 address tells its IPv4 one: the programs know it by that.
        let client = |(address, app): (IpAddr, String)| match address {
            IpAddr::V4(address) => Some((address, *views.get(&app)?)),
            IpAddr::V6(_) => None,
        };
        Self { answers, views: zone.clients().filter_map(client).collect() }
    }
}

/// A number for each app, always the same one: a daemon that returns changes the kernel's names one by one, and none of
/// them may come to be seen by another app meanwhile. Apps that would share a number have none, and ask the server.
fn views(apps: impl Iterator<Item = String>) -> BTreeMap<String, View> {
    let mut by_number: BTreeMap<u32, Option<String>> = BTreeMap::new();
    for app in apps {
        let number = number(&app);
        let only = by_number.entry(number).or_insert_with(|| Some(app.clone()));
        if only.as_ref() != Some(&app) {
            *only = None;
        }
    }
    by_number.into_iter().filter_map(|(number, app)| Some((app?, View(number)))).collect()
}

/// FNV-1a; 0 is nobody's view.
fn number(app: &str) -> u32 {
    let hash = app.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

#[cfg(test)]
mod tests {
    use coppice_base::Name;
    use coppice_dns::{App, Instance, Service, ZoneSpec};

    use super::*;

    fn app(name: &str, at: u8) -> App {
        let instance = |index: u32| Instance {
            index,
            addresses: vec![[10, 1, at, 10 + index as u8].into(), format!("fd00::{at}:{index}").parse().unwrap()],
            ready: index == 0,
        };
        let web = Service {
            name: Name::new("web").unwrap(),
            virtual_addresses: Vec::new(),
            headless: false,
            instances: (0..2).map(instance).collect(),
            ports: Vec::new(),
        };
        App { name: Name::new(name).unwrap(), services: vec![web], clients: Vec::new() }
    }

    fn names(apps: &[&str]) -> KernelNames {
        let apps = apps.iter().zip(1..).map(|(name, at)| app(name, at)).collect();
        KernelNames::of(&Zone::new(&ZoneSpec { apps, ttl_s: 3, ..ZoneSpec::default() }).unwrap())
    }

    #[test]
    fn an_app_keeps_its_number_whatever_other_apps_there_are() {
        let (alone, beside) = (names(&["shop"]), names(&["a", "shop", "z"]));
        let view = alone.views[&Ipv4Addr::new(10, 1, 1, 10)];
        assert_eq!(beside.views[&Ipv4Addr::new(10, 1, 2, 10)], view);
        assert_eq!(beside.views[&Ipv4Addr::new(10, 1, 2, 11)], view, "who is not ready asks, too");
        let own: Vec<&Answer> = beside.answers.iter().filter(|answer| answer.view == Some(view)).collect();
        assert_eq!(own.len(), 1);
        let (v4, v6): (IpAddr, IpAddr) = ([10, 1, 2, 10].into(), "fd00::2:0".parse().unwrap());
        assert_eq!((own[0].name.as_str(), own[0].ttl_s, &own[0].addresses), ("web", 3, &vec![v4, v6]));
    }

    #[test]
    fn apps_that_would_share_a_number_have_none() {
        // Two texts of one FNV-1a hash.
        let (one, other) = ("costarring", "liquid");
        assert_eq!(number(one), number(other));
        let both = names(&[one, other, "shop"]);
        assert_eq!(both.views.values().collect::<Vec<_>>(), [&View(number("shop")), &View(number("shop"))]);
        assert_eq!(both.answers.iter().filter(|answer| answer.view.is_some()).count(), 1);
        assert!(both.answers.iter().any(|answer| answer.name == "web.liquid"), "what is everybody's stays");
    }
}
