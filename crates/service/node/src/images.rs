//! Images for those who need one to run: found here, or fetched first.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_base::Bytes;
use coppice_image::{Credentials, Image, ImageStore, Progress, PullOptions, Reference};
use coppice_spec::PullPolicy;

use crate::containers::Containers;
use crate::error::NodeError;
use crate::events::About;

/// The image of a manifest digest, if it is here.
pub(crate) fn by_manifest(store: &ImageStore, digest: &str) -> Option<Arc<Image>> {
    store.list().into_iter().find(|image| image.manifest_digest.to_string() == digest)
}

/// The image `reference` names, fetched as `policy` says.
pub(crate) async fn get(containers: &Containers, reference: &str, policy: PullPolicy) -> Result<Arc<Image>, NodeError> {
    if policy != PullPolicy::Always
        && let Some(image) = containers.images.resolve(reference)?
    {
        return Ok(image);
    }
    if policy == PullPolicy::Never {
        return Err(NodeError::NoImage(reference.to_owned()));
    }
    pull(containers, reference, false, Credentials::Anonymous, |_| ()).await
}

/// Fetches an image whether it is here or not, then keeps the store within its budget.
pub(crate) async fn pull(
    containers: &Containers,
    reference: &str,
    insecure: bool,
    credentials: Credentials,
    progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Arc<Image>, NodeError> {
    let parsed: Reference =
        reference.parse().map_err(|e: coppice_image::ReferenceError| NodeError::Invalid(e.to_string()))?;
    let options = PullOptions { policy: coppice_image::PullPolicy::Always, platform: None, insecure, credentials };
    let pulled = containers.images.pull(&parsed, options, Arc::new(progress)).await;
    let image = pulled.map_err(|source| {
        let source = Box::new(source);
        NodeError::Pull { reference: reference.to_owned(), source }
    })?;
    containers.events.emit("image", "pull", &parsed.to_string(), About::default());
    if let Some(budget) = containers.settings.images.budget {
        let store = containers.images.clone();
        let mut pinned = pinned(containers);
        pinned.insert(image.id);
        let collected = tokio::task::spawn_blocking(move || store.collect(Bytes(budget), &pinned)).await;
        match collected {
            Ok(Ok(collected)) => tracing::debug!(?collected, "kept the images within their budget"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot keep the images within their budget"),
            Err(_) => {}
        }
    }
    Ok(image)
}

/// Images that must stay: those of containers, running or not, and those the kept releases name.
pub(crate) fn pinned(containers: &Containers) -> BTreeSet<coppice_image::Digest> {
    let used = containers.images_in_use();
    let mut pinned: BTreeSet<_> =
        containers.images.list().iter().map(|image| image.id).filter(|id| used.contains_key(&id.to_string())).collect();
    let releases = containers.release_images.lock().expect("no panic holds this lock");
    pinned.extend(
        containers
            .images
            .list()
            .iter()
            .filter(|image| releases.contains(&image.manifest_digest.to_string()))
            .map(|image| image.id),
    );
    pinned
}
