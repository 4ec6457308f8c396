//! How a node says no.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of every answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub kind: ErrorKind,
    /// What failed, why, and what to do next.
    pub message: String,
    /// For a container that could not start: the exit code `run` ends with (125, 126 or 127, as docker's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<u8>,
}

/// What sort of no. Each has one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// 400: the request is wrong; the same request will fail again.
    Invalid,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 409: it is right, but not now (name taken, still running).
    Conflict,
    /// 422: the image or command cannot be started; see `exit_code`.
    CannotStart,
    /// 502: a registry or another peer failed.
    Upstream,
    /// 507: no disk space.
    NoSpace,
    /// 503: the node is starting, stopping or has lost its launcher.
    Unavailable,
    /// 500
    Internal,
}

impl ErrorKind {
    pub fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::CannotStart => 422,
            Self::Upstream => 502,
            Self::NoSpace => 507,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }
}

impl ApiError {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), exit_code: None }
    }
}
