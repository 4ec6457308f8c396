//! How openraft is set up: its types, its timing, and the network that is not there yet.

use std::io::Cursor;

use coppice_state::{Applied, Command, Rejection};
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{BasicNode, Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};

use crate::Settings;

openraft::declare_raft_types!(
    /// Commands in, answers out; nodes have an address (empty while there is one node).
    pub(crate) TypeConfig: D = Command, R = Answer, NodeId = u64, Node = BasicNode
);

pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Membership = openraft::StoredMembership<u64, BasicNode>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, BasicNode>;
pub(crate) type RaftStorageError = openraft::StorageError<u64>;

/// What applying an entry gives. Entries of consensus itself have nothing to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Nothing,
    Command(Result<Applied, Rejection>),
}

/// Milliseconds between ticks of consensus. A cluster of one has nobody to tell it is alive and nobody to
/// outwait: it elects itself by request. Ticks are only left in as a way back should leadership ever be lost.
const HEARTBEAT_MS: u64 = 10_000;

pub(crate) fn config(settings: &Settings) -> Config {
    Config {
        cluster_name: "coppice".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: 3 * HEARTBEAT_MS,
        election_timeout_max: 4 * HEARTBEAT_MS,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_every.max(1)),
        max_in_snapshot_log_to_keep: settings.keep_entries,
        ..Config::default()
    }
}

/// The way to other members. There are none: every call says so.
pub(crate) struct NoNetwork;

/// A member that cannot be reached, because only clusters of one are supported.
#[derive(Debug, thiserror::Error)]
#[error("node {target} cannot be reached: this version runs clusters of one node")]
pub(crate) struct NoSuchMember {
    target: u64,
}

impl RaftNetworkFactory<TypeConfig> for NoNetwork {
    type Network = NoSuchMember;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> NoSuchMember {
        NoSuchMember { target }
    }
}

type RpcResult<T, E = openraft::error::Infallible> = Result<T, RPCError<u64, BasicNode, RaftError<u64, E>>>;

impl RaftNetwork<TypeConfig> for NoSuchMember {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<u64>> {
        Err(RPCError::Unreachable(Unreachable::new(self)))
    }

    async fn install_snapshot(
        &mut self,
        _rpc: InstallSnapshotRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        Err(RPCError::Unreachable(Unreachable::new(self)))
    }

    async fn vote(&mut self, _rpc: VoteRequest<u64>, _option: RPCOption) -> RpcResult<VoteResponse<u64>> {
        Err(RPCError::Unreachable(Unreachable::new(self)))
    }
}
