//! Output, input and who is attached to them.

use super::*;

impl Server {
    pub(super) fn output(&mut self, key: u64, which: usize) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let mut gone = Vec::new();
        let drained = process.drain(which, Instant::now(), &mut gone);
        if let Drained::End = drained
            && let Some(output) = process.outputs[which].take()
        {
            self.poller.remove(&output.fd, Source::Output(key, which));
        }
        self.after_output(key, &gone);
    }

    pub(super) fn after_output(&mut self, key: u64, gone: &[u64]) {
        for peer in gone {
            self.drop_peer(key, *peer);
        }
        let Some(process) = self.processes.get_mut(&key) else { return };
        for (id, peer) in &process.peers {
            self.poller.change(peer.socket(), Source::Peer(key, *id), interest(process, peer));
        }
        let paused = process.behind().is_some();
        if paused != process.paused {
            process.paused = paused;
            let flags = if paused { EventFlags::empty() } else { EventFlags::IN };
            for (which, output) in process.outputs.iter().enumerate() {
                if let Some(output) = output {
                    self.poller.change(&output.fd, Source::Output(key, which), flags);
                }
            }
        }
    }

    pub(super) fn pump_stdin(&mut self, key: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let open = process.pump_stdin();
        let waits = process.stdin_waits() > 0;
        let source = Source::Stdin(key);
        if let Some(stdin) = &process.stdin {
            match (open, waits, self.poller.has(source)) {
                (true, true, false) => {
                    // Without it the input is written when the peer sends more.
                    let _ = self.poller.add(&stdin.fd, source, EventFlags::OUT);
                }
                (true, false, true) | (false, _, true) => self.poller.remove(&stdin.fd, source),
                _ => {}
            }
        }
        if !open {
            process.stdin = None;
        }
        for (id, peer) in &process.peers {
            self.poller.change(peer.socket(), Source::Peer(key, *id), interest(process, peer));
        }
    }

    pub(super) fn attach_fd(&mut self, connection: u64) -> Result<OwnedFd, LaunchError> {
        let fd = self.connections.get_mut(&connection).and_then(Connection::take_fd);
        fd.ok_or_else(|| LaunchError::Refused("no fd came with the request".to_owned()))
    }

    pub(super) fn attach(&mut self, connection: u64, id: &ContainerId) -> Result<Reply, LaunchError> {
        let socket = self.attach_fd(connection)?;
        let process = self.process_of(id, None)?;
        let peer = process.next_peer;
        process.next_peer += 1;
        process.peers.insert(peer, Peer::new(socket));
        let key = self.containers.get(id).and_then(|c| c.process).unwrap_or_default();
        if let Some((process, watched)) = self.processes.get(&key).and_then(|p| Some((p, p.peers.get(&peer)?))) {
            self.poller
                .add(watched.socket(), Source::Peer(key, peer), interest(process, watched))
                .map_err(|e| LaunchError::Refused(e.to_string()))?;
        }
        Ok(Reply::Done)
    }

    pub(super) fn peer(&mut self, key: u64, id: u64, flags: EventFlags) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Some(peer) = process.peers.get_mut(&id) else { return };
        let mut alive = peer.flush(Instant::now());
        if alive && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            alive = peer.fill();
        }
        let mut frames = Vec::new();
        loop {
            match peer.next() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(()) => {
                    alive = false;
                    break;
                }
            }
        }
        for (kind, body) in frames {
            match (kind, body.as_slice()) {
                (StreamKind::Stdin, bytes) => process.input(bytes),
                (StreamKind::Resize, &[r0, r1, c0, c1]) => {
                    let size = coppice_container::TerminalSize {
                        rows: u16::from_le_bytes([r0, r1]),
                        columns: u16::from_le_bytes([c0, c1]),
                    };
                    // A process without a terminal has no size; the frame means nothing to it.
                    let _ = process.resize(size);
                }
                (StreamKind::Signal, &[a, b, c, d]) => {
                    // A bad number or an ended process: nobody to tell on this stream.
                    let _ = send_signal(&process.pidfd, i32::from_le_bytes([a, b, c, d]));
                }
                _ => alive = false,
            }
        }
        if !alive {
            self.drop_peer(key, id);
        }
        self.pump_stdin(key);
        self.after_output(key, &[]);
    }

    pub(super) fn drop_peer(&mut self, key: u64, id: u64) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        if let Some(peer) = process.peers.remove(&id) {
            self.poller.remove(peer.socket(), Source::Peer(key, id));
        }
        // An exec has one client; when it goes away, so does its input.
        if process.exec.is_some() && process.peers.is_empty() {
            process.input(&[]);
            self.pump_stdin(key);
        }
    }

    pub(super) fn drop_stuck_peers(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> = self.lingering.iter().filter(|(_, (_, until))| *until <= now).map(|(id, _)| *id).collect();
        for id in late {
            if let Some((peer, _)) = self.lingering.remove(&id) {
                self.poller.remove(peer.socket(), Source::Lingering(id));
            }
        }
        let stuck: Vec<(u64, u64)> = self
            .processes
            .iter()
            .flat_map(|(key, process)| process.peers.iter().map(move |(id, peer)| (*key, *id, peer.stuck_since)))
            .filter(|(_, _, since)| since.is_some_and(|since| now.duration_since(since) >= PATIENCE))
            .map(|(key, id, _)| (key, id))
            .collect();
        for (key, id) in stuck {
            self.drop_peer(key, id);
            self.after_output(key, &[]);
        }
    }
}

/// What is to be watched of a peer: its input unless the process has enough waiting or no terminal yet to take it, its
/// output if some waits.
pub(super) fn interest(process: &Process, peer: &Peer) -> EventFlags {
    let mut flags = EventFlags::empty();
    if process.stdin_waits() < STDIN_MAX && !process.awaits_terminal {
        flags |= EventFlags::IN;
    }
    if peer.wants_out() {
        flags |= EventFlags::OUT;
    }
    flags
}
