//! What a zone answers with addresses, as a list: for who gives the server's answers in its place.
//!
//! Whoever answers by this list, an asker's own entries before everybody's, says what the server would. It refuses to tell
//! what is not there, and records of other types: only the server answers these.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::name;
use crate::zone::Zone;

/// One name with addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The app whose [clients](Zone::clients) alone are answered so; `None`: everybody is.
    pub app: Option<String>,
    /// In lower case, labels with dots between them, without one at the end.
    pub name: String,
    /// Of both families, in the zone's order.
    pub addresses: Vec<IpAddr>,
}

impl Zone {
    /// Every name that is answered with addresses, in no order. No name is in it both for everybody and for an app.
    pub fn entries(&self) -> Vec<Entry> {
        let apps: HashSet<&[u8]> = self.clients.values().map(|app| &**app).collect();
        let mut entries = Vec::new();
        for (wire, node) in &self.nodes {
            let addresses = node.addresses();
            if addresses.is_empty() {
                continue;
            }
            let mut push = |app: Option<&[u8]>, name: &[u8]| {
                let (app, name) = (app.map(name::to_text), name::to_text(name));
                entries.push(Entry { app, name, addresses: addresses.clone() });
            };
            push(None, wire);
            let Some(at) = name::offset_of(wire, &self.domain) else { continue };
            self.own_names(&[&wire[..at], &[0]].concat(), &apps, &mut push);
        }
        entries
    }

    /// What only an app's own clients ask for and mean `short`, a name without the domain: `web` for `web.shop`; and
    /// `web.my.shop` where the app is called `my.shop`, which looks like somebody's domain.
    fn own_names(&self, short: &[u8], apps: &HashSet<&[u8]>, push: &mut impl FnMut(Option<&[u8]>, &[u8])) {
        let mut rest = short;
        while let Some(app) = name::parent(rest) {
            let at = short.len() - app.len();
            rest = app;
            if !apps.contains(app) {
                continue;
            }
            let first = [&short[..at], &[0]].concat();
            if name::is_single_label(&first) && !self.nodes.contains_key(&*first) {
                push(Some(app), &first);
            }
            let is_elsewhere = self.nodes.contains_key(short)
                || name::offset_of(short, &self.domain).is_some()
                || name::parse_reverse(short).is_some();
            if name::labels(app) > 1 && !is_elsewhere {
                push(Some(app), short);
            }
        }
    }

    /// Addresses that belong to an app, and its name.
    pub fn clients(&self) -> impl Iterator<Item = (IpAddr, String)> {
        self.clients.iter().map(|(address, app)| (*address, name::to_text(app)))
    }

    /// For how long any answer may be kept, in seconds.
    pub fn ttl_s(&self) -> u32 {
        self.ttl_s
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use coppice_base::Name;

    use super::*;
    use crate::answer::{Verdict, answer};
    use crate::message::Transport;
    use crate::query::{Key, parse};
    use crate::zone::{App, Instance, Service, ZoneSpec};

    fn app(name: &str, subnet: u8, services: &[(&str, u8)]) -> App {
        let service = |(at, (name, instances)): (usize, &(&str, u8))| Service {
            name: Name::new(*name).unwrap(),
            virtual_addresses: Vec::new(),
            headless: false,
            instances: (0..*instances)
                .map(|index| Instance {
                    index: index.into(),
                    addresses: vec![
                        [10, subnet, at as u8, index].into(),
                        format!("fd00::{subnet}:{at}:{index}").parse().unwrap(),
                    ],
                    ready: index != 1,
                })
                .collect(),
            ports: Vec::new(),
        };
        App {
            name: Name::new(name).unwrap(),
            services: services.iter().enumerate().map(service).collect(),
            clients: vec![[10, subnet, 255, 255].into()],
        }
    }

    fn zone() -> Zone {
        let apps = vec![
            app("shop", 1, &[("web", 3), ("db", 1), ("localhost", 1), ("away", 0)]),
            app("my.shop", 2, &[("web", 1), ("api", 1)]),
            app("x", 3, &[("web", 1), ("a.my", 1)]),
            app("10.in-addr.arpa", 4, &[("web", 1)]),
            app("coppice.internal", 5, &[("web", 1)]),
        ];
        Zone::new(&ZoneSpec { apps, servers: vec![[10, 0, 0, 1].into()], ..ZoneSpec::default() }).unwrap()
    }

    /// The addresses that the server itself says, for both families.
    fn answered(zone: &Zone, name: &str, client: IpAddr) -> BTreeSet<IpAddr> {
        let wire = name::to_wire(name).unwrap();
        let mut all = BTreeSet::new();
        for kind in [1_u8, 28] {
            let packet = [&[0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], &wire[..], &[0, kind, 0, 1]].concat();
            let (mut key, mut out) = (Key::new(), Vec::new());
            let query = parse(&packet, &mut key).unwrap();
            let asked = (&query, &packet[..], &key);
            if answer(zone, asked, (client, Transport::Tcp), 0, &mut out) == Verdict::Answered {
                let message = hickory_proto::op::Message::from_vec(&out).unwrap();
                all.extend(message.answers.iter().filter_map(|record| record.data.ip_addr()));
            }
        }
        all
    }

    #[test]
    fn the_list_says_of_every_name_and_to_every_asker_what_the_server_says() {
        let zone = zone();
        let entries = zone.entries();
        let names: BTreeSet<&str> =
            entries.iter().map(|entry| entry.name.as_str()).chain(["nothing", "shop", "web.y"]).collect();
        let apps: std::collections::BTreeMap<IpAddr, String> = zone.clients().collect();
        let stranger = IpAddr::from([10, 200, 0, 1]);
        let mut met = 0;
        for client in apps.keys().copied().chain([stranger]) {
            for name in &names {
                let of = |app: Option<&String>| {
                    entries.iter().find(|entry| entry.name == *name && entry.app.as_ref() == app)
                };
                let own = apps.get(&client).and_then(|app| of(Some(app)));
                let listed: Option<BTreeSet<IpAddr>> =
                    own.or_else(|| of(None)).map(|entry| entry.addresses.iter().copied().collect());
                met += usize::from(listed.is_some());
                assert_eq!(listed.unwrap_or_default(), answered(&zone, name, client), "{name} asked by {client}");
            }
        }
        assert!(met > 200, "{met}");
    }

    #[test]
    fn no_name_is_listed_twice_and_one_without_ready_instances_not_at_all() {
        let entries = zone().entries();
        let keys: BTreeSet<_> = entries.iter().map(|entry| (entry.app.clone(), entry.name.clone())).collect();
        assert_eq!(keys.len(), entries.len());
        for (app, name) in &keys {
            assert!(app.is_none() || !keys.contains(&(None, name.clone())), "{name} is everybody's and {app:?}'s");
        }
        assert!(!keys.iter().any(|(_, name)| name.starts_with("away") || name.starts_with("1.web")), "{keys:?}");
        assert!(keys.contains(&(Some("shop".into()), "web".into())));
        assert!(keys.contains(&(Some("my.shop".into()), "web.my.shop".into())));
    }
}
