//! Ends of processes: noted, told, cleaned up after.

use super::*;

impl Server {
    pub(super) fn end(&mut self, key: u64) {
        if self.pending.contains_key(&key) {
            // It ended before we heard that it began; what its channel says comes first.
            self.hear_child(key);
        }
        let Some(process) = self.processes.get_mut(&key) else { return };
        let (code, signal) = match wait_pidfd(&process.pidfd) {
            Ok(None) => return,
            Ok(Some(Wait::Exited(code))) => (code, None),
            Ok(Some(Wait::Killed(signal))) => (128u8.wrapping_add(signal as u8), Some(signal)),
            // Somebody else reaped our child, which cannot be; report the worst that is true.
            Err(_) => (137, Some(libc::SIGKILL)),
        };
        let now = Instant::now();
        let mut gone = Vec::new();
        for which in 0..process.outputs.len() {
            // Everyone in its pid namespace is dead, so what is in the pipes is all there will be. (After an exec,
            // others may live on and write for ever: then up to one pipe full.)
            for _ in 0..64 {
                if !matches!(process.drain(which, now, &mut gone), Drained::More) {
                    break;
                }
            }
            process.end_stream(which);
        }
        let Some(mut process) = self.processes.remove(&key) else { return };
        self.unwatch(key, &process);
        let oom = self
            .containers
            .get(&process.container)
            .and_then(|c| c.cgroup.as_ref().filter(|_| c.memory_limited))
            .is_some_and(|cgroup| cgroup.oom_kills() > 0);
        let exit = Exit { at: SystemClock.now(), code, signal, oom };
        let id = process.container.clone();
        let event = match process.exec {
            Some(exec) => Event::ExecExited { id, exec, exit },
            None => {
                // In memory it is known either way; see where starts are journalled.
                let _ = self.journal.add(&Entry::Exit { id: id.clone(), exit });
                if let Some(container) = self.containers.get_mut(&id) {
                    container.exit = Some(exit);
                    container.process = None;
                    let remains = Remains {
                        cgroup: container.cgroup.take(),
                        root: container.root.take(),
                        mounts: container.mounts.take(),
                    };
                    self.remains.push(remains);
                }
                Event::Exited { id, exit }
            }
        };
        self.farewell(&mut process, exit);
        self.tell(&event);
    }

    /// Tells attached peers of the end.
    pub(super) fn farewell(&mut self, process: &mut Process, exit: Exit) {
        let text = serde_json::to_vec(&exit).unwrap_or_default();
        let now = Instant::now();
        for (_, mut peer) in std::mem::take(&mut process.peers) {
            if peer.say(StreamKind::Exit, &text, now) && peer.wants_out() {
                self.linger(peer);
            }
        }
    }

    /// Keeps a peer whose process has ended until it has read everything, or patience ends.
    pub(super) fn linger(&mut self, peer: Peer) {
        let id = self.number();
        if self.poller.add(peer.socket(), Source::Lingering(id), EventFlags::OUT).is_ok() {
            self.lingering.insert(id, (peer, Instant::now() + PARTING));
        }
    }

    pub(super) fn part(&mut self, id: u64) {
        let Some((peer, _)) = self.lingering.get_mut(&id) else { return };
        if (!peer.flush(Instant::now()) || !peer.wants_out())
            && let Some((peer, _)) = self.lingering.remove(&id)
        {
            self.poller.remove(peer.socket(), Source::Lingering(id));
        }
    }

    pub(super) fn sweep(&mut self) {
        if self.remains.is_empty() {
            return;
        }
        let remains = std::mem::take(&mut self.remains);
        if let Some(cleaner) = clean(self.host.thread(), &self.cgroups, remains) {
            self.watch_cleaner(cleaner);
        }
    }
}
