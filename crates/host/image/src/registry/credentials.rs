//! Who we are to a registry: from `docker login`'s config.json, its credential helpers, or given directly.
//!
//! The command line looks them up (it runs as the user who logged in) and hands them to the node with the request.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use crate::reference::DEFAULT_REGISTRY;

/// What docker calls its own registry in config.json.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// Longest wait for a helper: some ask a key ring or the network.
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);

/// A login. `Debug` does not show the secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credentials {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// A refresh token, exchanged at the token realm (OAuth2).
    IdentityToken(String),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Self::IdentityToken(_) => f.write_str("IdentityToken(…)"),
        }
    }
}

/// Why credentials could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{path:?} could not be read: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} is not a docker config.json: {source}")]
    Malformed { path: PathBuf, source: serde_json::Error },
    #[error("{path:?} has a login for {registry} that is not base64 of user:password; run `coppice login {registry}`")]
    BadLogin { path: PathBuf, registry: String },
    #[error("the credential helper name {0:?} in config.json is not a plain word")]
    HelperName(String),
    #[error("the credential helper docker-credential-{name} could not be run: {source}")]
    HelperRun { name: String, source: io::Error },
    #[error("the credential helper docker-credential-{name} failed: {message}")]
    HelperFailed { name: String, message: String },
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, Login>,
    #[serde(default)]
    cred_helpers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
struct Login {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl Credentials {
    /// Where docker keeps its logins: `$DOCKER_CONFIG/config.json`, else `$HOME/.docker/config.json`.
    pub fn docker_config_path() -> Option<PathBuf> {
        match std::env::var_os("DOCKER_CONFIG").filter(|dir| !dir.is_empty()) {
            Some(dir) => Some(PathBuf::from(dir).join("config.json")),
            None => std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker/config.json")),
        }
    }

    /// The login for `registry` (as [`crate::Reference::registry`] has it) in a docker config.json: `credHelpers`,
    /// then `credsStore`, then `auths`. [`Credentials::Anonymous`] when the file or the login does not exist.
    pub async fn from_docker_config(path: &Path, registry: &str) -> Result<Self, CredentialsError> {
        Self::from_docker_config_in(path, registry, None).await
    }

    /// As [`Credentials::from_docker_config`], looking for helpers in `search` (as PATH has it) instead of in PATH.
    pub async fn from_docker_config_in(
        path: &Path,
        registry: &str,
        search: Option<&OsStr>,
    ) -> Result<Self, CredentialsError> {
        let bytes = match tokio::fs::read(path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Anonymous),
            Err(source) => return Err(CredentialsError::Read { path: path.to_owned(), source }),
        };
        let file: ConfigFile = serde_json::from_slice(&bytes)
            .map_err(|source| CredentialsError::Malformed { path: path.to_owned(), source })?;
        let names = names_of(registry);
        let named = names.iter().find_map(|name| file.cred_helpers.get(name).map(|helper| (name, helper)));
        if let Some((server, helper)) = named {
            return ask_helper(helper, server, search).await;
        }
        if let Some(helper) = file.creds_store.as_deref().filter(|name| !name.is_empty()) {
            let found = ask_helper(helper, &names[0], search).await?;
            if found != Self::Anonymous {
                return Ok(found);
            }
        }
        match names.iter().find_map(|name| file.auths.get(name)) {
            Some(login) => login.credentials(path, registry),
            None => Ok(Self::Anonymous),
        }
    }
}

/// Keys under which docker and others keep a registry's login; the first is what helpers are asked for.
fn names_of(registry: &str) -> Vec<String> {
    if registry == DEFAULT_REGISTRY {
        return [DOCKER_HUB_KEY, "docker.io", "index.docker.io", "https://index.docker.io/v1", "registry-1.docker.io"]
            .map(str::to_owned)
            .to_vec();
    }
    ["", "https://", "http://"]
        .iter()
        .flat_map(|scheme| ["", "/", "/v1/", "/v2/"].map(|end| format!("{scheme}{registry}{end}")))
        .collect()
}

impl Login {
    fn credentials(&self, path: &Path, registry: &str) -> Result<Credentials, CredentialsError> {
        let bad = || CredentialsError::BadLogin { path: path.to_owned(), registry: registry.to_owned() };
        if let Some(token) = self.identitytoken.as_ref().filter(|t| !t.is_empty()) {
            return Ok(Credentials::IdentityToken(token.clone()));
        }
        if let Some(auth) = self.auth.as_ref().filter(|a| !a.is_empty()) {
            let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).map_err(|_| bad())?;
            let text = String::from_utf8(bytes).map_err(|_| bad())?;
            let (username, password) = text.split_once(':').ok_or_else(bad)?;
            let password = password.trim_end_matches('\0');
            return Ok(Credentials::Basic { username: username.to_owned(), password: password.to_owned() });
        }
        match (&self.username, &self.password) {
            (Some(username), Some(password)) if !username.is_empty() => {
                Ok(Credentials::Basic { username: username.clone(), password: password.clone() })
            }
            // An empty entry marks a login that lives in a store.
            _ => Ok(Credentials::Anonymous),
        }
    }
}

/// The docker-credential-helpers protocol: the server on standard input, JSON on standard output.
async fn ask_helper(name: &str, server: &str, search: Option<&OsStr>) -> Result<Credentials, CredentialsError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(CredentialsError::HelperName(name.to_owned()));
    }
    let failed = |source| CredentialsError::HelperRun { name: name.to_owned(), source };
    let mut command = tokio::process::Command::new(format!("docker-credential-{name}"));
    if let Some(search) = search {
        command.env("PATH", search);
    }
    let mut child = command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(server.as_bytes()).await {
            // A helper that answers without reading is odd, not wrong.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(failed(error)),
            _ => {}
        }
    }
    let output = match tokio::time::timeout(HELPER_TIMEOUT, child.wait_with_output()).await {
        Ok(output) => output.map_err(failed)?,
        Err(_) => return Err(failed(io::ErrorKind::TimedOut.into())),
    };
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stdout).trim().chars().take(300).collect::<String>();
        // The protocol's words for "no such login".
        if message.contains("credentials not found") {
            return Ok(Credentials::Anonymous);
        }
        return Err(CredentialsError::HelperFailed { name: name.to_owned(), message });
    }
    let answer: HelperAnswer = serde_json::from_slice(&output.stdout).map_err(|_| CredentialsError::HelperFailed {
        name: name.to_owned(),
        message: "its answer is not the JSON of the helper protocol".to_owned(),
    })?;
    Ok(match answer.username.as_str() {
        "<token>" => Credentials::IdentityToken(answer.secret),
        _ => Credentials::Basic { username: answer.username, password: answer.secret },
    })
}
