//! A connection that changed its protocol (WebSocket and the like): bytes both ways, until either end closes, nothing moves
//! for too long, the policy comes to deny it, or the instance or route leaves and the drain deadline has come.
//!
//! It is begun only after the instance's own 101, and never goes back to HTTP: what follows cannot become a request to
//! another route.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use crate::body::{Http1Sink, Http1Source, Pump, Sink, Source};
use crate::callers::Leave;
use crate::deadline::Watch;
use crate::forward::overstays;
use crate::head::Framing;
use crate::routes::{Compiled, Member};
use crate::worker::Worker;

/// Between two looks at whether it must end.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the tunnel to its end; `down` holds the head of the 101. Returns bytes sent to and received from the client.
#[allow(clippy::too_many_arguments)] // both ends, and by what each of them may have to end
pub(crate) async fn run(
    client: &mut Http1Source,
    upstream: Http1Source,
    mut down: Sink,
    watch: &Watch,
    route: &Arc<Compiled>,
    member: &Arc<Member>,
    leave: &mut Leave,
    worker: &Rc<Worker>,
) -> (u64, u64) {
    let idle = route.spec.timeouts.idle.0;
    let mut up = Sink::Http1(Http1Sink::new(Rc::clone(&upstream.io), Vec::new(), Framing::Close));
    let mut from_client = Http1Source::new(Rc::clone(&client.io), std::mem::take(&mut client.buffer));
    from_client.begin(Framing::Close);
    let (mut from_client, mut from_upstream) = (Source::Http1(from_client), Source::Http1(upstream));
    if let Source::Http1(source) = &mut from_upstream {
        source.begin(Framing::Close);
    }
    let (mut forth, mut back) = (Pump::new(None), Pump::new(None));
    let mut moved_at = worker.now();
    let mut moved = (u64::MAX, 0);
    poll_fn(|cx| {
        let back_done = !back.poll(cx, &mut from_upstream, &mut down, |_| ()).is_pending();
        let forth_done = !forth.poll(cx, &mut from_client, &mut up, |_| ()).is_pending();
        // Half-closing is not what these protocols do: one end's end is the end.
        if back_done || forth_done {
            return Poll::Ready(());
        }
        let now = worker.now();
        if moved != (back.moved, forth.moved) {
            moved = (back.moved, forth.moved);
            moved_at = now;
        }
        if now.since(moved_at) >= idle || worker.must_end() || leave.is_revoked(worker, member) {
            return Poll::Ready(());
        }
        if overstays(now, route.state.leave_by(), member.leave_by()) {
            return Poll::Ready(());
        }
        watch.set(LOOK.min(idle));
        watch.expired(cx);
        Poll::Pending
    })
    .await;
    (back.moved, forth.moved)
}
