//! Time in which nothing could be done, because the log did not take what was decided: a full disk, or a backup.

use coppice_base::{DurationText, Timestamp};

use crate::machine::{Rollout, Turn};
use crate::progress::Phase;

impl Rollout {
    /// Nothing of what the machine decided at `since` was done before `now`. What is to be ready or watched, and the way back,
    /// have that time again; the deadline of the way forth stays. A step in the history says why.
    pub fn held_up(&mut self, since: Timestamp, now: Timestamp, why: &str) {
        if self.record.has_ended() {
            return;
        }
        let waited = now.since(since);
        let turn = Turn { now, actions: Vec::new() };
        self.note(&turn, format!("waited {}: {why}", DurationText(std::time::Duration::from_millis(rounded(waited)))));
        let is_back = matches!(self.record.progress.phase, Phase::Back | Phase::Settling) || self.is_reverting();
        let progress = &mut self.record.progress;
        let later = |at: &mut Timestamp| *at = at.plus(waited);
        if is_back {
            later(&mut progress.deadline);
        }
        for stage in &mut progress.stages {
            stage.ready_until.iter_mut().for_each(later);
            if let Some(watch) = &mut stage.watch {
                // When it began is what its samples are known by.
                later(&mut watch.until);
                later(&mut watch.next_sample);
            }
            let candidates = stage.targets.iter_mut().filter_map(|target| target.candidate.as_mut());
            candidates.filter_map(|candidate| candidate.until.as_mut()).for_each(later);
        }
    }
}

/// In milliseconds; whole seconds from one on.
fn rounded(waited: std::time::Duration) -> u64 {
    let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
    if ms < 1000 { ms } else { ms - ms % 1000 }
}
