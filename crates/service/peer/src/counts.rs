//! What the halves count, for each service that is called.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coppice_base::{Name, Timestamp};
use coppice_spec::PeerTls;

/// Everything counted now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSnapshot {
    /// By app and service; those whose `tls.peer` is not off.
    pub services: Vec<ServiceSnapshot>,
    /// Connections to the halves that no redirection brought, that spoke no TLS, or that asked for no service of here.
    pub strays: u64,
    /// Connections closed at once: too many.
    pub overloaded: u64,
}

/// What is counted for one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSnapshot {
    pub app: Name,
    pub service: Name,
    pub mode: PeerTls,
    /// Connections now.
    pub open: u64,
    /// Callers of the app that showed who they are.
    pub handshakes: u64,
    /// Handshakes that failed, on either side.
    pub handshake_failures: u64,
    /// Callers that are not of the app, turned away.
    pub refused: u64,
    /// Callers that are not of the app, let through.
    pub warned: u64,
    /// Connections whose instance did not answer.
    pub unreachable: u64,
    /// Of the service's certificate.
    pub certificate_made_at: Option<Timestamp>,
    pub certificate_ends_at: Option<Timestamp>,
    /// Certificates of the app (and roots) that were due and could not be made.
    pub rotation_failures: u64,
}

#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) open: AtomicU64,
    pub(crate) handshakes: AtomicU64,
    pub(crate) handshake_failures: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) warned: AtomicU64,
    pub(crate) unreachable: AtomicU64,
    pub(crate) told_refused: Told,
    pub(crate) told_warned: Told,
    pub(crate) told_failed: Told,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Counts a connection as long as it is held.
pub(crate) struct Open(std::sync::Arc<Counts>);

impl Open {
    pub(crate) fn of(counts: &std::sync::Arc<Counts>) -> Self {
        count(&counts.open);
        Self(counts.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Lets one line of the log through at a time, so that a caller that tries again and again does not fill it.
#[derive(Default)]
pub(crate) struct Told(std::sync::Mutex<Option<Instant>>);

const BETWEEN_LINES: Duration = Duration::from_secs(10);

impl Told {
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock().expect("no panic holds this lock");
        let due = last.is_none_or(|last| last.elapsed() >= BETWEEN_LINES);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}
