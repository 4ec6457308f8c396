//! Going on where an earlier launcher, or an earlier program of this one, was.

use super::*;

impl Server {
    /// Takes over what the journal knows of containers that have ended.
    pub(crate) fn remember(&mut self) {
        for (id, record) in self.journal.records() {
            if self.containers.contains_key(id) {
                continue;
            }
            let container = Container {
                process: None,
                pid: record.pid,
                started_at: record.at,
                exit: record.exit,
                cgroup: None,
                root: None,
                mounts: None,
                ids: coppice_container::IdRange::nth(0),
                memory_limited: false,
            };
            self.containers.insert(id.clone(), container);
        }
    }

    pub(super) fn re_execute(&mut self, lock: &OwnedFd, connection: u64, seq: u64, binary: &Path) {
        self.sweep();
        for process in self.processes.values_mut() {
            if let Some(log) = &mut process.log {
                log.flush();
            }
        }
        let Some(asker) = self.connections.get(&connection).map(|c| c.socket().as_raw_fd()) else { return };
        let mut saved = self.save(lock, asker, seq);
        let why = upgrade::execute(binary, &mut saved);
        self.say(connection, &Message::Reply { seq, reply: Reply::Error { error: LaunchError::Refused(why) } });
    }

    pub(super) fn save(&self, lock: &OwnedFd, asker: RawFd, seq: u64) -> Saved {
        let container = |(id, c): (&ContainerId, &Container)| SavedContainer {
            id: id.clone(),
            process: c.process,
            pid: c.pid,
            started_at: c.started_at,
            exit: c.exit,
            has_cgroup: c.cgroup.is_some(),
            root: c.root.as_ref().map(AsRawFd::as_raw_fd),
            ids: c.ids,
            memory_limited: c.memory_limited,
        };
        Saved {
            since: self.since,
            lock: lock.as_raw_fd(),
            listener: self.listener.as_raw_fd(),
            next: self.next,
            asker,
            seq,
            containers: self.containers.iter().map(container).collect(),
            processes: self.processes.iter().map(|(key, process)| process.save(*key)).collect(),
            lingering: self.lingering.iter().map(|(id, (peer, _))| peer.save(*id)).collect(),
            cleaners: self.cleaners.values().map(|cleaner| cleaner.pidfd.as_raw_fd()).collect(),
            kept: self
                .kept
                .iter()
                .map(|(name, fds)| (name.clone(), fds.iter().map(AsRawFd::as_raw_fd).collect()))
                .collect(),
        }
    }

    /// Continues where the program before this one was.
    pub(crate) fn resume(&mut self, saved: Saved) {
        self.next = saved.next;
        for c in saved.containers {
            let cgroup = c.has_cgroup.then(|| self.cgroups.parent.open(c.id.as_str()).ok()).flatten();
            let container = Container {
                process: c.process,
                pid: c.pid,
                started_at: c.started_at,
                exit: c.exit,
                cgroup,
                root: c.root.map(upgrade::adopt),
                mounts: None,
                ids: c.ids,
                memory_limited: c.memory_limited,
            };
            self.containers.insert(c.id, container);
        }
        for saved in saved.processes {
            let key = saved.key;
            let process = Process::resume(saved);
            self.watch(key, &process);
            self.processes.insert(key, process);
            self.pump_stdin(key);
            self.after_output(key, &[]);
        }
        for peer in saved.lingering {
            self.linger(Peer::resume(peer));
        }
        for pidfd in saved.cleaners {
            self.watch_cleaner(Cleaner { pidfd: upgrade::adopt(pidfd), cgroups: None });
        }
        let adopt = |fds: Vec<RawFd>| fds.into_iter().map(upgrade::adopt).collect();
        self.kept = saved.kept.into_iter().map(|(name, fds)| (name, adopt(fds))).collect();
        let mut asker = Connection::new(upgrade::adopt(saved.asker));
        // The daemon waits for this word and then connects anew; if it is gone, it will come back anyway.
        asker.say(&Message::Reply { seq: saved.seq, reply: Reply::Done });
    }

    pub(super) fn watch_cleaner(&mut self, cleaner: Cleaner) {
        let id = self.number();
        // An unwatched cleaner is a zombie until the launcher ends, no more: starts that wait for it have a time of
        // their own.
        let _ = self.poller.add(&cleaner.pidfd, Source::Cleaner(id), EventFlags::IN);
        if let Some(cgroups) = &cleaner.cgroups {
            let _ = self.poller.add(cgroups, Source::Cleaned(id), EventFlags::IN);
        }
        self.cleaners.insert(id, cleaner);
    }
}
