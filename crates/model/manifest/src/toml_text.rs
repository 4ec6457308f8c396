//! TOML as we write it: sections of `key = value` lines in a fixed order, strings in double quotes.

/// Longest array kept on one line, in characters.
const LINE_MAX: usize = 100;

/// A document being written.
#[derive(Default)]
pub(crate) struct Document {
    text: String,
}

impl Document {
    /// Starts `[header]`; `parts` are quoted where they must be.
    pub(crate) fn section(&mut self, parts: &[&str]) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let parts: Vec<String> = parts.iter().map(|part| key(part)).collect();
        self.text.push_str(&format!("[{}]\n", parts.join(".")));
    }

    /// A line of the current section; `value` is TOML.
    pub(crate) fn line(&mut self, name: &str, value: &str) {
        self.text.push_str(&format!("{} = {value}\n", key(name)));
    }

    /// Comment lines; control characters are dropped.
    pub(crate) fn comment(&mut self, text: &str) {
        for line in text.lines() {
            let line: String = line.chars().filter(|c| !c.is_control()).collect();
            self.text.push_str(format!("# {line}").trim_end());
            self.text.push('\n');
        }
    }

    pub(crate) fn finish(self) -> String {
        self.text
    }
}

/// A key, bare where TOML allows.
pub(crate) fn key(text: &str) -> String {
    let bare = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    if !text.is_empty() && text.bytes().all(bare) { text.to_owned() } else { quote(text) }
}

/// A basic string.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// An array of strings, one to a line when it is long.
pub(crate) fn array<T: AsRef<str>>(items: &[T]) -> String {
    array_of(&items.iter().map(|item| quote(item.as_ref())).collect::<Vec<_>>())
}

/// An array of TOML values.
pub(crate) fn array_of(items: &[String]) -> String {
    let line = format!("[{}]", items.join(", "));
    if line.chars().count() <= LINE_MAX || items.len() < 2 { line } else { format!("[\n  {},\n]", items.join(",\n  ")) }
}

/// `text` so that expanding variables gives it back: `$` before `{` or `$` is doubled.
pub(crate) fn literal(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        escaped.push(c);
        if c == '$' && matches!(chars.peek(), Some('{' | '$')) {
            escaped.push('$');
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_survives_quoting_and_expansion(text in "(\\$|\\{|\\}|[^\u{0}]){0,20}") {
            let text: String = text;
            let document = format!("a = {}", quote(&literal(&text)));
            let table: toml::Table = document.parse().unwrap();
            let read = crate::expand::expand(table["a"].as_str().unwrap(), |_| None);
            proptest::prop_assert_eq!(read.text, text);
        }
    }
}
