//! What happens on a node, as a stream: the last [`KEPT`] events, and all new ones to whoever follows.
//!
//! In memory only: causes that must outlive the daemon are in the supervisor's snapshot and the containers'
//! records.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use coppice_api::Event;
use coppice_base::{Clock, Timestamp};
use tokio::sync::broadcast;

/// Events a late follower can still ask for with `--since`.
pub(crate) const KEPT: usize = 4096;

/// How far a follower may fall behind before it misses events (it is told so).
const LAG: usize = 1024;

/// The node's event stream. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    kept: Arc<Mutex<VecDeque<Event>>>,
    sender: broadcast::Sender<Event>,
    clock: Arc<dyn Clock>,
}

impl Events {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { kept: Arc::default(), sender: broadcast::Sender::new(LAG), clock }
    }

    /// Records an event of `object` (`container`, `image`, `app`, `node`), now.
    pub fn emit(&self, object: &str, action: &str, id: &str, about: About<'_>) {
        let event = Event {
            at: self.clock.now(),
            object: object.to_owned(),
            action: action.to_owned(),
            id: id.to_owned(),
            name: about.name.map(str::to_owned),
            app: about.app.map(str::to_owned),
            message: about.message,
        };
        let mut kept = self.kept.lock().expect("no panic holds this lock");
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Sent under the lock, so that a follower sees each event once: kept or sent.
        // An error means that nobody follows.
        let _ = self.sender.send(event);
    }

    /// Kept events at or after `since`, and a receiver of all that come later.
    pub fn follow(&self, since: Option<Timestamp>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.kept.lock().expect("no panic holds this lock");
        let past = match since {
            Some(since) => kept.iter().filter(|event| event.at >= since).cloned().collect(),
            None => Vec::new(),
        };
        (past, self.sender.subscribe())
    }
}

/// The optional parts of an event.
#[derive(Debug, Default)]
pub struct About<'a> {
    pub name: Option<&'a str>,
    pub app: Option<&'a str>,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_gets_each_event_once_and_the_past_is_bounded() {
        let events = Events::new(Arc::new(coppice_base::SystemClock));
        for n in 0..KEPT + 10 {
            events.emit("node", "test", &n.to_string(), About::default());
        }
        let (past, mut later) = events.follow(Some(Timestamp::ZERO));
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].id, "10");
        events.emit("node", "test", "last", About::default());
        assert_eq!(later.try_recv().unwrap().id, "last");
        assert!(later.try_recv().is_err());
    }
}
