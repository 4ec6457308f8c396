//! Tar streams: our own reader and writer.
//!
//! Own, because a layer is hostile input: every length is bounded before it is allocated, nothing is created while
//! reading, and sparse files of all four kinds (old GNU, PAX 0.0, 0.1 and 1.0) come out as segments, not as zeros.

mod pack;
mod pax;
mod read;
mod write;

pub use pack::pack_layer;
pub(crate) use pack::{Merged, write_merged};
pub use read::TarError;
pub(crate) use read::{Entry, Kind, TarReader};
pub(crate) use write::TarWriter;
