//! The network.

use coppice_api::{DoctorReport, NetworkStatus, path};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    pub async fn network(&self) -> Result<NetworkStatus, ClientError> {
        self.get(Target::of(path::NETWORK)).await
    }

    /// Why `from` does not reach `to`; without, how the node's network is. Takes as long as the connection that is tried.
    pub async fn doctor(&self, from: Option<&str>, to: Option<&str>) -> Result<DoctorReport, ClientError> {
        self.get(Target::of(path::NETWORK_DOCTOR).maybe("from", from).maybe("to", to)).await
    }
}
