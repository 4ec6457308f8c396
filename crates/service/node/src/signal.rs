//! Signals by name, as images and people write them.

use coppice_base::signal::SIGNALS;

/// First real-time signal that programs may use with glibc, and the last.
const RT_MIN: i32 = 34;
const RT_MAX: i32 = 64;

pub(crate) const TERM: i32 = 15;
pub(crate) const KILL: i32 = 9;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no signal: give a name such as TERM, HUP or RTMIN+3, or a number from 1 to 64")]
pub struct UnknownSignal(pub String);

/// `TERM`, `SIGTERM`, `sigterm`, `15`, `RTMIN`, `RTMIN+3`, `RTMAX-1` → the number.
pub fn parse_signal(text: &str) -> Result<i32, UnknownSignal> {
    let unknown = || UnknownSignal(text.to_owned());
    if let Ok(number) = text.trim().parse::<i32>() {
        return if (1..=RT_MAX).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str, sign: char| -> Option<i32> {
        if rest.is_empty() { Some(0) } else { rest.strip_prefix(sign)?.parse().ok() }
    };
    let real_time = if let Some(rest) = name.strip_prefix("RTMIN") {
        offset(rest, '+').map(|n| RT_MIN.saturating_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX") {
        offset(rest, '-').map(|n| RT_MAX.saturating_sub(n))
    } else {
        return SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number).ok_or_else(unknown);
    };
    real_time.filter(|number| (RT_MIN..=RT_MAX).contains(number)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_images_and_people_write_them() {
        for (text, number) in
            [("TERM", 15), ("SIGQUIT", 3), ("sigint", 2), ("9", 9), ("SIGRTMIN+3", 37), ("RTMAX-1", 63)]
        {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "-9", "SIGFOO", "RTMIN+99", "RTMIN-1"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
