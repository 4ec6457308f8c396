//! The typed client of a node's API: HTTP/1.1 on a Unix socket, one module per noun.
//!
//! Why so: `coppice run --rm IMAGE true` has a budget of single milliseconds, so a request costs one `connect(2)`,
//! one write and one read on the caller's own (current-thread) runtime. There is no connection pool, no version
//! handshake before the first request and no background thread; the API version is asked only when an answer cannot
//! be understood, so that two versions that do not fit are named instead of shown as a parse error.
//!
//! What it refuses: to retry (the caller knows whether asking twice is safe), to start a daemon (the CLI's choice),
//! and to put a time limit on answers (`wait` and `logs -f` take as long as they take).

mod apps;
mod backup;
mod certificates;
mod connection;
mod containers;
mod crons;
mod error;
mod images;
mod lines;
mod network;
mod node;
mod policy;
mod previews;
mod recovery;
mod releases;
mod secrets;
mod stream;
mod target;
mod volume;

pub use connection::{Client, Download, Revival, Upload};
pub use containers::{Attached, LogFilter};
pub use error::ClientError;
pub use images::ImportOptions;
pub use lines::Lines;
pub use stream::{Frame, FrameReader, FrameWriter, Stream};
