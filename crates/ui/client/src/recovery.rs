//! Apps brought back from their volumes.

use coppice_api::{RecoverReply, path};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    /// With `print` nothing is changed.
    pub async fn recover_from_datasets(&self, print: bool) -> Result<RecoverReply, ClientError> {
        self.post(Target::of(path::RECOVER).flag("print", print), &()).await
    }
}
