//! One cron: what is due, what runs, what waits, what is remembered.
//!
//! ```text
//!            due, requested                     ended
//!   resting ───────────────▶ running ──────────────────────▶ resting
//!                             │   ▲ due                         ▲
//!                             │   └─ skip: remembered           │ ended, nothing waits
//!                             │      queue: waits ──┐           │
//!                             └──── replace: stop ──┴─▶ running, one waits ── ended ──▶ running
//! ```

use std::time::Duration;

use coppice_base::Timestamp;
use coppice_spec::{Missed, Overlap, Schedule};

use crate::memory::{Cause, Entry, Memory, Outcome, Run, Why};
use crate::timetable::Timetable;

/// A run may begin this long after its time; later, that time was missed. A machine that is slow for a moment, or a daemon
/// that is replaced by the next one, misses nothing.
pub const LATE: Duration = Duration::from_secs(10);

/// A clock that is put back by less than this is waited for, so that no time of a day comes twice. By more, it had been wrong.
const PUT_BACK: Duration = Duration::from_secs(3 * 3600);

/// Most missed times that are counted.
const COUNTED: u64 = 1000;

/// What a machine goes by.
#[derive(Clone, Debug)]
pub struct Rules {
    pub timetable: Timetable,
    pub overlap: Overlap,
    pub missed: Missed,
    /// Lines of the history, at least 1.
    pub history: usize,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin this run; tell its end.
    Start { number: u64 },
    /// End it before its time; tell its end.
    Stop { number: u64, why: Why },
    /// The history has this now; nothing but to be told on.
    Note(Entry),
}

/// Why there is no run although one was asked for. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("run {0} is still going on, and `overlap` is \"skip\": wait for it, or stop it")]
    Running(u64),
    #[error("run {0} waits already for the one before it")]
    Waiting(u64),
    #[error("it is stopped: `coppice start` starts it")]
    Stopped,
}

/// A cron that runs at its times.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `None`: it rests, since it is stopped or not part of the app.
    rules: Option<Rules>,
    memory: Memory,
}

impl Machine {
    /// With what was remembered, resting until it is told its rules.
    pub fn new(memory: Memory) -> Self {
        Self { rules: None, memory }
    }

    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    pub fn is_resting(&self) -> bool {
        self.rules.is_none()
    }

    /// It goes by `schedule` in `zone` from now on. `timetable`: what that is from a moment on which its intervals count
    /// from: `anchor`, if it had another schedule before.
    ///
    /// Times before now are missed only if it had this schedule when they were.
    pub fn follow(
        &mut self,
        now: Timestamp,
        anchor: Timestamp,
        schedule: (&Schedule, &str),
        rules: impl FnOnce(Timestamp) -> Rules,
    ) {
        let memory = &mut self.memory;
        let same = memory.schedule.as_ref().is_some_and(|(old, zone)| (old, zone.as_str()) == schedule);
        if !same {
            memory.schedule = Some((schedule.0.clone(), schedule.1.to_owned()));
            (memory.anchor, memory.seen) = (anchor, now);
        }
        let rules = rules(memory.anchor);
        let excess = memory.history.len().saturating_sub(rules.history);
        memory.history.drain(..excess);
        self.rules = Some(rules);
    }

    /// It rests from now on: what runs is stopped, what waits is dropped, and times that come are not missed.
    pub fn rest(&mut self, now: Timestamp) -> Vec<Action> {
        self.memory.schedule = None;
        self.go_away(now)
    }

    /// Nobody is going to be there: as [`rest`](Self::rest), but times that come are missed.
    pub fn go_away(&mut self, now: Timestamp) -> Vec<Action> {
        self.rules = None;
        let memory = &mut self.memory;
        let mut actions = Vec::new();
        if let Some(waiting) = memory.waiting.take() {
            actions.push(self.note(now, &waiting, None, Outcome::Stopped(Why::Halted)));
        }
        actions.extend(self.stop(Why::Halted));
        actions
    }

    /// When it wants the next [`tick`](Self::tick), unless something else happens.
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.rules.as_ref()?.timetable.next(self.memory.seen)
    }

    /// When it runs next; unlike [`next_wakeup`](Self::next_wakeup) never in the past.
    pub fn next_time(&self, now: Timestamp) -> Option<Timestamp> {
        self.rules.as_ref()?.timetable.next(now.max(self.memory.seen))
    }

    /// Time has passed. As often as one likes.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Action> {
        let Some(rules) = &self.rules else { return Vec::new() };
        if now < self.memory.seen {
            let back = self.memory.seen.since(now);
            let most = match &rules.timetable {
                Timetable::Every { apart, .. } => *apart,
                Timetable::Expression { .. } => PUT_BACK,
            };
            if back >= most {
                self.memory.seen = now;
            }
            return Vec::new();
        }
        let seen = self.memory.seen;
        let Some((times, last)) = rules.timetable.between(seen, now, COUNTED) else { return Vec::new() };
        self.memory.seen = last;
        let is_due = now.since(last) <= LATE;
        let missed = match is_due {
            true => rules.timetable.between(seen, Timestamp(last.0 - 1), COUNTED),
            false => Some((times, last)),
        };
        let mut actions = Vec::new();
        match (missed, rules.missed) {
            // The one that is due now is for those before it, too.
            (Some(_), Missed::RunOnce) => return self.begin(now, Cause::Missed { times, last }),
            (Some((times, last)), Missed::Skip) => {
                let cause = Cause::Missed { times, last };
                let entry = Entry { number: None, cause, started: None, ended: now, outcome: Outcome::Missed };
                actions.push(self.remember(entry));
            }
            (None, _) => {}
        }
        if is_due {
            actions.extend(self.begin(now, Cause::Due(last)));
        }
        actions
    }

    /// Somebody wants a run now. Its number, which it has also while it waits.
    ///
    /// # Errors
    /// There is none, and why.
    pub fn request(&mut self, now: Timestamp) -> Result<(u64, Vec<Action>), Refusal> {
        let overlap = self.rules.as_ref().ok_or(Refusal::Stopped)?.overlap;
        match (&self.memory.running, &self.memory.waiting, overlap) {
            (Some(running), _, Overlap::Skip) => return Err(Refusal::Running(running.number)),
            (_, Some(waiting), Overlap::Queue) => return Err(Refusal::Waiting(waiting.number)),
            _ => {}
        }
        let number = self.memory.runs + 1;
        Ok((number, self.begin(now, Cause::Request)))
    }

    /// A run takes longer than it may.
    pub fn timed_out(&mut self, number: u64) -> Vec<Action> {
        let is_it = self.memory.running.as_ref().is_some_and(|run| run.number == number);
        if is_it { self.stop(Why::TimedOut).into_iter().collect() } else { Vec::new() }
    }

    /// A run has ended, or could not begin. Told twice, it has ended once.
    pub fn ended(&mut self, now: Timestamp, number: u64, outcome: Outcome) -> Vec<Action> {
        let Some(run) = self.memory.running.take_if(|run| run.number == number) else { return Vec::new() };
        let outcome = match (run.stopping, outcome) {
            // It was faster than the stop.
            (Some(_), Outcome::Succeeded) => Outcome::Succeeded,
            (Some(why), _) => Outcome::Stopped(why),
            (None, outcome) => outcome,
        };
        let mut actions = vec![self.note(now, &run, Some(run.since), outcome)];
        if let Some(waiting) = self.memory.waiting.take() {
            actions.push(Action::Start { number: waiting.number });
            self.memory.running = Some(Run { since: now, ..waiting });
        }
        actions
    }

    fn begin(&mut self, now: Timestamp, cause: Cause) -> Vec<Action> {
        let Some(overlap) = self.rules.as_ref().map(|rules| rules.overlap) else { return Vec::new() };
        let is_free = self.memory.running.is_none();
        if !is_free && (overlap == Overlap::Skip || (overlap == Overlap::Queue && self.memory.waiting.is_some())) {
            return vec![self.skip(now, cause)];
        }
        let mut actions = Vec::new();
        if let Some(waiting) = self.memory.waiting.take() {
            actions.push(self.note(now, &waiting, None, Outcome::Stopped(Why::Replaced)));
        }
        self.memory.runs += 1;
        let run = Run { number: self.memory.runs, cause, since: now, stopping: None };
        if is_free {
            actions.push(Action::Start { number: run.number });
            self.memory.running = Some(run);
        } else {
            self.memory.waiting = Some(run);
            if overlap == Overlap::Replace {
                actions.extend(self.stop(Why::Replaced));
            }
        }
        actions
    }

    /// Once: the first reason is the reason.
    fn stop(&mut self, why: Why) -> Option<Action> {
        let run = self.memory.running.as_mut().filter(|run| run.stopping.is_none())?;
        run.stopping = Some(why);
        Some(Action::Stop { number: run.number, why })
    }

    /// One line for as many in a row as there are.
    fn skip(&mut self, now: Timestamp, cause: Cause) -> Action {
        if let Some(last) = self.memory.history.back_mut()
            && let Outcome::Skipped { times } = &mut last.outcome
        {
            *times += 1;
            (last.cause, last.ended) = (cause, now);
            return Action::Note(last.clone());
        }
        let outcome = Outcome::Skipped { times: 1 };
        self.remember(Entry { number: None, cause, started: None, ended: now, outcome })
    }

    fn note(&mut self, now: Timestamp, run: &Run, started: Option<Timestamp>, outcome: Outcome) -> Action {
        self.remember(Entry { number: Some(run.number), cause: run.cause, started, ended: now, outcome })
    }

    fn remember(&mut self, entry: Entry) -> Action {
        let most = self.rules.as_ref().map_or(usize::MAX, |rules| rules.history.max(1));
        let history = &mut self.memory.history;
        history.push_back(entry.clone());
        while history.len() > most {
            history.pop_front();
        }
        Action::Note(entry)
    }
}
