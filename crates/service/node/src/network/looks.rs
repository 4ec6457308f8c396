//! How the network is now, for those who ask. Changes nothing.

use std::net::Ipv4Addr;

use coppice_network::Survey;

use super::{NetworkError, NodeNetwork};
use crate::doctor::FastPathState;

impl NodeNetwork {
    /// The bridge and its rules, looked at afresh; `None` while there is no bridge. Blocking.
    pub(crate) fn survey(&self) -> Option<Result<Survey, NetworkError>> {
        let joined = self.bridge.get()?;
        let mut bridge = joined.bridge.lock().expect("no panic holds this lock");
        Some(bridge.as_mut()?.survey().map_err(NetworkError::from))
    }

    /// Whether this is an address for containers.
    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        self.bridge.get().is_some_and(|joined| joined.subnet.contains(address))
    }

    /// Whether BPF does the rules' work.
    pub(crate) fn fast_path_state(&self) -> FastPathState {
        if !self.bpf {
            FastPathState::NotWanted
        } else if self.is_hooked() {
            FastPathState::Hooked
        } else {
            self.fast_path.in_force()
        }
    }
}
