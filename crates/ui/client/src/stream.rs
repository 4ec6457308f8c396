//! The frames of `run`, `exec` and `attach`: a process's input and output, and how it ended.

use bytes::{Buf, Bytes, BytesMut};
use coppice_api::stream::{
    EXIT, HEADER_LEN, PAYLOAD_MAX, RESIZE, SIGNAL, STDERR, STDIN, STDOUT, WORD, header, parse_header,
};
use coppice_api::{ExitReply, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::ClientError;

/// Room for one read; most frames are smaller.
const READ_SIZE: usize = 32 << 10;

/// What a process sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    Stdout(Bytes),
    Stderr(Bytes),
    /// What the machine cannot give the process.
    Word(String),
    /// The last one.
    Exit(ExitReply),
}

/// A connection that has become a process's input and output.
pub struct Stream {
    reader: FrameReader,
    writer: FrameWriter,
}

impl Stream {
    /// `early`: bytes that came with the answer's head.
    pub(crate) fn new(socket: UnixStream, early: &[u8]) -> Self {
        let (read, write) = socket.into_split();
        let reader = FrameReader { socket: read, buffer: BytesMut::from(early) };
        Self { reader, writer: FrameWriter { socket: write } }
    }

    pub fn split(self) -> (FrameReader, FrameWriter) {
        (self.reader, self.writer)
    }
}

/// The half that hears the process.
pub struct FrameReader {
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

impl FrameReader {
    /// The next frame; `None` when the peer closed between frames. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_SIZE);
            let read = self.socket.read_buf(&mut self.buffer).await.map_err(ClientError::lost)?;
            if read == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(ClientError::lost("in the middle of a frame"))
                };
            }
        }
    }
}

/// A whole frame off the front of `buffer`, if one is there.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, ClientError> {
    let Some(head) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    let (kind, len) = parse_header(*head);
    let len = len as usize;
    if len > PAYLOAD_MAX {
        return Err(ClientError::garbled(format!("a frame of {len} bytes")));
    }
    if buffer.len() < HEADER_LEN + len {
        return Ok(None);
    }
    buffer.advance(HEADER_LEN);
    let payload = buffer.split_to(len).freeze();
    match kind {
        STDOUT => Ok(Some(Frame::Stdout(payload))),
        STDERR => Ok(Some(Frame::Stderr(payload))),
        WORD => Ok(Some(Frame::Word(String::from_utf8_lossy(&payload).into_owned()))),
        EXIT => {
            let reply = serde_json::from_slice(&payload);
            reply.map(|reply| Some(Frame::Exit(reply))).map_err(|error| ClientError::garbled(format!("exit: {error}")))
        }
        other => Err(ClientError::garbled(format!("a frame of kind {other}"))),
    }
}

/// The half that speaks to the process.
pub struct FrameWriter {
    socket: OwnedWriteHalf,
}

impl FrameWriter {
    /// Standard input. Longer input than a frame holds becomes several.
    pub async fn stdin(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for chunk in bytes.chunks(PAYLOAD_MAX) {
            self.frame(STDIN, chunk).await?;
        }
        Ok(())
    }

    /// End of standard input.
    pub async fn close_stdin(&mut self) -> Result<(), ClientError> {
        self.frame(STDIN, &[]).await
    }

    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ClientError> {
        let [a, b] = size.rows.to_le_bytes();
        let [c, d] = size.columns.to_le_bytes();
        self.frame(RESIZE, &[a, b, c, d]).await
    }

    /// `signal` is a signal's number.
    pub async fn signal(&mut self, signal: i32) -> Result<(), ClientError> {
        self.frame(SIGNAL, &signal.to_le_bytes()).await
    }

    async fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<(), ClientError> {
        let len = u32::try_from(payload.len()).expect("chunks are at most PAYLOAD_MAX");
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        bytes.extend_from_slice(&header(kind, len));
        bytes.extend_from_slice(payload);
        self.socket.write_all(&bytes).await.map_err(ClientError::lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = header(kind, payload.len() as u32).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn frames_cut_at_any_byte_come_out_whole() {
        let mut wire = frame(STDOUT, b"one");
        wire.extend(frame(STDERR, b""));
        wire.extend(frame(EXIT, br#"{"code":3,"signal":null,"oom":false}"#));
        for cut in 0..=wire.len() {
            let mut buffer = BytesMut::new();
            let mut frames = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = take_frame(&mut buffer).unwrap() {
                    frames.push(frame);
                }
            }
            assert!(buffer.is_empty());
            assert_eq!(frames[0], Frame::Stdout(Bytes::from_static(b"one")), "cut at {cut}");
            assert_eq!(frames[1], Frame::Stderr(Bytes::new()));
            assert!(matches!(&frames[2], Frame::Exit(reply) if reply.code == 3));
        }
    }

    #[test]
    fn a_frame_that_is_too_long_or_of_no_kind_is_refused_before_it_is_buffered() {
        let mut long = BytesMut::from(&header(STDOUT, u32::MAX)[..]);
        assert!(matches!(take_frame(&mut long), Err(ClientError::Garbled { .. })));
        let mut odd = BytesMut::from(&frame(99, b"")[..]);
        assert!(matches!(take_frame(&mut odd), Err(ClientError::Garbled { .. })));
        let mut exit = BytesMut::from(&frame(EXIT, b"not json")[..]);
        assert!(matches!(take_frame(&mut exit), Err(ClientError::Garbled { .. })));
    }
}
