//! Starts that wait until a cleaner has removed the cgroup of the container's last run. The launcher serves everyone
//! else meanwhile. A cleaner gives up after half a second; while a start waits, another one takes over.

use super::*;

/// How long a start waits for a cleaner to let go of its cgroup's name.
pub(super) const CLEANING: Duration = Duration::from_secs(2);

/// A start as it was asked for.
pub(super) struct Asked {
    /// The process's number, if it comes to that.
    pub key: u64,
    pub connection: u64,
    pub seq: u64,
    pub config: Box<ContainerConfig>,
    pub peer: Option<OwnedFd>,
    /// It waits no longer than this.
    pub until: Instant,
}

impl Server {
    /// Has a start wait for a cleaner: for one at work, or for another after one that gave up.
    pub(super) fn delay(&mut self, asked: Asked) {
        if self.cleaners.is_empty()
            && let Ok(cgroup) = self.cgroups.parent.open(asked.config.id.as_str())
        {
            self.remains.push(Remains { cgroup: Some(cgroup), root: None, mounts: None });
            self.sweep();
        }
        self.delayed.push(asked);
    }

    /// A cleaner has removed what it could of its cgroups.
    pub(super) fn hear_cgroups_gone(&mut self, cleaner: u64) {
        let pipe = self.cleaners.get_mut(&cleaner).and_then(|cleaner| cleaner.cgroups.take());
        if let Some(pipe) = pipe {
            self.poller.remove(&pipe, Source::Cleaned(cleaner));
        }
    }

    /// Tries those that wait again; one whose cgroup is still there goes on waiting.
    pub(super) fn begin_delayed(&mut self) {
        for asked in std::mem::take(&mut self.delayed) {
            let (connection, seq) = (asked.connection, asked.seq);
            if let Err(error) = self.begin(asked) {
                self.say(connection, &Message::Reply { seq, reply: Reply::Error { error } });
            }
        }
    }

    /// Those that have waited long enough get the cgroup now, or are told why not.
    pub(super) fn begin_overdue(&mut self) {
        let now = Instant::now();
        if self.delayed.iter().any(|asked| asked.until <= now) {
            self.begin_delayed();
        }
    }

    /// The launcher ends.
    pub(super) fn refuse_delayed(&mut self) {
        for Asked { connection, seq, .. } in std::mem::take(&mut self.delayed) {
            let error = LaunchError::Refused("the launcher is told to end".to_owned());
            self.say(connection, &Message::Reply { seq, reply: Reply::Error { error } });
        }
    }
}

/// What is said to a start that has waited in vain.
pub(super) fn still_there(path: &Path) -> LaunchError {
    let why = format!(
        "{} of the container's last run is still in use after {} s; a process in it that cannot be killed, or a cgroup \
         that something else made in it, holds it: end that, and start the container again",
        path.display(),
        CLEANING.as_secs()
    );
    LaunchError::Setup { step: "cgroup".to_owned(), why }
}
