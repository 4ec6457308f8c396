//! What can be asked about images.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Node;
use crate::container::Container;
use crate::error::NodeError;
use crate::{images, view};

impl Node {
    /// Containers per image id.
    pub fn images_in_use(&self) -> BTreeMap<String, u32> {
        self.containers.images_in_use()
    }

    /// Images that nothing may remove.
    pub fn pinned_images(&self) -> BTreeSet<coppice_image::Digest> {
        images::pinned(&self.containers)
    }

    /// Says which containers, running or not, use an image; `None` when none does.
    pub fn image_in_use(&self, text: &str) -> Option<NodeError> {
        let id = self.containers.image(text).ok()?.id.to_string();
        let uses = |container: &Arc<Container>| container.read(|record| record.image_id == id);
        let all = self.containers.table.all();
        let users: Vec<String> = all.iter().filter(|c| uses(c)).map(|c| c.name()).collect();
        (!users.is_empty()).then(|| NodeError::ImageInUse { image: text.to_owned(), users })
    }

    pub async fn pull(
        &self,
        reference: &str,
        insecure: bool,
        credentials: coppice_image::Credentials,
        progress: impl Fn(coppice_image::Progress) + Send + Sync + 'static,
    ) -> Result<Arc<coppice_image::Image>, NodeError> {
        images::pull(&self.containers, reference, insecure, credentials, progress).await
    }

    pub fn image_summary(&self, image: &coppice_image::Image) -> coppice_api::ImageSummary {
        let used = self.containers.images_in_use();
        view::image_summary(image, used.get(&image.id.to_string()).copied().unwrap_or(0))
    }

    pub fn image_detail(&self, text: &str) -> Result<coppice_api::ImageDetail, NodeError> {
        let image = self.containers.image(text)?;
        let used = self.containers.images_in_use();
        Ok(view::image_detail(&image, used.get(&image.id.to_string()).copied().unwrap_or(0)))
    }
}
