//! Names that the kernel answers, in the form it compares them in.
//!
//! The node's server limits how much one client asks, because its threads are everybody's. The programs need no such
//! limit: an answer is made within the asker's own system call, on its time, and costs less than handing the question up.
//! Who floods the kernel with questions slows itself, as by any other packets it sends.
//!
//! What does not fit is left out, never refused: the server knows it too.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use aya::Ebpf;
use aya::maps::{HashMap, MapData};

use crate::BpfError;
use crate::services::take;

/// `NAME_MAX`, `ADDRESSES_MAX` and the size of `names` in `programs/maps.h`.
const NAME_MAX: usize = 64;
const ADDRESSES_MAX: usize = 8;
const NAMES_MAX: usize = 16384;
/// Of `views`.
const VIEWS_MAX: usize = 4096;

/// A group of containers that see the same names: an app's. 0 is nobody's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct View(pub u32);

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who is answered so; `None`: everybody who has no answer of a view of his own.
    pub view: Option<View>,
    /// Labels with dots between them, without one at the end.
    pub name: String,
    pub ttl_s: u32,
    /// Of a family that has none, or over eight, the node's server answers; and all of a name over 64 bytes.
    pub addresses: Vec<IpAddr>,
}

/// `struct name_key` and `struct name`.
type Key = [u8; 8 + NAME_MAX];
type Value = [u8; 8 + ADDRESSES_MAX * (4 + 16)];

pub(crate) struct Names {
    names: Told<Key, Value>,
    views: Told<[u8; 4], u32>,
}

/// A map, and what this process knows it to hold: nothing before the first change.
struct Told<K, V> {
    map: HashMap<MapData, K, V>,
    name: &'static str,
    holds: Option<BTreeMap<K, V>>,
}

impl Names {
    pub(crate) fn open(bpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self { names: Told::open(bpf, "names")?, views: Told::open(bpf, "views")? })
    }

    pub(crate) fn set(&mut self, answers: &[Answer], views: &BTreeMap<Ipv4Addr, View>) -> Result<(), BpfError> {
        let mut wanted = BTreeMap::new();
        for answer in answers {
            let wire = to_wire(&answer.name).ok_or_else(|| BpfError::Name(answer.name.clone()))?;
            if wire.len() <= NAME_MAX && wanted.len() < NAMES_MAX {
                wanted.insert(key(answer.view, &wire), value(answer));
            }
        }
        let views = views.iter().take(VIEWS_MAX).map(|(address, view)| (address.octets(), view.0)).collect();
        self.names.hold(wanted)?;
        self.views.hold(views)
    }
}

impl<K: aya::Pod + Ord, V: aya::Pod + PartialEq> Told<K, V> {
    fn open(bpf: &mut Ebpf, name: &'static str) -> Result<Self, BpfError> {
        Ok(Self { map: take(bpf, name)?, name, holds: None })
    }

    /// Makes the map hold exactly `wanted`. What goes makes room first: nothing refers to it, and who asks for it meanwhile
    /// is answered by the server.
    fn hold(&mut self, wanted: BTreeMap<K, V>) -> Result<(), BpfError> {
        let failed = BpfError::map(self.name);
        let held = match self.holds.take() {
            Some(held) => held,
            None => self.map.iter().collect::<Result<_, _>>().map_err(&failed)?,
        };
        for key in held.keys().filter(|key| !wanted.contains_key(key)) {
            self.map.remove(key).map_err(&failed)?;
        }
        for (key, value) in wanted.iter().filter(|(key, value)| held.get(*key) != Some(*value)) {
            self.map.insert(key, value, 0).map_err(&failed)?;
        }
        self.holds = Some(wanted);
        Ok(())
    }
}

fn key(view: Option<View>, wire: &[u8]) -> Key {
    let mut key = [0; 8 + NAME_MAX];
    key[..4].copy_from_slice(&view.unwrap_or_default().0.to_ne_bytes());
    key[8..8 + wire.len()].copy_from_slice(wire);
    key
}

fn value(answer: &Answer) -> Value {
    let mut value = [0; size_of::<Value>()];
    value[..4].copy_from_slice(&answer.ttl_s.to_be_bytes());
    let (four, six): (Vec<IpAddr>, Vec<IpAddr>) = answer.addresses.iter().copied().partition(IpAddr::is_ipv4);
    for (family, addresses) in [four, six].into_iter().enumerate() {
        if addresses.len() > ADDRESSES_MAX {
            continue;
        }
        value[4 + family] = addresses.len() as u8;
        for (at, address) in addresses.into_iter().enumerate() {
            match address {
                IpAddr::V4(ip) => value[8 + 4 * at..][..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => value[8 + 4 * ADDRESSES_MAX + 16 * at..][..16].copy_from_slice(&ip.octets()),
            }
        }
    }
    value
}

/// In wire form and lower case; `None` when it is no name.
fn to_wire(name: &str) -> Option<Vec<u8>> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        wire.push(length);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    (wire.len() <= 255).then_some(wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_lower_case_and_bad_ones_refused() {
        assert_eq!(to_wire("Web.Shop").unwrap(), b"\x03web\x04shop\0");
        for bad in ["", "a..b", ".a", "a.", &"x".repeat(64), &["a"; 128].join(".")] {
            assert!(to_wire(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_family_with_too_many_addresses_is_left_to_the_server() {
        let addresses = (0..9).map(|last| IpAddr::from([10, 0, 0, last])).chain(["fd00::1".parse().unwrap()]).collect();
        let value = value(&Answer { view: None, name: "web".into(), ttl_s: 5, addresses });
        assert_eq!((value[..6].to_vec(), value[40..42].to_vec()), (vec![0, 0, 0, 5, 0, 1], vec![0xfd, 0]));
    }
}
