//! The node daemon: what one machine runs, and how it comes to run what is wanted.
//!
//! ```text
//!   API ──▶ Node ──▶ Log (apps: what is wanted)          launcher (processes) ◀── Containers ◀─┐
//!             │        │ watch                                ▲                                │ start, stop
//!             │        ▼                                      │ events                          │
//!             │      Agent ──▶ one Supervisor per app ─ actions ─▶ instance tasks ─────────────┘
//!             └──────────────▶ Containers (ad-hoc: never in the log)
//! ```
//!
//! The daemon owns intent, not processes: it may be killed at any moment, and a new one reads the log, the
//! containers' records and the supervisors' snapshots, asks the launcher what runs, and goes on. It refuses to be the
//! parent of a container, and to keep in memory what a returning daemon would need.

mod adhoc;
mod agent;
mod app;
mod archive;
mod attach;
mod backup;
mod certificates;
mod container;
mod containers;
mod directories;
mod doctor;
mod epmd;
mod error;
mod events;
mod health;
mod host_network;
mod hosts;
mod images;
mod ingress;
mod instance;
mod launcher;
mod logs;
mod metrics;
mod names;
mod network;
mod node;
mod peer;
mod policies;
mod prepare;
mod preview;
mod rekey;
mod removal;
mod restore;
mod rollout;
mod root;
mod rotating;
mod secrets;
mod services;
mod settings;
mod signal;
mod sockets;
mod stats;
mod storage;
mod supervisor;
mod table;
mod telemetry;
mod traffic;
mod view;
mod volume;
mod zone;

pub use attach::Attached;
pub use certificates::CertificatesError;
pub use container::{Container, Owner, Phase};
pub use coppice_rollout::Control;
pub use error::NodeError;
pub use events::Events;
pub use logs::LogFile;
pub use node::{BackupError, Node, NodeOptions, OpenError, PreparedBackup, RollbackTo};
pub use peer::PeerTlsError;
pub use restore::{RestoreError, RestoreOptions, restore};
pub use root::{Root, RootError};
pub use settings::{Settings, SettingsError};
pub use signal::{UnknownSignal, parse_signal};
pub use telemetry::TelemetrySettings;
