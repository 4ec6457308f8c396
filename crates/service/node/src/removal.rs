//! Taking away what there is of an app that is not to be any more.
//!
//! The app may be known only by what a daemon before this one left: containers, and a directory with the memory of its
//! supervisor. That memory says who depends on whom, so what still runs stops in the order it would have stopped in.
//! Nothing is started here, whatever the supervisor was about to do.

use std::collections::BTreeSet;
use std::sync::Arc;

use coppice_base::{Name, SystemRandom};
use coppice_supervise::{Action, Adopted, Event, ExitReason, Supervision};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use crate::container::{Container, Owner};
use crate::containers::Containers;
use crate::root::Root;
use crate::{supervisor, volume};

/// In an app's directory while it is removed together with its volumes.
const VOLUMES_GO: &str = "volumes-go";

/// Asks for the app's volumes to go with it, should this daemon not live to see the end of its removal.
pub(crate) fn mark_volumes(root: &Root, app: &str, go: bool) -> std::io::Result<()> {
    let mark = root.app(app).join(VOLUMES_GO);
    if go {
        return std::fs::write(mark, "");
    }
    match std::fs::remove_file(mark) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes an app's containers, its directory, and its volumes where that was asked for.
pub(crate) async fn clear(containers: &Containers, app: &Name, left: Vec<Arc<Container>>) {
    if left.iter().any(|container| container.phase().is_running()) {
        stop_in_order(containers, app, &left).await;
    }
    for container in left {
        if let Err(error) = containers.remove(&container, true, true).await {
            tracing::warn!(container = %container.name(), %error, "cannot remove it");
        }
    }
    let dir = containers.root.app(app.as_str());
    if dir.join(VOLUMES_GO).exists()
        && let Err(error) = volume::remove_of_app(&containers.volumes, app.as_str())
    {
        tracing::warn!(%app, %error, "cannot remove its volumes");
    }
    if let Err(error) = std::fs::remove_dir_all(&dir)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "cannot remove an app's directory");
    }
}

async fn stop(containers: &Containers, container: &Container) {
    if let Err(error) = containers.stop(container, None, None).await {
        tracing::warn!(container = %container.name(), %error, "cannot stop a container of a removed app");
    }
}

/// Stops what runs as the app's supervisor would have; all at once what it does not remember.
async fn stop_in_order(containers: &Containers, app: &Name, left: &[Arc<Container>]) {
    if let Some(machine) = supervisor::restore(&supervisor::snapshot(&containers.root.app(app.as_str()))) {
        follow(containers, machine, left).await;
    }
    let rest = left.iter().filter(|container| container.phase().is_running());
    futures_util::future::join_all(rest.map(|container| stop(containers, container))).await;
}

async fn follow(containers: &Containers, mut machine: Supervision<String>, left: &[Arc<Container>]) {
    let instance = |key: &str| left.iter().find(|c| matches!(&c.owner, Owner::App { instance, .. } if instance == key));
    let keys: Vec<String> = machine.keys().cloned().collect();
    let running = |key: &String| instance(key).is_some_and(|container| container.phase().is_running());
    let found = keys.iter().map(|key| match running(key) {
        true => Event::Adopt(key.clone(), Adopted::Running { ready: false }),
        false => Event::Adopt(key.clone(), Adopted::Exited(ExitReason::Lost)),
    });
    // The stop first: then nothing that is found ended is to be started again.
    let mut events: Vec<Event<String>> = std::iter::once(Event::Stop).chain(found).collect();
    let (mut told, mut stopping) = (BTreeSet::new(), FuturesUnordered::new());
    loop {
        for event in std::mem::take(&mut events) {
            // A refused event is of a child that is down already.
            let actions = machine.handle(containers.clock.now(), event, &mut SystemRandom).unwrap_or_default();
            for action in actions {
                // One that was being stopped when its daemon died is told so again, once.
                if let Action::Stop { key, .. } = action
                    && told.insert(key.clone())
                {
                    let container = instance(&key).cloned();
                    stopping.push(async move {
                        if let Some(container) = container {
                            stop(containers, &container).await;
                        }
                        key
                    });
                }
            }
        }
        match stopping.next().await {
            Some(key) => events.push(Event::Exited(key, ExitReason::Lost)),
            None => return,
        }
    }
}
