//! Starts that wait until a cleaner has removed the cgroup of the container's last run. The launcher serves everyone
//! else meanwhile.

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
