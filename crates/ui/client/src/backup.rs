//! A backup of the node.

use std::path::Path;

use coppice_api::path;

use crate::target::Target;
use crate::{Client, ClientError, Download};

impl Client {
    /// All of the node's state, with the data of its volumes where asked, as a stream of bytes. `key_file` is a path of the
    /// node's machine, and has the key it is sealed with.
    pub async fn backup(&self, volumes: bool, key_file: Option<&Path>) -> Result<Download, ClientError> {
        let key_file = key_file.map(|path| path.to_string_lossy());
        let target = Target::of(path::BACKUP).flag("volumes", volumes).maybe("key_file", key_file.as_deref());
        self.get_bytes(target).await
    }
}
