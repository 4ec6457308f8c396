//! Amounts with their units: bytes, thousandths of a CPU, durations; how people write them, and back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("{0:?} is not a size: write bytes as a number, or with k, m, g or t (powers of 1024), as in \"512m\"")]
    Bytes(String),
    #[error("{0:?} is not an amount of CPU: write cores, as in \"0.5\" or \"2\", or thousandths, as in \"500m\"")]
    Cpu(String),
    #[error("{0:?} is not a duration: write a number and ms, s, m, h or d, as in \"30s\" or \"1m30s\"")]
    Duration(String),
}

/// A number of bytes. Written `1024`, `512k`, `64m`, `2g`, `1t` (also `kb`, `kib`, either case); all powers
/// of 1024, as docker reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Bytes(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let shift = match unit.trim() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(bad()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(1 << shift).map(Bytes).ok_or_else(bad);
        }
        let value: f64 = number.parse().map_err(|_| bad())?;
        let bytes = value * (1u64 << shift) as f64;
        if bytes.is_finite() && (0.0..u64::MAX as f64).contains(&bytes) { Ok(Bytes(bytes as u64)) } else { Err(bad()) }
    }
}

impl fmt::Display for Bytes {
    /// The largest unit that leaves at least 1, with at most one decimal: `0B`, `1.5KiB`, `64MiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for next in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            value /= 1024.0;
            unit = next;
        }
        let text = if (value - value.round()).abs() < 0.05 {
            format!("{value:.0}{unit}")
        } else {
            format!("{value:.1}{unit}")
        };
        f.pad(&text)
    }
}

/// Thousandths of one CPU. Written `0.5`, `2` (cores) or `500m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MilliCpu(pub u32);

impl FromStr for MilliCpu {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Cpu(text.to_owned());
        let text = text.trim();
        let milli = match text.strip_suffix('m') {
            Some(thousandths) => f64::from(thousandths.parse::<u32>().map_err(|_| bad())?),
            None => text.parse::<f64>().map_err(|_| bad())? * 1000.0,
        };
        // 1024 cores, yoq's bound; also keeps the quota of a 100 ms period inside an i64.
        if milli.is_finite() && (1.0..=1_024_000.0).contains(&milli) {
            Ok(MilliCpu(milli.round() as u32))
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}", f64::from(self.0) / 1000.0))
    }
}

/// A duration as people write it: `500ms`, `30s`, `1m30s`, `12h`, `7d`; `0s` is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationText(pub Duration);

impl FromStr for DurationText {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Duration(text.to_owned());
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(bad());
        }
        let mut total_ms = 0u64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let unit_len = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let unit_ms = match &rest[..unit_len] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(bad()),
            };
            rest = &rest[unit_len..];
            total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or_else(bad)?;
        }
        Ok(DurationText(Duration::from_millis(total_ms)))
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if ms == 0 {
            return f.pad("0s");
        }
        let mut text = String::new();
        for (unit_ms, unit) in [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            if ms >= unit_ms {
                text.push_str(&format!("{}{unit}", ms / unit_ms));
                ms %= unit_ms;
            }
        }
        f.pad(&text)
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
                ser.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
                String::deserialize(de)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(DurationText);

// Bytes and MilliCpu travel as plain numbers: their printed form rounds.
impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(ser)
    }
}
impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        u64::deserialize(de).map(Bytes)
    }
}
impl Serialize for MilliCpu {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(ser)
    }
}
impl<'de> Deserialize<'de> for MilliCpu {
    fn deserialize<D: Deserializer<'de>>(de: D) -> Result<Self, D::Error> {
        u32::deserialize(de).map(MilliCpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!("512m".parse(), Ok(Bytes(512 << 20)));
        assert_eq!("1.5GiB".parse(), Ok(Bytes(3 << 29)));
        assert_eq!("10".parse(), Ok(Bytes(10)));
        for bad in ["", "m", "-1", "1x", "99999999999g", "1e3", "nan"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
        assert_eq!(Bytes(1536).to_string(), "1.5KiB");
        assert_eq!(Bytes(64 << 20).to_string(), "64MiB");
    }

    #[test]
    fn cpu_is_cores_or_thousandths() {
        assert_eq!("0.5".parse(), Ok(MilliCpu(500)));
        assert_eq!("250m".parse(), Ok(MilliCpu(250)));
        assert_eq!("2".parse(), Ok(MilliCpu(2000)));
        for bad in ["", "0", "-1", "x", "5000", "inf"] {
            assert!(bad.parse::<MilliCpu>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_read_back_what_they_print() {
        for text in ["0s", "500ms", "30s", "1m30s", "12h", "7d", "1d2h3m4s5ms"] {
            assert_eq!(text.parse::<DurationText>().unwrap().to_string(), text);
        }
        for bad in ["", "5", "s", "5x", "5s3", "99999999999999999999s"] {
            assert!(bad.parse::<DurationText>().is_err(), "{bad}");
        }
    }
}
