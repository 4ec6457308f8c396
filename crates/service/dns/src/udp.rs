//! The threads that answer over UDP: one for each socket, with nothing between the kernel and the zone.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::forward::Destination;
use crate::message::Transport;
use crate::metrics::Counters;
use crate::service::{Outcome, Service};

/// The longest query read; a longer one is cut, and so malformed.
const QUERY_MAX: usize = 4096;
/// Packets answered before it is looked whether to stop.
const BATCH: usize = 64;

/// Answers what comes to `socket` until `stop` becomes readable.
pub(crate) fn serve(service: &Service, socket: &Arc<UdpSocket>, stop: &OwnedFd, counters: &Counters) {
    let mut desk = service.desk();
    let mut packet = [0; QUERY_MAX];
    let mut out = Vec::with_capacity(2048);
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            // Only a lack of memory is left.
            Err(_) => continue,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        let now = Instant::now();
        for _ in 0..BATCH {
            let Ok((len, from)) = socket.recv_from(&mut packet) else { break };
            service.refresh(&mut desk);
            counters.udp_queries.add(1);
            let packet = &packet[..len];
            let replies = match service.handle(&mut desk, packet, (from.ip(), Transport::Udp, now), counters, &mut out)
            {
                Outcome::Reply => true,
                Outcome::Silent => false,
                Outcome::Forward(question, query) => {
                    let destination = Destination::Udp(socket.clone(), from);
                    service.forward((question, query), packet, destination, counters, &mut out)
                }
            };
            if replies {
                // A client whose queue is full, or which is gone, asks again if it still cares.
                let _ = socket.send_to(&out, from);
            }
        }
    }
}
