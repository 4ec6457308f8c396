//! Newline-delimited JSON as a stream of values.

use std::marker::PhantomData;

use bytes::{Buf, BytesMut};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::ClientError;
use crate::connection::next_data;

/// Longest line that is accepted; a log line is at most 16 KiB of text, an `AppStatus` some hundred.
const LINE_MAX: usize = 16 << 20;

/// Values of an answer that goes on, one JSON text per line.
pub struct Lines<T> {
    body: Incoming,
    buffer: BytesMut,
    /// Bytes of `buffer` known to hold no line end.
    searched: usize,
    ended: bool,
    value: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    pub(crate) fn of(body: Incoming) -> Self {
        Self { body, buffer: BytesMut::new(), searched: 0, ended: false, value: PhantomData }
    }

    /// The next value; `None` at the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(line) = self.line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|error| ClientError::garbled(format!("a line: {error}")));
            }
            if self.ended {
                return Ok(None);
            }
            match next_data(&mut self.body).await? {
                Some(data) => {
                    if self.buffer.len() + data.len() > LINE_MAX {
                        return Err(ClientError::garbled(format!("a line of more than {LINE_MAX} bytes")));
                    }
                    self.buffer.extend_from_slice(&data);
                }
                None => self.ended = true,
            }
        }
    }

    /// Like [`next`](Self::next), as a `futures` stream.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = Result<T, ClientError>> {
        futures_util::stream::unfold(Some(self), |lines| async move {
            let mut lines = lines?;
            match lines.next().await {
                Ok(Some(value)) => Some((Ok(value), Some(lines))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }

    fn line(&mut self) -> Option<BytesMut> {
        match self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                Some(line)
            }
            None if self.ended && !self.buffer.is_empty() => {
                self.searched = 0;
                Some(self.buffer.split())
            }
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }
}
