//! Runs of workers that somebody asked for.

use coppice_api::WorkerRunReply;

use super::Node;
use crate::error::NodeError;

impl Node {
    /// Begins a run of a worker of the app's current release, beside what the tree has of it.
    pub async fn run_worker(&self, uid: u32, app: &str, worker: &str) -> Result<WorkerRunReply, NodeError> {
        let (number, container) = self.app(app)?.run_worker(worker, uid).await?;
        let instance = format!("{worker}-{number}");
        Ok(WorkerRunReply { run: u64::from(number), instance, container: container.name() })
    }
}
