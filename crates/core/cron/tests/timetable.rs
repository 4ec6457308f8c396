//! Times of schedules, also where clocks are put on and back.

use std::sync::Arc;
use std::time::Duration;

use coppice_base::Timestamp;
use coppice_cron::{LocalMinute, Moments, Timetable, Utc, Zone};
use coppice_spec::Expression;
use proptest::prelude::*;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// A zone an hour ahead of UTC, whose clocks are put on at 02:00 on day 100 and back at 03:00 on day 200.
#[derive(Debug)]
struct Summer;

impl Summer {
    const ON: u64 = 100 * DAY + HOUR;
    const BACK: u64 = 200 * DAY + HOUR;
}

impl Zone for Summer {
    fn local(&self, at: Timestamp) -> LocalMinute {
        let ahead = if (Self::ON..Self::BACK).contains(&at.0) { 2 } else { 1 };
        LocalMinute(((at.0 + ahead * HOUR) / MINUTE) as i64)
    }

    fn moments(&self, local: LocalMinute) -> Moments {
        let wall = local.0 as u64 * MINUTE;
        let found: Vec<Timestamp> = [2, 1]
            .into_iter()
            .filter_map(|ahead| wall.checked_sub(ahead * HOUR).map(Timestamp))
            .filter(|at| self.local(*at) == local)
            .collect();
        match found[..] {
            [at] => Moments::Once(at),
            [first, second] => Moments::Twice(first, second),
            _ => Moments::Never { after: Timestamp(Self::ON) },
        }
    }
}

fn table(text: &str, zone: impl Zone + 'static) -> Timetable {
    Timetable::Expression { expression: Expression::parse(text).unwrap(), zone: Arc::new(zone) }
}

/// The first times from a day on, as days after it and times of them in UTC.
fn times(table: &Timetable, day: u64, count: usize) -> Vec<String> {
    let mut at = Timestamp(day * DAY - 1);
    let mut found = Vec::new();
    for _ in 0..count {
        at = table.next(at).unwrap();
        let minutes = at.0 / MINUTE - day * 24 * 60;
        found.push(format!("{}d {:02}:{:02}", minutes / 1440, minutes / 60 % 24, minutes % 60));
    }
    found
}

#[test]
fn expressions_have_the_times_that_they_say() {
    for (text, expected) in [
        ("0 4 * * *", ["0d 04:00", "1d 04:00", "2d 04:00"]),
        ("*/20 23 * * *", ["0d 23:00", "0d 23:20", "0d 23:40"]),
        ("@hourly", ["0d 00:00", "0d 01:00", "0d 02:00"]),
        // That day was a Thursday, and the first of its month and year.
        ("0 0 * * mon", ["4d 00:00", "11d 00:00", "18d 00:00"]),
        ("0 0 3 * sat", ["2d 00:00", "9d 00:00", "16d 00:00"]),
        ("@monthly", ["0d 00:00", "31d 00:00", "59d 00:00"]),
        ("0 12 29 2 *", ["789d 12:00", "2250d 12:00", "3711d 12:00"]),
    ] {
        assert_eq!(times(&table(text, Utc), 10_227, 3), expected, "{text}");
    }
}

#[test]
fn a_time_that_clocks_never_show_is_at_the_first_moment_after_the_gap() {
    assert_eq!(times(&table("30 2 * * *", Summer), 99, 3), ["0d 01:30", "1d 01:00", "2d 00:30"]);
    // All that was in the gap is one time.
    assert_eq!(times(&table("0,30 2 * * *", Summer), 100, 3), ["0d 01:00", "1d 00:00", "1d 00:30"]);
    assert_eq!(times(&table("0 1,2,3 * * *", Summer), 100, 3), ["0d 00:00", "0d 01:00", "0d 23:00"]);
}

#[test]
fn a_time_that_clocks_show_twice_is_the_first_of_the_two() {
    assert_eq!(times(&table("30 2 * * *", Summer), 199, 3), ["0d 00:30", "1d 00:30", "2d 01:30"]);
}

#[test]
fn what_is_about_every_hour_loses_and_doubles_none() {
    let hours = times(&table("15 * * * *", Summer), 100, 4);
    assert_eq!(hours, ["0d 00:15", "0d 01:15", "0d 02:15", "0d 03:15"]);
    let hours = times(&table("15 * * * *", Summer), 200, 4);
    assert_eq!(hours, ["0d 00:15", "0d 01:15", "0d 02:15", "0d 03:15"]);
}

#[test]
fn an_interval_counts_from_its_anchor_and_never_drifts() {
    let table = Timetable::Every { apart: Duration::from_secs(7), anchor: Timestamp(1_000_500) };
    assert_eq!(table.next(Timestamp(0)), Some(Timestamp(1_007_500)));
    assert_eq!(table.next(Timestamp(1_000_500)), Some(Timestamp(1_007_500)));
    assert_eq!(table.next(Timestamp(1_007_499)), Some(Timestamp(1_007_500)));
    assert_eq!(table.next(Timestamp(1_007_500)), Some(Timestamp(1_014_500)));
    assert_eq!(table.next(Timestamp(u64::MAX - 3)), None);
}

#[test]
fn many_missed_times_are_counted_to_an_end_and_the_last_one_is_found() {
    let until = Timestamp(10_000 * DAY + 5);
    for (text, count, last) in [
        ("* * * * *", 100, 10_000 * DAY),
        ("30 4 * * *", 100, 9_999 * DAY + 4 * HOUR + 30 * MINUTE),
        ("0 0 1 1 *", 27, 9_862 * DAY),
    ] {
        let found = table(text, Utc).between(Timestamp(0), until, 100);
        assert_eq!(found, Some((count, Timestamp(last))), "{text}");
    }
    let every = Timetable::Every { apart: Duration::from_secs(1), anchor: Timestamp(0) };
    assert_eq!(every.between(Timestamp(0), until, 100), Some((100, Timestamp(10_000 * DAY))));
    assert_eq!(every.between(until, until.plus(Duration::from_millis(900)), 100), None);
}

fn field(most: u32, least: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        (1..=most).prop_map(|step| format!("*/{step}")),
        (least..=most, least..=most).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))),
        proptest::collection::vec(least..=most, 1..4).prop_map(|all| all
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(",")),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    (field(59, 0), field(23, 0), field(28, 1), field(12, 1), field(6, 0))
        .prop_map(|(a, b, c, d, e)| format!("{a} {b} {c} {d} {e}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Against looking at every minute, where clocks are never changed.
    #[test]
    fn the_next_time_is_the_next_minute_that_fits(text in expression(), start in 0..20_000u64 * 1440) {
        let expression = Expression::parse(&text).unwrap();
        let fits = |minute: u64| {
            // Slowly: days counted from 1970 on.
            let (mut year, mut day) = (1970, minute / 1440);
            let weekday = ((day + 4) % 7) as u32;
            let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            while day >= 365 + u64::from(leap(year)) {
                day -= 365 + u64::from(leap(year));
                year += 1;
            }
            let mut month = 0;
            let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            while day >= lengths[month] {
                day -= lengths[month];
                month += 1;
            }
            expression.is_on(month as u32 + 1, day as u32 + 1, weekday)
                && expression.hours().any(|hour| u64::from(hour) == minute / 60 % 24)
                && expression.minutes().any(|of_hour| u64::from(of_hour) == minute % 60)
        };
        let found = table(&text, Utc).next(Timestamp(start * MINUTE + 7)).unwrap();
        prop_assert_eq!(found.0 % MINUTE, 0);
        prop_assert!(fits(found.0 / MINUTE), "{}", text);
        let between = start + 1..(found.0 / MINUTE).min(start + 20_000);
        prop_assert!(!between.into_iter().any(fits), "{}", text);
    }

    /// Whatever clocks do, times go on, and each day has as many as it is to have.
    #[test]
    fn times_ascend_also_where_clocks_change(text in expression(), start in 98 * 1440..202u64 * 1440) {
        let table = table(&text, Summer);
        let mut at = Timestamp(start * MINUTE);
        for _ in 0..50 {
            let next = table.next(at).unwrap();
            prop_assert!(next > at);
            // From anywhere before it, it is the same one.
            let halfway = Timestamp(at.0 + (next.0 - at.0) / 2);
            prop_assert_eq!(table.next(halfway), Some(next));
            at = next;
        }
    }

    #[test]
    fn a_fixed_hour_comes_once_a_day_whatever_clocks_do(hour in 0..24u32, minute in 0..60u32) {
        let table = table(&format!("{minute} {hour} * * *"), Summer);
        let mut at = Timestamp(90 * DAY);
        for _ in 0..120 {
            let next = table.next(at).unwrap();
            prop_assert!(next.0 - at.0 <= 25 * HOUR, "{} to {}", at.0, next.0);
            at = next;
        }
        let days = Summer.local(at).0 / 1440 - Summer.local(Timestamp(90 * DAY)).0 / 1440;
        prop_assert!((119..=120).contains(&days), "{}", days);
    }
}
