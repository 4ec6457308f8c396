//! Bodies: of requests (bytes or a file), and of responses, read with a bound on slowness and length.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, ReadBuf};

use super::error::RegistryError;
use crate::limits::TransferLimits;

pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> RequestBody {
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A file of `size` bytes, telling `sent` how far it is.
pub(crate) fn of_file(file: tokio::fs::File, size: u64, sent: impl Fn(u64) + Send + 'static) -> RequestBody {
    FileBody { file, left: size, size, sent: Box::new(sent) }.boxed_unsync()
}

struct FileBody {
    file: tokio::fs::File,
    left: u64,
    size: u64,
    sent: Box<dyn Fn(u64) + Send>,
}

impl hyper::body::Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = BytesMut::zeroed(usize::try_from(self.left.min(256 << 10)).unwrap_or(256 << 10));
        let mut buffer = ReadBuf::new(&mut chunk);
        match Pin::new(&mut self.file).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Ok(())) => {}
        }
        let got = buffer.filled().len();
        if got == 0 {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        chunk.truncate(got);
        self.left -= got as u64;
        (self.sent)(self.size - self.left);
        Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A response's body under a minimum throughput. Only time spent waiting for the network counts: a slow disk on our
/// side is not the registry's fault.
pub(super) struct PacedBody {
    body: Incoming,
    host: String,
    limits: TransferLimits,
    waited: Duration,
    came: u64,
}

impl PacedBody {
    pub(super) fn new(body: Incoming, host: &str, limits: &TransferLimits) -> Self {
        Self { body, host: host.to_owned(), limits: limits.clone(), waited: Duration::ZERO, came: 0 }
    }

    /// The next bytes, or `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let stalled = || RegistryError::Stalled {
                host: self.host.clone(),
                bytes: self.limits.stall_bytes,
                seconds: self.limits.stall_window.as_secs(),
            };
            let left = self.limits.stall_window.saturating_sub(self.waited);
            let began = Instant::now();
            let Ok(frame) = tokio::time::timeout(left, self.body.frame()).await else { return Err(stalled()) };
            self.waited += began.elapsed();
            match frame {
                None => return Ok(None),
                Some(Err(source)) => {
                    return Err(RegistryError::Broken { host: self.host.clone(), source: Box::new(source) });
                }
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    self.came += data.len() as u64;
                    if self.came >= self.limits.stall_bytes {
                        (self.came, self.waited) = (0, Duration::ZERO);
                    }
                    return Ok(Some(data));
                }
            }
        }
    }

    /// The whole body, at most `max` bytes of it.
    pub(super) async fn whole(mut self, what: &str, max: u64) -> Result<Bytes, RegistryError> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if (all.len() + chunk.len()) as u64 > max {
                return Err(RegistryError::TooLong { host: self.host, what: what.to_owned(), max });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }
}
