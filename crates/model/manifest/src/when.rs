//! `when`: what of a manifest is there, by the environment and variables.
//!
//! ```text
//! or   = and ("||" and)*          value = "env" | "var." NAME | "'" text "'"
//! and  = not ("&&" not)*          test  = value ("==" | "!=") value
//! not  = "!" not | "(" or ")"           | value "in" "[" value ("," value)* "]"
//!      | test
//! ```
//!
//! Values are texts. `env` is the chosen environment, a variable that is not set is empty. It has no numbers, no
//! functions and no way to fail while it is evaluated.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::diagnostic::{Report, quoted};
use crate::expand::is_variable_name;
use crate::parse::Input;
use crate::tree::{Entry, Node, Value};

/// Deepest nesting of parentheses and `!`.
const DEPTH_MAX: usize = 32;

/// Sections whose tables may have a `when`.
const KINDS: &[&str] = &["service", "worker", "cron", "volume"];

/// Takes out what a `when` says is not there, and returns what that was (volumes as `volume NAME`), with the places of
/// the `when`s. `env`: the environment the manifest is read for.
pub(crate) fn prune(
    sections: &mut [Entry],
    env: &str,
    input: &Input<'_, '_>,
    report: &mut Report<'_>,
) -> BTreeMap<String, Range<usize>> {
    let mut left_out = BTreeMap::new();
    for section in sections.iter_mut().filter(|section| KINDS.contains(&section.key.as_str())) {
        let kind = section.key.clone();
        let Value::Table(tables) = &mut section.node.value else { continue };
        tables.retain(|table| match is_out(table, env, input, report) {
            None => true,
            Some(place) => {
                let name = if kind == "volume" { format!("volume {}", table.key) } else { table.key.clone() };
                left_out.insert(name, place);
                false
            }
        });
        for table in tables.iter_mut() {
            let Value::Table(keys) = &mut table.node.value else { continue };
            keys.retain(|key| key.key != "http_proxy" || is_out(key, env, input, report).is_none());
            keys.retain_mut(|key| {
                let ("http_routes", Value::Table(routes)) = (key.key.as_str(), &mut key.node.value) else {
                    return true;
                };
                let before = routes.len();
                routes.retain(|route| is_out(route, env, input, report).is_none());
                !routes.is_empty() || before == 0
            });
        }
    }
    left_out
}

/// The place of a table's `when` that is false.
fn is_out(table: &Entry, env: &str, input: &Input<'_, '_>, report: &mut Report<'_>) -> Option<Range<usize>> {
    let Value::Table(keys) = &table.node.value else { return None };
    let when = keys.iter().find(|key| key.key == "when")?;
    // Another type is reported by who reads the table.
    let Value::Text { text, .. } = &when.node.value else { return None };
    match evaluate(text, env, &|name| input.context.variable(name)) {
        Ok(true) => None,
        Ok(false) => Some(when.key_span.clone()),
        Err((place, message)) => {
            let help = "compare texts, as in when = \"env == 'prod' && var.REGION in ['eu', 'us']\"";
            report.error(&within(&when.node, text, &place, report), message, help);
            None
        }
    }
}

/// Where a part of a string stands in the source; escapes hide it, and then the whole string is meant.
fn within(node: &Node, text: &str, place: &Range<usize>, report: &Report<'_>) -> Range<usize> {
    let raw = report.source.text.get(node.span.clone()).unwrap_or_default();
    match raw.find(text).filter(|_| !text.is_empty()) {
        Some(at) => node.span.start + at + place.start..node.span.start + at + place.end,
        None => node.span.clone(),
    }
}

type Wrong = (Range<usize>, String);

/// Whether `text` holds.
///
/// # Errors
/// The place in `text` and what is wrong with it.
fn evaluate(text: &str, env: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<bool, Wrong> {
    let tokens = tokens(text)?;
    let mut reader = Reader { tokens: &tokens, at: 0, end: text.len(), depth: 0, env, variable };
    let holds = reader.or()?;
    match reader.peek() {
        None => Ok(holds),
        Some((token, place)) => Err((place.clone(), format!("{} is not expected here", quoted(&token.to_string())))),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(&'static str),
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(text) => f.write_str(text),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Sign(sign) => f.write_str(sign),
        }
    }
}

fn tokens(text: &str) -> Result<Vec<(Token, Range<usize>)>, Wrong> {
    const SIGNS: [&str; 10] = ["==", "!=", "&&", "||", "!", "(", ")", "[", "]", ","];
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            found.push((Token::Sign(sign), at..at + sign.len()));
            at += sign.len();
        } else if matches!(c, '\'' | '"') {
            let Some(end) = rest[1..].find(c) else {
                return Err((at..text.len(), format!("a {c} is never closed")));
            };
            found.push((Token::Text(rest[1..=end].to_owned()), at..at + end + 2));
            at += end + 2;
        } else {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(rest.len());
            if end == 0 {
                let what = if c == '=' {
                    "`=` compares nothing: write `==`".to_owned()
                } else {
                    format!("`{c}` means nothing here")
                };
                return Err((at..at + c.len_utf8(), what));
            }
            found.push((Token::Word(rest[..end].to_owned()), at..at + end));
            at += end;
        }
    }
    Ok(found)
}

struct Reader<'r> {
    tokens: &'r [(Token, Range<usize>)],
    at: usize,
    end: usize,
    depth: usize,
    env: &'r str,
    variable: &'r dyn Fn(&str) -> Option<String>,
}

impl<'r> Reader<'r> {
    fn peek(&self) -> Option<&'r (Token, Range<usize>)> {
        self.tokens.get(self.at)
    }

    /// Goes past `sign` if it is next.
    fn is_next(&mut self, sign: &'static str) -> bool {
        let found = self.peek().is_some_and(|(token, _)| *token == Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    /// What stands here, or the end, as a place.
    fn place(&self) -> Range<usize> {
        self.peek().map_or(self.end.saturating_sub(1)..self.end, |(_, place)| place.clone())
    }

    fn or(&mut self) -> Result<bool, Wrong> {
        let mut holds = self.and()?;
        while self.is_next("||") {
            holds |= self.and()?;
        }
        Ok(holds)
    }

    fn and(&mut self) -> Result<bool, Wrong> {
        let mut holds = self.not()?;
        while self.is_next("&&") {
            holds &= self.not()?;
        }
        Ok(holds)
    }

    fn not(&mut self) -> Result<bool, Wrong> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err((self.place(), format!("it is nested deeper than {DEPTH_MAX}")));
        }
        let holds = if self.is_next("!") {
            !self.not()?
        } else if self.is_next("(") {
            let holds = self.or()?;
            if !self.is_next(")") {
                return Err((self.place(), "a `(` is never closed".to_owned()));
            }
            holds
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(holds)
    }

    fn test(&mut self) -> Result<bool, Wrong> {
        let value = self.value()?;
        if self.is_next("==") {
            return Ok(value == self.value()?);
        }
        if self.is_next("!=") {
            return Ok(value != self.value()?);
        }
        if self.peek().is_some_and(|(token, _)| *token == Token::Word("in".to_owned())) {
            self.at += 1;
            if !self.is_next("[") {
                return Err((self.place(), "`in` is followed by a list: ['a', 'b']".to_owned()));
            }
            let mut holds = false;
            loop {
                holds |= value == self.value()?;
                if self.is_next("]") {
                    return Ok(holds);
                }
                if !self.is_next(",") {
                    return Err((self.place(), "a `[` is never closed".to_owned()));
                }
            }
        }
        Err((self.place(), "a value is compared by ==, != or in".to_owned()))
    }

    fn value(&mut self) -> Result<String, Wrong> {
        let Some((token, place)) = self.peek() else {
            return Err((self.place(), "it ends where a value is expected".to_owned()));
        };
        self.at += 1;
        match token {
            Token::Text(text) => Ok(text.clone()),
            Token::Word(word) if word == "env" => Ok(self.env.to_owned()),
            Token::Word(word) => match word.strip_prefix("var.").filter(|name| is_variable_name(name)) {
                Some(name) => Ok((self.variable)(name).unwrap_or_default()),
                None => {
                    let message = format!("{} is not a value: there are env, var.NAME and 'text'", quoted(word));
                    Err((place.clone(), message))
                }
            },
            Token::Sign(sign) => Err((place.clone(), format!("`{sign}` stands where a value is expected"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str) -> Result<bool, Wrong> {
        evaluate(text, "prod", &|name| (name == "REGION").then(|| "eu".to_owned()))
    }

    #[test]
    fn conditions_are_read_with_their_usual_precedence() {
        for (text, wanted) in [
            ("env == 'prod'", true),
            ("env != \"prod\"", false),
            ("var.REGION in ['us', 'eu']", true),
            ("var.NONE == ''", true),
            ("!(env == 'dev') && var.REGION == 'eu'", true),
            ("env == 'dev' && env == 'dev' || env == 'prod'", true),
            ("env == 'prod' || env == 'dev' && env == 'dev'", true),
            ("!env == 'dev'", true),
            ("'prod' == env", true),
            ("env in ['prod']&&!(!(env=='prod'))", true),
        ] {
            assert_eq!(holds(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_says_where_and_why() {
        for (text, place, why) in [
            ("", 0..0, "ends where"),
            ("env", 2..3, "compared by"),
            ("env = 'x'", 4..5, "write `==`"),
            ("env == 'x", 7..9, "never closed"),
            ("(env == 'x'", 10..11, "`(` is never closed"),
            ("env in 'x'", 7..10, "followed by a list"),
            ("env in ['x'", 10..11, "`[` is never closed"),
            ("environment == 'x'", 0..11, "not a value"),
            ("var.1A == 'x'", 0..6, "not a value"),
            ("env == 'x' 'y'", 11..14, "not expected"),
            ("env == &&", 7..9, "where a value is"),
            ("env ~ 'x'", 4..5, "means nothing"),
        ] {
            let (at, message) = holds(text).unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
            assert_eq!(at, place, "{text}");
        }
        assert!(holds(&"!".repeat(1000)).unwrap_err().1.contains("deeper"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_condition_or_refused_at_a_place_inside_it(text in "(env|var.A|'a'|==|!=|in|&&|\\|\\||!|\\(|\\)|\\[|\\]|,| |\\PC){0,12}") {
            if let Err((place, message)) = holds(&text) {
                proptest::prop_assert!(place.end <= text.len() && place.start <= place.end && !message.is_empty());
            }
        }
    }
}
