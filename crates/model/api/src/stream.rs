//! Frames of `run`, `exec` and `attach` after the upgrade: `u8` kind, little-endian `u32` length, payload.
//! The same frames travel between node and launcher, so the node copies bytes and parses nothing.

/// Value of the `Upgrade` header.
pub const PROTOCOL: &str = "coppice-stream";

/// Header of the 101 answer: the container's id.
pub const CONTAINER_HEADER: &str = "coppice-container";

/// Longest payload either side sends.
pub const PAYLOAD_MAX: usize = 1 << 20;

/// Bytes before a payload.
pub const HEADER_LEN: usize = 5;

/// Client → process: standard input; an empty payload closes it.
pub const STDIN: u8 = 0;
/// Process → client.
pub const STDOUT: u8 = 1;
/// Process → client.
pub const STDERR: u8 = 2;
/// Client → process: two little-endian u16: rows, columns.
pub const RESIZE: u8 = 3;
/// Last frame: JSON of [`ExitReply`](crate::ExitReply).
pub const EXIT: u8 = 4;
/// Client → process: one little-endian i32, a signal number.
pub const SIGNAL: u8 = 5;

/// Node → client, before the process's output: UTF-8, a sentence that says what the machine cannot give.
pub const WORD: u8 = 6;

/// The five bytes before a payload of `len` bytes.
pub fn header(kind: u8, len: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = len.to_le_bytes();
    [kind, a, b, c, d]
}

/// Kind and length out of a header.
pub fn parse_header(header: [u8; HEADER_LEN]) -> (u8, u32) {
    let [kind, a, b, c, d] = header;
    (kind, u32::from_le_bytes([a, b, c, d]))
}
