//! Talking to one repository of one registry: requests, logins, redirects, retries, blobs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use coppice_base::{Random, SystemRandom};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, StatusCode, Uri};
use tokio::sync::mpsc;

use super::address::Locality;
use super::auth::{Challenge, basic, encode};
use super::body::{PacedBody, RequestBody, full};
use super::connect::{Connector, Origin, Pointer};
use super::credentials::Credentials;
use super::error::RegistryError;
use crate::digest::Digest;
use crate::limits::MANIFEST_MAX;
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

const REDIRECTS_MAX: usize = 5;
/// Longest token or error answer.
const ANSWER_MAX: u64 = 1 << 20;
/// Longest pause a registry may ask for with Retry-After.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What a login is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

pub(crate) struct Session {
    connector: Arc<Connector>,
    origin: Origin,
    locality: Locality,
    repository: String,
    access: Access,
    credentials: Credentials,
    authorization: Mutex<Option<String>>,
}

/// Makes a request's body, each time it is sent.
pub(crate) type MakeBody<'a> = dyn Fn() -> Result<RequestBody, RegistryError> + Send + Sync + 'a;

/// A request that can be sent again: its body is made anew each time.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// Path and query on the registry, or a whole URL.
    pub(crate) target: String,
    pub(crate) headers: Vec<(header::HeaderName, String)>,
    pub(crate) body: Option<&'a MakeBody<'a>>,
    /// For messages: "manifest of …".
    pub(crate) what: String,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: PacedBody,
}

/// A manifest or index as it came.
pub(crate) struct FetchedManifest {
    pub(crate) bytes: Bytes,
    pub(crate) content_type: Option<String>,
    pub(crate) digest: Digest,
}

impl Session {
    /// Settles how the registry is spoken to. Plain HTTP only where `plain_allowed` or on this machine, and only when
    /// what is there does not speak TLS at all.
    pub(crate) async fn open(
        connector: &Arc<Connector>,
        endpoint: &str,
        repository: &str,
        access: Access,
        credentials: Credentials,
        plain_allowed: bool,
    ) -> Result<Self, RegistryError> {
        let bad = || RegistryError::BadUrl { host: endpoint.to_owned(), text: endpoint.to_owned() };
        let mut origin = Origin::new(true, endpoint).ok_or_else(bad)?;
        let plain_allowed = plain_allowed || origin.is_this_machine();
        let connection = match connector.connect(&origin, None).await {
            Err(error) if plain_allowed && may_be_plain(&error) => {
                origin = Origin::new(false, endpoint).ok_or_else(bad)?;
                connector.connect(&origin, None).await?
            }
            other => other?,
        };
        let locality = connection.locality;
        connector.give_back(&origin, connection);
        Ok(Self {
            connector: connector.clone(),
            origin,
            locality,
            repository: repository.to_owned(),
            access,
            credentials,
            authorization: Mutex::new(None),
        })
    }

    pub(crate) fn host(&self) -> String {
        self.origin.authority()
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/v2/{}/{rest}", self.repository)
    }

    /// The manifest or index at a tag or digest; a digest is checked.
    pub(crate) async fn manifest(&self, selector: &str) -> Result<FetchedManifest, RegistryError> {
        let accept = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
        let what = format!("manifest {}:{selector}", self.repository);
        let ask = Ask {
            method: Method::GET,
            target: self.path(&format!("manifests/{selector}")),
            headers: vec![(header::ACCEPT, accept)],
            body: None,
            what: what.clone(),
        };
        let (headers, bytes) = self.fetch_whole(&ask, MANIFEST_MAX).await?;
        let digest = Digest::of(&bytes);
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let promised = selector.parse().ok().or_else(|| text("docker-content-digest").and_then(|t| t.parse().ok()));
        if let Some(want) = promised
            && want != digest
        {
            return Err(RegistryError::WrongDigest { host: self.host(), want, got: digest });
        }
        Ok(FetchedManifest { bytes, content_type: text("content-type").map(str::to_owned), digest })
    }

    /// A small blob, checked.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64, max: u64) -> Result<Bytes, RegistryError> {
        let ask = self.blob_ask(digest, 0);
        let (_, bytes) = self.fetch_whole(&ask, max.min(size)).await?;
        if bytes.len() as u64 != size {
            let got = bytes.len() as u64;
            return Err(RegistryError::WrongSize { host: self.host(), digest: *digest, want: size, got });
        }
        let got = Digest::of(&bytes);
        if got != *digest {
            return Err(RegistryError::WrongDigest { host: self.host(), want: *digest, got });
        }
        Ok(bytes)
    }

    /// Sends a blob's bytes from `from` on to `sink`, going on by Range after every cut. The receiver checks the digest.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        from: u64,
        sink: &mpsc::Sender<std::io::Result<Bytes>>,
        on_bytes: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let limits = &self.connector.settings().transfer;
        let mut at = from;
        let mut failures = 0;
        while at < size {
            let before = at;
            let Err(error) = self.blob_part(digest, size, &mut at, sink, on_bytes).await else { continue };
            // What brings real progress may be cut as often as it likes.
            failures = if at - before >= limits.stall_bytes { 1 } else { failures + 1 };
            if !error.is_passing() || failures >= limits.attempts {
                return Err(error);
            }
            tracing::debug!(%digest, at, %error, "going on with a blob after a cut");
            self.pause(failures, &error).await;
        }
        Ok(())
    }

    async fn blob_part(
        &self,
        digest: &Digest,
        size: u64,
        at: &mut u64,
        sink: &mpsc::Sender<std::io::Result<Bytes>>,
        on_bytes: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let mut answer = self.send(&self.blob_ask(digest, *at)).await?;
        // Bytes we have that the registry sends again when it knows no ranges.
        let mut skip = match answer.status {
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.headers.get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
                let start = range.and_then(|r| r.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
                if start != Some(*at) {
                    return Err(RegistryError::WrongRange { host: self.host(), digest: *digest });
                }
                0
            }
            _ => *at,
        };
        while let Some(mut chunk) = answer.body.chunk().await? {
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            chunk = chunk.slice(skipped as usize..);
            if chunk.is_empty() {
                continue;
            }
            let length = chunk.len() as u64;
            if *at + length > size {
                let got = *at + length;
                return Err(RegistryError::WrongSize { host: self.host(), digest: *digest, want: size, got });
            }
            if sink.send(Ok(chunk)).await.is_err() {
                return Err(RegistryError::Unwanted);
            }
            *at += length;
            on_bytes(*at);
        }
        if *at == size {
            return Ok(());
        }
        // It ended cleanly and too early: asking for the rest shows whether there is any.
        let source = Box::new(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        Err(RegistryError::Broken { host: self.host(), source })
    }

    fn blob_ask(&self, digest: &Digest, from: u64) -> Ask<'static> {
        let mut headers = Vec::new();
        if from > 0 {
            headers.push((header::RANGE, format!("bytes={from}-")));
        }
        Ask {
            method: Method::GET,
            target: self.path(&format!("blobs/{digest}")),
            headers,
            body: None,
            what: format!("blob {digest}"),
        }
    }

    async fn fetch_whole(&self, ask: &Ask<'_>, max: u64) -> Result<(HeaderMap, Bytes), RegistryError> {
        let mut failures = 0;
        loop {
            let attempt = async {
                let answer = self.send(ask).await?;
                let bytes = answer.body.whole(&ask.what, max).await?;
                Ok((answer.headers, bytes))
            };
            match attempt.await {
                Err(error) => self.after_failure(&mut failures, error).await?,
                done => return done,
            }
        }
    }

    /// Sends until it is answered, as long as failures look passing.
    pub(crate) async fn send_retrying(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let mut failures = 0;
        loop {
            match self.send(ask).await {
                Err(error) => self.after_failure(&mut failures, error).await?,
                done => return done,
            }
        }
    }

    /// Waits before the next attempt, or gives the error back.
    async fn after_failure(&self, failures: &mut u32, error: RegistryError) -> Result<(), RegistryError> {
        *failures += 1;
        if !error.is_passing() || *failures >= self.connector.settings().transfer.attempts {
            return Err(error);
        }
        self.pause(*failures, &error).await;
        Ok(())
    }

    async fn pause(&self, failures: u32, error: &RegistryError) {
        let base = self.connector.settings().transfer.backoff.saturating_mul(1 << (failures - 1).min(6));
        let half_ms = u64::try_from(base.as_millis() / 2).unwrap_or(u64::MAX);
        let mut pause = base / 2 + Duration::from_millis(SystemRandom.below(half_ms + 1));
        if let RegistryError::Status { retry_after: Some(seconds), .. } = error {
            pause = pause.max(Duration::from_secs(*seconds));
        }
        tokio::time::sleep(pause.min(PAUSE_MAX)).await;
    }

    /// Sends once: logs in when asked, follows redirects, turns refusals into errors.
    pub(crate) async fn send(&self, ask: &Ask<'_>) -> Result<Answer, RegistryError> {
        let mut origin = self.origin.clone();
        let mut target = ask.target.clone();
        if !target.starts_with('/') {
            (origin, target) = self.locate(&self.origin, &target)?;
        }
        let mut logged_in = false;
        let mut redirects = 0;
        loop {
            let at_home = origin == self.origin;
            let authorization = if at_home { self.authorization() } else { None };
            let response = self.exchange(&origin, &target, ask, authorization.as_deref()).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && at_home && !logged_in {
                self.log_in(response.headers(), authorization.as_deref(), &ask.what).await?;
                logged_in = true;
                continue;
            }
            let follows = ask.method == Method::GET || ask.method == Method::HEAD;
            if status.is_redirection() && follows && status != StatusCode::NOT_MODIFIED {
                redirects += 1;
                if redirects > REDIRECTS_MAX {
                    return Err(RegistryError::TooManyRedirects { host: self.host() });
                }
                let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).unwrap_or("");
                (origin, target) = self.locate(&origin, location)?;
                continue;
            }
            let host = origin.authority();
            let (head, body) = response.into_parts();
            let body = PacedBody::new(body, &host, &self.connector.settings().transfer);
            if status.is_success() {
                return Ok(Answer { status, headers: head.headers, body });
            }
            let what = ask.what.clone();
            return Err(match status {
                StatusCode::NOT_FOUND => RegistryError::NotFound { host, what },
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { host, what },
                _ => {
                    let retry_after = head.headers.get(header::RETRY_AFTER);
                    let retry_after = retry_after.and_then(|v| v.to_str().ok()?.parse().ok());
                    let detail = body.whole("an error", ANSWER_MAX).await.ok().and_then(|bytes| detail_of(&bytes));
                    RegistryError::Status { host, what, status: status.as_u16(), detail, retry_after }
                }
            });
        }
    }

    async fn exchange(
        &self,
        origin: &Origin,
        target: &str,
        ask: &Ask<'_>,
        authorization: Option<&str>,
    ) -> Result<http::Response<hyper::body::Incoming>, RegistryError> {
        let host = origin.authority();
        let bad = |_| RegistryError::BadUrl { host: host.clone(), text: target.to_owned() };
        let body = match ask.body {
            Some(make) => make()?,
            None => full(Bytes::new()),
        };
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(target)
            .header(header::HOST, &host)
            .header(header::USER_AGENT, concat!("coppice/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(bad)?;
        for (name, value) in &ask.headers {
            let value = HeaderValue::from_str(value).map_err(|_| bad_header(&host))?;
            request.headers_mut().insert(name.clone(), value);
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| bad_header(&host))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        // Only the registry itself is reached without the bound; everything it points to is judged by its address.
        let pointer = Pointer { from: self.host(), locality: self.locality };
        let pointer = (*origin != self.origin).then_some(&pointer);
        let mut connection = self.connector.connect(origin, pointer).await?;
        let broken = |source| RegistryError::Broken { host: host.clone(), source: Box::new(source) };
        connection.sender.ready().await.map_err(broken)?;
        let patience = self.connector.settings().transfer.response;
        let sending = connection.sender.send_request(request);
        // An upload's answer comes after its body, however long that takes.
        let response = if ask.body.is_some() {
            sending.await
        } else {
            match tokio::time::timeout(patience, sending).await {
                Ok(response) => response,
                Err(_) => return Err(RegistryError::Silent { host }),
            }
        }
        .map_err(broken)?;
        self.connector.give_back(origin, connection);
        Ok(response)
    }

    /// Where a Location or realm leads, seen from `base`.
    fn locate(&self, base: &Origin, location: &str) -> Result<(Origin, String), RegistryError> {
        let bad = || RegistryError::BadUrl { host: base.authority(), text: location.chars().take(200).collect() };
        if location.starts_with('/') && !location.starts_with("//") {
            return Ok((base.clone(), location.to_owned()));
        }
        let uri: Uri = location.parse().map_err(|_| bad())?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let origin = Origin::new(https, uri.authority().ok_or_else(bad)?.as_str()).ok_or_else(bad)?;
        if !https && self.origin.https {
            return Err(RegistryError::Downgrade { from: self.host(), to: origin.authority() });
        }
        Ok((origin, uri.path_and_query().map_or("/", |p| p.as_str()).to_owned()))
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers a 401. `used` is what the refused request carried: another task may have logged in meanwhile.
    async fn log_in(&self, headers: &HeaderMap, used: Option<&str>, what: &str) -> Result<(), RegistryError> {
        if self.authorization().as_deref() != used {
            return Ok(());
        }
        let denied = || RegistryError::Denied { host: self.host(), what: what.to_owned() };
        let values: Vec<&str> =
            headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let challenges: Vec<Challenge> = values.iter().filter_map(|text| Challenge::parse(text)).collect();
        let bearer = challenges.iter().find(|c| matches!(c, Challenge::Bearer { .. }));
        let authorization = match bearer.or(challenges.first()) {
            Some(Challenge::Bearer { realm, service, scope }) => {
                format!("Bearer {}", self.token(realm, service.as_deref(), scope.as_deref()).await?)
            }
            Some(Challenge::Basic) => match &self.credentials {
                Credentials::Basic { username, password } => basic(username, password),
                _ => return Err(denied()),
            },
            None => {
                let challenge = values.join(", ").chars().take(200).collect();
                return Err(RegistryError::Challenge { host: self.host(), challenge });
            }
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(())
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<String, RegistryError> {
        let own_scope = match self.access {
            Access::Pull => format!("repository:{}:pull", self.repository),
            Access::Push => format!("repository:{}:pull,push", self.repository),
        };
        let scope = scope.filter(|s| !s.is_empty()).unwrap_or(&own_scope);
        let (origin, target) = self.locate(&self.origin, realm)?;
        let mut query = format!("scope={}", encode(scope));
        if let Some(service) = service {
            query.push_str(&format!("&service={}", encode(service)));
        }
        let what = format!("a token for {}", self.repository);
        // A refresh token is posted as a form, a password goes as Basic, and without either the token is anonymous.
        let (form, authorization) = match &self.credentials {
            Credentials::IdentityToken(token) => {
                let grant = "grant_type=refresh_token&client_id=coppice&refresh_token=";
                (Some(format!("{grant}{}&{query}", encode(token))), None)
            }
            Credentials::Basic { username, password } => (None, Some(basic(username, password))),
            Credentials::Anonymous => (None, None),
        };
        let target = match &form {
            Some(_) => target,
            None => format!("{target}{}{query}", if target.contains('?') { '&' } else { '?' }),
        };
        let posted = form.clone().unwrap_or_default();
        let make_body = move || Ok(full(posted.clone()));
        let ask = Ask {
            method: if form.is_some() { Method::POST } else { Method::GET },
            target: target.clone(),
            headers: match &form {
                Some(_) => vec![(header::CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned())],
                None => Vec::new(),
            },
            body: form.as_ref().map(|_| &make_body as &MakeBody<'_>),
            what: what.clone(),
        };
        let response = self.exchange(&origin, &target, &ask, authorization.as_deref()).await?;
        let host = origin.authority();
        let status = response.status();
        let body = PacedBody::new(response.into_body(), &host, &self.connector.settings().transfer);
        let bytes = body.whole(&what, ANSWER_MAX).await?;
        if !status.is_success() {
            return Err(match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied { host, what },
                _ => {
                    let (status, detail) = (status.as_u16(), detail_of(&bytes));
                    RegistryError::Status { host, what, status, detail, retry_after: None }
                }
            });
        }
        #[derive(serde::Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let token: Option<Token> = serde_json::from_slice(&bytes).ok();
        let token = token.and_then(|t| t.token.or(t.access_token)).filter(|t| !t.is_empty());
        token.ok_or(RegistryError::Challenge { host, challenge: "an answer without a token".to_owned() })
    }
}

fn bad_header(host: &str) -> RegistryError {
    RegistryError::BadUrl { host: host.to_owned(), text: "a header with a control character".to_owned() }
}

/// Whether a failed TLS attempt may mean plain HTTP; a certificate that is not trusted never does.
fn may_be_plain(error: &RegistryError) -> bool {
    match error {
        RegistryError::Connect { .. } => true,
        RegistryError::Tls { source, .. } => {
            let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            !matches!(tls, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_)))
        }
        _ => false,
    }
}

/// The first message of a registry's error answer.
fn detail_of(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let first = value.get("errors")?.get(0)?;
    let message = first.get("message").and_then(|m| m.as_str()).filter(|m| !m.is_empty());
    let text = message.or_else(|| first.get("code").and_then(|c| c.as_str()))?;
    Some(text.chars().filter(|c| !c.is_control()).take(300).collect())
}
