//! One request, one connection.
//!
//! A node can be killed or restarted at any moment. A client that knows how to get one again ([`Client::reviving`]) sends
//! reads again, and requests the dead node never had whole. It refuses to repeat anything else: a `run` that may have been
//! done is the caller's to look at.

use std::future::Future;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Mutex;

use bytes::Bytes;
use coppice_api::{API, ApiError, VersionReply, path, stream::PROTOCOL};
use futures_util::stream;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::ClientError;
use crate::lines::Lines;
use crate::stream::Stream;
use crate::target::Target;

/// Bytes read at a time from what is uploaded.
const UPLOAD_CHUNK: usize = 256 << 10;

/// Longest error or single JSON answer that is read whole; a peer that sends more is not a node.
const ANSWER_MAX: usize = 256 << 20;

/// Times a request is sent again because the node went away under it; a node that dies three times is not just restarted.
const TRIES_MORE: u32 = 2;

/// What a caller does so that there is a node again; false when there is none.
pub type Revival = Box<dyn Fn() -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A node to talk to. Needs a Tokio runtime with I/O around every call.
pub struct Client {
    socket: PathBuf,
    /// A connection that is open already, for the first request.
    open: Mutex<Option<UnixStream>>,
    revival: Option<Revival>,
}

impl Client {
    /// A client that connects with its first request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into(), open: Mutex::new(None), revival: None }
    }

    /// Connects now, so that a caller learns at once whether a node is there; the first request uses it.
    pub async fn connect(socket: impl Into<PathBuf>) -> Result<Self, ClientError> {
        let client = Self::new(socket);
        let stream = client.dial().await?;
        *client.open.lock().expect("no code panics with this lock held") = Some(stream);
        Ok(client)
    }

    /// Sends what it can send again when the node goes away under it, after `revival` has seen to a node: reads, and what
    /// the node is known not to have read ([`ClientError::Unread`]). Nothing is ever done twice.
    pub fn reviving(self, revival: Revival) -> Self {
        Self { revival: Some(revival), ..self }
    }

    /// Whether to try once more after `error`; there is a node again then.
    async fn again(&self, error: &ClientError, is_read: bool, tries: &mut u32) -> bool {
        let may = match error {
            ClientError::Unread { .. } => true,
            ClientError::Connect { .. } => error.nobody_there(),
            ClientError::Lost { .. } => is_read,
            _ => false,
        };
        let Some(revival) = self.revival.as_ref().filter(|_| may && *tries < TRIES_MORE) else { return false };
        *tries += 1;
        revival().await
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn dial(&self) -> Result<UnixStream, ClientError> {
        let failed = |source| ClientError::Connect { socket: self.socket.clone(), source };
        UnixStream::connect(&self.socket).await.map_err(failed)
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
        let open = self.open.lock().expect("no code panics with this lock held").take();
        let stream = match open {
            Some(stream) => stream,
            None => self.dial().await?,
        };
        let (mut sender, connection) =
            http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(ClientError::lost)?;
        // Ends when the request's answer has been read, or dropped; nobody needs to wait for it.
        drop(tokio::spawn(connection.with_upgrades()));
        sender.send_request(request).await.map_err(from_hyper)
    }

    async fn send(
        &self,
        method: Method,
        target: &Target,
        mut body: Payload,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut tries = 0;
        loop {
            // An upload's bytes are gone once read.
            let copy = body.copy();
            match self.attempt(method.clone(), target, body).await {
                Err(error) if copy.is_some() && self.again(&error, method == Method::GET, &mut tries).await => {}
                other => return other,
            }
            body = copy.expect("just seen");
        }
    }

    async fn attempt(&self, method: Method, target: &Target, body: Payload) -> Result<Response<Incoming>, ClientError> {
        let mut request = Request::builder().method(method).uri(target.as_str()).header(header::HOST, "coppice");
        let body = match body {
            Payload::None => Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync(),
            Payload::Json(json) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Full::new(Bytes::from(json)).map_err(|never| match never {}).boxed_unsync()
            }
            Payload::Upload(upload) => {
                request = request.header(header::CONTENT_TYPE, "application/x-tar");
                upload.body()
            }
            Payload::Upgrade(json) => {
                request = request
                    .header(header::CONTENT_TYPE, "application/json")
                    .header(header::CONNECTION, "upgrade")
                    .header(header::UPGRADE, PROTOCOL);
                Full::new(Bytes::from(json)).map_err(|never| match never {}).boxed_unsync()
            }
        };
        let request = request.body(body).map_err(ClientError::garbled)?;
        let response = self.exchange(request).await?;
        if response.status().is_client_error() || response.status().is_server_error() {
            return Err(self.refused(response, target).await);
        }
        Ok(response)
    }

    /// The error that a status of 400 or more stands for.
    async fn refused(&self, response: Response<Incoming>, target: &Target) -> ClientError {
        let status = response.status();
        match whole(response.into_body()).await {
            Ok(body) => match serde_json::from_slice::<ApiError>(&body) {
                Ok(error) => ClientError::Api(error),
                Err(_) => self.misunderstood(format!("status {status} for {}", target.as_str())).await,
            },
            Err(error) => error,
        }
    }

    /// An answer that cannot be understood is another version's, if the node says so, else garbage.
    pub(crate) async fn misunderstood(&self, what: String) -> ClientError {
        let request = Request::get(path::VERSION)
            .header(header::HOST, "coppice")
            .body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
        let version = async {
            let response = self.exchange(request.ok()?).await.ok()?;
            let body = whole(response.into_body()).await.ok()?;
            serde_json::from_slice::<VersionReply>(&body).ok()
        };
        match version.await {
            Some(reply) if reply.api != API => ClientError::Version { node: reply.version, theirs: reply.api },
            _ => ClientError::Garbled { what },
        }
    }

    async fn decode<T: DeserializeOwned>(
        &self,
        response: Response<Incoming>,
        target: &Target,
    ) -> Result<T, ClientError> {
        let body = whole(response.into_body()).await?;
        match serde_json::from_slice(&body) {
            Ok(value) => Ok(value),
            Err(error) => Err(self.misunderstood(format!("{}: {error}", target.as_str())).await),
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, target: Target) -> Result<T, ClientError> {
        self.read(Method::GET, target).await
    }

    /// A request that changes nothing, sent again also when its answer is cut off.
    async fn read<T: DeserializeOwned>(&self, method: Method, target: Target) -> Result<T, ClientError> {
        let mut tries = 0;
        loop {
            let answer = match self.attempt(method.clone(), &target, Payload::None).await {
                Ok(response) => self.decode(response, &target).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(error) if self.again(&error, true, &mut tries).await => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn get_lines<T: DeserializeOwned>(&self, target: Target) -> Result<Lines<T>, ClientError> {
        Ok(Lines::of(self.send(Method::GET, &target, Payload::None).await?.into_body()))
    }

    pub(crate) async fn get_text(&self, target: Target) -> Result<String, ClientError> {
        let body = whole(self.send(Method::GET, &target, Payload::None).await?.into_body()).await?;
        String::from_utf8(body).map_err(ClientError::garbled)
    }

    pub(crate) async fn get_bytes(&self, target: Target) -> Result<Download, ClientError> {
        Ok(Download { body: self.send(Method::GET, &target, Payload::None).await?.into_body() })
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        target: Target,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        let response = self.send(Method::POST, &target, Payload::Json(json(body)?)).await?;
        self.decode(response, &target).await
    }

    /// A POST without a body that only waits for something, so that it can be sent again.
    pub(crate) async fn wait_for<T: DeserializeOwned>(&self, target: Target) -> Result<T, ClientError> {
        self.read(Method::POST, target).await
    }

    pub(crate) async fn post_lines<T: DeserializeOwned>(
        &self,
        target: Target,
        body: &impl Serialize,
    ) -> Result<Lines<T>, ClientError> {
        Ok(Lines::of(self.send(Method::POST, &target, Payload::Json(json(body)?)).await?.into_body()))
    }

    /// A POST whose answer has no body. With `None` the request has none either.
    pub(crate) async fn command(&self, target: Target, body: Option<&impl Serialize>) -> Result<(), ClientError> {
        let payload = match body {
            Some(body) => Payload::Json(json(body)?),
            None => Payload::None,
        };
        whole(self.send(Method::POST, &target, payload).await?.into_body()).await.map(drop)
    }

    pub(crate) async fn delete(&self, target: Target) -> Result<(), ClientError> {
        whole(self.send(Method::DELETE, &target, Payload::None).await?.into_body()).await.map(drop)
    }

    pub(crate) async fn delete_for<T: DeserializeOwned>(&self, target: Target) -> Result<T, ClientError> {
        let response = self.send(Method::DELETE, &target, Payload::None).await?;
        self.decode(response, &target).await
    }

    pub(crate) async fn upload<T: DeserializeOwned>(&self, target: Target, upload: Upload) -> Result<T, ClientError> {
        let response = self.send(Method::POST, &target, Payload::Upload(upload)).await?;
        self.decode(response, &target).await
    }

    pub(crate) async fn put(&self, target: Target, upload: Upload) -> Result<(), ClientError> {
        whole(self.send(Method::PUT, &target, Payload::Upload(upload)).await?.into_body()).await.map(drop)
    }

    /// A POST that becomes a stream of frames; with the 101's value of `header`.
    pub(crate) async fn upgrade(
        &self,
        target: Target,
        body: Option<&impl Serialize>,
        header: &str,
    ) -> Result<(Stream, Option<String>), ClientError> {
        let payload = match body {
            Some(body) => json(body)?,
            None => Vec::new(),
        };
        let response = self.send(Method::POST, &target, Payload::Upgrade(payload)).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.misunderstood(format!("status {} instead of a stream", response.status())).await);
        }
        let value = response.headers().get(header).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let upgraded = hyper::upgrade::on(response).await.map_err(ClientError::lost)?;
        let parts = upgraded
            .downcast::<TokioIo<UnixStream>>()
            .map_err(|_| ClientError::garbled("the upgraded connection is not the socket"))?;
        Ok((Stream::new(parts.io.into_inner(), &parts.read_buf), value))
    }
}

/// What a request carries.
enum Payload {
    None,
    Json(Vec<u8>),
    Upload(Upload),
    Upgrade(Vec<u8>),
}

impl Payload {
    /// The same again; `None` for what can be sent only once.
    fn copy(&self) -> Option<Self> {
        match self {
            Self::None => Some(Self::None),
            Self::Json(json) => Some(Self::Json(json.clone())),
            Self::Upgrade(json) => Some(Self::Upgrade(json.clone())),
            Self::Upload(_) => None,
        }
    }
}

/// Bytes to send that are read as the node takes them.
///
/// The reader is called on the runtime's thread: right for a command that does one thing, wrong for a server.
pub struct Upload {
    reader: Box<dyn Read + Send>,
}

impl Upload {
    pub fn new(reader: impl Read + Send + 'static) -> Self {
        Self { reader: Box::new(reader) }
    }

    fn body(self) -> Body {
        let chunks = stream::unfold(Some(self.reader), |reader| async move {
            let mut reader = reader?;
            let mut buffer = vec![0; UPLOAD_CHUNK];
            loop {
                match reader.read(&mut buffer) {
                    Ok(0) => return None,
                    Ok(read) => {
                        buffer.truncate(read);
                        return Some((Ok(Frame::data(Bytes::from(buffer))), Some(reader)));
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Some((Err(error), None)),
                }
            }
        });
        StreamBody::new(chunks).boxed_unsync()
    }
}

/// Bytes of an answer as they come.
pub struct Download {
    body: Incoming,
}

impl Download {
    /// The next piece; `None` at the end, and only when the answer is whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        next_data(&mut self.body).await
    }
}

/// The next data of a body, trailers skipped.
pub(crate) async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => return Err(from_hyper(error)),
        }
    }
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    while let Some(data) = next_data(&mut body).await? {
        if bytes.len() + data.len() > ANSWER_MAX {
            return Err(ClientError::garbled(format!("more than {ANSWER_MAX} bytes")));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn json(body: &impl Serialize) -> Result<Vec<u8>, ClientError> {
    serde_json::to_vec(body).map_err(ClientError::garbled)
}

fn from_hyper(error: hyper::Error) -> ClientError {
    if error.is_parse() {
        return ClientError::garbled(error);
    }
    if error.is_user() {
        // The only user errors here come from a body: an `Upload` whose reader failed.
        let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
        let kind = source.map_or(io::ErrorKind::Other, io::Error::kind);
        let text = source.map_or_else(|| error.to_string(), ToString::to_string);
        return ClientError::Upload(io::Error::new(kind, text));
    }
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        // A Unix socket is reset when its peer goes away with bytes in it that it has not read (unix(7)), and breaks when
        // it takes no more: either way the node never had the whole request, and a request of which a part is missing is
        // not carried out.
        if matches!(kind, Some(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)) {
            return ClientError::Unread { what: error.to_string() };
        }
        source = cause.source();
    }
    ClientError::lost(error)
}
