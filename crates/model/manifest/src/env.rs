//! The environment of a workload: its `env_file`s, then its `env` on top.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::diagnostic::{Report, quoted};
use crate::fields::Fields;
use crate::mount::host_path;
use crate::parse::Input;
use crate::source::Source;

/// The merged environment.
pub(crate) fn read(fields: &Fields<'_>, input: &Input<'_, '_>, report: &mut Report<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for file in fields.texts("env_file", report).unwrap_or_default() {
        if file.value.is_empty() {
            report.error(&file.span, "`env_file` is empty", "give a path, as in \"./web.env\"");
        } else {
            env_file(&file.value, &file.span, input, &mut env, report);
        }
    }
    env.extend(fields.pairs("env", report));
    env
}

fn env_file(
    path: &str,
    span: &Range<usize>,
    input: &Input<'_, '_>,
    env: &mut BTreeMap<String, String>,
    report: &mut Report<'_>,
) {
    let whole = match host_path(path, &input.dir(span, report)) {
        Ok(whole) => whole,
        Err((message, help)) => return report.error(span, message, help),
    };
    let bytes = match input.context.read(std::path::Path::new(&whole)) {
        Ok(bytes) => bytes,
        Err(_) if input.draft => return,
        Err(error) => {
            let help = format!("create {whole}, or correct the path (it starts at the manifest's directory)");
            return report.error(span, format!("env file {} cannot be read: {error}", quoted(path)), help);
        }
    };
    let text = match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text,
        _ => return report.error(span, format!("env file {} is not text", quoted(path)), "save it as UTF-8"),
    };
    let source = Source::new(path, text.strip_prefix('\u{feff}').unwrap_or(&text));
    for (at, line) in source.text.lines().enumerate() {
        match parse_line(line, |name| input.context.variable(name)) {
            Ok(None) => {}
            Ok(Some((key, value))) => drop(env.insert(key, value)),
            Err((message, help)) => report.error_in(&source, &source.line_span(at + 1), message, help),
        }
    }
}

type Line = Option<(String, String)>;

/// One line: `KEY=VALUE`, `export KEY=VALUE`, `KEY` (handed on from the environment when set there), a comment or
/// nothing. A value may be in single quotes (literal) or double quotes (`\n`, `\t`, `\"`, `\\`, `\$`); an unquoted one
/// ends before ` #`. Values are not expanded: what is in the file is what the program gets.
fn parse_line(line: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Line, (String, &'static str)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let Some((key, value)) = line.split_once('=') else {
        if line.contains(char::is_whitespace) {
            return Err((format!("{} is not KEY=VALUE", quoted(line)), "write KEY=VALUE, or start a comment with #"));
        }
        return Ok(variable(line).map(|value| (line.to_owned(), value)));
    };
    let key = key.trim_end();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err((format!("{} is not a variable name", quoted(key)), "write KEY=VALUE, the key without blanks"));
    }
    let unclosed = || {
        Err((format!("the value of {} has a quote that is not closed", quoted(key)), "close the quote on this line"))
    };
    let value = value.trim_start();
    let comment = |rest: &str| rest.trim_start().is_empty() || rest.trim_start().starts_with('#');
    let value = if let Some(inside) = value.strip_prefix('\'') {
        match inside.split_once('\'') {
            Some((text, rest)) if comment(rest) => text.to_owned(),
            _ => return unclosed(),
        }
    } else if let Some(inside) = value.strip_prefix('"') {
        match double_quoted(inside) {
            Some((text, rest)) if comment(rest) => text,
            _ => return unclosed(),
        }
    } else {
        value.split(" #").next().unwrap_or_default().trim_end().to_owned()
    };
    Ok(Some((key.to_owned(), value)))
}

/// The text up to the closing quote with its escapes resolved, and what follows it.
fn double_quoted(inside: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((text, &inside[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                c @ ('"' | '\\' | '$') => text.push(c),
                other => text.extend(['\\', other]),
            },
            c => text.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_file_lines_are_read_as_docker_and_shells_write_them() {
        let line = |text| parse_line(text, |name| (name == "HOST").then(|| "h1".to_owned()));
        let pair = |key: &str, value: &str| Ok(Some((key.to_owned(), value.to_owned())));
        assert_eq!(line("# note"), Ok(None));
        assert_eq!(line("  "), Ok(None));
        assert_eq!(line("A=1"), pair("A", "1"));
        assert_eq!(line("A="), pair("A", ""));
        assert_eq!(line("export A = x=y # note"), pair("A", "x=y"));
        assert_eq!(line("A='a # b' # c"), pair("A", "a # b"));
        assert_eq!(line(r#"A="a\n\"b\" ${C}""#), pair("A", "a\n\"b\" ${C}"));
        assert_eq!(line("HOST"), pair("HOST", "h1"));
        assert_eq!(line("ABSENT"), Ok(None));
        assert!(line("two words").is_err());
        assert!(line("=x").is_err());
        assert!(line("A='x").is_err());
        assert!(line("A=\"x\" y").is_err());
    }
}
