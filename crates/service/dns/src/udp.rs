//! The threads that answer over UDP: one for each socket, with nothing between the kernel and the zone.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use coppice_linux::Datagrams;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use crate::forward::Destination;
use crate::message::Transport;
use crate::metrics::Counters;
use crate::service::{Outcome, Service};

/// The longest query read; a longer one is cut, and so malformed.
const QUERY_MAX: usize = 4096;
/// Packets that are answered together: taken and sent by one system call each.
const BATCH: usize = 32;

/// Answers what comes to `socket` until `stop` becomes readable.
pub(crate) fn serve(service: &Service, socket: &Arc<UdpSocket>, stop: &OwnedFd, counters: &Counters) {
    let mut desk = service.desk();
    let mut datagrams = Datagrams::new(BATCH, QUERY_MAX);
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
        let Ok(came) = datagrams.receive(socket) else { continue };
        service.refresh(&mut desk);
        counters.udp_queries.add(came as u64);
        let now = Instant::now();
        for at in 0..came {
            let (packet, from, out) = datagrams.parts(at);
            let Some(from) = from else { continue };
            let replies = match service.handle(&mut desk, packet, (from.ip(), Transport::Udp, now), counters, out) {
                Outcome::Reply => true,
                Outcome::Silent => false,
                Outcome::Forward(question, query) => {
                    let destination = Destination::Udp(socket.clone(), from);
                    service.forward((question, query), packet, destination, counters, out)
                }
            };
            if !replies {
                out.clear();
            }
        }
        // A client whose queue is full, or which is gone, asks again if it still cares.
        datagrams.answer(socket);
    }
}
