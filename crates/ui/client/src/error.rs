//! Why a request got no answer that can be used.

use std::io;
use std::path::PathBuf;

use coppice_api::{API, ApiError};

/// What can go wrong between a caller and a node.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing was sent.
    #[error("cannot connect to the node at {}: {source}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    /// The node said no; its words say what and why. Nothing else was changed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The connection ended before the answer did. Whether the request was carried out is not known.
    #[error("the node went away while it was answering ({what}); what was asked may or may not have been done")]
    Lost { what: String },
    /// The node went away with the request, or a part of it, unread. Nothing was done.
    #[error("the node went away before it had read what was asked ({what}); nothing was done")]
    Unread { what: String },
    /// An answer that is not the API's.
    #[error("the node's answer makes no sense ({what}); is the socket really a Coppice node's?")]
    Garbled { what: String },
    /// An answer that is not this API's version.
    #[error("the node speaks version {theirs} of the API (Coppice {node}), this program version {API}")]
    Version { node: String, theirs: u32 },
    /// What the caller gave to upload could not be read. The node drops what it got.
    #[error("cannot read what is to be sent: {0}")]
    Upload(io::Error),
}

impl ClientError {
    /// Nobody listens on the socket: no node runs, none ever did, or it died before it took this connection (which is a
    /// reset then).
    pub fn nobody_there(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
        matches!(self, Self::Connect { source, .. }
            if matches!(source.kind(), NotFound | ConnectionRefused | ConnectionReset))
    }

    /// The node does not know the thing that was named.
    pub fn not_found(&self) -> bool {
        matches!(self, Self::Api(error) if error.kind == coppice_api::ErrorKind::NotFound)
    }

    /// What the operator can do next, where the message does not say it.
    pub fn next_step(&self) -> Option<String> {
        match self {
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run it as the user the node runs as (often: with sudo), or join the socket's group".into())
            }
            // connect(2) is not even asked: sun_path takes 107 bytes (unix(7)).
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::InvalidInput => Some(
                "the state directory's path is too long for a socket inside it: choose a shorter one with --root or \
                 COPPICE_ROOT"
                    .into(),
            ),
            Self::Connect { source, .. } if source.kind() == io::ErrorKind::NotADirectory => {
                Some("a part of that path is a file: choose a directory with --root or COPPICE_ROOT".into())
            }
            Self::Connect { .. } => Some(
                "is the node running? `coppice node start` starts it; --root or COPPICE_ROOT choose another".into(),
            ),
            Self::Lost { .. } | Self::Unread { .. } => {
                Some("`coppice node status` shows whether the node is back".into())
            }
            Self::Garbled { .. } | Self::Upload(_) | Self::Api(_) => None,
            Self::Version { .. } => {
                Some("restart the node with the program you use: `coppice node stop`, then again".into())
            }
        }
    }

    pub(crate) fn lost(what: impl std::fmt::Display) -> Self {
        Self::Lost { what: what.to_string() }
    }

    pub(crate) fn garbled(what: impl std::fmt::Display) -> Self {
        Self::Garbled { what: what.to_string() }
    }
}
