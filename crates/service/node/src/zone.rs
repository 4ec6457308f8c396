//! Time zones for crons: those of the IANA database that this binary brings along, so that a time is the same on every node.

use std::sync::Arc;

use coppice_base::Timestamp;
use coppice_cron::{LocalMinute, Moments, Zone};
use coppice_spec::AppSpec;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp as Moment};

/// One zone of the database.
#[derive(Debug)]
struct IanaZone(TimeZone);

/// The zone of that name, if there is one.
pub(crate) fn find(name: &str) -> Option<Arc<dyn Zone>> {
    let zone = TimeZoneDatabase::bundled().get(name).ok()?;
    Some(Arc::new(IanaZone(zone)))
}

/// Crons in zones that there are not, one sentence each.
pub(crate) fn refused(spec: &AppSpec) -> Vec<String> {
    let unknown = spec.crons.iter().filter(|(_, cron)| find(&cron.time_zone).is_none());
    let told = unknown.map(|(name, cron)| {
        format!("cron {name}: there is no time zone {:?}; write an IANA name, as in \"Europe/Berlin\"", cron.time_zone)
    });
    told.collect()
}

/// What `jiff` cannot count with is at the end of its time.
fn moment(at: Timestamp) -> Moment {
    i64::try_from(at.0).ok().and_then(|ms| Moment::from_millisecond(ms).ok()).unwrap_or(Moment::MAX)
}

fn timestamp(at: Moment) -> Timestamp {
    Timestamp(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

const BEGINNING: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl Zone for IanaZone {
    fn local(&self, at: Timestamp) -> LocalMinute {
        let shown = self.0.to_datetime(moment(at));
        LocalMinute(shown.duration_since(BEGINNING).as_secs().div_euclid(60))
    }

    fn moments(&self, local: LocalMinute) -> Moments {
        let end = Moments::Once(Timestamp(u64::MAX));
        let Some(seconds) = local.0.checked_mul(60) else { return end };
        let Ok(shown) = BEGINNING.checked_add(SignedDuration::from_secs(seconds)) else { return end };
        let at = |offset: jiff::tz::Offset| offset.to_timestamp(shown).ok().map(timestamp);
        let found = match self.0.to_ambiguous_timestamp(shown).offset() {
            AmbiguousOffset::Unambiguous { offset } => at(offset).map(Moments::Once),
            AmbiguousOffset::Fold { before, after } => at(before).zip(at(after)).map(|(a, b)| Moments::Twice(a, b)),
            // By the offset of afterwards it is before the gap, so that the next change is the gap's end.
            AmbiguousOffset::Gap { after, .. } => after.to_timestamp(shown).ok().and_then(|before_it| {
                let change = self.0.following(before_it).next()?;
                Some(Moments::Never { after: timestamp(change.timestamp()) })
            }),
        };
        found.unwrap_or(end)
    }
}

#[cfg(test)]
mod tests {
    use coppice_cron::Timetable;
    use coppice_spec::Expression;

    use super::*;

    /// The first times of an expression in a zone after a moment.
    fn times(text: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let table = Timetable::Expression { expression: Expression::parse(text).unwrap(), zone: find(zone).unwrap() };
        let mut at = timestamp(after.parse().unwrap());
        let next = || {
            at = table.next(at).unwrap();
            moment(at).to_string()
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn times_follow_the_clocks_on_the_wall() {
        let berlin = times("30 4 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 2);
        assert_eq!(berlin, ["2026-03-28T03:30:00Z", "2026-03-29T02:30:00Z"]);
        let sydney = times("0 9 * * mon", "Australia/Sydney", "2026-10-01T00:00:00Z", 1);
        assert_eq!(sydney, ["2026-10-04T22:00:00Z"]);
        let katmandu = times("0 0 * * *", "Asia/Kathmandu", "2026-01-01T00:00:00Z", 1);
        assert_eq!(katmandu, ["2026-01-01T18:15:00Z"]);
    }

    #[test]
    fn what_is_left_out_when_clocks_are_put_on_is_right_after_it() {
        let berlin = times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(berlin, ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
        let new_york = times("15 2 8 3 *", "America/New_York", "2026-03-01T00:00:00Z", 1);
        assert_eq!(new_york, ["2026-03-08T07:00:00Z"]);
        // Half an hour.
        let lord_howe = times("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 1);
        assert_eq!(lord_howe, ["2026-10-03T15:30:00Z"]);
        // A whole day: Samoa had no 30th of December 2011.
        let apia = times("0 12 30 12 *", "Pacific/Apia", "2011-12-01T00:00:00Z", 2);
        assert_eq!(apia, ["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"]);
    }

    #[test]
    fn what_is_shown_twice_when_clocks_are_put_back_is_the_first_time() {
        let berlin = times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(berlin, ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
        // Over midnight: clocks showed 23:00 to 24:00 of the day before again.
        let havana = times("30 23 * * *", "America/Sao_Paulo", "2018-02-17T12:00:00Z", 2);
        assert_eq!(havana, ["2018-02-18T01:30:00Z", "2018-02-19T02:30:00Z"]);
        let hourly = times("@hourly", "Europe/Berlin", "2026-10-24T23:30:00Z", 4);
        assert_eq!(
            hourly,
            ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"]
        );
    }

    #[test]
    fn a_zone_that_there_is_not_is_told_of() {
        assert!(find("UTC").is_some() && find("Europe/Berlin").is_some());
        assert!(find("Europe/Atlantis").is_none());
    }
}
