//! The calendar that clocks on the wall go by: days and minutes, without any zone.

/// Minutes of a day.
const DAY: i64 = 24 * 60;

/// What a clock and a calendar on the wall show: minutes since 1970-01-01 00:00 there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalMinute(pub i64);

/// A day: its number from 1970-01-01 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(pub(crate) i64);

impl LocalMinute {
    pub(crate) fn day(self) -> Day {
        Day(self.0.div_euclid(DAY))
    }
}

impl Day {
    pub(crate) fn at(self, hour: u32, minute: u32) -> LocalMinute {
        LocalMinute(self.0 * DAY + i64::from(hour) * 60 + i64::from(minute))
    }

    /// 0 is Sunday.
    pub(crate) fn weekday(self) -> u32 {
        // 1970-01-01 was a Thursday.
        (self.0 + 4).rem_euclid(7) as u32
    }

    /// Month and day of the month, both from 1. Of the Gregorian calendar, whose 400 years have 146097 days; years are
    /// counted from March on, so that a leap day is a year's last one.
    pub(crate) fn month_and_day(self) -> (u32, u32) {
        let since_march_0 = self.0 + 719_468;
        let of_era = since_march_0.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        ((if month < 10 { month + 3 } else { month - 9 }) as u32, day as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_their_months_and_weekdays() {
        // As `date -u -d @$((DAY * 86400)) '+%m %d %w'` has them.
        for (day, month_and_day, weekday) in [
            (0, (1, 1), 4),
            (-1, (12, 31), 3),
            (58, (2, 28), 6),
            (59, (3, 1), 0),
            (789, (2, 29), 2),
            (11_016, (2, 29), 2),
            (19_782, (2, 29), 4),
            (20_454, (1, 1), 4),
            (47_540, (2, 28), 0),
            (47_541, (3, 1), 1),
        ] {
            assert_eq!((Day(day).month_and_day(), Day(day).weekday()), (month_and_day, weekday), "{day}");
        }
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut last = Day(-800).month_and_day();
        for day in -799..60_000 {
            let now = Day(day).month_and_day();
            let next = now == (last.0, last.1 + 1) || (now.1 == 1 && now.0 == last.0 % 12 + 1 && last.1 >= 28);
            assert!(next, "{last:?} {now:?}");
            last = now;
        }
    }
}
