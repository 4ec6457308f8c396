//! Answers: JSON, lines of JSON, errors with their status.

use std::convert::Infallible;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use coppice_api::{ApiError, ErrorKind};
use coppice_node::NodeError;
use futures_util::{Stream, StreamExt};
use http::{StatusCode, header};
use serde::Serialize;

/// An error on its way to the client.
pub(crate) struct Failed(pub(crate) ApiError);

pub(crate) type Answer<T> = Result<T, Failed>;

impl From<NodeError> for Failed {
    fn from(error: NodeError) -> Self {
        Self(error.into())
    }
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl Failed {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(ApiError::new(kind, message))
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(self.0)).into_response()
    }
}

/// A stream of values as newline-delimited JSON.
pub(crate) fn lines<T: Serialize>(values: impl Stream<Item = T> + Send + 'static) -> Response {
    let bytes = values.map(|value| {
        let mut line = serde_json::to_vec(&value).expect("API types are plain data");
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(bytes)).into_response()
}

/// A stream of bytes.
pub(crate) fn bytes(parts: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/x-tar")], Body::from_stream(parts)).into_response()
}
