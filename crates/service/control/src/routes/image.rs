//! Images.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use coppice_api::{
    ErrorKind, ImageDetail, ImageSummary, LayerProgress, LayerState, LoadReply, PruneReply, PruneRequest, PullRequest,
    PushRequest, RegistryLogin, RemoveReply, TagRequest, TransferLine,
};
use coppice_image::{
    ArchiveFormat, Credentials, ImageConfig, ImportError, ImportOptions, LayerError, LoadError, Progress, PruneOptions,
    PushOptions, Reference, StoreError, UnpackError, silent,
};
use coppice_node::Node;
use futures_util::{Stream, StreamExt};
use http::StatusCode;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};

use crate::answer::{Answer, Failed, bytes, lines};
use crate::query::Query;

/// Parts of a body that are read ahead of a client.
const PARTS_AHEAD: usize = 8;

/// A part of a body that the node makes.
const PART: usize = 256 << 10;

fn upstream(error: impl std::fmt::Display) -> Failed {
    Failed::new(ErrorKind::Upstream, error.to_string())
}

fn invalid(error: impl std::fmt::Display) -> Failed {
    Failed::new(ErrorKind::Invalid, error.to_string())
}

/// An archive that did not come in: its own fault, or this machine's.
fn taken_in(error: impl std::fmt::Display, store: Option<&StoreError>, layer: Option<&LayerError>) -> Failed {
    let kind = match (store, layer) {
        (Some(StoreError::DiskFull), _) | (_, Some(LayerError::Unpack(UnpackError::DiskFull))) => ErrorKind::NoSpace,
        (Some(StoreError::Io(_)), _) | (_, Some(LayerError::Unpack(UnpackError::Io(_)))) => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    Failed::new(kind, error.to_string())
}

fn not_imported(error: ImportError) -> Failed {
    match &error {
        ImportError::Store(store) => taken_in(&error, Some(store), None),
        ImportError::Layer(layer) => taken_in(&error, None, Some(layer)),
        ImportError::Config(_) => invalid(error),
        ImportError::NoBase(_) => Failed::new(ErrorKind::NotFound, error.to_string()),
    }
}

fn not_loaded(error: LoadError) -> Failed {
    match &error {
        LoadError::Store(store) => taken_in(&error, Some(store), None),
        LoadError::Layer(layer) => taken_in(&error, None, Some(layer)),
        _ => invalid(error),
    }
}

fn internal(error: impl std::fmt::Display) -> Failed {
    Failed::new(ErrorKind::Internal, error.to_string())
}

fn reference(text: &str) -> Answer<Reference> {
    text.parse().map_err(|error: coppice_image::ReferenceError| invalid(error))
}

fn credentials(login: Option<RegistryLogin>) -> Credentials {
    match login {
        None => Credentials::Anonymous,
        // What docker's credential helpers answer when the secret is an identity token.
        Some(RegistryLogin { user, password }) if user == "<token>" => Credentials::IdentityToken(password),
        Some(RegistryLogin { user, password }) => Credentials::Basic { username: user, password },
    }
}

pub(super) async fn list(State(node): State<Arc<Node>>) -> Json<Vec<ImageSummary>> {
    Json(node.images().list().iter().map(|image| node.image_summary(image)).collect())
}

pub(super) async fn inspect(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<ImageDetail>> {
    Ok(Json(node.image_detail(query.required("name")?)?))
}

pub(super) async fn remove(State(node): State<Arc<Node>>, query: Query) -> Answer<Json<RemoveReply>> {
    let (name, force) = (query.required("name")?.to_owned(), query.flag("force")?);
    let pinned = node.pinned_images();
    let store = node.images().clone();
    let text = name.clone();
    let removed = tokio::task::spawn_blocking(move || store.remove(&text, &pinned, force)).await.map_err(internal)?;
    let removed = removed.map_err(|error| {
        use coppice_image::RemoveError;
        if let (RemoveError::InUse(_), Some(in_use)) = (&error, node.image_in_use(&name)) {
            return in_use.into();
        }
        let kind = match &error {
            RemoveError::NotFound(_) => ErrorKind::NotFound,
            RemoveError::InUse(_) | RemoveError::SeveralNames { .. } => ErrorKind::Conflict,
            RemoveError::Resolve(_) => ErrorKind::Invalid,
            RemoveError::Store(_) => ErrorKind::Internal,
        };
        Failed::new(kind, error.to_string())
    })?;
    Ok(Json(RemoveReply {
        untagged: removed.untagged.iter().map(ToString::to_string).collect(),
        deleted: removed.images.iter().map(ToString::to_string).collect(),
        freed_bytes: removed.freed.0,
    }))
}

pub(super) async fn tag(State(node): State<Arc<Node>>, Json(request): Json<TagRequest>) -> Answer<StatusCode> {
    let target = reference(&request.target)?;
    let store = node.images().clone();
    let tagged = tokio::task::spawn_blocking(move || store.tag(&request.source, &target)).await.map_err(internal)?;
    tagged.map_err(|error| match &error {
        coppice_image::TagError::NotFound(_) => Failed::new(ErrorKind::NotFound, error.to_string()),
        _ => invalid(error),
    })?;
    Ok(StatusCode::NO_CONTENT)
}

/// Follows a transfer: its progress as lines, then how it ended.
fn transfer<F>(start: impl FnOnce(mpsc::UnboundedSender<TransferLine>) -> F) -> Response
where
    F: Future<Output = Result<(String, String), Failed>> + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    let work = start(sender.clone());
    tokio::spawn(async move {
        let last = match work.await {
            Ok((id, digest)) => TransferLine::Done { id, digest },
            Err(Failed(error)) => TransferLine::Error(error),
        };
        // The client may have gone; the transfer is done all the same.
        let _ = sender.send(last);
    });
    lines(UnboundedReceiverStream::new(receiver))
}

fn progress_line(progress: Progress) -> TransferLine {
    use coppice_image::LayerState as State;
    let (state, done_bytes, total_bytes) = match progress.state {
        State::Waiting => (LayerState::Waiting, 0, 0),
        State::Downloading { done, total } => (LayerState::Downloading, done, total),
        State::Unpacking => (LayerState::Unpacking, 0, 0),
        State::Uploading { done, total } => (LayerState::Uploading, done, total),
        State::Done => (LayerState::Done, 0, 0),
        State::Exists => (LayerState::Exists, 0, 0),
    };
    TransferLine::Layer(LayerProgress { digest: progress.digest.to_string(), state, done_bytes, total_bytes })
}

pub(super) async fn pull(State(node): State<Arc<Node>>, Json(request): Json<PullRequest>) -> Response {
    transfer(|progress| async move {
        if !request.always
            && let Some(image) = node.images().resolve(&request.reference).map_err(invalid)?
        {
            return Ok((image.id.to_string(), image.manifest_digest.to_string()));
        }
        let tell = move |step| {
            let _ = progress.send(progress_line(step));
        };
        let image = node.pull(&request.reference, request.insecure, credentials(request.login), tell).await?;
        Ok((image.id.to_string(), image.manifest_digest.to_string()))
    })
}

pub(super) async fn push(State(node): State<Arc<Node>>, Json(request): Json<PushRequest>) -> Response {
    transfer(|progress| async move {
        let target = reference(request.target.as_deref().unwrap_or(&request.reference))?;
        let options = PushOptions { insecure: request.insecure, credentials: credentials(request.login) };
        let tell = Arc::new(move |step| {
            let _ = progress.send(progress_line(step));
        });
        let digest = node.images().push(&request.reference, &target, options, tell).await.map_err(upstream)?;
        Ok((request.reference, digest.to_string()))
    })
}

pub(super) async fn import(State(node): State<Arc<Node>>, query: Query, body: Body) -> Answer<Json<LoadReply>> {
    // First, so that a refusal below reads the body to its end too.
    let body = body_reader(body);
    let name = reference(query.required("name")?)?;
    let config = ImageConfig {
        entrypoint: query.list("entrypoint")?,
        cmd: query.list("cmd")?,
        env: query.list("env")?,
        working_dir: query.one("workdir").unwrap_or_default().to_owned(),
        user: query.one("user").unwrap_or_default().to_owned(),
        ..ImageConfig::default()
    };
    let base = match query.one("base") {
        None => None,
        Some(base) => {
            let missing =
                || Failed::new(ErrorKind::NotFound, format!("no image {base} is here; `coppice pull` fetches it"));
            Some(node.images().resolve(base).map_err(invalid)?.ok_or_else(missing)?)
        }
    };
    let options = ImportOptions { config, base, ..ImportOptions::default() };
    let image = node.images().import(body, Some(name), options).await.map_err(not_imported)?;
    Ok(Json(LoadReply { images: vec![node.image_summary(&image)], words: Vec::new() }))
}

pub(super) async fn load(State(node): State<Arc<Node>>, body: Body) -> Answer<Json<LoadReply>> {
    let images = node.images().load(body_reader(body), silent()).await.map_err(not_loaded)?;
    let images = images.iter().map(|image| node.image_summary(image)).collect();
    Ok(Json(LoadReply { images, words: Vec::new() }))
}

pub(super) async fn export(State(node): State<Arc<Node>>, query: Query) -> Answer<Response> {
    let name = query.required("name")?.to_owned();
    node.image_detail(&name)?;
    let (writer, reader) = tokio::io::duplex(PART);
    tokio::spawn(async move {
        if let Err(error) = node.images().export(&name, writer).await {
            tracing::warn!(%error, "an export ended early");
        }
    });
    Ok(bytes(tokio_util::io::ReaderStream::with_capacity(reader, PART)))
}

pub(super) async fn save(State(node): State<Arc<Node>>, query: Query) -> Answer<Response> {
    let names = query.all("name");
    if names.is_empty() {
        return Err(invalid("the query lacks name="));
    }
    for name in &names {
        node.image_detail(name)?;
    }
    let format = match query.one("format") {
        None | Some("docker") => ArchiveFormat::Docker,
        Some("oci") => ArchiveFormat::Oci,
        Some(other) => return Err(invalid(format!("format={other}: use docker or oci"))),
    };
    let (writer, reader) = tokio::io::duplex(PART);
    tokio::spawn(async move {
        if let Err(error) = node.images().save(&names, format, writer).await {
            tracing::warn!(%error, "a save ended early");
        }
    });
    Ok(bytes(tokio_util::io::ReaderStream::with_capacity(reader, PART)))
}

pub(super) async fn prune(
    State(node): State<Arc<Node>>,
    Json(request): Json<PruneRequest>,
) -> Answer<Json<PruneReply>> {
    let pinned = node.pinned_images();
    let store = node.images().clone();
    let pruned = tokio::task::spawn_blocking(move || match request.budget_bytes {
        Some(budget) => store.collect(coppice_base::Bytes(budget), &pinned),
        None => store.prune(&PruneOptions { pinned, all: request.all }),
    });
    let removed = pruned.await.map_err(internal)?.map_err(internal)?;
    Ok(Json(PruneReply {
        images: removed.images.iter().map(ToString::to_string).collect(),
        freed_bytes: removed.freed.0,
    }))
}

/// A request's body as a reader. What the reader leaves unread is read and dropped: a client that is cut off in the
/// middle of its body would never hear why it was refused.
pub(super) fn body_reader(body: Body) -> impl AsyncRead + Send + Unpin + 'static {
    let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
    tokio::spawn(async move {
        let mut parts = body.into_data_stream();
        while let Some(part) = parts.next().await {
            let failed = part.is_err();
            // An error means that nobody reads any more.
            let _ = sender.send(part.map_err(io::Error::other)).await;
            if failed {
                break;
            }
        }
    });
    tokio_util::io::StreamReader::new(ReceiverStream::new(receiver))
}

/// A writer for blocking code, and what it writes as a stream.
pub(super) fn channel_writer() -> (impl io::Write + Send + 'static, impl Stream<Item = io::Result<Bytes>> + Send) {
    let (sender, receiver) = mpsc::channel(PARTS_AHEAD);
    (io::BufWriter::with_capacity(PART, ChannelWriter(sender)), ReceiverStream::new(receiver).map(Ok))
}

struct ChannelWriter(mpsc::Sender<Bytes>);

impl io::Write for ChannelWriter {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Bytes::copy_from_slice(part)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
