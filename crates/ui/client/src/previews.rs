//! Previews.

use coppice_api::{PreviewReply, PreviewRequest, PreviewSummary, PromoteReply, path};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    pub async fn previews(&self) -> Result<Vec<PreviewSummary>, ClientError> {
        self.get(Target::of(path::PREVIEWS)).await
    }

    /// Returns when its volumes are there and the node has begun to bring it up.
    pub async fn preview(&self, request: &PreviewRequest) -> Result<PreviewReply, ClientError> {
        self.post(Target::of(path::PREVIEWS), request).await
    }

    /// Returns when it and its volumes are gone. `app`: the app that it is.
    pub async fn discard_preview(&self, app: &str) -> Result<(), ClientError> {
        self.delete(Target::with(path::PREVIEW, app)).await
    }

    /// Returns when the app beside which it stands has become what it is. `app`: the app that it is.
    pub async fn promote_preview(&self, app: &str) -> Result<PromoteReply, ClientError> {
        self.post(Target::with(path::PREVIEW_PROMOTE, app), &()).await
    }
}
