//! Secrets.

use coppice_api::{
    RekeyReply, RekeyRequest, SecretCheck, SecretReply, SecretRequest, SecretSummary, SecretValue,
    SecretVersionSummary, path,
};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    pub async fn secrets(&self) -> Result<Vec<SecretSummary>, ClientError> {
        self.get(Target::of(path::SECRETS)).await
    }

    /// Its versions, oldest first.
    pub async fn secret_history(&self, name: &str) -> Result<Vec<SecretVersionSummary>, ClientError> {
        self.get(Target::with(path::SECRET, name)).await
    }

    /// A new version, for releases from now on.
    pub async fn set_secret(&self, name: &str, request: &SecretRequest) -> Result<SecretReply, ClientError> {
        self.post(Target::with(path::SECRET, name), request).await
    }

    /// A new version, which the apps that use it have when this returns, or restart for.
    pub async fn rotate_secret(&self, name: &str, request: &SecretRequest) -> Result<SecretReply, ClientError> {
        self.post(Target::with(path::SECRET_ROTATE, name), request).await
    }

    pub async fn remove_secret(&self, name: &str, force: bool) -> Result<(), ClientError> {
        self.delete(Target::with(path::SECRET, name).flag("force", force)).await
    }

    /// For root alone, but for public parts.
    pub async fn secret_value(
        &self,
        name: &str,
        version: Option<u64>,
        part: Option<&str>,
    ) -> Result<SecretValue, ClientError> {
        self.get(Target::with(path::SECRET_VALUE, name).maybe("version", version).maybe("part", part)).await
    }

    /// Another key, with which everything is sealed when this returns.
    pub async fn change_secrets_key(&self, request: &RekeyRequest) -> Result<RekeyReply, ClientError> {
        self.post(Target::of(path::SECRETS_KEY), request).await
    }

    /// Of all secrets when none is named.
    pub async fn check_secrets(&self, names: &[String]) -> Result<Vec<SecretCheck>, ClientError> {
        let target = names.iter().fold(Target::of(path::SECRETS_CHECK), |target, name| target.query("secret", name));
        self.get(target).await
    }
}
