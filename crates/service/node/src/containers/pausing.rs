//! Containers that rest: because somebody wants them to, or while what they write to is copied.

use std::sync::Arc;
use std::time::Duration;

use coppice_api::ErrorKind;
use coppice_dataset::DatasetName;
use coppice_spec::MountSource;

use super::Containers;
use crate::container::{Container, Phase};
use crate::error::NodeError;

/// How long freezing may take: a process in an uninterruptible wait is frozen only after it.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// What a container is paused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Somebody asked for it: until somebody asks again.
    Asked,
    /// Until what it writes to is copied, or the daemon that copies is gone.
    Copy,
}

impl Containers {
    /// Freezes or thaws every process of it. Whether it was not frozen before.
    pub(crate) async fn set_paused(&self, container: &Container, pause: bool, why: Pause) -> Result<bool, NodeError> {
        let _freezing = if pause {
            // Processes that are being added get to their first step before; none is added meanwhile.
            let added = tokio::time::timeout(FREEZE_LIMIT, container.freezing.write()).await;
            Some(added.map_err(|_| NodeError::Adding(container.name()))?)
        } else {
            None
        };
        let Phase::Running { pid, started_at, paused } = container.phase() else {
            return Err(NodeError::NotRunning(container.name()));
        };
        // One that is paused already is somebody else's to wake.
        if pause && paused {
            return Ok(false);
        }
        let cgroup = self.cgroup(&container.id)?;
        if pause {
            cgroup.freeze(FREEZE_LIMIT)?
        } else {
            cgroup.thaw()?
        }
        let still = container.change(|record| {
            if record.phase.is_running() {
                record.phase = Phase::Running { pid, started_at, paused: pause };
                record.is_copied = pause && why == Pause::Copy;
            }
        });
        if still.phase.is_running() {
            // Whether it is paused is the one thing a returning daemon cannot ask the launcher.
            match self.write_record(container) {
                Ok(()) => {}
                // It ended, or was removed, the moment it was thawed.
                Err(_) if !container.phase().is_running() => return Ok(true),
                Err(source) if pause => {
                    cgroup.thaw()?;
                    container.change(|record| {
                        if record.phase.is_running() {
                            record.phase = Phase::Running { pid, started_at, paused: false };
                            record.is_copied = false;
                        }
                    });
                    let what = format!("cannot pause container {}: that it is paused cannot be written", still.name);
                    return Err(NodeError::disk(what, source));
                }
                // It runs on, which is what was asked for.
                Err(error) => {
                    tracing::warn!(container = %still.name, %error, "a daemon that starts now takes it for paused");
                }
            }
            self.tell(container, if pause { "pause" } else { "unpause" }, String::new());
        }
        Ok(true)
    }

    /// The containers that run and may write to the volume.
    pub(crate) fn writers_of(&self, volume: &DatasetName) -> Vec<Arc<Container>> {
        let writes = |container: &Arc<Container>| {
            container.owner.app() == volume.app.as_ref()
                && container.phase().is_running()
                && container.read(|record| {
                    let mut mounts = record.spec.workload.volumes.iter().filter(|mount| !mount.read_only);
                    mounts.any(|mount| matches!(&mount.source, MountSource::Volume(of) if *of == volume.volume))
                })
        };
        self.table.all().into_iter().filter(writes).collect()
    }

    /// Freezes those of the containers that run and can be; to be [thawed](Self::thaw). Where there is no room to write that
    /// down, none is.
    pub(crate) async fn freeze(&self, all: Vec<Arc<Container>>) -> Result<Vec<Arc<Container>>, NodeError> {
        let mut frozen = Vec::new();
        for container in all {
            match self.set_paused(&container, true, Pause::Copy).await {
                Ok(true) => frozen.push(container),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    self.thaw(frozen).await;
                    return Err(error);
                }
                // One that has ended writes nothing.
                Err(_) => {}
            }
        }
        Ok(frozen)
    }

    pub(crate) async fn thaw(&self, frozen: Vec<Arc<Container>>) {
        for container in frozen {
            if let Err(error) = self.set_paused(&container, false, Pause::Copy).await {
                tracing::warn!(container = %container.name(), %error, "it stays paused: `coppice unpause` wakes it");
            }
        }
    }
}
