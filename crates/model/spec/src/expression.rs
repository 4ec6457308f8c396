//! Cron expressions: five fields, or a word for all of them.
//!
//! Fields are the ones of cron(5): lists of numbers, names, ranges and steps. A day is one that both day fields name if one of
//! them begins with `*`, else one that either names. What other crons add (`?`, `L`, `W`, `#`, seconds, `@reboot`) is refused,
//! as is an expression that no day satisfies.

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
const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Days that each month has at most, from January on.
const LONGEST: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// An expression that has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expression {
    /// A bit for each number that a field allows, so for all fields.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    /// Sunday is 0 alone.
    weekdays: u64,
    /// Whether both day fields must hold: one of them begins with `*`.
    both_days: bool,
    /// Whether the field of hours begins with `*`.
    every_hour: bool,
}

/// Why a text is no expression. `column` counts its characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    #[error("it has {0} fields and not five: minute hour day month weekday")]
    Fields(usize),
    #[error("{0:?} is not known, the words are @yearly, @monthly, @weekly, @daily and @hourly")]
    Word(String),
    #[error("column {column}: {text:?} is not a {what}: {why}")]
    Field { column: usize, text: String, what: &'static str, why: String },
    #[error("no month it names has a day that it names")]
    NoDay,
}

impl Expression {
    /// Reads one; words in any case.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let known = |text: &str| NICKNAMES.iter().find(|(word, _)| text.trim().eq_ignore_ascii_case(word));
        match known(text) {
            Some((_, expression)) => fields(expression),
            None if text.trim_start().starts_with('@') => Err(ExpressionError::Word(text.trim().to_owned())),
            None => fields(text),
        }
    }

    /// Minutes of an hour, ascending.
    pub fn minutes(&self) -> impl Iterator<Item = u32> + use<> {
        let minutes = self.minutes;
        (0..60).filter(move |minute| minutes >> minute & 1 == 1)
    }

    /// Hours of a day, ascending.
    pub fn hours(&self) -> impl Iterator<Item = u32> + use<> {
        let hours = self.hours;
        (0..24).filter(move |hour| hours >> hour & 1 == 1)
    }

    /// Whether it goes by the hours that pass, rather than by those on the clock: its field of hours begins with `*`.
    pub fn is_every_hour(&self) -> bool {
        self.every_hour
    }

    /// `month` from 1, `day` from 1, `weekday` from 0 for Sunday.
    pub fn is_on(&self, month: u32, day: u32, weekday: u32) -> bool {
        let (day, weekday) = (self.days >> day & 1 == 1, self.weekdays >> weekday & 1 == 1);
        self.months >> month & 1 == 1 && if self.both_days { day && weekday } else { day || weekday }
    }
}

fn fields(text: &str) -> Result<Expression, ExpressionError> {
    let mut found = [(0u64, false); 5];
    let mut count = 0;
    let mut rest = text;
    let mut column = 1;
    while let Some(skipped) = rest.find(|c: char| !c.is_ascii_whitespace()) {
        column += skipped;
        rest = &rest[skipped..];
        let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
        if let Some(field) = found.get_mut(count) {
            *field = (self::field(&rest[..end], column, FIELDS[count])?, rest.starts_with('*'));
        }
        count += 1;
        column += rest[..end].chars().count();
        rest = &rest[end..];
    }
    if count != FIELDS.len() {
        return Err(ExpressionError::Fields(count));
    }
    let [minutes, hours, days, months, weekdays] = found;
    let expression = Expression {
        minutes: minutes.0,
        hours: hours.0,
        days: days.0,
        months: months.0,
        weekdays: (weekdays.0 | weekdays.0 >> 7) & 0x7f,
        both_days: days.1 || weekdays.1,
        every_hour: hours.1,
    };
    let has_day = |month: u32| (1..=LONGEST[month as usize - 1]).any(|day| days.0 >> day & 1 == 1);
    if expression.both_days && !(1..=12).any(|month| months.0 >> month & 1 == 1 && has_day(month)) {
        return Err(ExpressionError::NoDay);
    }
    Ok(expression)
}

/// The numbers of one field, as bits.
fn field(
    text: &str,
    column: usize,
    (what, least, most, words): (&'static str, u32, u32, &[&str]),
) -> Result<u64, ExpressionError> {
    let mut bits = 0;
    let mut column = column;
    for item in text.split(',') {
        let wrong = |why: String| Err(ExpressionError::Field { column, text: item.to_owned(), what, why });
        let number = |text: &str| {
            let word = words.iter().position(|word| text.eq_ignore_ascii_case(word));
            let word = word.and_then(|at| u32::try_from(at).ok()).map(|at| at + least);
            let plain = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
            word.or_else(|| text.parse().ok().filter(|_| plain)).filter(|number| (least..=most).contains(number))
        };
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let plain = |step: &&str| !step.is_empty() && step.bytes().all(|c| c.is_ascii_digit());
        let Ok(by) = step.map_or(Ok(1), |step| step.parse::<u32>().ok().filter(|_| plain(&step)).ok_or(())) else {
            return wrong("a step is `/` and a number".to_owned());
        };
        if !(1..=most).contains(&by) {
            return wrong(format!("a step is from 1 to {most}"));
        }
        let ends = match range.split_once('-') {
            None if range == "*" => (Some(least), Some(most)),
            // From there on, where there are steps.
            None => (number(range), if step.is_some() { Some(most) } else { number(range) }),
            // A week may end on a Sunday.
            Some((from, to)) if most == 7 && number(to) == Some(0) && number(from) > Some(0) => (number(from), Some(7)),
            Some((from, to)) => (number(from), number(to)),
        };
        match ends {
            (Some(from), Some(to)) if from <= to => {
                bits |= (from..=to).step_by(by as usize).fold(0, |bits, number| bits | 1 << number);
            }
            (Some(_), Some(_)) => return wrong("a range goes upwards".to_owned()),
            _ => return wrong(format!("write *, numbers from {least} to {most}, ranges and lists of them")),
        }
        column += item.chars().count() + 1;
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(text: &str) -> Vec<u32> {
        Expression::parse(&format!("{text} * * * *")).unwrap().minutes().collect()
    }

    #[test]
    fn lists_ranges_and_steps_are_the_numbers_that_they_say() {
        assert_eq!(minutes("*").len(), 60);
        assert_eq!(minutes("5"), [5]);
        assert_eq!(minutes("1-3,2,59"), [1, 2, 3, 59]);
        assert_eq!(minutes("*/20"), [0, 20, 40]);
        assert_eq!(minutes("10-30/10"), [10, 20, 30]);
        assert_eq!(minutes("50/4"), [50, 54, 58]);
        assert_eq!(Expression::parse("0 22-23,0 * * *").unwrap().hours().collect::<Vec<_>>(), [0, 22, 23]);
    }

    #[test]
    fn names_are_their_numbers_and_sunday_ends_a_week_too() {
        let same = |a: &str, b: &str| assert_eq!(Expression::parse(a), Expression::parse(b), "{a} {b}");
        same("0 0 1 jan-MAR *", "0 0 1 1-3 *");
        same("0 0 * * mon-fri", "0 0 * * 1-5");
        same("0 0 * * sat-sun", "0 0 * * 0,6");
        same("0 0 * * 7", "0 0 * * 0");
        same("0 0 * * sun-tue", "0 0 * * 0-2");
        same("@weekly", "0 0 * * 0");
        same(" @Daily ", "0 0 * * *");
        same("@yearly", "0  0 1\t1 *");
    }

    #[test]
    fn either_day_is_enough_unless_one_is_any() {
        let on = |text: &str, day, weekday| Expression::parse(text).unwrap().is_on(6, day, weekday);
        assert!(on("0 0 13 * 5", 13, 1) && on("0 0 13 * 5", 2, 5) && !on("0 0 13 * 5", 2, 1));
        assert!(on("0 0 * * 5", 2, 5) && !on("0 0 * * 5", 13, 1));
        assert!(on("0 0 13 * *", 13, 1) && !on("0 0 13 * *", 2, 5));
        // A step over all is any day that it names.
        assert!(on("0 0 */2 * 5", 3, 5) && !on("0 0 */2 * 5", 4, 5) && !on("0 0 */2 * 5", 3, 4));
        assert!(!Expression::parse("0 0 1 7 *").unwrap().is_on(6, 1, 1));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_column() {
        for (bad, part) in [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("* * * * * *", "6 fields"),
            ("60 * * * *", "column 1: \"60\" is not a minute"),
            ("* 5-2 * * *", "column 3: \"5-2\" is not a hour: a range goes upwards"),
            ("* * 0 * *", "day of the month"),
            ("* * * foo *", "column 7: \"foo\" is not a month"),
            ("*/0 * * * *", "a step is from 1 to 59"),
            ("*/x * * * *", "a step is `/` and a number"),
            ("*/+1 * * * *", "a step is `/` and a number"),
            ("1,, * * * *", "column 3"),
            ("0  1,30 * * *", "column 6: \"30\" is not a hour"),
            ("+1 * * * *", "minute"),
            ("* * L * *", "day of the month"),
            ("* * ? * *", "day of the month"),
            ("* * * * fri#2", "day of the week"),
            ("@reboot", "\"@reboot\" is not known"),
            ("0 0 30 2 *", "no month it names has a day that it names"),
            ("0 0 31 4,6 *", "no month"),
        ] {
            let told = Expression::parse(bad).unwrap_err().to_string();
            assert!(told.contains(part), "{bad}: {told}");
        }
        assert!(Expression::parse("0 0 30 2 1").is_ok(), "any Monday of February");
        assert!(Expression::parse("0 0 29 2 *").is_ok());
    }
}
