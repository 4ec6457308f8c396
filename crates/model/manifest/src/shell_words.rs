//! A command written as one string → an argv, split as a shell would, with nothing else a shell does.

/// Why a string is not a list of words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unclosed {
    Quote(char),
    Backslash,
}

/// The words, and the first unquoted character sequence that only a shell gives meaning to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) words: Vec<String>,
    pub(crate) shell_only: Option<String>,
}

/// Splits at blanks; `'…'` is literal, in `"…"` a backslash escapes `"`, `\`, `$` and a backquote, outside it escapes any.
pub(crate) fn split(text: &str) -> Result<Words, Unclosed> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut shell_only = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(Unclosed::Quote('\'')),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some('\n') => {}
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err(Unclosed::Quote('"')),
                        },
                        Some(c) => word.push(c),
                        None => return Err(Unclosed::Quote('"')),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err(Unclosed::Backslash),
            },
            c => {
                if matches!(c, '|' | '&' | ';' | '<' | '>' | '`' | '$') && shell_only.is_none() {
                    let doubled = chars.peek() == Some(&c);
                    shell_only = Some(if doubled { format!("{c}{c}") } else { c.to_string() });
                }
                word.get_or_insert_default().push(c);
            }
        }
    }
    words.extend(word);
    Ok(Words { words, shell_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        let words = |text| split(text).unwrap().words;
        assert_eq!(words(r#"a  'b c' "d \"e\" \n" f\ g"#), ["a", "b c", r#"d "e" \n"#, "f g"]);
        assert_eq!(words(r#"x='1 2'"y" '' """#), ["x=1 2y", "", ""]);
        assert!(words("  ").is_empty());
        assert_eq!(split("a 'b"), Err(Unclosed::Quote('\'')));
        assert_eq!(split("a \"b\\"), Err(Unclosed::Quote('"')));
        assert_eq!(split("a \\"), Err(Unclosed::Backslash));
    }

    #[test]
    fn what_only_a_shell_understands_is_noticed() {
        assert_eq!(split("a && b").unwrap().shell_only, Some("&&".to_owned()));
        assert_eq!(split("a 'x | y'").unwrap().shell_only, None);
    }

    /// Words joined as a careful person would quote them.
    fn join(words: &[String]) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
        let quoted = |word: &String| match !word.is_empty() && word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        };
        words.iter().map(quoted).collect::<Vec<_>>().join(" ")
    }

    proptest::proptest! {
        #[test]
        fn joined_words_split_into_themselves(words in proptest::collection::vec("[ -~\n]{0,8}", 0..5)) {
            let words: Vec<String> = words;
            proptest::prop_assert_eq!(split(&join(&words)).unwrap().words, words);
        }
    }
}
