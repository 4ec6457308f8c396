//! Releases: history, rollback, and ruling a rollout.

use std::time::Duration;

use coppice_api::{ReleaseEntry, RollbackReply, RollbackRequest, path};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    /// The releases of an app that are kept, the newest first.
    pub async fn history(&self, app: &str) -> Result<Vec<ReleaseEntry>, ClientError> {
        self.get(Target::with(path::APP_HISTORY, app)).await
    }

    /// One release, by its number or id.
    pub async fn release(&self, app: &str, release: &str) -> Result<ReleaseEntry, ClientError> {
        self.get(Target::with(path::APP_RELEASE, app).and(release)).await
    }

    /// The same, once it has ended; as it is after `patience` (a minute at most), if it has not by then.
    pub async fn release_once_over(
        &self,
        app: &str,
        release: &str,
        patience: Duration,
    ) -> Result<ReleaseEntry, ClientError> {
        self.get(Target::with(path::APP_RELEASE, app).and(release).query("wait_ms", patience.as_millis())).await
    }

    /// Returns when the node has begun; while another release of the app is being rolled out it waits for the end of that.
    pub async fn rollback(&self, app: &str, request: &RollbackRequest) -> Result<RollbackReply, ClientError> {
        self.post(Target::with(path::APP_ROLLBACK, app), request).await
    }

    pub async fn pause_rollout(&self, app: &str) -> Result<(), ClientError> {
        self.command(Target::with(path::APP_ROLLOUT_PAUSE, app), None::<&()>).await
    }

    pub async fn resume_rollout(&self, app: &str) -> Result<(), ClientError> {
        self.command(Target::with(path::APP_ROLLOUT_RESUME, app), None::<&()>).await
    }

    pub async fn cancel_rollout(&self, app: &str) -> Result<(), ClientError> {
        self.command(Target::with(path::APP_ROLLOUT_CANCEL, app), None::<&()>).await
    }
}
