//! What a rollout does to volumes: snapshots named after the release whose data they hold, switches that can be asked for
//! twice, and stamps that say whose data a volume holds.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_base::Name;
use coppice_dataset::{DatasetName, Kind, Properties, SnapshotName, Stamps, Store};
use coppice_spec::{AppSpec, Compression, MountSource, VolumeSpec};
use coppice_state::{App as AppState, Release, Verdict};

use super::records;
use crate::app::App;
use crate::error::NodeError;
use crate::preview;
use crate::view::manifest_hash;

/// What a snapshot of release `from`'s data is called that is taken when release `to` comes.
pub(crate) fn kept_as(from: u64, to: u64) -> String {
    format!("r{from}-before-r{to}")
}

/// What data of release `number` is called that was cut because its rollout failed.
pub(crate) fn failed_as(number: u64) -> String {
    format!("r{number}-failed")
}

/// The number of the release whose data a snapshot holds; `None` for one of another's making.
pub(crate) fn holder(snapshot: &str) -> Option<u64> {
    let rest = snapshot.strip_prefix('r')?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    let after = &rest[digits.len()..];
    (after.starts_with("-before-r") || after.starts_with("-failed")).then(|| digits.parse().ok())?
}

/// Volumes of an app as the plan of a rollout sees them: the datasets there are, with their snapshots' names.
pub(crate) type Volumes = std::collections::BTreeMap<Name, BTreeSet<String>>;

/// The app's volumes that are here.
pub(crate) fn existing_volumes(store: &Store, app: &Name) -> Result<Volumes, NodeError> {
    let own = store.list()?.into_iter().filter(|name| name.app.as_ref() == Some(app));
    let each = own.map(|name| {
        let snapshots = store.inspect(&name)?.snapshots;
        Ok((name.volume, snapshots.into_iter().map(|snapshot| snapshot.name.to_string()).collect()))
    });
    each.collect()
}

/// The volumes that a workload may write to.
pub(crate) fn written_by(spec: &AppSpec, workload: &str) -> BTreeSet<Name> {
    let mounts = spec.workload(workload).into_iter().flat_map(|workload| &workload.volumes);
    let named = mounts.filter(|mount| !mount.read_only).filter_map(|mount| match &mount.source {
        MountSource::Volume(volume) => Some(volume.clone()),
        MountSource::Host(_) | MountSource::Anonymous => None,
    });
    named.filter(|volume| spec.volumes.get(volume).is_none_or(|volume| volume.host_path.is_none())).collect()
}

fn name_of(app: &App, volume: &Name) -> DatasetName {
    DatasetName { app: Some(app.name.clone()), volume: volume.clone() }
}

pub(super) fn snapshot_name(text: &str) -> Result<SnapshotName, NodeError> {
    SnapshotName::new(text).map_err(|error| NodeError::Invalid(error.to_string()))
}

fn has(store: &Store, name: &DatasetName, snapshot: &SnapshotName) -> Result<bool, NodeError> {
    Ok(store.inspect(name)?.snapshots.iter().any(|one| one.name == *snapshot))
}

/// Work on the disk, off the threads that serve.
pub(crate) async fn on_disk<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&Store) -> Result<T, NodeError> + Send + 'static,
) -> Result<T, NodeError> {
    let containers = app.containers().clone();
    let done = tokio::task::spawn_blocking(move || work(&containers.volumes)).await;
    done.unwrap_or_else(|error| Err(NodeError::Invalid(format!("work on a volume ended early: {error}"))))
}

/// Takes a snapshot of what the volume holds now; one that is there already is the one.
pub(super) async fn snapshot(app: &Arc<App>, volume: &Name, snapshot: &str) -> Result<(), NodeError> {
    snapshot_with(app, volume, snapshot, &[]).await
}

/// As [`snapshot`], with these stamps.
pub(crate) async fn snapshot_with(
    app: &Arc<App>,
    volume: &Name,
    snapshot: &str,
    more: &[(&'static str, String)],
) -> Result<(), NodeError> {
    let (name, snapshot) = (name_of(app, volume), snapshot_name(snapshot)?);
    // A copy of a directory takes its time: those who write there wait meanwhile, so that it is of one moment.
    let writers = match app.containers().volumes.kind() {
        Kind::Directory => app.containers().writers_of(&name),
        _ => Vec::new(),
    };
    let frozen = app.containers().freeze(writers).await?;
    let pairs: Vec<(&str, String)> =
        std::iter::once(("created_at", app.now().0.to_string())).chain(more.iter().cloned()).collect();
    let taken = on_disk(app, move |store| {
        if has(store, &name, &snapshot)? {
            return Ok(());
        }
        let mut stamps = Stamps::default();
        for (key, value) in pairs {
            stamps.set(key, value).map_err(|error| NodeError::Invalid(error.to_string()))?;
        }
        Ok(store.snapshot(&name, &snapshot, &stamps)?)
    });
    let taken = taken.await;
    app.containers().thaw(frozen).await;
    taken
}

/// Has the volume hold what `to` holds, and keeps what it held as `keep`. Done already when `keep` is there.
pub(super) async fn switch(app: &Arc<App>, volume: &Name, to: &str, keep: &str) -> Result<(), NodeError> {
    let (name, to, keep) = (name_of(app, volume), snapshot_name(to)?, snapshot_name(keep)?);
    on_disk(app, move |store| {
        if has(store, &name, &keep)? {
            return Ok(());
        }
        Ok(store.switch(&name, &to, &keep)?)
    })
    .await
}

/// Has the volume hold what it held before a switch kept it as `to`; without such a snapshot nothing was switched.
pub(super) async fn switch_back(app: &Arc<App>, volume: &Name, to: &str, cut: &str) -> Result<(), NodeError> {
    let (name, to, cut) = (name_of(app, volume), snapshot_name(to)?, snapshot_name(cut)?);
    on_disk(app, move |store| {
        if !has(store, &name, &to)? || has(store, &name, &cut)? {
            return Ok(());
        }
        Ok(store.switch(&name, &to, &cut)?)
    })
    .await
}

/// After a rollout: the heads say whose data they hold, and snapshots that no kept release needs are gone. What fails is
/// told and tried again after the next one.
pub(super) async fn settle(app: &Arc<App>) {
    let (wanted, name) = (app.wanted(), app.name.clone());
    let state = wanted.state().clone();
    let settled = on_disk(app, move |store| {
        let mut words = Vec::new();
        for volume in state.spec().volumes.iter().filter(|(_, volume)| volume.host_path.is_none()).map(|(name, _)| name)
        {
            let dataset = DatasetName { app: Some(name.clone()), volume: volume.clone() };
            if store.has(&dataset) {
                let properties = properties(&state.spec().volumes[volume]);
                if store.properties(&dataset) != properties {
                    words.extend(store.set_properties(&dataset, &properties)?);
                }
                store.stamp(&dataset, &stamps(&name, &state)?)?;
                records::keep(store, &dataset, &state)?;
                let kept = kept_releases(&state);
                store.prune(&dataset, &|snapshot| {
                    holder(snapshot.name.as_str()).is_none_or(|number| kept.contains(&number))
                })?;
            }
        }
        Ok(words)
    });
    match settled.await {
        Ok(words) => words.iter().for_each(|word| app.tell("volume", word)),
        Err(error) => tracing::warn!(app = %app.name, %error, "its volumes do not say whose data they hold"),
    }
}

/// Numbers of the releases whose data is kept: the current one, the newest `keep` before it, and the newest `keep` that
/// succeeded before the last that did, which is spared too. However many fail one after the other, there is data to go back to.
pub(crate) fn kept_releases(state: &AppState) -> BTreeSet<u64> {
    let current = state.current().number;
    let proved = state.last_succeeded().map_or(current, |release| release.number);
    let keep = usize::try_from(state.spec().keep).unwrap_or(usize::MAX);
    let newest = |wanted: &dyn Fn(&Release) -> bool| {
        let of = state.releases.iter().filter(|release| release.number != current && wanted(release));
        let mut numbers: Vec<u64> = of.map(|release| release.number).collect();
        numbers.sort_unstable();
        numbers.into_iter().rev().take(keep).collect::<Vec<_>>()
    };
    let ran = newest(&|release| release.number < proved && release.verdict == Some(Verdict::Succeeded));
    newest(&|_| true).into_iter().chain(ran).chain([current, proved]).collect()
}

/// How a volume is to be kept.
pub(crate) fn properties(spec: &VolumeSpec) -> Properties {
    Properties {
        compression: spec.compression.map(|kind| match kind {
            Compression::Off => coppice_dataset::Compression::Off,
            Compression::Lz4 => coppice_dataset::Compression::Lz4,
            Compression::Zstd => coppice_dataset::Compression::Zstd,
            Compression::Gzip => coppice_dataset::Compression::Gzip,
        }),
        quota: spec.quota.map(|bytes| bytes.0),
        record_size: spec.record_size.map(|bytes| bytes.0),
    }
}

/// Labels of an app that say what it was built from, and the stamps they become (OCI image spec, annotations).
const BUILT_FROM: [(&str, &str); 2] =
    [("org.opencontainers.image.version", "version"), ("org.opencontainers.image.revision", "git_sha")];

/// What is written on a volume: whose data it holds, which is the app's current release's.
fn stamps(app: &Name, state: &AppState) -> Result<Stamps, NodeError> {
    let release = state.current();
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut pairs = vec![
        ("managed", "true".to_owned()),
        ("app", app.to_string()),
        ("release", release.id.to_string()),
        ("number", release.number.to_string()),
        ("deployed_at", release.created_at.0.to_string()),
        ("deployed_by", release.actor.to_string()),
        ("fingerprint", format!("sha256:{}", manifest_hash(release))),
    ];
    pairs.extend(state.preview.as_ref().map(|preview| (preview::STAMP, preview::mark(preview))));
    // What others wrote is left out where it is no word: it is to be read back from one line.
    let labels = BUILT_FROM.iter().filter_map(|(label, key)| Some((*key, release.spec.labels.get(*label)?.clone())));
    let is_word = |text: &str| !text.is_empty() && text.len() <= 255 && text.chars().all(|c| c.is_ascii_graphic());
    pairs.extend(std::iter::once(("node_name", machine)).chain(labels).filter(|(_, text)| is_word(text)));
    let mut stamps = Stamps::default();
    for (key, value) in pairs {
        stamps.set(key, value).map_err(|error| NodeError::Invalid(error.to_string()))?;
    }
    Ok(stamps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_name_says_whose_data_it_holds_and_no_other_name_does() {
        assert_eq!(holder(&kept_as(4, 17)), Some(4));
        assert_eq!(holder("r4-before-r17.2"), Some(4));
        assert_eq!(holder(&failed_as(17)), Some(17));
        for other in ["manual-1", "r4", "r-before-r2", "release-4", "cut-1", "rx-failed", "r4-after-r5"] {
            assert_eq!(holder(other), None, "{other}");
        }
    }
}
