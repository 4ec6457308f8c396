//! The thread that makes pulled data durable after the pull has returned: one `syncfs`, then the durable catalog.
//!
//! Pulling must not wait for the disk: until the sync is through, a crash loses nothing, and a power cut only costs
//! pulling again what was pulled in its last seconds.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::store::{Durability, Inner, StoreError};

type Answer = tokio::sync::oneshot::Sender<Result<(), StoreError>>;

/// A request holds the store open until it is served, so that closing after a pull waits for its sync.
struct Request {
    inner: Arc<Inner>,
    answer: Option<Answer>,
}

pub(crate) struct Syncer {
    requests: Mutex<Option<Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Syncer {
    pub(crate) fn start() -> io::Result<Self> {
        let (requests, queue) = channel::<Request>();
        let thread = std::thread::Builder::new().name("image-sync".into()).spawn(move || {
            while let Ok(first) = queue.recv() {
                // One sync answers all who asked before it began.
                let inner = first.inner;
                let later = queue.try_iter().map(|request| request.answer);
                let waiting: Vec<Answer> = std::iter::once(first.answer).chain(later).flatten().collect();
                let result = sync(&inner);
                if let Err(error) = &result {
                    tracing::warn!(%error, "pulled images could not be made durable yet");
                }
                for answer in waiting {
                    let copy = match &result {
                        Ok(()) => Ok(()),
                        Err(error) => Err(StoreError::from(io::Error::new(error.kind(), error.to_string()))),
                    };
                    // A caller that no longer waits needs no answer.
                    let _ = answer.send(copy);
                }
            }
        })?;
        Ok(Self { requests: Mutex::new(Some(requests)), thread: Mutex::new(Some(thread)) })
    }

    /// Asks for a sync and goes on.
    pub(crate) fn ask(&self, inner: &Arc<Inner>) {
        self.send(Request { inner: inner.clone(), answer: None });
    }

    pub(crate) async fn wait(&self, inner: &Arc<Inner>) -> Result<(), StoreError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.send(Request { inner: inner.clone(), answer: Some(answer) });
        answered.await.unwrap_or_else(|_| Err(StoreError::Io(io::Error::other("the store is closing"))))
    }

    fn send(&self, request: Request) {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(requests) = requests.as_ref() {
            // Only a thread that panicked has hung up; the waiter hears of it by its own channel.
            let _ = requests.send(request);
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic there was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn sync(inner: &Inner) -> io::Result<()> {
    // Only what was there before the sync began is vouched for by it.
    let fresh: Vec<_> = {
        let state = inner.lock_state();
        state.catalog.images.iter().filter(|(_, r)| r.unsynced_since.is_some()).map(|(digest, _)| *digest).collect()
    };
    if fresh.is_empty() {
        return Ok(());
    }
    rustix::fs::syncfs(File::open(&inner.dir)?)?;
    inner.change(Durability::Durable, |catalog| {
        for manifest in fresh {
            if let Some(record) = catalog.images.get_mut(&manifest) {
                record.unsynced_since = None;
            }
        }
    })
}
