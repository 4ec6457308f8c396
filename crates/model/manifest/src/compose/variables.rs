//! Compose's variable syntax → ours. They agree on `${VAR}`, `${VAR:-default}`, `${VAR:?message}` and `$$`.

use crate::expand::is_variable_name;

/// A text in our syntax, and what had to change its meaning a little.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) text: String,
    pub(super) notes: Vec<String>,
}

/// Turns a text of a Compose file into one of ours; `Err` says why it cannot be.
pub(super) fn convert(text: &str) -> Result<Kept, String> {
    let mut kept = Kept { text: String::with_capacity(text.len()), notes: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        kept.text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(left) = after.strip_prefix('$') {
            kept.text.push_str("$$");
            rest = left;
        } else if let Some(inside) = after.strip_prefix('{') {
            let end = closing(inside).ok_or_else(|| "a `${` is never closed".to_owned())?;
            braced(&inside[..end], &mut kept)?;
            rest = &inside[end + 1..];
        } else {
            let word = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
            let name = &after[..word];
            if is_variable_name(name) {
                kept.text.push_str(&format!("${{{name}}}"));
                rest = &after[word..];
            } else {
                kept.text.push('$');
                rest = after;
            }
        }
    }
    kept.text.push_str(rest);
    Ok(kept)
}

/// The offset of the `}` that closes a reference, nested ones skipped.
fn closing(inside: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut before = ' ';
    for (at, c) in inside.char_indices() {
        match c {
            '{' if before == '$' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

fn braced(inside: &str, kept: &mut Kept) -> Result<(), String> {
    let word = inside.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(inside.len());
    let (name, operator) = inside.split_at(word);
    if !is_variable_name(name) {
        return Err(format!("`${{{inside}}}` is not a variable"));
    }
    let argument = operator.trim_start_matches(':').get(1..).unwrap_or_default();
    if argument.contains('$') {
        return Err(format!("`${{{inside}}}` has a variable inside another, which Coppice does not expand"));
    }
    if argument.contains('}') {
        return Err(format!("`${{{inside}}}` has a `}}` inside"));
    }
    match operator {
        "" => {}
        o if o.starts_with(":-") || o.starts_with(":?") => {}
        o if o.starts_with('-') => {
            kept.notes.push(format!(
                "`${{{inside}}}` is now `${{{name}:-{argument}}}`: an empty {name} takes the default too"
            ));
            kept.text.push_str(&format!("${{{name}:-{argument}}}"));
            return Ok(());
        }
        o if o.starts_with('?') => {
            kept.notes
                .push(format!("`${{{inside}}}` is now `${{{name}:?{argument}}}`: an empty {name} is refused too"));
            kept.text.push_str(&format!("${{{name}:?{argument}}}"));
            return Ok(());
        }
        o if o.starts_with('+') || o.starts_with(":+") => {
            return Err(format!("`${{{inside}}}` gives text only when {name} is set, which Coppice has no form for"));
        }
        _ => return Err(format!("`${{{inside}}}` is not a form Coppice knows")),
    }
    kept.text.push_str(&format!("${{{inside}}}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_both_know_stay_and_the_others_are_rewritten() {
        for (compose, ours, notes) in [
            ("plain $", "plain $", 0),
            ("${A}/$B-$$C", "${A}/${B}-$$C", 0),
            ("${A:-x y}", "${A:-x y}", 0),
            ("${A-x}", "${A:-x}", 1),
            ("${A:?why}", "${A:?why}", 0),
            ("${A?why}", "${A:?why}", 1),
            ("$1.50 $", "$1.50 $", 0),
        ] {
            let kept = convert(compose).unwrap();
            assert_eq!((kept.text.as_str(), kept.notes.len()), (ours, notes), "{compose}");
        }
    }

    #[test]
    fn forms_only_compose_knows_say_so() {
        for (compose, part) in [
            ("${A:+x}", "only when A is set"),
            ("${A:-${B}}", "inside another"),
            ("${A:-$B}", "inside another"),
            ("${A", "never closed"),
            ("${1}", "not a variable"),
            ("${A/x/y}", "not a form"),
        ] {
            assert!(convert(compose).unwrap_err().contains(part), "{compose}");
        }
    }
}
