//! Heads of HTTP/1.1 messages, read strictly (RFC 9112).
//!
//! Request smuggling lives where two servers read one message differently, so whatever the standard lets a recipient
//! repair is refused here instead: a line feed without carriage return, folded lines, blanks before a colon, more than one
//! Content-Length (even equal ones), Content-Length with Transfer-Encoding, any transfer coding but `chunked`.

use std::ops::Range;

use crate::buffer::{Buffer, Span};

/// Why a head is refused. Display is for logs; the client gets the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("a line ends with a line feed alone")]
    BareLineFeed,
    #[error("the request line is not `METHOD target HTTP/1.x`")]
    StartLine,
    #[error("the version is neither HTTP/1.0 nor HTTP/1.1")]
    Version,
    #[error("a header field has no colon, a blank in its name, or is folded")]
    Field,
    #[error("a header field's value has a control character")]
    Value,
    #[error("more than one Host, or none")]
    Host,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("Content-Length and Transfer-Encoding at once")]
    BothFramings,
    #[error("a transfer coding other than chunked, or more than one, or in HTTP/1.0")]
    TransferEncoding,
    #[error("too large")]
    TooLarge,
}

impl HeadError {
    /// The status a client gets.
    pub(crate) fn status(self) -> u16 {
        match self {
            Self::TooLarge => 431,
            Self::Version => 505,
            _ => 400,
        }
    }
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body at all.
    None,
    Length(u64),
    Chunked,
    /// Until the connection ends; answers only.
    Close,
}

#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) method: Range<usize>,
    pub(crate) target: Range<usize>,
    pub(crate) minor: u8,
    /// Bytes of the whole head.
    pub(crate) len: usize,
    pub(crate) framing: Framing,
}

#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) reason: Range<usize>,
    pub(crate) len: usize,
    /// As the head says it; the request's method and the status have the last word.
    pub(crate) framing: Framing,
    /// The connection can be used again.
    pub(crate) keep_alive: bool,
}

/// Looks for the end of a head in `buffer`: the length with the empty line, or `None` when more must be read.
pub(crate) fn end(buffer: &mut Buffer) -> Result<Option<usize>, HeadError> {
    let bytes = buffer.bytes();
    let mut from = buffer.scanned;
    while let Some(found) = memchr::memchr(b'\n', &bytes[from..]) {
        let at = from + found;
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(HeadError::BareLineFeed);
        }
        if at == 1 || (at >= 3 && bytes[at - 2] == b'\n') {
            return Ok(Some(at + 1));
        }
        from = at + 1;
    }
    buffer.scanned = bytes.len();
    Ok(None)
}

/// Reads a whole head (see [`end`]).
pub(crate) fn request(bytes: &[u8], spans: &mut Vec<Span>, most: usize) -> Result<RequestHead, HeadError> {
    let line = memchr::memchr(b'\r', bytes).ok_or(HeadError::StartLine)?;
    let method = memchr::memchr(b' ', &bytes[..line]).ok_or(HeadError::StartLine)?;
    let target = memchr::memchr(b' ', &bytes[method + 1..line]).ok_or(HeadError::StartLine)? + method + 1;
    if method == 0 || !bytes[..method].iter().all(|byte| is_token(*byte)) || target == method + 1 {
        return Err(HeadError::StartLine);
    }
    let minor = match &bytes[target + 1..line] {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        other if other.starts_with(b"HTTP/") => return Err(HeadError::Version),
        _ => return Err(HeadError::StartLine),
    };
    fields(bytes, line, spans, most)?;
    let framing = framing(bytes, spans, minor)?.unwrap_or(Framing::None);
    let hosts = spans.iter().filter(|span| name(bytes, span).eq_ignore_ascii_case(b"host")).count();
    if hosts != 1 {
        return Err(HeadError::Host);
    }
    Ok(RequestHead { method: 0..method, target: method + 1..target, minor, len: bytes.len(), framing })
}

pub(crate) fn response(bytes: &[u8], spans: &mut Vec<Span>, most: usize) -> Result<ResponseHead, HeadError> {
    let line = memchr::memchr(b'\r', bytes).ok_or(HeadError::StartLine)?;
    let start = &bytes[..line];
    let minor = match start.get(..9) {
        Some(b"HTTP/1.1 ") => 1,
        Some(b"HTTP/1.0 ") => 0,
        _ => return Err(HeadError::Version),
    };
    let digits = start.get(9..12).ok_or(HeadError::StartLine)?;
    if !digits.iter().all(u8::is_ascii_digit) || digits[0] == b'0' || !matches!(start.get(12), None | Some(b' ')) {
        return Err(HeadError::StartLine);
    }
    let status = digits.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let reason = 13.min(line)..line;
    if !start[reason.clone()].iter().all(|byte| is_value(*byte)) {
        return Err(HeadError::StartLine);
    }
    fields(bytes, line, spans, most)?;
    let framing = framing(bytes, spans, minor)?.unwrap_or(Framing::Close);
    let mut keep_alive = minor == 1;
    for span in spans.iter().filter(|span| name(bytes, span).eq_ignore_ascii_case(b"connection")) {
        for option in tokens(value(bytes, span)) {
            if option.eq_ignore_ascii_case(b"close") {
                keep_alive = false;
            } else if minor == 0 && option.eq_ignore_ascii_case(b"keep-alive") {
                keep_alive = true;
            }
        }
    }
    Ok(ResponseHead { status, reason, len: bytes.len(), framing, keep_alive })
}

/// Reads header fields from the line end at `line` to the empty line, into `spans`.
pub(crate) fn fields(bytes: &[u8], line: usize, spans: &mut Vec<Span>, most: usize) -> Result<(), HeadError> {
    spans.clear();
    let mut at = line;
    loop {
        // At a carriage return, whose line feed `end` has seen; any other carriage return is a control character.
        if bytes.get(at + 1) != Some(&b'\n') {
            return Err(HeadError::Value);
        }
        at += 2;
        if bytes.get(at) == Some(&b'\r') {
            return if at + 2 == bytes.len() { Ok(()) } else { Err(HeadError::Value) };
        }
        if spans.len() == most {
            return Err(HeadError::TooLarge);
        }
        let name_from = at;
        at += bytes[at..].iter().position(|byte| !is_token(*byte)).ok_or(HeadError::Field)?;
        if at == name_from || bytes[at] != b':' {
            return Err(HeadError::Field);
        }
        let name = (to_u32(name_from), to_u32(at));
        at += 1;
        at += bytes[at..].iter().position(|byte| !matches!(byte, b' ' | b'\t')).ok_or(HeadError::Value)?;
        let value_from = at;
        at += memchr::memchr(b'\r', &bytes[at..]).ok_or(HeadError::Value)?;
        if !are_values(&bytes[value_from..at]) {
            return Err(HeadError::Value);
        }
        let mut value_to = at;
        while value_to > value_from && matches!(bytes[value_to - 1], b' ' | b'\t') {
            value_to -= 1;
        }
        spans.push(Span { name, value: (to_u32(value_from), to_u32(value_to)) });
    }
}

fn framing(bytes: &[u8], spans: &[Span], minor: u8) -> Result<Option<Framing>, HeadError> {
    let (mut length, mut chunked) = (None, false);
    for span in spans {
        // Only names of these lengths are of interest.
        match span.name.1 - span.name.0 {
            14 if name(bytes, span).eq_ignore_ascii_case(b"content-length") => {
                if length.is_some() {
                    return Err(HeadError::ContentLength);
                }
                length = Some(number(value(bytes, span)).ok_or(HeadError::ContentLength)?);
            }
            17 if name(bytes, span).eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked || minor == 0 || !value(bytes, span).eq_ignore_ascii_case(b"chunked") {
                    return Err(HeadError::TransferEncoding);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(HeadError::BothFramings),
        (Some(length), false) => Ok(Some(Framing::Length(length))),
        (None, true) => Ok(Some(Framing::Chunked)),
        (None, false) => Ok(None),
    }
}

/// Decimal digits and nothing else; less than 10¹⁸, so that sums never overflow.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 18 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

pub(crate) fn name<'a>(bytes: &'a [u8], span: &Span) -> &'a [u8] {
    &bytes[span.name.0 as usize..span.name.1 as usize]
}

pub(crate) fn value<'a>(bytes: &'a [u8], span: &Span) -> &'a [u8] {
    &bytes[span.value.0 as usize..span.value.1 as usize]
}

/// The members of a comma-separated list, trimmed.
pub(crate) fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// RFC 9110, 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut at = 0;
        while at < 256 {
            let byte = at as u8;
            table[at] = byte.is_ascii_alphanumeric()
                || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.')
                || matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~');
            at += 1;
        }
        table
    };
    TABLE[byte as usize]
}

/// RFC 9110, 5.5, with obs-text: blanks, visible characters and what is beyond ASCII.
fn is_value(byte: u8) -> bool {
    (byte >= 0x20 && byte != 0x7f) || byte == b'\t'
}

/// Whether all of them are; eight at a time where that settles it.
fn are_values(bytes: &[u8]) -> bool {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const TOP: u64 = 0x80 * EACH;
    let (eights, rest) = bytes.as_chunks::<8>();
    // A subtraction borrows from the top bit of a byte that is too small, or that is zero. A byte beside such a one may be
    // taken for it, never the other way round; and a tab is too small: then one looks closely.
    let suspicious = |eight: &[u8; 8]| {
        let word = u64::from_le_bytes(*eight);
        let delete = word ^ (0x7f * EACH);
        ((word.wrapping_sub(0x20 * EACH) & !word) | (delete.wrapping_sub(EACH) & !delete)) & TOP != 0
    };
    eights.iter().all(|eight| !suspicious(eight) || eight.iter().all(|byte| is_value(*byte)))
        && rest.iter().all(|byte| is_value(*byte))
}

fn to_u32(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_is_judged_alike_wherever_it_stands_in_a_value() {
        for byte in 0..=255u8 {
            for at in 0..19 {
                let mut text = *b"some value of a fld";
                text[at] = byte;
                assert_eq!(are_values(&text), is_value(byte), "{byte:#x} at {at}");
                // Beside others that look suspicious.
                let mut text = *b"\t\t\xff\x80\t \x80\xff~~~~~~~~\t\t\t";
                text[at] = byte;
                assert_eq!(are_values(&text), is_value(byte), "{byte:#x} at {at} of odd ones");
            }
        }
    }

    fn read(text: &[u8]) -> Result<Option<(RequestHead, Vec<Span>)>, HeadError> {
        let mut buffer = Buffer::default();
        let count = text.len().min(crate::buffer::SIZE);
        buffer.room()[..count].copy_from_slice(&text[..count]);
        buffer.filled(count);
        let Some(length) = end(&mut buffer)? else { return Ok(None) };
        let mut spans = Vec::new();
        request(buffer.slice(0..length), &mut spans, 64).map(|head| Some((head, spans)))
    }

    #[test]
    fn a_head_is_read_to_its_fields_and_framing() {
        let text = b"POST /a?b HTTP/1.1\r\nHost: x\r\nEmpty:\r\nPadded: \t y z\t \r\nContent-Length: 12\r\n\r\nbody";
        let (head, spans) = read(text).unwrap().unwrap();
        assert_eq!((&text[head.method], &text[head.target], head.minor), (&b"POST"[..], &b"/a?b"[..], 1));
        assert_eq!((head.framing, head.len), (Framing::Length(12), text.len() - 4));
        let values: Vec<_> = spans.iter().map(|span| value(text, span)).collect();
        assert_eq!(values, [&b"x"[..], b"", b"y z", b"12"]);
    }

    #[test]
    fn a_head_that_is_not_whole_is_waited_for() {
        let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        for cut in 0..text.len() {
            assert!(matches!(read(&text[..cut]), Ok(None)), "{cut}");
        }
        assert!(matches!(read(text), Ok(Some(_))));
    }

    /// Pieces that heads are made of, and pieces that break them.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "GET ",
            "POST ",
            "/",
            "/a",
            " HTTP/1.1\r\n",
            " HTTP/1.0\r\n",
            "Host: x\r\n",
            "a: b\r\n",
            ": ",
            "\r\n",
            "\r",
            "\n",
            " ",
            "\t",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "\0",
            "\x7f",
            "é",
            "x",
            ":",
        ]);
        let start = prop::sample::select(vec!["", "GET / HTTP/1.1\r\nHost: x\r\n"]);
        (start, prop::collection::vec(piece, 0..12), any::<bool>()).prop_map(|(start, pieces, ended)| {
            [start, &pieces.concat(), if ended { "\r\n\r\n" } else { "" }].concat().into_bytes()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn what_is_taken_another_parser_takes_alike(text in pieces()) {
            if let Ok(Some((head, spans))) = read(&text) {
                let mut fields = [httparse::EMPTY_HEADER; 64];
                let mut other = httparse::Request::new(&mut fields);
                let status = other.parse(&text);
                prop_assert_eq!(status, Ok(httparse::Status::Complete(head.len)));
                prop_assert_eq!(other.method.map(str::as_bytes), Some(&text[head.method]));
                prop_assert_eq!(other.path.map(str::as_bytes), Some(&text[head.target]));
                prop_assert_eq!(other.headers.len(), spans.len());
                for (theirs, ours) in other.headers.iter().zip(&spans) {
                    prop_assert_eq!((theirs.name.as_bytes(), theirs.value), (name(&text, ours), value(&text, ours)));
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&text);
            let mut spans = Vec::new();
            let _ = request(&text, &mut spans, 64);
            let _ = response(&text, &mut spans, 64);
        }
    }
}
