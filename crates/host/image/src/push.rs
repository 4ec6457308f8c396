//! `push`: layers and configuration that the registry lacks, then the manifest, byte for byte as it is here, so the
//! digest stays the same everywhere.

use std::io;
use std::sync::Arc;

use http::Method;
use http::header;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::digest::Digest;
use crate::progress::{LayerState, Progress, ProgressSink};
use crate::reference::{DEFAULT_REGISTRY, Reference};
use crate::registry::{Access, Ask, Credentials, RegistryError, Session, full, of_file};
use crate::store::{Durability, ImageStore, ResolveError, StoreError};

#[derive(Clone, Debug, Default)]
pub struct PushOptions {
    /// Plain HTTP is allowed for this registry.
    pub insecure: bool,
    pub credentials: Credentials,
}

/// Why a push failed. The registry may have some of the layers; the tag there is as it was.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("there is no image {0:?} here: see `coppice images`")]
    NotFound(String),
    #[error("{0} has a digest: push to a tag")]
    HasDigest(Reference),
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<io::Error> for PushError {
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

impl ImageStore {
    /// Uploads the image that `source` names as `target`; returns its manifest's digest.
    pub async fn push(
        &self,
        source: &str,
        target: &Reference,
        options: PushOptions,
        progress: ProgressSink,
    ) -> Result<Digest, PushError> {
        let Some(tag) = target.tag().filter(|_| target.digest().is_none()) else {
            return Err(PushError::HasDigest(target.clone()));
        };
        let image = self.inner.find(source)?.ok_or_else(|| PushError::NotFound(source.to_owned()))?;
        let digest = image.manifest_digest;
        let record = self.inner.lock_state().catalog.images.get(&digest).cloned();
        let record = record.ok_or_else(|| PushError::NotFound(source.to_owned()))?;
        let mut blobs: Vec<(Digest, u64)> = record.layers.iter().map(|l| (l.blob, l.size)).collect();
        let _lease = self.inner.lease(blobs.iter().map(|(d, _)| *d).chain([record.config, digest]));
        let manifest = self.inner.read_blob(&digest)?;
        blobs.push((record.config, std::fs::metadata(self.inner.blob_path(&record.config))?.len()));
        blobs.sort();
        blobs.dedup();

        let endpoint = match target.registry() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            other => other,
        };
        let plain = options.insecure || self.inner.settings.insecure.contains(target.registry());
        let session =
            Session::open(&self.connector, endpoint, target.repository(), Access::Push, options.credentials, plain)
                .await?;
        let session = Arc::new(session);
        let permits = Arc::new(Semaphore::new(self.inner.settings.transfer.parallel.max(1)));
        let mut tasks = JoinSet::new();
        for (digest, size) in blobs {
            progress(Progress { digest, state: LayerState::Waiting });
            let (session, permits, progress) = (session.clone(), permits.clone(), progress.clone());
            let path = self.inner.blob_path(&digest);
            tasks.spawn(async move {
                let _permit = permits.acquire().await;
                push_blob(&session, digest, size, &path, &progress).await
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(io::Error::other)??;
        }
        let make_body = || Ok(full(manifest.clone()));
        session
            .send_retrying(&Ask {
                method: Method::PUT,
                target: session.path(&format!("manifests/{tag}")),
                headers: vec![(header::CONTENT_TYPE, record.media_type.clone())],
                body: Some(&make_body),
                what: format!("manifest {}:{tag}", target.repository()),
            })
            .await?;
        let name = target.at(digest).full();
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || {
            inner.change(Durability::Durable, |catalog| {
                if let Some(record) = catalog.images.get_mut(&digest) {
                    record.repo_digests.insert(name);
                }
            })
        })
        .await
        .map_err(io::Error::other)??;
        Ok(digest)
    }
}

async fn push_blob(
    session: &Session,
    digest: Digest,
    size: u64,
    path: &std::path::Path,
    progress: &ProgressSink,
) -> Result<(), PushError> {
    let what = format!("blob {digest}");
    let ask = |method, target: String| Ask { method, target, headers: Vec::new(), body: None, what: what.clone() };
    match session.send_retrying(&ask(Method::HEAD, session.path(&format!("blobs/{digest}")))).await {
        Ok(_) => {
            progress(Progress { digest, state: LayerState::Exists });
            return Ok(());
        }
        Err(RegistryError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let begun = session.send_retrying(&ask(Method::POST, session.path("blobs/uploads/"))).await?;
    let location = begun.headers.get(header::LOCATION).and_then(|v| v.to_str().ok());
    let location = location.ok_or_else(|| RegistryError::NoLocation { host: session.host() })?;
    let separator = if location.contains('?') { '&' } else { '?' };
    let target = format!("{location}{separator}digest={}", digest.to_string().replace(':', "%3A"));
    let sink = progress.clone();
    let make_body = || {
        let file = std::fs::File::open(path).map_err(RegistryError::File)?;
        let sink = sink.clone();
        let told = move |done| sink(Progress { digest, state: LayerState::Uploading { done, total: size } });
        Ok(of_file(file.into(), size, told))
    };
    session
        .send_retrying(&Ask {
            method: Method::PUT,
            target,
            headers: vec![(header::CONTENT_TYPE, "application/octet-stream".to_owned())],
            body: Some(&make_body),
            what: what.clone(),
        })
        .await?;
    progress(Progress { digest, state: LayerState::Done });
    Ok(())
}
