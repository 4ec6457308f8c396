//! Names of signals, for what people read and write.

/// Names and numbers on x86-64 and aarch64 Linux (signal(7)).
pub const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

/// `KILL` for 9; none for what has no name of its own (real-time signals).
pub fn signal_name(number: i32) -> Option<&'static str> {
    SIGNALS.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

/// `signal 9 (KILL)`, as it is said everywhere; `signal 40` for what has no name.
pub fn signal_text(number: i32) -> String {
    match signal_name(number) {
        Some(name) => format!("signal {number} ({name})"),
        None => format!("signal {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_said_with_its_number_and_its_name_where_it_has_one() {
        assert_eq!(signal_text(9), "signal 9 (KILL)");
        assert_eq!(signal_text(15), "signal 15 (TERM)");
        assert_eq!(signal_text(40), "signal 40");
        assert!(SIGNALS.iter().enumerate().all(|(at, (_, number))| *number == at as i32 + 1));
    }
}
