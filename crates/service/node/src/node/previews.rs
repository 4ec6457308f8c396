//! Previews: an app beside another one, on clones of its volumes, for a time.
//!
//! A preview is an app of its own in the state, which says of what, and until when. So everything that can be asked of an app
//! can be asked of it, and a daemon that returns knows when it ends. Only its volumes are made by other means than an app's:
//! of a snapshot, which is gone as soon as the clone is there. A clone says from its first moment on whose it is; what a
//! daemon that died half-way left is found by that.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use coppice_api::{ApplyRequest, PreviewReply, PreviewRequest, PreviewSummary, PromoteReply};
use coppice_base::{DurationText, Name, Timestamp};
use coppice_dataset::{DatasetError, DatasetName, SnapshotName, Store};
use coppice_state::{Actor, Preview, Rejection, State};
use tokio::sync::watch;

use super::releases::Given;
use super::{NODE, Node};
use crate::app::App;
use crate::error::NodeError;
use crate::events::About;
use crate::preview::{CLONED_FOR, Limits, hosts, is_of, mark, name_refused, spec_of};
use crate::rollout::{existing_volumes, on_disk, snapshot_with};

/// How long a preview stands when nobody says.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// The longest it can stand from one `up` to the next.
const TTL_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// The longest sleep while there is a preview: clocks are set.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two tries to end a preview that does not end.
const AGAIN: Duration = Duration::from_secs(5);

impl Node {
    /// All previews there are, by the app that each is.
    pub fn previews(&self) -> Vec<PreviewSummary> {
        let state = self.log.read();
        state.apps().filter_map(|(name, app)| Some(self.preview_summary(name, app, app.preview.as_ref()?))).collect()
    }

    fn preview_summary(&self, name: &Name, app: &coppice_state::App, preview: &Preview) -> PreviewSummary {
        PreviewSummary {
            app: name.clone(),
            of: preview.of.clone(),
            name: preview.name.clone(),
            until: preview.until,
            release: app.current().number,
            state: self.app_status(name.as_str()).map_or_else(|_| "starting".to_owned(), |status| status.state),
            hosts: hosts(app.spec()),
        }
    }

    /// Stands a preview beside its app, or updates one. Returns once the node has begun to bring it up.
    pub async fn up_preview(&self, uid: u32, request: PreviewRequest) -> Result<PreviewReply, NodeError> {
        let PreviewRequest { spec, name, ttl_ms, cpus, memory, only } = request;
        if let Some(why) = name_refused(&name) {
            return Err(NodeError::Invalid(why));
        }
        let (of, invalid) = (spec.name.clone(), |error: coppice_base::NameError| NodeError::Invalid(error.to_string()));
        let preview_name = Name::new(name.as_str()).map_err(invalid)?;
        let app = Preview::app_name(&of, &preview_name).ok_or_else(|| {
            NodeError::Invalid(format!(
                "{of}-{name} is too long for an app's name: choose a shorter one for the preview"
            ))
        })?;
        let ttl = ttl_ms.map_or(TTL, Duration::from_millis);
        if ttl.is_zero() || ttl > TTL_MAX {
            return Err(NodeError::Invalid(format!(
                "a preview stands for more than 0 s and at most {}",
                DurationText(TTL_MAX)
            )));
        }
        let broken = spec.check();
        if !broken.is_empty() {
            return Err(NodeError::Spec(broken));
        }
        let state = self.log.read();
        let base = state.app(of.as_str()).ok_or_else(|| {
            NodeError::Invalid(format!(
                "app {of} does not run, so there is nothing to stand beside: `coppice up` first"
            ))
        })?;
        if let Some(preview) = &base.preview {
            let (of, name) = (&preview.of, &preview.name);
            return Err(NodeError::Invalid(format!(
                "{} is preview {name} of {of}: preview {of} itself",
                base.spec().name
            )));
        }
        let is_it = |preview: &Preview| preview.of == of && preview.name == preview_name;
        if state.app(app.as_str()).is_some_and(|known| !known.preview.as_ref().is_some_and(is_it)) {
            return Err(Rejection::NotAPreview { app, of }.into());
        }
        let (made, words) = spec_of(&spec, app.clone(), &name, Limits { cpu: cpus, memory });
        let until = self.clock.now().plus(ttl);
        let preview = Preview { of, name: preview_name, until, spec: Box::new(spec) };
        let given = Given { preview: Some(preview), images: BTreeMap::new() };
        let reply = self.apply_given(uid, ApplyRequest { spec: made, only }, given).await?;
        let state = self.app_state(app.as_str())?;
        let preview = state.preview.as_ref().ok_or_else(|| NodeError::NoApp(app.to_string()))?;
        Ok(PreviewReply { preview: self.preview_summary(&app, &state, preview), changed: reply.changed, words })
    }

    /// The preview that an app is.
    fn known_preview(&self, app: &str) -> Result<Preview, NodeError> {
        self.app_state(app)?.preview.clone().ok_or_else(|| {
            NodeError::Invalid(format!("{app} is an app and no preview: `coppice preview ls` lists those there are"))
        })
    }

    /// Removes a preview and its volumes.
    pub async fn discard_preview(&self, uid: u32, app: &str) -> Result<(), NodeError> {
        self.known_preview(app)?;
        self.down(uid, app, true).await
    }

    /// Makes the app what its preview is, with the images that run there, as a release like any other. When that has come
    /// to stay the preview is gone; otherwise it stays.
    pub async fn promote_preview(&self, uid: u32, app: &str) -> Result<PromoteReply, NodeError> {
        let preview = self.known_preview(app)?;
        let images = self.app_state(app)?.current().images.clone();
        let request = ApplyRequest { spec: *preview.spec.clone(), only: Vec::new() };
        let reply = self.apply_given(uid, request, Given { preview: None, images }).await?;
        self.when_rolled_out(&preview.of, reply.release, app).await?;
        // Its time may have come meanwhile.
        match self.discard_preview(uid, app).await {
            Err(NodeError::NoApp(_)) => {}
            other => other?,
        }
        Ok(PromoteReply { app: preview.of, release: reply.release, changed: reply.changed })
    }

    /// Resolves when a release has taken its predecessor's place.
    async fn when_rolled_out(&self, app: &Name, number: u64, preview: &str) -> Result<(), NodeError> {
        let stays = |what: &'static str| {
            let (app, preview) = (app.to_string(), preview.to_owned());
            Err(NodeError::NotPromoted { app, release: number, what, preview })
        };
        let mut states = self.log.watch();
        loop {
            let state = states.borrow_and_update().clone();
            let Some(known) = state.app(app.as_str()) else { return Err(NodeError::NoApp(app.to_string())) };
            match known.rollout() {
                Some((record, _)) if record.progress.blocked.is_some() => return stays("does not go on"),
                Some(_) => {}
                None if known.current().number < number => return stays("was rolled back"),
                None => return Ok(()),
            }
            if states.changed().await.is_err() {
                return Err(NodeError::Log("the node is going down".to_owned()));
            }
        }
    }

    /// Clones the volumes of the app that a preview is of which the preview has not yet. With an error there is nothing
    /// that was not there before.
    pub(super) async fn clone_volumes(&self, preview: &Preview, app: &Name) -> Result<Vec<DatasetName>, NodeError> {
        let is_new = self.log.read().app(app.as_str()).is_none();
        let base = self.app(preview.of.as_str())?;
        // What a rollout does to the volumes is done, or has not begun.
        let _turn = self.turn(&preview.of).await?;
        let (of, own, mark) = (preview.of.clone(), app.clone(), mark(preview));
        let declared = preview.spec.volumes.clone();
        let stale = snapshot_of(preview)?;
        let wanted = on_disk(&base, move |store| {
            if is_new {
                clear(store, &own, &mark)?;
            }
            let there = existing_volumes(store, &own)?;
            let all = existing_volumes(store, &of)?
                .into_iter()
                .filter(|(name, _)| declared.get(name).is_some_and(|volume| volume.host_path.is_none()));
            let mut wanted = Vec::new();
            for (volume, snapshots) in all {
                if snapshots.contains(stale.as_str()) {
                    store.destroy_snapshot(&DatasetName { app: Some(of.clone()), volume: volume.clone() }, &stale)?;
                }
                match (there.contains_key(&volume), is_new) {
                    (false, _) => wanted.push(volume),
                    (true, false) => {}
                    (true, true) => {
                        return Err(DatasetError::Exists(DatasetName { app: Some(own.clone()), volume }).into());
                    }
                }
            }
            Ok(wanted)
        })
        .await?;
        let cloned = self.clone_each(&base, preview, app, &wanted).await;
        let (of, snapshot) = (preview.of.clone(), snapshot_of(preview)?);
        let forgotten = on_disk(&base, move |store| {
            for volume in wanted {
                match store.destroy_snapshot(&DatasetName { app: Some(of.clone()), volume }, &snapshot) {
                    Ok(()) | Err(DatasetError::NoSnapshot { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        });
        if let Err(error) = forgotten.await {
            tracing::warn!(app = %preview.of, %error, "a snapshot for a preview is left: `coppice volume rm` removes it");
        }
        cloned
    }

    async fn clone_each(
        &self,
        base: &Arc<App>,
        preview: &Preview,
        app: &Name,
        volumes: &[Name],
    ) -> Result<Vec<DatasetName>, NodeError> {
        let snapshot = snapshot_of(preview)?;
        let stamp = (CLONED_FOR, mark(preview));
        // All snapshots first: they are to be of about one moment.
        for volume in volumes {
            snapshot_with(base, volume, snapshot.as_str(), std::slice::from_ref(&stamp)).await?;
        }
        let mut made = Vec::new();
        for volume in volumes {
            let from = DatasetName { app: Some(preview.of.clone()), volume: volume.clone() };
            let to = DatasetName { app: Some(app.clone()), volume: volume.clone() };
            let (snapshot, name) = (snapshot.clone(), to.clone());
            if let Err(error) = on_disk(base, move |store| Ok(store.clone_to(&from, &snapshot, &name)?)).await {
                self.drop_clones(&made).await;
                return Err(error);
            }
            made.push(to);
        }
        Ok(made)
    }

    /// Removes clones that no app has come to use.
    pub(super) async fn drop_clones(&self, clones: &[DatasetName]) {
        let (containers, clones) = (self.containers.clone(), clones.to_vec());
        let dropped = tokio::task::spawn_blocking(move || {
            for clone in clones {
                if let Err(error) = containers.volumes.destroy(&clone) {
                    tracing::warn!(volume = %clone, %error, "cannot remove it: `coppice volume rm` does");
                }
            }
        });
        // An error: the node goes down, and the next one sweeps.
        let _ = dropped.await;
    }

    /// Removes what a daemon before this one had cloned for previews that did not come to be.
    async fn sweep(&self) {
        let containers = self.containers.clone();
        let survey = tokio::task::spawn_blocking(move || containers.volumes.survey()).await;
        let Ok(Ok(survey)) = survey else { return };
        for dataset in survey.datasets {
            let Some(mark) = dataset.stamps.get(CLONED_FOR).map(str::to_owned) else { continue };
            let Some(app) = dataset.name.app.clone().filter(|app| is_of(app, &mark)) else { continue };
            let Ok(_turn) = self.turn(&app).await else { return };
            if self.log.read().app(app.as_str()).is_some() {
                continue;
            }
            let containers = self.containers.clone();
            let cleared = tokio::task::spawn_blocking(move || clear(&containers.volumes, &app, &mark)).await;
            if let Ok(Err(error)) = cleared {
                tracing::warn!(%error, "cannot remove what is left of a preview");
            }
        }
    }

    /// The previews of an app.
    pub(super) fn previews_of(&self, app: &str) -> Vec<Name> {
        let state = self.log.read();
        let of = state.apps().filter(|(_, known)| known.preview.as_ref().is_some_and(|p| p.of.as_str() == app));
        of.map(|(name, _)| name.clone()).collect()
    }
}

/// What the snapshots are called that a preview's volumes are cloned from.
fn snapshot_of(preview: &Preview) -> Result<SnapshotName, NodeError> {
    SnapshotName::new(format!("preview-{}", preview.name)).map_err(|error| NodeError::Invalid(error.to_string()))
}

/// Removes the clones that say that they were made for a preview.
fn clear(store: &Store, app: &Name, mark: &str) -> Result<(), NodeError> {
    for name in store.list()?.into_iter().filter(|name| name.app.as_ref() == Some(app)) {
        if store.inspect(&name)?.stamps.get(CLONED_FOR) == Some(mark) {
            store.destroy(&name)?;
        }
    }
    Ok(())
}

/// The previews that are to end now: their time has come, or the app is gone that they stood beside.
fn due(state: &State, now: Timestamp) -> Vec<Name> {
    let previews = state.apps().filter_map(|(name, app)| Some((name, app.preview.as_ref()?)));
    let over = previews.filter(|(_, preview)| preview.until <= now || state.app(preview.of.as_str()).is_none());
    over.map(|(name, _)| name.clone()).collect()
}

/// How long nothing is to be done, should nothing change.
fn rest(state: &State, now: Timestamp) -> Option<Duration> {
    let next = state.apps().filter_map(|(_, app)| Some(app.preview.as_ref()?.until)).min()?;
    Some(next.since(now).min(LONGEST))
}

/// Ends previews when their time has come, for as long as the node is there.
pub(super) async fn end_in_time(node: Weak<Node>, mut stopping: watch::Receiver<bool>) {
    let Some(mut states) = node.upgrade().map(|node| node.log.watch()) else { return };
    if let Some(node) = node.upgrade() {
        node.sweep().await;
    }
    loop {
        let state = states.borrow_and_update().clone();
        let pause = {
            let Some(node) = node.upgrade() else { return };
            let mut pause = None;
            for app in due(&state, node.clock.now()) {
                let name = app.as_str();
                match node.take_down(Actor::Node(NODE), name, true).await {
                    Ok(()) => {
                        let message = "its time as a preview was over".to_owned();
                        let about = About { app: Some(name), message, ..About::default() };
                        node.containers.events.emit("app", "preview-end", name, about);
                    }
                    Err(error) => {
                        tracing::warn!(%app, %error, "its time as a preview is over, and it cannot be removed");
                        pause = Some(AGAIN);
                    }
                }
            }
            pause.or_else(|| rest(&node.log.read(), node.clock.now()))
        };
        let timer = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            () = timer => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}
