//! What a volume asks of its storage, and how it is kept beside the head.

use std::fmt::Write;
use std::path::Path;

use crate::error::DatasetError;

/// How a dataset is kept. `None` is as the storage does by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Of what is written from now on.
    pub compression: Option<Compression>,
    /// Most bytes that the head may hold.
    pub quota: Option<u64>,
    /// Bytes of a record, a power of two from 512 to 1 MiB; of files made from now on.
    pub record_size: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    Off,
    Lz4,
    Zstd,
    Gzip,
}

impl Compression {
    pub(crate) const ALL: [Self; 4] = [Self::Off, Self::Lz4, Self::Zstd, Self::Gzip];

    /// As ZFS calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// The file of a dataset's folder that says what was asked for last.
const FILE: &str = "properties";

impl Properties {
    /// What was asked for last; nothing, where nobody asked or the file is not ours.
    pub(crate) fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
        let mut all = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match key {
                "compression" => all.compression = Compression::ALL.into_iter().find(|one| one.as_str() == value),
                "quota" => all.quota = value.parse().ok(),
                "record_size" => all.record_size = value.parse().ok(),
                _ => {}
            }
        }
        all
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<(), DatasetError> {
        let mut text = String::new();
        if let Some(compression) = self.compression {
            let _ = writeln!(text, "compression={}", compression.as_str());
        }
        for (key, value) in [("quota", self.quota), ("record_size", self.record_size)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{key}={value}");
            }
        }
        crate::folder::write(folder, FILE, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_last_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Properties::read(folder.path()), Properties::default());
        let asked = Properties { compression: Some(Compression::Gzip), quota: Some(1 << 30), record_size: Some(8192) };
        asked.write(folder.path()).unwrap();
        assert_eq!(Properties::read(folder.path()), asked);
        Properties::default().write(folder.path()).unwrap();
        assert_eq!(Properties::read(folder.path()), Properties::default());
    }
}
