//! The log: commands in one agreed order, durable, applied to one [`State`](coppice_state::State).
//!
//! ```text
//!   propose(Command) ─▶ openraft ─▶ log.db (SQLite, WAL, fsync) ─▶ State::apply ─▶ Ok(Applied) / Rejected
//!                                        ▲                             │
//!                              one thread, all disk I/O                └─▶ watch(): Arc<State>
//! ```
//!
//! **Why Raft on one machine.** A machine alone is a cluster of one: same code, same files, and `join` only adds
//! voters. A cluster of one elects itself when it opens, sends nothing, and wakes up once in a while only.
//!
//! **Why openraft.** Consensus is easy to get almost right. openraft is used by databases in production, is tested
//! under simulation, and leaves storage and network to us. It is an engine in here: no type of it (nor of
//! SQLite) leaves this crate.
//!
//! **What is on disk when.** All of it is in one SQLite database, `log.db`:
//!
//! | what | written | lost by a crash |
//! |---|---|---|
//! | a command | fsynced before it is applied, and so before `propose` returns | never, once answered |
//! | the vote (term, for whom) | fsynced before it counts | never |
//! | how far the log is committed | with the next command | its last step; found again when the node leads |
//! | a snapshot of the state | every [`Settings::snapshot_every`] commands; older commands are then purged | never |
//!
//! The state itself lives in memory and is rebuilt at start: last snapshot, then the commands after it. Writing it
//! with each command would double the writes and give a second truth; the commands are the truth. One fsync makes
//! one command durable.
//!
//! **What can go wrong.** A command is in the log whole or not at all. After a failed write (disk full) the log
//! restarts itself from disk at the next proposal; what was answered is there, reads go on all the time. What cannot
//! be trusted (a page that contradicts its checksum, a missing entry, another node's file) stops it from opening,
//! with the file's name and what to do. One loss looks like no loss: when the very end of the write-ahead file is
//! damaged or cut off while the node is down, that is just what a command leaves that was never answered.
//!
//! What it refuses: commands over [`COMMAND_MAX`] bytes, and a directory another process has open.

mod consensus;
mod database;
mod log;
mod machine;
mod store;
mod wal;

pub use database::{FILE, StorageError};
pub use log::{COMMAND_MAX, CopyError, Held, Log, OpenError, ProposeError, Settings, SnapshotError};
