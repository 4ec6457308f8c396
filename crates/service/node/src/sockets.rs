//! Listening sockets outlive the daemon: the launcher holds them, who connects while there is none waits in them, and the
//! next daemon takes them up. Those that its settings no longer name are closed then; all are when a node is told to stop.
//!
//! A launcher that cannot hold any (one from before it could) leaves it at that: ports are bound anew.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use coppice_state::State;

use crate::containers::Containers;
use crate::node::Node;

/// What the launcher has them under.
const HTTP: &str = "http";
const HTTPS: &str = "https";
const NAMES: &str = "names";

/// How long clients of an earlier daemon's sockets wait, at most, for an app that does not tell what it has.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a daemon that ends waits for the connections it has.
const PARTING: Duration = Duration::from_secs(5);

/// The sockets of a node's proxy and of its name server.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) http: Vec<OwnedFd>,
    pub(crate) https: Vec<OwnedFd>,
    pub(crate) names: Vec<OwnedFd>,
}

impl Containers {
    /// Takes up what an earlier daemon listened with, and has what this one listens with held from now on. To be called
    /// once, before anything listens.
    pub(crate) async fn take_up_sockets(self: &Arc<Self>, state: &State) {
        let launcher = self.launcher();
        let kept = async |name| {
            launcher.kept(name).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "sockets of an earlier daemon are not taken up");
                Vec::new()
            })
        };
        let sockets = Sockets { http: kept(HTTP).await, https: kept(HTTPS).await, names: kept(NAMES).await };
        let apps = state.apps().map(|(name, _)| name.clone()).collect();
        let resumes = self.traffic.take_up(sockets, apps);
        // At once: what is not taken up is in the way of what is bound next.
        self.keep_sockets().await;
        if resumes {
            let containers = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(PATIENCE).await;
                containers.traffic.resume_anyway();
            });
            // A node without apps waits for nobody.
            self.traffic.tell();
        }
        let containers = self.clone();
        tokio::spawn(async move {
            loop {
                containers.traffic.sockets_changed().notified().await;
                containers.keep_sockets().await;
            }
        });
    }

    /// Has the launcher hold what there is now, and nothing else.
    async fn keep_sockets(&self) {
        let gave_up = self.traffic.sockets_given_up.lock().await;
        if *gave_up {
            return;
        }
        match self.traffic.sockets() {
            Ok(sockets) => self.hand_over(sockets).await,
            Err(error) => tracing::warn!(%error, "new connections are refused while there is no daemon"),
        }
    }

    async fn hand_over(&self, sockets: Sockets) {
        let launcher = self.launcher();
        let Sockets { http, https, names } = sockets;
        for (name, fds) in [(HTTP, http), (HTTPS, https), (NAMES, names)] {
            if let Err(error) = launcher.keep(name, fds).await {
                tracing::warn!(%error, "new connections are refused while there is no daemon");
            }
        }
    }
}

impl Node {
    /// Lets requests that are under way have their answers, for a moment; new ones wait. For a daemon that another is to
    /// follow.
    pub async fn finish_requests(&self) {
        if self.containers.launcher().identity.keeps {
            self.containers.traffic.finish(PARTING).await;
        }
    }

    /// Nobody holds the node's sockets when it has ended: for one that is stopped for good.
    pub async fn give_up_sockets(&self) {
        let mut gave_up = self.containers.traffic.sockets_given_up.lock().await;
        *gave_up = true;
        self.containers.hand_over(Sockets::default()).await;
    }
}
