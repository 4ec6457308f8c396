//! Questions for others on their way: equal ones are asked once, and no client can fill the waiting room.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::cache::Question;
use crate::message::Transport;
use crate::query::Query;
use crate::response::Response;

/// Questions of all clients that may wait at a time.
const WAITING_MAX: usize = 4096;
/// Questions of one client that may wait at a time.
const WAITING_CLIENT_MAX: usize = 256;

/// Where an answer goes.
pub(crate) enum Destination {
    Udp(Arc<UdpSocket>, SocketAddr),
    Tcp(IpAddr, oneshot::Sender<Vec<u8>>),
}

impl Destination {
    fn client(&self) -> IpAddr {
        match self {
            Destination::Udp(_, address) => address.ip(),
            Destination::Tcp(address, _) => *address,
        }
    }

    fn transport(&self) -> Transport {
        match self {
            Destination::Udp(..) => Transport::Udp,
            Destination::Tcp(..) => Transport::Tcp,
        }
    }
}

/// One asker: its query, with the header and question it lies in.
pub(crate) struct Waiter {
    pub(crate) query: Query,
    pub(crate) packet: Vec<u8>,
    pub(crate) destination: Destination,
}

#[derive(Default)]
struct Flights {
    waiting: HashMap<Question, Vec<Waiter>>,
    by_client: HashMap<IpAddr, usize>,
    count: usize,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Somebody upstream is asked.
    Sent,
    /// An equal question is on its way already.
    Joined,
}

/// Who waits for what.
pub(crate) struct Forwarder {
    flights: Mutex<Flights>,
    questions: mpsc::UnboundedSender<Question>,
}

impl Forwarder {
    /// With where questions to ask come out: at most `WAITING_MAX` at a time.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Question>) {
        let (questions, asked) = mpsc::unbounded_channel();
        (Self { flights: Mutex::default(), questions }, asked)
    }

    /// Lets `waiter` wait for the answer; gives it back when too many wait.
    pub(crate) fn ask(&self, question: Question, waiter: Waiter) -> Result<Asked, Waiter> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let client = waiter.destination.client();
        let own = flights.by_client.get(&client).copied().unwrap_or(0);
        if flights.count >= WAITING_MAX || own >= WAITING_CLIENT_MAX {
            return Err(waiter);
        }
        flights.count += 1;
        flights.by_client.insert(client, own + 1);
        if let Some(others) = flights.waiting.get_mut(&question) {
            others.push(waiter);
            return Ok(Asked::Joined);
        }
        flights.waiting.insert(question.clone(), vec![waiter]);
        // Nobody takes it only while the server stops, and then nobody answers either.
        let _ = self.questions.send(question);
        Ok(Asked::Sent)
    }

    /// Gives `response` to all that wait for `question`; says how many answers were cut.
    pub(crate) fn land(&self, question: &Question, response: &Response) -> u64 {
        let waiters = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            let waiters = flights.waiting.remove(question).unwrap_or_default();
            flights.count -= waiters.len();
            for waiter in &waiters {
                let client = waiter.destination.client();
                if let Some(own) = flights.by_client.get_mut(&client) {
                    *own -= 1;
                    if *own == 0 {
                        flights.by_client.remove(&client);
                    }
                }
            }
            waiters
        };
        let mut truncated = 0;
        for waiter in waiters {
            let mut out = Vec::with_capacity(512);
            let transport = waiter.destination.transport();
            truncated += u64::from(response.write((&waiter.query, &waiter.packet), transport, 0, &mut out));
            match waiter.destination {
                // A client whose queue is full, or which is gone, asks again if it still cares.
                Destination::Udp(socket, address) => drop(socket.send_to(&out, address)),
                Destination::Tcp(_, answer) => drop(answer.send(out)),
            }
        }
        truncated
    }
}
