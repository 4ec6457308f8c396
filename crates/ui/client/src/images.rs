//! Images: pull, push, tag, remove, and archives in and out.

use coppice_api::{
    ImageDetail, ImageSummary, LoadReply, PruneReply, PruneRequest, PullRequest, PushRequest, RemoveReply, TagRequest,
    TransferLine, path,
};

use crate::connection::{Download, Upload};
use crate::target::Target;
use crate::{Client, ClientError, Lines};

/// The config of an image made from a root filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    pub name: String,
    /// An image of the node that this goes on top of.
    pub base: Option<String>,
    pub command: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    pub working_dir: Option<String>,
    pub user: Option<String>,
}

impl Client {
    pub async fn images(&self) -> Result<Vec<ImageSummary>, ClientError> {
        self.get(Target::of(path::IMAGES)).await
    }

    pub async fn remove_image(&self, name: &str, force: bool) -> Result<RemoveReply, ClientError> {
        self.delete_for(Target::of(path::IMAGES).query("name", name).flag("force", force)).await
    }

    pub async fn image(&self, name: &str) -> Result<ImageDetail, ClientError> {
        self.get(Target::of(path::IMAGE_INSPECT).query("name", name)).await
    }

    pub async fn pull(&self, request: &PullRequest) -> Result<Lines<TransferLine>, ClientError> {
        self.post_lines(Target::of(path::IMAGE_PULL), request).await
    }

    pub async fn push(&self, request: &PushRequest) -> Result<Lines<TransferLine>, ClientError> {
        self.post_lines(Target::of(path::IMAGE_PUSH), request).await
    }

    pub async fn tag(&self, request: &TagRequest) -> Result<(), ClientError> {
        self.command(Target::of(path::IMAGE_TAG), Some(request)).await
    }

    /// Makes an image of a root filesystem tar.
    pub async fn import(&self, options: &ImportOptions, tar: Upload) -> Result<LoadReply, ClientError> {
        let list = |values: &[String]| serde_json::to_string(values).map_err(ClientError::garbled);
        let mut target = Target::of(path::IMAGE_IMPORT).query("name", &options.name);
        if let Some(command) = &options.command {
            target = target.query("cmd", list(command)?);
        }
        if let Some(entrypoint) = &options.entrypoint {
            target = target.query("entrypoint", list(entrypoint)?);
        }
        if !options.env.is_empty() {
            target = target.query("env", list(&options.env)?);
        }
        target = target.maybe("workdir", options.working_dir.as_deref()).maybe("user", options.user.as_deref());
        target = target.maybe("base", options.base.as_deref());
        self.upload(target, tar).await
    }

    /// The flattened root filesystem as a tar.
    pub async fn export(&self, name: &str) -> Result<Download, ClientError> {
        self.get_bytes(Target::of(path::IMAGE_EXPORT).query("name", name)).await
    }

    /// Takes in a docker-archive or oci-archive.
    pub async fn load(&self, tar: Upload) -> Result<LoadReply, ClientError> {
        self.upload(Target::of(path::IMAGE_LOAD), tar).await
    }

    /// `format` is `docker` or `oci`.
    pub async fn save(&self, names: &[String], format: &str) -> Result<Download, ClientError> {
        let target = names.iter().fold(Target::of(path::IMAGE_SAVE), |target, name| target.query("name", name));
        self.get_bytes(target.query("format", format)).await
    }

    pub async fn prune(&self, request: &PruneRequest) -> Result<PruneReply, ClientError> {
        self.post(Target::of(path::IMAGE_PRUNE), request).await
    }
}
