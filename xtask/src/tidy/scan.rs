//! Rust source with everything that is not code blanked out, so that a rule can look for words.
//!
//! This is a lexer for comments and literals only; it keeps every newline, so line numbers stay true. It refuses to
//! understand more: a rule that would need a syntax tree belongs in clippy.

/// The text with comments and the insides of string and character literals replaced by spaces.
pub(super) fn code(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < source.len() {
        let end = match source[at] {
            '/' if source.get(at + 1) == Some(&'/') => line_end(&source, at),
            '/' if source.get(at + 1) == Some(&'*') => block_end(&source, at),
            '"' => string_end(&source, at),
            'r' | 'b' | 'c' if !follows_word(&source, at) => raw_end(&source, at).unwrap_or(at),
            '\'' => char_end(&source, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            out.push(source[at]);
            at += 1;
        } else {
            out.extend(source[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where `word` stands alone in `code`, as byte offsets.
pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |&at| !code[..at].ends_with(part) && !code[at + word.len()..].starts_with(part))
}

/// The line, from 1, of the byte at `offset`.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

fn line_end(source: &[char], from: usize) -> usize {
    (from..source.len()).find(|&at| source[at] == '\n').unwrap_or(source.len())
}

fn block_end(source: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0usize);
    while at < source.len() {
        match (source[at], source.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => {
                (depth, at) = (depth - 1, at + 2);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    source.len()
}

fn string_end(source: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while at < source.len() {
        match source[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    source.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"`, `b'…'`; `None` when what starts here is a name.
fn raw_end(source: &[char], from: usize) -> Option<usize> {
    let mut at = from;
    let mut raw = false;
    while let Some('r' | 'b' | 'c') = source.get(at) {
        raw |= source[at] == 'r';
        at += 1;
        if at - from > 2 {
            return None;
        }
    }
    if !raw {
        return match source.get(at) {
            Some('"') => Some(string_end(source, at)),
            Some('\'') => char_end(source, at),
            _ => None,
        };
    }
    let hashes = source[at..].iter().take_while(|&&c| c == '#').count();
    at += hashes;
    if source.get(at) != Some(&'"') {
        return None;
    }
    let closes =
        |at: usize| source[at] == '"' && source[at + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
    let close = (at + 1..source.len()).find(|&at| closes(at))?;
    Some((close + 1 + hashes).min(source.len()))
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(source: &[char], quote: usize) -> Option<usize> {
    if source.get(quote + 1) == Some(&'\\') {
        return (quote + 3..source.len()).find(|&at| source[at] == '\'').map(|at| at + 1);
    }
    (source.get(quote + 2) == Some(&'\'')).then_some(quote + 3)
}

fn follows_word(source: &[char], at: usize) -> bool {
    at > 0 && (source[at - 1].is_alphanumeric() || source[at - 1] == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(text: &str, word: &str) -> bool {
        words(&code(text), word).next().is_some()
    }

    #[test]
    fn words_in_comments_and_literals_are_not_code() {
        for text in [
            "// unsafe",
            "/* unsafe /* unsafe */ unsafe */",
            "let s = \"unsafe \\\" unsafe\";",
            "let s = r#\"unsafe \" unsafe\"#;",
            "let s = b\"unsafe\"; let c = c\"unsafe\"; let r = br\"unsafe\";",
        ] {
            assert!(!has(text, "unsafe"), "{text}");
        }
    }

    #[test]
    fn code_around_literals_stays() {
        for text in [
            "let c = '\"'; unsafe {}",
            "fn f<'a>(x: &'a str) { unsafe {} }",
            "let c = '\\''; unsafe {}",
            "let b = b'\"'; unsafe {}",
            "let var\"x\" = 1; unsafe {}",
        ] {
            assert!(has(text, "unsafe"), "{text}");
        }
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert!(!has("unsafe_code", "unsafe"));
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "a\n/* b\nc */\n\"d\ne\" unsafe";
        let code = code(text);
        let at = words(&code, "unsafe").next().expect("the word");
        assert_eq!(line_of(&code, at), 5);
    }
}
