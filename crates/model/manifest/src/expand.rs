//! `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$` in string values.
//!
//! Defaults are plain text (no nested references). A `$` before anything else stays as it is, so shell text
//! such as `$HOME` reaches the container untouched.

/// A reference that cannot be expanded; `at` is a byte offset into the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) at: usize,
    pub(crate) length: usize,
    pub(crate) why: Why,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Unset { name: String },
    Required { name: String, message: String },
    Unclosed,
    BadName { name: String },
    BadOperator { name: String, rest: String },
}

/// The text with its references replaced, or every one that could not be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// Whether there was a reference at all.
    pub(crate) any: bool,
    pub(crate) broken: Vec<Broken>,
}

pub(crate) fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> Expanded {
    let mut done = Expanded { text: String::with_capacity(text.len()), any: false, broken: Vec::new() };
    let mut at = 0;
    while let Some(found) = text[at..].find('$') {
        let dollar = at + found;
        done.text.push_str(&text[at..dollar]);
        let rest = &text[dollar + 1..];
        if rest.starts_with('$') {
            done.text.push('$');
            at = dollar + 2;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let Some(end) = inside.find('}') else {
                done.broken.push(Broken { at: dollar, length: text.len() - dollar, why: Why::Unclosed });
                return done;
            };
            done.any = true;
            match reference(&inside[..end], &variable) {
                Ok(value) => done.text.push_str(&value),
                Err(why) => done.broken.push(Broken { at: dollar, length: end + 3, why }),
            }
            at = dollar + 2 + end + 1;
        } else {
            done.text.push('$');
            at = dollar + 1;
        }
    }
    done.text.push_str(&text[at..]);
    done
}

/// Whether `name` may name a variable: a letter or `_`, then letters, digits and `_`.
pub(crate) fn is_variable_name(name: &str) -> bool {
    let start = name.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    start && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

fn reference(inside: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, Why> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = inside.find(|c| !word(c)).unwrap_or(inside.len());
    let (name, rest) = inside.split_at(end);
    if !is_variable_name(name) {
        return Err(Why::BadName { name: inside.to_owned() });
    }
    let value = variable(name);
    let filled = value.clone().filter(|text| !text.is_empty());
    let name = name.to_owned();
    if rest.is_empty() {
        value.ok_or(Why::Unset { name })
    } else if let Some(default) = rest.strip_prefix(":-") {
        Ok(filled.unwrap_or_else(|| default.to_owned()))
    } else if let Some(message) = rest.strip_prefix(":?") {
        filled.ok_or_else(|| Why::Required { name, message: message.to_owned() })
    } else {
        Err(Why::BadOperator { name, rest: rest.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str) -> Expanded {
        expand(text, |name| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${A} $$".to_owned()),
            _ => None,
        })
    }

    #[test]
    fn references_are_replaced_once() {
        for (text, wanted) in [
            ("plain", "plain"),
            ("${A}-${A}", "one-one"),
            ("${B:-two}", "two"),
            ("${EMPTY}", ""),
            ("${EMPTY:-two}", "two"),
            ("${A:?needed}", "one"),
            ("$$A $A $", "$A $A $"),
            ("$${A}", "${A}"),
            ("${TRICK}", "${A} $$"),
            ("${B:-http://x:80/?a=b}", "http://x:80/?a=b"),
        ] {
            assert_eq!(with(text).text, wanted, "{text}");
            assert!(with(text).broken.is_empty(), "{text}");
        }
    }

    #[test]
    fn every_broken_reference_is_reported_with_its_place() {
        let done = with("${B} ${} ${A+x} ${C:?set C} ${A");
        let seen: Vec<(usize, &Why)> = done.broken.iter().map(|b| (b.at, &b.why)).collect();
        assert_eq!(seen[0], (0, &Why::Unset { name: "B".into() }));
        assert_eq!(seen[1], (5, &Why::BadName { name: String::new() }));
        assert_eq!(seen[2], (9, &Why::BadOperator { name: "A".into(), rest: "+x".into() }));
        assert_eq!(seen[3], (16, &Why::Required { name: "C".into(), message: "set C".into() }));
        assert_eq!(seen[4], (28, &Why::Unclosed));
    }
}
