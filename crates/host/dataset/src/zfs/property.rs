//! Stamps as user properties, `com.coppice:KEY`.
//!
//! A property's value is one line of at most 1,024 bytes and never empty, so what is no plain word is written with `%` and two
//! digits for each byte, and what is long goes on in `com.coppice:KEY.1`, `.2`, ….

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::stamps::Stamps;

const PREFIX: &str = "com.coppice:";
/// Bytes of a value: less than the least limit there is (`ZAP_MAXVALUELEN`, 1024, of the first versions).
const PIECE: usize = 1000;

/// As arguments of `zfs create`, `snapshot` and `clone`.
pub(crate) fn options(stamps: &Stamps) -> Vec<String> {
    written(stamps).into_iter().flat_map(|(name, value)| ["-o".to_owned(), format!("{name}={value}")]).collect()
}

/// Names and values of properties that hold these stamps.
pub(crate) fn written(stamps: &Stamps) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (key, value) in stamps.iter() {
        let text = encode(value);
        for (number, piece) in text.as_bytes().chunks(PIECE).enumerate() {
            let name = if number == 0 { format!("{PREFIX}{key}") } else { format!("{PREFIX}{key}.{number}") };
            all.insert(name, String::from_utf8_lossy(piece).into_owned());
        }
    }
    all
}

/// Whether a property holds a stamp, or a part of one.
pub(crate) fn is_stamp(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The stamps in an object's own properties. What is none, or none of ours, is left out.
pub(crate) fn read(properties: &BTreeMap<String, String>) -> Stamps {
    let mut stamps = Stamps::default();
    for (name, first) in properties {
        let Some(key) = name.strip_prefix(PREFIX).filter(|key| !key.contains('.')) else { continue };
        let more = (1..).map_while(|number| properties.get(&format!("{name}.{number}")));
        let text: String = std::iter::once(first).chain(more).map(String::as_str).collect();
        if let Some(value) = decode(&text) {
            // One that does not fit was set by somebody else.
            let _ = stamps.set(key, value);
        }
    }
    stamps
}

fn encode(value: &str) -> String {
    if value.is_empty() {
        return "%".to_owned();
    }
    let mut text = String::new();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"._:/@+,-".contains(&byte) {
            text.push(byte.into());
        } else {
            let _ = write!(text, "%{byte:02x}");
        }
    }
    text
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = if text == "%" { "" } else { text }.as_bytes();
    while let [first, more @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(more.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &more[2..];
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stamp_is_read_as_it_was_written() {
        let mut stamps = Stamps::default();
        for (key, value) in [("release", "12"), ("why", "a b\tc\n%20 é"), ("none", ""), ("long", &"ü".repeat(512))] {
            stamps.set(key, value).unwrap();
        }
        let written = written(&stamps);
        assert!(written.values().all(|value| !value.is_empty() && value.len() <= PIECE && value.is_ascii()));
        assert_eq!((read(&written), written.contains_key("com.coppice:long.3")), (stamps, true));
        let odd = BTreeMap::from([("com.coppice:x".to_owned(), "%zz".to_owned()), ("org:x".into(), "1".into())]);
        assert_eq!(read(&odd), Stamps::default());
    }
}
