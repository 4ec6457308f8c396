//! The state as bytes and back, with a format version.
//!
//! JSON of ordered collections: equal states give equal bytes, and a person can read a snapshot when all else
//! fails. A later format reads this one by its number; an earlier program refuses a later format rather than guess.

use serde::{Deserialize, Serialize};

use crate::State;

/// The snapshot format written, and the only one read so far.
pub const FORMAT: u32 = 1;

/// Why bytes are not a snapshot this program can use. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the snapshot has format {found}, and this program reads format {FORMAT}: run the version that wrote it")]
    Format { found: u32 },
    #[error("the snapshot cannot be read: {0}; restore it from a backup or another server")]
    Decode(#[source] serde_json::Error),
    #[error("the snapshot contradicts itself: {}; restore it from a backup or another server", .0.join("; "))]
    Broken(Vec<String>),
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    state: &'a State,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Deserialize)]
struct Read {
    state: State,
}

impl State {
    /// The whole state; equal states give equal bytes.
    pub fn to_snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&Written { format: FORMAT, state: self }).expect("a state has only text keys and no I/O")
    }

    /// The state that [`to_snapshot`](Self::to_snapshot) wrote, with its invariants checked.
    pub fn from_snapshot(bytes: &[u8]) -> Result<State, SnapshotError> {
        let Format { format } = serde_json::from_slice(bytes).map_err(SnapshotError::Decode)?;
        if format != FORMAT {
            return Err(SnapshotError::Format { found: format });
        }
        let Read { state } = serde_json::from_slice(bytes).map_err(SnapshotError::Decode)?;
        let broken = state.check();
        if broken.is_empty() { Ok(state) } else { Err(SnapshotError::Broken(broken)) }
    }
}
