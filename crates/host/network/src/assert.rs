//! Rules that are as they were made: seen after a change of any program's, and restored. And what others' rules close.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use crate::Word;
use crate::address::LinkName;
use crate::bridge::Bridge;
use crate::elements;
use crate::error::{NetworkError, cannot};
use crate::listing::{self, Chain};
use crate::netlink::{ACK, Batch, DUMP, Socket, attributes};
use crate::nft;
use crate::policy::Identity;
use crate::survey::RulesNow;

/// What [`Bridge::assert_rules`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asserted {
    Intact,
    /// They were missing or changed, and are as they should be again.
    Restored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Counts up with every change of any table.
    generation: u32,
    fingerprint: Fingerprint,
}

/// How often a pair was denied. The kernel counts anew whenever the rules are made anew.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    before: u64,
    last: u64,
}

impl Counted {
    /// The sum, now that the kernel has counted `now`.
    pub(crate) fn see(&mut self, now: u64) -> u64 {
        if now < self.last {
            self.before += self.last;
        }
        self.last = now;
        self.before + now
    }

    /// The kernel's count is `now` for another reason than packets: elements were changed.
    pub(crate) fn rebase(&mut self, now: u64) {
        self.before = (self.before + self.last).saturating_sub(now);
        self.last = now;
    }
}

/// What the kernel lists of the table, order apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    chains: usize,
    rules: usize,
    elements: usize,
    sum: u64,
}

impl Bridge {
    /// Sees whether the rules are as they were made, and makes them again when not, as after `nft flush ruleset`.
    /// Cheap when no rule of any program changed since the last call.
    pub fn assert_rules(&mut self) -> Result<Asserted, NetworkError> {
        let read = |errno: Errno| cannot("read the network rules")(errno);
        if self.follow_hooks()? {
            self.install()?;
        }
        let generation = listing::generation(&mut self.netfilter).map_err(read)?;
        if self.known.is_some_and(|known| known.generation == generation) {
            return Ok(Asserted::Intact);
        }
        let fingerprint = self.fingerprint().map_err(read)?;
        let intact = match self.known {
            Some(known) => fingerprint == Some(known.fingerprint),
            // Not compared since the last change of ours: then the numbers must be right.
            None => fingerprint.is_some_and(|found| self.has_all(&found)),
        };
        if intact {
            self.known = fingerprint.map(|fingerprint| Known { generation, fingerprint });
            return Ok(Asserted::Intact);
        }
        self.install()?;
        let generation = listing::generation(&mut self.netfilter).map_err(read)?;
        let fingerprint = self.fingerprint().map_err(read)?.filter(|found| self.has_all(found));
        self.known = fingerprint.map(|fingerprint| Known { generation, fingerprint });
        Ok(Asserted::Restored)
    }

    /// How the rules are now, whatever was known of them. Restores nothing.
    pub(crate) fn compare_rules(&mut self) -> Result<RulesNow, Errno> {
        let Some(found) = self.fingerprint()? else { return Ok(RulesNow::Missing) };
        let intact = match self.known {
            Some(known) => known.fingerprint == found,
            None => self.has_all(&found),
        };
        Ok(if intact { RulesNow::Intact } else { RulesNow::Changed })
    }

    fn has_all(&self, found: &Fingerprint) -> bool {
        let slots: usize = self.services.values().map(Vec::len).sum();
        let policy = self.denials.count() + self.classes.len();
        let elements = elements::CONSTANT + elements::count_ports(&self.published) + slots + policy;
        (found.chains, found.rules, found.elements) == (self.made.chains, self.made.rules, elements)
    }

    /// Other programs' chains that drop what no rule of them accepts on the way through this machine, and what opens
    /// each for the bridge. An accept in our table does not end the evaluation of others.
    pub(crate) fn closed_forwarding(&mut self) -> Result<Vec<Word>, Errno> {
        let chains = listing::chains(&mut self.netfilter)?;
        Ok(closed(&chains, self.name()))
    }

    /// Packets that each denied pair was found for, since the elements are there.
    pub(crate) fn count_denied(&mut self) -> Result<BTreeMap<(Identity, Identity), u64>, Errno> {
        let mut counts = BTreeMap::new();
        for set in elements::COUNTING {
            let policy = &self.policy;
            let mut batch = Batch::new();
            batch.message(nft::GET_ELEMENT, DUMP, &nft::INET).text(1, &self.table).text(2, set);
            let asked = self.netfilter.ask(&mut batch, |answer| {
                let lists = attributes(answer.body.get(4..).unwrap_or_default()).filter(|(kind, _)| *kind == 3);
                for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
                    let inside =
                        |bytes, wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
                    let key = inside(element, 1).and_then(|key| inside(key, 1));
                    // An expression's data, and a counter's packets in it.
                    let packets = inside(element, 7).and_then(|e| inside(e, 2)).and_then(|data| inside(data, 2));
                    let packets = packets.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
                    if let (Some(pair), Some(packets)) =
                        (key.and_then(|key| elements::pair_of(policy, set, key)), packets)
                    {
                        *counts.entry(pair).or_default() += packets;
                    }
                }
            });
            match asked {
                Ok(()) | Err(Errno::NOENT) => {} // flushed, and about to be restored
                Err(errno) => return Err(errno),
            }
        }
        Ok(counts)
    }

    /// `None` when there is no such table. A change by another program while it is read is seen as a difference.
    fn fingerprint(&mut self) -> Result<Option<Fingerprint>, Errno> {
        let mut found = Fingerprint { chains: 0, rules: 0, elements: 0, sum: 0 };
        let table = self.table.clone();
        let hash = |bytes: &[u8]| {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            hasher.finish()
        };
        for family in if self.hooked { &[nft::INET, nft::BRIDGE][..] } else { &[nft::INET] } {
            let ask = |socket: &mut Socket, kind: u16, flags: u16, set: Option<&str>, each: &mut dyn FnMut(&[u8])| {
                let mut batch = Batch::new();
                batch.message(kind, flags, family).text(1, &table);
                if let Some(set) = set {
                    batch.text(2, set);
                }
                socket.ask(&mut batch, |answer| {
                    let body = answer.body.get(4..).unwrap_or_default();
                    // Chains of other tables come too.
                    let of = attributes(body).find(|(kind, _)| *kind == 1).map(|(_, name)| name);
                    if of.is_some_and(|name| name.strip_suffix(b"\0") == Some(table.as_bytes())) {
                        each(body);
                    }
                })
            };
            match ask(&mut self.netfilter, nft::GET_TABLE, ACK, None, &mut |body| {
                found.sum = found.sum.wrapping_add(hash(body));
            }) {
                Ok(()) => {}
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => return Err(errno),
            }
            ask(&mut self.netfilter, nft::GET_CHAIN, DUMP, None, &mut |body| {
                found.chains += 1;
                found.sum = found.sum.wrapping_add(hash(body));
            })?;
            ask(&mut self.netfilter, nft::GET_RULE, DUMP, None, &mut |body| {
                found.rules += 1;
                found.sum = found.sum.wrapping_add(hash(body));
            })?;
            let mut sets = Vec::new();
            ask(&mut self.netfilter, nft::GET_SET, DUMP, None, &mut |body| {
                let name = attributes(body).find(|(kind, _)| *kind == 2).map(|(_, name)| name);
                sets.extend(name.map(|name| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
            })?;
            for set in sets {
                let listed = ask(&mut self.netfilter, nft::GET_ELEMENT, DUMP, Some(&set), &mut |body| {
                    let lists = attributes(body).filter(|(kind, _)| *kind == 3);
                    for (_, element) in lists.flat_map(|(_, list)| attributes(list)) {
                        found.elements += 1;
                        // Key, value and flags; not what it has counted.
                        let fixed = attributes(element).filter(|(kind, _)| (1..=3).contains(kind));
                        fixed.for_each(|(_, value)| found.sum = found.sum.wrapping_add(hash(value)));
                    }
                });
                if let Err(errno) = listed
                    && errno != Errno::NOENT
                {
                    return Err(errno);
                }
            }
        }
        Ok(Some(found))
    }

    /// Hears of every change of rules in this network namespace, this program's own included (but see
    /// [`RulesWatch::overlook`]); then it is time for [`Self::assert_rules`].
    pub fn watch() -> Result<RulesWatch, NetworkError> {
        let socket = Socket::open(Some(rustix::net::netlink::NETFILTER), nft::GROUP)
            .map_err(cannot("listen for changes of the network rules"))?;
        Ok(RulesWatch { socket, overlooked: None })
    }
}

/// A descriptor that is readable after a change of rules.
#[derive(Debug)]
pub struct RulesWatch {
    socket: Socket,
    overlooked: Option<u32>,
}

impl RulesWatch {
    /// Says nothing of what `bridge` itself does: it knows.
    pub fn overlook(&mut self, bridge: &Bridge) -> Result<(), NetworkError> {
        let port = bridge.netfilter.port().map_err(cannot("tell its own changes of the network rules from others'"))?;
        self.overlooked = Some(port).filter(|port| *port != 0);
        Ok(())
    }

    /// Takes all notices that came; true when there were any. Does not wait.
    pub fn changed(&mut self) -> Result<bool, NetworkError> {
        self.socket.drain(self.overlooked).map_err(cannot("read changes of the network rules"))
    }
}

impl AsFd for RulesWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The sentences about chains that forward only what they know.
fn closed(chains: &[Chain], bridge: &LinkName) -> Vec<Word> {
    const FAMILIES: [u8; 3] = [1, 2, 10]; // inet, ip and ip6
    const FORWARD: u32 = nft::Hook::Forward as u32;
    let has = |name: &str| chains.iter().any(|chain| chain.name == name);
    let mut words: Vec<Word> = Vec::new();
    for chain in chains.iter().filter(|chain| FAMILIES.contains(&chain.family) && chain.hook == Some(FORWARD)) {
        let Chain { family, table, name, .. } = chain;
        // Firewalld's accepts by default and refuses by its last rule.
        let firewalld = table == "firewalld" && name == "filter_FORWARD";
        if !chain.drops && !firewalld {
            continue;
        }
        let iptables = if *family == 10 { "ip6tables" } else { "iptables" };
        let by_iptables = table == "filter" && name == "FORWARD" && *family != 1;
        let command = if firewalld {
            format!("firewall-cmd --permanent --zone=trusted --add-interface={bridge} && firewall-cmd --reload")
        } else if by_iptables && has("ufw-user-forward") {
            format!("ufw route allow in on {bridge} && ufw route allow out on {bridge}")
        } else if by_iptables {
            let docker = chains.iter().any(|other| other.name == "DOCKER-USER" && other.family == *family);
            let own = if docker { "DOCKER-USER" } else { "FORWARD" };
            format!("{iptables} -I {own} -i {bridge} -j ACCEPT && {iptables} -I {own} -o {bridge} -j ACCEPT")
        } else {
            let family = match family {
                1 => "inet",
                2 => "ip",
                _ => "ip6",
            };
            let rule = |which: &str| format!("nft insert rule {family} {table} {name} {which} {bridge} accept");
            format!("{} && {}", rule("iifname"), rule("oifname"))
        };
        let word = Word(format!(
            "Chain {name} of table {table} forwards only what it knows (docker and firewalls do so): containers reach \
             each other and the outside, and published ports are reached from it, once `{command}` was run."
        ));
        // One firewall's command may open it for both families.
        if !words.iter().any(|said| said.0.contains(&command)) {
            words.push(word);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_over_rules_that_are_made_anew() {
        let mut counted = Counted::default();
        assert_eq!([3, 5, 5, 1, 2, 0].map(|now| counted.see(now)), [3, 5, 5, 6, 7, 7]);
        assert_eq!(counted.see(4), 11);
        counted.rebase(1);
        assert_eq!([1, 2].map(|now| counted.see(now)), [11, 12]);
    }
}
