//! Extended headers: `<length> <key>=<value>\n` records (POSIX.1-2001 pax), in both directions.

use super::read::TarError;

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits an extended header into its records.
pub(super) fn records(mut data: &[u8]) -> Result<Vec<Record<'_>>, TarError> {
    let bad = || TarError::Malformed("an extended header record has a wrong length");
    let mut list = Vec::new();
    while !data.is_empty() {
        let space = data.iter().take(20).position(|&b| b == b' ').ok_or_else(bad)?;
        let length = decimal(&data[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(bad)?;
        // The length counts itself, the space, "k=", and the newline.
        if length < space + 4 || length > data.len() || data[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(bad)?;
        list.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Ok(list)
}

/// Appends one record.
pub(super) fn push_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    // The number of digits may grow the record by a digit: two rounds settle it.
    for _ in 0..2 {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A plain decimal number without sign.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `-12.345` as seconds and nanoseconds, rounded down.
pub(super) fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_what_was_written_at_every_length() {
        for size in (0..120).chain(980..1010) {
            let value = vec![b'v'; size];
            let mut out = Vec::new();
            push_record(&mut out, b"key", &value);
            push_record(&mut out, b"b", b"=\n ");
            let read = records(&out).unwrap();
            assert_eq!(read, vec![(&b"key"[..], &value[..]), (&b"b"[..], &b"=\n "[..])], "{size}");
        }
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        for bad in [&b"5 a=b"[..], b"99 a=b\n", b"0 a=b\n", b"x a=b\n", b"6 ab1\n", b"99999999999999999999999 a=b\n"] {
            assert!(records(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"7"), Some((7, 0)));
        assert_eq!(time(b"x"), None);
    }
}
