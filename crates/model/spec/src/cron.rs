//! Workloads that run at times.

use std::time::Duration;

use coppice_base::DurationText;
use serde::{Deserialize, Serialize};

use crate::WorkloadSpec;

/// A workload that is run to its end at the times of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronSpec {
    pub workload: WorkloadSpec,
    pub schedule: Schedule,
    /// An IANA name (`Europe/Berlin`), by which an expression's times are read; `UTC` by default.
    pub time_zone: String,
    pub overlap: Overlap,
    pub missed: Missed,
    /// A run that takes longer is stopped and counts as failed.
    pub timeout: Option<DurationText>,
    /// How many ended runs are remembered, at least 1.
    pub history: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// From the release that brings it on, this far apart; at least a second.
    Every(DurationText),
    /// Five fields (minute, hour, day of month, month, day of week) or `@daily` and the like.
    Expression(String),
}

/// What happens when a run is due while the one before it still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// It is left out, and the history says so.
    #[default]
    Skip,
    /// It begins when the other has ended; at most one waits.
    Queue,
    /// The one that runs is stopped.
    Replace,
}

/// What happens with times at which the node was away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    #[default]
    Skip,
    /// One run for all of them, at once.
    RunOnce,
}

impl CronSpec {
    pub const DEFAULT_TIME_ZONE: &str = "UTC";
    pub const DEFAULT_HISTORY: u32 = 10;
    /// Most ended runs remembered; each costs a line of the node's state.
    pub const HISTORY_MAX: u32 = 1000;
    /// Shortest time between two runs.
    pub const EVERY_MIN: Duration = Duration::from_secs(1);

    /// Whether `text` is written like an IANA time zone (`UTC`, `America/Argentina/Ushuaia`). Whether there is one of
    /// the name is for whoever has the zones to say.
    pub fn is_time_zone(text: &str) -> bool {
        let part = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'+'))
        };
        text.len() <= 64 && text.split('/').count() <= 3 && text.split('/').all(part)
    }
}

/// The fields of an expression: what they are called, their least and greatest number, and their words from the least
/// on. Sunday is 0 and 7.
const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of the month", 1, 31, &[]),
    ("month", 1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of the week", 0, 7, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// Words that stand for a whole expression.
const NICKNAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

impl Schedule {
    /// Whether it can be kept to.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Every(apart) if apart.0 < CronSpec::EVERY_MIN => Err(format!("{apart} is less than a second")),
            Self::Every(_) => Ok(()),
            Self::Expression(text) => expression(text),
        }
    }
}

fn expression(text: &str) -> Result<(), String> {
    if text.starts_with('@') {
        let known = NICKNAMES.contains(&text.to_ascii_lowercase().as_str());
        return if known { Ok(()) } else { Err(format!("the words are {}", NICKNAMES.join(", "))) };
    }
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("it has {} fields and not five: minute hour day month weekday", fields.len()));
    }
    fields.into_iter().zip(FIELDS).try_for_each(|(text, (what, least, most, words))| {
        let wrong = |why: &str| Err(format!("{text:?} is not a {what}: {why}"));
        let number = |text: &str| {
            let word = words.iter().position(|word| text.eq_ignore_ascii_case(word));
            let word = word.and_then(|at| u32::try_from(at).ok()).map(|at| at + least);
            let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            word.or_else(|| text.parse().ok().filter(|_| plain)).filter(|number| (least..=most).contains(number))
        };
        for item in text.split(',') {
            let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
            let step_is_right =
                step.is_none_or(|step| step.parse::<u32>().is_ok_and(|step| (1..=most).contains(&step)));
            if !step_is_right {
                return wrong("a step is `/` and a number of at least 1");
            }
            let ends = match range.split_once('-') {
                None if range == "*" => continue,
                None => (number(range), number(range)),
                Some((from, to)) => (number(from), number(to)),
            };
            match ends {
                (Some(from), Some(to)) if from <= to => {}
                (Some(_), Some(_)) => return wrong("a range goes upwards"),
                _ => return wrong(&format!("write *, numbers from {least} to {most}, ranges and lists of them")),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_five_fields_or_a_word() {
        let check = |text: &str| Schedule::Expression(text.to_owned()).check();
        for good in ["* * * * *", "*/5 0-6,22 1 jan-mar MON-fri", "0 4 * * 7", "@daily", "0  0 1-31/2 * *"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("60 * * * *", "minute"),
            ("* 5-2 * * *", "upwards"),
            ("* * 0 * *", "day of the month"),
            ("* * * foo *", "month"),
            ("*/0 * * * *", "step"),
            ("1,, * * * *", "minute"),
            ("+1 * * * *", "minute"),
            ("@reboot", "words are"),
        ] {
            assert!(check(bad).unwrap_err().contains(part), "{bad}: {:?}", check(bad));
        }
    }

    #[test]
    fn a_time_zone_is_a_name_and_no_path() {
        for good in ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+3"] {
            assert!(CronSpec::is_time_zone(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../UTC", "Europe/", "Eur ope", "a/b/c/d"] {
            assert!(!CronSpec::is_time_zone(bad), "{bad}");
        }
    }
}
