//! A text with its lines: byte offset → line, column and the line itself.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A file's name and text, and where its lines start. The text of files it includes follows its own, so that one offset
/// says both the file and the place in it.
pub(crate) struct Source<'t> {
    pub(crate) file: String,
    pub(crate) text: Cow<'t, str>,
    line_starts: Vec<usize>,
    /// The files in the text after the first.
    included: Vec<Part>,
}

/// A file in another's text.
struct Part {
    file: String,
    /// Where its text starts.
    start: usize,
    /// The number of lines before it.
    lines_before: usize,
    dir: Option<PathBuf>,
}

/// A place in a [`Source`]: 1-based line and column (in characters), and how many characters it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
    pub(crate) line_text: String,
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        let text = Cow::Borrowed(text);
        Self { file: file.to_owned(), line_starts: line_starts(&text, 0), text, included: Vec::new() }
    }

    /// Appends an included file.
    pub(crate) fn push(&mut self, file: &str, text: &str, dir: Option<&Path>) {
        let whole = self.text.to_mut();
        // A line of its own, so that no line belongs to two files.
        whole.push('\n');
        let start = whole.len();
        whole.push_str(text);
        let lines_before = self.line_starts.len();
        self.line_starts.extend(line_starts(text, start));
        self.included.push(Part { file: file.to_owned(), start, lines_before, dir: dir.map(Path::to_owned) });
    }

    /// How many files there are.
    pub(crate) fn parts(&self) -> usize {
        1 + self.included.len()
    }

    /// The text of the file numbered `at`; the first is 0.
    pub(crate) fn part(&self, at: usize) -> &str {
        let end = self.included.get(at).map_or(self.text.len(), |next| next.start - 1);
        &self.text[self.base(at)..end]
    }

    /// Where the text of the file numbered `at` starts.
    pub(crate) fn base(&self, at: usize) -> usize {
        at.checked_sub(1).and_then(|at| self.included.get(at)).map_or(0, |part| part.start)
    }

    /// The name of the file numbered `at`.
    pub(crate) fn name(&self, at: usize) -> &str {
        at.checked_sub(1).and_then(|at| self.included.get(at)).map_or(&self.file, |part| &part.file)
    }

    /// The end of the first file.
    pub(crate) fn end(&self) -> usize {
        self.part(0).len()
    }

    fn included_at(&self, offset: usize) -> Option<&Part> {
        self.included[..self.included.partition_point(|part| part.start <= offset)].last()
    }

    /// The directory of the included file that holds `span`; `None` in the first file.
    pub(crate) fn dir(&self, span: &Range<usize>) -> Option<&Path> {
        self.included_at(span.start).and_then(|part| part.dir.as_deref())
    }

    /// The place of a byte range; offsets past the end or inside a character are moved back onto one. A range
    /// over several lines is cut at the end of its first.
    pub(crate) fn place(&self, span: &Range<usize>) -> Place {
        let start = self.on_character(span.start);
        let end = self.on_character(span.end.max(span.start));
        let line = self.line_starts.partition_point(|line_start| *line_start <= start).max(1);
        let line_start = self.line_starts[line - 1];
        let after = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let line_text = self.text[line_start..after].trim_end_matches('\r');
        let within = (start - line_start).min(line_text.len());
        let covered = (end.saturating_sub(line_start)).clamp(within, line_text.len());
        let part = self.included_at(start);
        Place {
            file: part.map_or(&self.file, |part| &part.file).clone(),
            line: line - part.map_or(0, |part| part.lines_before),
            column: line_text[..within].chars().count() + 1,
            width: line_text[within..covered].chars().count().max(1),
            line_text: line_text.to_owned(),
        }
    }

    /// `line 5`, for a sentence about another place; with the file, where there are several.
    pub(crate) fn whereabouts(&self, span: &Range<usize>) -> String {
        let place = self.place(span);
        if self.included.is_empty() {
            format!("line {}", place.line)
        } else {
            format!("line {} of {}", place.line, place.file)
        }
    }

    /// The byte range of `line` (1-based) from its first character that is not blank.
    pub(crate) fn line_span(&self, line: usize) -> Range<usize> {
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let blank = self.text[start..end].len() - self.text[start..end].trim_start().len();
        start + blank..end
    }

    /// The byte offset of a 1-based line and 0-based column in characters.
    pub(crate) fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        self.text[start..].char_indices().nth(column).map_or(self.text.len(), |(at, _)| start + at)
    }

    fn on_character(&self, offset: usize) -> usize {
        let mut at = offset.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// Where the lines of `text` start, which itself starts at `base`.
fn line_starts(text: &str, base: usize) -> Vec<usize> {
    let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    std::iter::once(base).chain(ends.map(|(at, _)| base + at + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_characters_not_bytes() {
        let source = Source::new("f", "a = 1\r\nü = ÄÖ x\n");
        let place = source.place(&(12..16));
        assert_eq!((place.line, place.column, place.width, place.line_text.as_str()), (2, 5, 2, "ü = ÄÖ x"));
    }

    #[test]
    fn a_place_in_an_included_file_is_counted_from_that_files_start() {
        let mut source = Source::new("a", "x = 1\ny = 2");
        source.push("b", "z = 3\nw = 4\n", Some(Path::new("/b")));
        source.push("c", "v = 5", None);
        assert_eq!((source.part(0), source.part(1), source.part(2)), ("x = 1\ny = 2", "z = 3\nw = 4\n", "v = 5"));
        let at = |offset: usize| {
            let place = source.place(&(offset..offset + 1));
            (place.file, place.line, place.column, place.line_text)
        };
        assert_eq!(at(6), ("a".into(), 2, 1, "y = 2".into()));
        assert_eq!(at(source.base(1)), ("b".into(), 1, 1, "z = 3".into()));
        assert_eq!(at(source.base(1) + 8), ("b".into(), 2, 3, "w = 4".into()));
        assert_eq!(at(source.base(2) + 4), ("c".into(), 1, 5, "v = 5".into()));
        assert_eq!(source.dir(&(source.base(1)..source.base(1))), Some(Path::new("/b")));
        assert_eq!(source.dir(&(0..1)), None);
    }

    #[test]
    fn offsets_outside_the_text_still_have_a_place() {
        let source = Source::new("f", "ab");
        assert_eq!(source.place(&(90..99)).column, 3);
        assert_eq!(Source::new("f", "").place(&(0..0)).line, 1);
    }
}
