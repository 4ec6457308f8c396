//! Why a stream is refused. Nothing was changed then.

use std::io;

use crate::name::SnapshotName;

#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("it is no volume's stream: `coppice volume send` writes such")]
    Foreign,
    #[error("it is of version {0}, and this program reads version 1: use a newer one")]
    Version(u32),
    #[error("it ends before its end: send it again")]
    Cut,
    #[error("its checksum is not that of what came: send it again")]
    Torn,
    #[error("{what} at {at}: it was not made by `coppice volume send`")]
    Hostile { what: &'static str, at: String },
    #[error("it is the difference from a snapshot {0} that is not here: send that one first, or all without --from")]
    NoBase(String),
    #[error("snapshot {0} was made by a version that sent nothing: take a new one")]
    NoId(SnapshotName),
    #[error("{at} is a device, which is no data: remove it from the volume")]
    Device { at: String },
    #[error("{at}: {source}")]
    Keep { at: String, source: io::Error },
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    #[error("it cannot be written: {0}")]
    Write(io::Error),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Cut,
            io::ErrorKind::InvalidData => Self::Torn,
            _ => Self::Read(error),
        }
    }
}
