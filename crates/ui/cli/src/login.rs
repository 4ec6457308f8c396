//! Registry credentials where docker keeps them: `config.json` in `DOCKER_CONFIG` or `~/.docker`, and the
//! `docker-credential-…` programs it names.
//!
//! They are read here, by the caller, with the caller's rights, and sent with the one request that needs them; the
//! node keeps none. Order, as docker's: the registry's own helper (`credHelpers`), the store (`credsStore`), then
//! `auths`. An identity token is sent as the password of the user `<token>`, as helpers spell it.

use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coppice_api::RegistryLogin;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::eprint_all;
use crate::output::{Paint, Style};

/// The key docker uses for its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// User name that marks an identity token (docker's credential helper protocol).
const TOKEN_USER: &str = "<token>";
/// A helper that asks a person or a network longer than this is not going to answer.
const HELPER_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a helper.
const PAUSE: Duration = Duration::from_millis(2);
/// Longest answer of a helper.
const ANSWER_MAX: u64 = 1 << 20;

/// Why credentials could not be read or kept. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("there is no HOME to find docker's config.json in; set DOCKER_CONFIG to its directory")]
    NoHome,
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not docker's config.json: {source}", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} has an entry for {registry} that is not base64 of NAME:PASSWORD; log in again", path.display())]
    Entry { path: PathBuf, registry: String },
    #[error("cannot run {program}, which config.json names: {source}")]
    Helper { program: String, source: io::Error },
    #[error("{program} failed: {said}")]
    HelperSaid { program: String, said: String },
    #[error("{program} has not answered within {} s", HELPER_LIMIT.as_secs())]
    HelperSilent { program: String },
}

/// A name and a password or token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Credentials for an image's registry. What goes wrong is said, and the request goes on without: most images are
/// public.
pub(crate) fn find(image: &str, style: &Style) -> Option<RegistryLogin> {
    let found = DockerConfig::standard().and_then(|config| config.credentials(registry_of(image)));
    match found {
        Ok(found) => found.map(|found| RegistryLogin { user: found.user, password: found.password }),
        Err(LoginError::NoHome) => None,
        Err(error) => {
            eprint_all(&format!("{} {error}; asking without a password\n", style.paint(Paint::Yellow, "warning:")));
            None
        }
    }
}

/// Whether config.json says anything about an image's registry. Runs no helper.
pub(crate) fn is_configured_for(image: &str) -> bool {
    DockerConfig::standard().and_then(|config| config.mentions(registry_of(image))).unwrap_or(false)
}

/// The registry of a reference: its first part when that has a dot, a colon, an upper-case letter or is `localhost`.
pub(crate) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _))
            if first.contains(['.', ':']) || first == "localhost" || first.contains(char::is_uppercase) =>
        {
            first
        }
        _ => "docker.io",
    }
}

/// Docker's config.json.
pub(crate) struct DockerConfig {
    path: PathBuf,
    /// Where helper programs are looked for; `None`: PATH.
    helpers: Option<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Settled {
    auths: std::collections::BTreeMap<String, Entry>,
    #[serde(rename = "credsStore")]
    store: Option<String>,
    #[serde(rename = "credHelpers")]
    helpers: std::collections::BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

impl DockerConfig {
    /// The caller's.
    pub(crate) fn standard() -> Result<Self, LoginError> {
        let directory = match std::env::var_os("DOCKER_CONFIG").filter(|value| !value.is_empty()) {
            Some(directory) => PathBuf::from(directory),
            None => std::env::home_dir().filter(|home| home.is_absolute()).ok_or(LoginError::NoHome)?.join(".docker"),
        };
        Ok(Self { path: directory.join("config.json"), helpers: None })
    }

    fn value(&self) -> Result<Map<String, Value>, LoginError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
            Err(source) => return Err(LoginError::Read { path: self.path.clone(), source }),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Map::new());
        }
        serde_json::from_slice(&bytes).map_err(|source| LoginError::Parse { path: self.path.clone(), source })
    }

    fn settled(&self) -> Result<Settled, LoginError> {
        serde_json::from_value(Value::Object(self.value()?))
            .map_err(|source| LoginError::Parse { path: self.path.clone(), source })
    }

    fn mentions(&self, registry: &str) -> Result<bool, LoginError> {
        let settled = self.settled()?;
        let named = settled.auths.keys().chain(settled.helpers.keys()).any(|key| names(key, registry));
        Ok(named)
    }

    /// What is kept for `registry`, if anything.
    pub(crate) fn credentials(&self, registry: &str) -> Result<Option<Credentials>, LoginError> {
        let settled = self.settled()?;
        let own = settled.helpers.iter().find(|(key, _)| names(key, registry)).map(|(_, helper)| helper);
        if let Some(helper) = own.or(settled.store.as_ref()).filter(|helper| !helper.is_empty())
            && let Some(found) = self.ask_helper(helper, registry)?
        {
            return Ok(Some(found));
        }
        let Some((_, entry)) = settled.auths.iter().find(|(key, _)| names(key, registry)) else {
            return Ok(None);
        };
        self.read_entry(entry, registry)
    }

    fn read_entry(&self, entry: &Entry, registry: &str) -> Result<Option<Credentials>, LoginError> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&entry.identitytoken) {
            return Ok(Some(Credentials { user: TOKEN_USER.into(), password: token }));
        }
        if let Some(auth) = given(&entry.auth) {
            let bad = || LoginError::Entry { path: self.path.clone(), registry: registry.to_owned() };
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| bad())?;
            let text = String::from_utf8(decoded).map_err(|_| bad())?;
            let (user, password) = text.split_once(':').ok_or_else(bad)?;
            // Some versions of docker pad the password with NULs.
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credentials { user: user.into(), password: password.into() }));
        }
        let pair = given(&entry.username).zip(given(&entry.password));
        Ok(pair.map(|(user, password)| Credentials { user, password }))
    }

    fn ask_helper(&self, helper: &str, registry: &str) -> Result<Option<Credentials>, LoginError> {
        let (ok, answer) = self.run_helper(helper, "get", server_of(registry).as_bytes())?;
        let program = format!("docker-credential-{helper}");
        if !ok {
            let said = String::from_utf8_lossy(&answer).trim().to_owned();
            // The protocol's own words for "nothing kept".
            if said.contains("credentials not found") {
                return Ok(None);
            }
            return Err(LoginError::HelperSaid { program, said });
        }
        match serde_json::from_slice::<HelperAnswer>(&answer) {
            Ok(answer) if answer.secret.is_empty() => Ok(None),
            Ok(answer) => Ok(Some(Credentials { user: answer.user, password: answer.secret })),
            // Not quoted: it may hold the secret.
            Err(_) => Err(LoginError::HelperSaid { program, said: "its answer is not a credential".into() }),
        }
    }

    /// Runs a helper; whether it succeeded and what it wrote.
    fn run_helper(&self, helper: &str, verb: &str, input: &[u8]) -> Result<(bool, Vec<u8>), LoginError> {
        let name = format!("docker-credential-{helper}");
        if helper.contains('/') {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "a helper's name has no /");
            return Err(LoginError::Helper { program: name, source });
        }
        let program = match &self.helpers {
            Some(directory) => directory.join(&name).into_os_string(),
            None => name.clone().into(),
        };
        let failed = |source| LoginError::Helper { program: name.clone(), source };
        let mut child = Command::new(program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read its input answers with its exit code.
            let _ = stdin.write_all(input);
        }
        let stdout = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A cut answer does not parse, and that is said.
            let _ = stdout.map(|stdout| stdout.take(ANSWER_MAX).read_to_end(&mut bytes));
            bytes
        });
        let deadline = Instant::now() + HELPER_LIMIT;
        loop {
            match child.try_wait().map_err(failed)? {
                Some(status) => return Ok((status.success(), reader.join().unwrap_or_default())),
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(LoginError::HelperSilent { program: name });
                }
                None => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Keeps credentials in the store config.json names, else in config.json; says where.
    pub(crate) fn keep(&self, registry: &str, credentials: &Credentials) -> Result<String, LoginError> {
        let settled = self.settled()?;
        let own = settled.helpers.iter().find(|(key, _)| names(key, registry)).map(|(_, helper)| helper);
        let key = server_of(registry);
        if let Some(helper) = own.or(settled.store.as_ref()).filter(|helper| !helper.is_empty()) {
            let input = json!({ "ServerURL": key, "Username": credentials.user, "Secret": credentials.password });
            let (ok, said) = self.run_helper(helper, "store", input.to_string().as_bytes())?;
            let program = format!("docker-credential-{helper}");
            if !ok {
                return Err(LoginError::HelperSaid { program, said: String::from_utf8_lossy(&said).trim().to_owned() });
            }
            return Ok(program);
        }
        let mut value = self.value()?;
        let auth = STANDARD.encode(format!("{}:{}", credentials.user, credentials.password));
        let auths = value.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        auths[key] = json!({ "auth": auth });
        self.write(&value)?;
        Ok(self.path.display().to_string())
    }

    /// Whether something was kept.
    pub(crate) fn forget(&self, registry: &str) -> Result<bool, LoginError> {
        let settled = self.settled()?;
        let mut found = false;
        let own = settled.helpers.iter().find(|(key, _)| names(key, registry)).map(|(_, helper)| helper);
        if let Some(helper) = own.or(settled.store.as_ref()).filter(|helper| !helper.is_empty()) {
            found |= self.run_helper(helper, "erase", server_of(registry).as_bytes())?.0;
        }
        let mut value = self.value()?;
        if let Some(auths) = value.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| !names(key, registry));
            if auths.len() != before {
                found = true;
                self.write(&value)?;
            }
        }
        Ok(found)
    }

    /// The new file in the place of the old, whole or not at all, for its owner alone.
    fn write(&self, value: &Map<String, Value>) -> Result<(), LoginError> {
        let failed = |source| LoginError::Write { path: self.path.clone(), source };
        // Docker's config.json is often a link into a dotfile repository: the file it means is replaced, not the link.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        let text = serde_json::to_vec_pretty(value).expect("JSON that was read can be written");
        let draft = path.with_extension(format!("json.{}", std::process::id()));
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&draft, &path));
        if written.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        written.map_err(failed)
    }
}

/// The key of a registry in config.json and towards helpers.
fn server_of(registry: &str) -> &str {
    if is_docker_hub(registry) { DOCKER_HUB } else { registry }
}

fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com")
}

/// Whether a key of config.json (a host, or a URL as older versions wrote) means `registry`.
fn names(key: &str, registry: &str) -> bool {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = bare.split('/').next().unwrap_or(bare);
    host == registry || (is_docker_hub(host) && is_docker_hub(registry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    fn config(directory: &Path, text: &str) -> DockerConfig {
        let path = directory.join("config.json");
        std::fs::write(&path, text).unwrap();
        DockerConfig { path, helpers: Some(directory.to_owned()) }
    }

    fn helper(directory: &Path, name: &str, script: &str) {
        let path = directory.join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn pair(user: &str, password: &str) -> Option<Credentials> {
        Some(Credentials { user: user.into(), password: password.into() })
    }

    #[test]
    fn a_references_registry_is_its_first_part_when_it_looks_like_a_host() {
        assert_eq!(registry_of("redis"), "docker.io");
        assert_eq!(registry_of("team/redis:7"), "docker.io");
        assert_eq!(registry_of("ghcr.io/a/b"), "ghcr.io");
        assert_eq!(registry_of("localhost/a"), "localhost");
        assert_eq!(registry_of("localhost:5000/a@sha256:00"), "localhost:5000");
    }

    #[test]
    fn auths_are_base64_of_name_and_password() {
        let dir = tempfile::tempdir().unwrap();
        let auth = STANDARD.encode("ada:pass:word");
        let config = config(
            dir.path(),
            &format!(
                r#"{{"auths":{{"ghcr.io":{{"auth":"{auth}"}},"https://index.docker.io/v1/":{{"username":"u","password":"p"}},
                    "token.example":{{"auth":"{auth}","identitytoken":"tok"}},"bad.example":{{"auth":"!"}}}}}}"#
            ),
        );
        assert_eq!(config.credentials("ghcr.io").unwrap(), pair("ada", "pass:word"));
        assert_eq!(config.credentials("docker.io").unwrap(), pair("u", "p"));
        assert_eq!(config.credentials("token.example").unwrap(), pair("<token>", "tok"));
        assert_eq!(config.credentials("quay.io").unwrap(), None);
        assert!(matches!(config.credentials("bad.example"), Err(LoginError::Entry { .. })));
        assert!(config.mentions("ghcr.io").unwrap() && !config.mentions("quay.io").unwrap());
    }

    #[test]
    fn no_file_and_an_empty_file_hold_nothing_and_a_broken_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let none = DockerConfig { path: dir.path().join("none.json"), helpers: None };
        assert_eq!(none.credentials("ghcr.io").unwrap(), None);
        assert_eq!(config(dir.path(), " \n").credentials("ghcr.io").unwrap(), None);
        let error = config(dir.path(), "{").credentials("ghcr.io").unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    #[test]
    fn a_registrys_own_helper_wins_over_the_store_and_the_store_over_auths() {
        let dir = tempfile::tempdir().unwrap();
        helper(
            dir.path(),
            "own",
            r#"read server; echo "{\"ServerURL\":\"$server\",\"Username\":\"own\",\"Secret\":\"$server\"}""#,
        );
        helper(dir.path(), "store", r#"read server; echo '{"Username":"store","Secret":"s"}'"#);
        let auth = STANDARD.encode("auths:a");
        let text = format!(
            r#"{{"auths":{{"a.example":{{"auth":"{auth}"}}}},"credsStore":"store","credHelpers":{{"own.example":"own"}}}}"#
        );
        let config = config(dir.path(), &text);
        assert_eq!(config.credentials("own.example").unwrap(), pair("own", "own.example"));
        assert_eq!(config.credentials("a.example").unwrap(), pair("store", "s"));
    }

    #[test]
    fn a_helper_without_the_credential_leaves_auths_and_one_that_fails_is_named() {
        let dir = tempfile::tempdir().unwrap();
        helper(dir.path(), "empty", "echo 'credentials not found in native keychain'; exit 1");
        helper(dir.path(), "broken", "echo 'no session bus'; exit 1");
        helper(dir.path(), "chatty", "echo 'hunter2 is not json'");
        let auth = STANDARD.encode("u:p");
        let text = |store: &str| format!(r#"{{"auths":{{"a.example":{{"auth":"{auth}"}}}},"credsStore":"{store}"}}"#);
        assert_eq!(config(dir.path(), &text("empty")).credentials("a.example").unwrap(), pair("u", "p"));
        let broken = config(dir.path(), &text("broken")).credentials("a.example").unwrap_err().to_string();
        assert!(broken.contains("docker-credential-broken") && broken.contains("no session bus"), "{broken}");
        let chatty = config(dir.path(), &text("chatty")).credentials("a.example").unwrap_err().to_string();
        assert!(!chatty.contains("hunter2"), "{chatty}");
        let missing = config(dir.path(), &text("missing")).credentials("a.example").unwrap_err().to_string();
        assert!(missing.contains("docker-credential-missing"), "{missing}");
        assert!(config(dir.path(), &text("../evil")).credentials("a.example").is_err());
    }

    #[test]
    fn login_keeps_the_rest_of_the_file_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), r#"{"HttpHeaders":{"X":"y"},"auths":{"old.example":{"auth":"dTpw"}}}"#);
        let credentials = Credentials { user: "ada".into(), password: "p".into() };
        config.keep("docker.io", &credentials).unwrap();
        assert_eq!(config.credentials("docker.io").unwrap(), Some(credentials));
        assert_eq!(config.credentials("old.example").unwrap(), pair("u", "p"));
        assert_eq!(config.value().unwrap()["HttpHeaders"]["X"], "y");
        assert_eq!(std::fs::metadata(&config.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(config.forget("docker.io").unwrap());
        assert!(!config.forget("docker.io").unwrap());
        assert_eq!(config.credentials("docker.io").unwrap(), None);
    }
}
