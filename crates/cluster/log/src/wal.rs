//! Looks at SQLite's write-ahead file before SQLite does.
//!
//! SQLite takes the frames up to the first that contradicts its checksum and drops the others without a word. That
//! is right for a torn last write and wrong for a flipped bit in the middle, where the others are commands that
//! were answered. The two can be told apart: each commit is synced before the next one is written, so only
//! the last commit can be torn. Anything after it says that more is lost than was ever in doubt.
//!
//! The format is section 4 of <https://www.sqlite.org/fileformat2.html>.

/// Bytes of the file's header.
const HEADER: usize = 32;
/// Bytes of a frame's header; a page follows.
const FRAME_HEADER: usize = 24;
/// The file's first word, less its last bit, which says whether checksums read words big-endian.
const MAGIC: u32 = 0x377f_0682;

/// Why more than the last commit would be dropped; `None` when all that was synced can be read.
pub(crate) fn damage(file: &[u8]) -> Option<String> {
    let page = word(file, 8).map(|size| size as usize).filter(|size| size.is_power_of_two() && *size >= 512);
    let Some(header) = Header::read(file) else {
        // A header is synced before any frame is written.
        return (file.len() > HEADER).then(|| "its write-ahead file has a damaged header".to_owned());
    };
    let frame_size = FRAME_HEADER + page?;
    let mut frames = file[HEADER..].chunks_exact(frame_size).enumerate();
    let mut sums = header.sums;
    let first_bad = frames.by_ref().find(|(_, frame)| {
        sums = header.add(header.add(sums, &frame[..8]), &frame[FRAME_HEADER..]);
        !header.is_own(frame) || (word(frame, 16), word(frame, 20)) != (Some(sums.0), Some(sums.1))
    });
    let (at, bad) = first_bad?;
    let mut committed = header.is_own(bad) && is_commit(bad);
    for (_, frame) in frames.filter(|(_, frame)| header.is_own(frame)) {
        if committed {
            return Some(format!("its write-ahead file is damaged at byte {}", HEADER + at * frame_size));
        }
        committed = is_commit(frame);
    }
    None
}

struct Header {
    big_endian: bool,
    salts: [u8; 8],
    sums: (u32, u32),
}

impl Header {
    /// `None` when it is not a header or contradicts its checksum.
    fn read(file: &[u8]) -> Option<Self> {
        let magic = word(file, 0)?;
        let salts = file.get(16..24)?.try_into().ok()?;
        let sums = (word(file, 24)?, word(file, 28)?);
        let header = Self { big_endian: magic & 1 == 1, salts, sums };
        (magic & !1 == MAGIC && header.add((0, 0), &file[..24]) == sums).then_some(header)
    }

    /// Whether the frame was written since the file was last begun anew.
    fn is_own(&self, frame: &[u8]) -> bool {
        frame[8..16] == self.salts
    }

    /// SQLite's running checksum over pairs of words.
    fn add(&self, sums: (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let read = |word: &[u8]| {
            let word = [word[0], word[1], word[2], word[3]];
            if self.big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        bytes.chunks_exact(8).fold(sums, |(first, second), pair| {
            let first = first.wrapping_add(read(&pair[..4])).wrapping_add(second);
            (first, second.wrapping_add(read(&pair[4..])).wrapping_add(first))
        })
    }
}

/// The last frame of a commit says how large the database is after it.
fn is_commit(frame: &[u8]) -> bool {
    word(frame, 4) != Some(0)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes)
}
