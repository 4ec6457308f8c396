//! What the programs counted.

use std::net::Ipv4Addr;

use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap};
use coppice_network::Identity;
use serde::{Deserialize, Serialize};

use crate::BpfError;
use crate::services::take;

/// `NOBODY` of `programs/maps.h`.
const NOBODY: u32 = u32::MAX;

/// An end of counted traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// A container of the bridge, by its identity.
    Container(Identity),
    /// The host itself, and all beyond it.
    Beyond,
}

/// From one identity to another since the programs were first attached. Packets are as on a wire, bytes are those of
/// IP packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairTraffic {
    pub from: Peer,
    pub to: Peer,
    pub packets: u64,
    pub bytes: u64,
    /// Begun: TCP's, and whatever UDP flows a service was asked by.
    pub connections: u64,
    /// Packets that policy dropped; they are in none of the others.
    pub denied: u64,
}

/// To and from a service's virtual address, since it is this service's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTraffic {
    pub address: Ipv4Addr,
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    pub connections: u64,
}

/// All counters. The least recently used are forgotten where there are too many (4096 pairs, 512 services).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    pub pairs: Vec<PairTraffic>,
    pub services: Vec<ServiceTraffic>,
    /// Questions answered without the node's DNS server: for IPv4 addresses, for IPv6 addresses.
    pub names: [u64; 2],
}

pub(crate) struct Counters {
    pairs: PerCpuHashMap<MapData, [u32; 2], [u64; 4]>,
    services: PerCpuHashMap<MapData, [u8; 4], [u64; 5]>,
    answers: PerCpuArray<MapData, u64>,
}

impl Counters {
    pub(crate) fn open(bpf: &mut Ebpf) -> Result<Self, BpfError> {
        Ok(Self {
            pairs: take(bpf, "pair_traffic")?,
            services: take(bpf, "service_traffic")?,
            answers: take(bpf, "answers_given")?,
        })
    }

    /// Another service has this address now: what went to the one before is none of its.
    pub(crate) fn forget(&mut self, service: Ipv4Addr) -> Result<(), BpfError> {
        match self.services.remove(&service.octets()) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(BpfError::Map { map: "service_traffic", error }),
        }
    }

    pub(crate) fn read(&self) -> Result<Metrics, BpfError> {
        let mut metrics = Metrics::default();
        for entry in self.pairs.iter() {
            let ([from, to], values) = entry.map_err(BpfError::map("pair_traffic"))?;
            let [packets, bytes, connections, denied] = sum(values.iter());
            let pair = PairTraffic { from: peer(from), to: peer(to), packets, bytes, connections, denied };
            metrics.pairs.push(pair);
        }
        for entry in self.services.iter() {
            let (address, values) = entry.map_err(BpfError::map("service_traffic"))?;
            let [packets_in, bytes_in, packets_out, bytes_out, connections] = sum(values.iter());
            let address = address.into();
            metrics.services.push(ServiceTraffic {
                address,
                packets_in,
                bytes_in,
                packets_out,
                bytes_out,
                connections,
            });
        }
        for (at, count) in metrics.names.iter_mut().enumerate() {
            let values = self.answers.get(&(at as u32), 0).map_err(BpfError::map("answers_given"))?;
            *count = values.iter().sum();
        }
        metrics.pairs.sort_unstable_by_key(|pair| (pair.from, pair.to));
        metrics.services.sort_unstable_by_key(|service| service.address);
        Ok(metrics)
    }
}

fn peer(identity: u32) -> Peer {
    if identity == NOBODY { Peer::Beyond } else { Peer::Container(Identity(identity)) }
}

/// Over all processors.
fn sum<'v, const N: usize>(values: impl Iterator<Item = &'v [u64; N]>) -> [u64; N] {
    values.fold([0; N], |sum, value| std::array::from_fn(|at| sum[at].wrapping_add(value[at])))
}
