//! The times of a schedule.
//!
//! An interval counts from its anchor: the n-th time is the anchor and n intervals, however late the ones before were.
//!
//! An expression is about clocks on the wall. Where these are put on, a time that they never show is at the first moment after
//! the gap; where they are put back, one that they show twice is the first of the two. An expression whose hours begin with `*`
//! is about the hours that pass: nothing of it is lost or doubled by that, so what is never shown is not made up for, and what
//! is shown twice counts twice.

use std::sync::Arc;
use std::time::Duration;

use coppice_base::Timestamp;
use coppice_spec::Expression;

use crate::LocalMinute;
use crate::calendar::Day;
use crate::zone::{Moments, Zone};

/// Days looked at for the next time: there is a 29th of February in any eight years (2096 to 2104), and seven days of the
/// week.
const DAYS: i64 = 8 * 366 + 7;

/// Clocks are put back by less, in minutes.
const PUT_BACK: i64 = 4 * 60;

/// When something runs.
#[derive(Clone, Debug)]
pub enum Timetable {
    /// `apart` is at least a millisecond.
    Every {
        apart: Duration,
        anchor: Timestamp,
    },
    Expression {
        expression: Expression,
        zone: Arc<dyn Zone>,
    },
}

impl Timetable {
    /// The first time after `after`. `None`: there is none before the end of time.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every { apart, anchor } => {
                let apart = u64::try_from(apart.as_millis()).ok()?.max(1);
                let gone = after.0.checked_sub(anchor.0).map_or(0, |since| since / apart);
                anchor.0.checked_add(gone.checked_add(1)?.checked_mul(apart)?).map(Timestamp)
            }
            Self::Expression { expression, zone } => next(expression, zone.as_ref(), after),
        }
    }

    /// The times in `(after, until]`: how many, no more than `most` of them counted, and the last one.
    pub fn between(&self, after: Timestamp, until: Timestamp, most: u64) -> Option<(u64, Timestamp)> {
        if let Self::Every { apart, .. } = self {
            let first = self.next(after).filter(|first| *first <= until)?;
            let apart = u64::try_from(apart.as_millis()).ok()?.max(1);
            let more = (until.0 - first.0) / apart;
            return Some(((more + 1).min(most), Timestamp(first.0 + more * apart)));
        }
        let in_time = |time: &Timestamp| *time <= until;
        let mut count = 0;
        let mut last = after;
        while count < most {
            match self.next(last).filter(in_time) {
                Some(time) => last = time,
                None => return (count > 0).then_some((count, last)),
            }
            count += 1;
        }
        // There may be very many: the last one is looked for from the end.
        for back in BACK {
            let from = last.max(Timestamp(until.0.saturating_sub(back * 60_000)));
            let Some(mut time) = self.next(from).filter(in_time) else { continue };
            while let Some(later) = self.next(time).filter(in_time) {
                time = later;
            }
            return Some((count, time));
        }
        Some((count, last))
    }
}

/// How far back the last time before a moment is looked for, in minutes: an hour, a day, a month, a year, and nine.
const BACK: [u64; 5] = [60, 24 * 60, 32 * 24 * 60, 367 * 24 * 60, 9 * 367 * 24 * 60];

fn next(expression: &Expression, zone: &dyn Zone, after: Timestamp) -> Option<Timestamp> {
    let here = zone.local(after);
    let Day(today) = here.day();
    // Clocks may be put back over midnight.
    let first_day = today - 1;
    let mut best: Option<(Timestamp, LocalMinute)> = None;
    let is_beyond = |local: LocalMinute, best: &Option<(Timestamp, LocalMinute)>| {
        best.is_some_and(|(_, found)| local.0 > found.0 + PUT_BACK)
    };
    for day in (first_day..first_day + DAYS).map(Day) {
        if is_beyond(day.at(0, 0), &best) {
            break;
        }
        let (month, of_month) = day.month_and_day();
        if !expression.is_on(month, of_month, day.weekday()) {
            continue;
        }
        for hour in expression.hours() {
            for minute in expression.minutes() {
                let local = day.at(hour, minute);
                if local.0 + PUT_BACK < here.0 {
                    continue;
                }
                if is_beyond(local, &best) {
                    break;
                }
                let moments = match (zone.moments(local), expression.is_every_hour()) {
                    (Moments::Once(at) | Moments::Twice(at, _), false) => [Some(at), None],
                    (Moments::Never { after }, false) => [Some(after), None],
                    (Moments::Once(at), true) => [Some(at), None],
                    (Moments::Twice(first, second), true) => [Some(first), Some(second)],
                    (Moments::Never { .. }, true) => [None, None],
                };
                for at in moments.into_iter().flatten().filter(|at| *at > after) {
                    if best.is_none_or(|(found, _)| at < found) {
                        best = Some((at, local));
                    }
                }
            }
        }
    }
    best.map(|(at, _)| at)
}
