//! The node itself, and what happens on it.

use coppice_api::{API, Event, Metrics, NodeStatus, StopNodeRequest, VersionReply, path};
use coppice_base::Timestamp;

use crate::target::Target;
use crate::{Client, ClientError, Lines};

impl Client {
    /// The node's version, refused when its API is not this program's.
    pub async fn version(&self) -> Result<VersionReply, ClientError> {
        let reply: VersionReply = self.get(Target::of(path::VERSION)).await?;
        if reply.api == API { Ok(reply) } else { Err(ClientError::Version { node: reply.version, theirs: reply.api }) }
    }

    pub async fn node(&self) -> Result<NodeStatus, ClientError> {
        self.get(Target::of(path::NODE)).await
    }

    pub async fn stop_node(&self, request: &StopNodeRequest) -> Result<(), ClientError> {
        self.command(Target::of(path::NODE_STOP), Some(request)).await
    }

    pub async fn metrics(&self) -> Result<Metrics, ClientError> {
        self.get(Target::of(path::METRICS)).await
    }

    /// The same in Prometheus' text format.
    pub async fn metrics_text(&self) -> Result<String, ClientError> {
        self.get_text(Target::of(path::METRICS_TEXT)).await
    }

    /// The OpenAPI document.
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.get(Target::of(path::OPENAPI)).await
    }

    /// Events from `since` on (`None`: from now on).
    pub async fn events(
        &self,
        since: Option<Timestamp>,
        follow: bool,
        app: Option<&str>,
    ) -> Result<Lines<Event>, ClientError> {
        let target = Target::of(path::EVENTS).maybe("since", since.map(|at| at.0)).flag("follow", follow);
        self.get_lines(target.maybe("app", app)).await
    }
}
