//! A text with its lines: byte offset → line, column and the line itself.

use std::ops::Range;

/// A file's name and text, and where its lines start.
pub(crate) struct Source<'t> {
    pub(crate) file: String,
    pub(crate) text: &'t str,
    line_starts: Vec<usize>,
}

/// A place in a [`Source`]: 1-based line and column (in characters), and how many characters it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
    pub(crate) width: usize,
    pub(crate) line_text: String,
}

impl<'t> Source<'t> {
    pub(crate) fn new(file: &str, text: &'t str) -> Self {
        let mut line_starts = vec![0];
        line_starts.extend(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
        Self { file: file.to_owned(), text, line_starts }
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
        Place {
            line,
            column: line_text[..within].chars().count() + 1,
            width: line_text[within..covered].chars().count().max(1),
            line_text: line_text.to_owned(),
        }
    }

    /// `line 5`, for a sentence about another place.
    pub(crate) fn whereabouts(&self, span: &Range<usize>) -> String {
        format!("line {}", self.place(span).line)
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
    fn offsets_outside_the_text_still_have_a_place() {
        let source = Source::new("f", "ab");
        assert_eq!(source.place(&(90..99)).column, 3);
        assert_eq!(Source::new("f", "").place(&(0..0)).line, 1);
    }
}
