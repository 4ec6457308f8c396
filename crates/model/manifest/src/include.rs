//! `include`: the files a manifest takes in, read into one [`Source`].
//!
//! A path is relative to the file that names it, and may lead anywhere (`../parts/db.toml`), as with Compose: whoever
//! may write the manifest may also copy the file's text into it. Relative paths in an included file (bind mounts, env
//! files) start at that file's directory. It refuses circles, a file that is taken in twice, deep chains and large sums.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::context::Context;
use crate::diagnostic::quoted;
use crate::expand;
use crate::mount::host_path;
use crate::parse::FILE_MAX;
use crate::source::Source;

/// Longest chain of files, the manifest included.
const DEPTH_MAX: usize = 8;

/// Most files, the manifest included.
const FILES_MAX: usize = 64;

/// Something wrong with an `include`: the place, what, and the fix.
pub(crate) type Mistake = (std::ops::Range<usize>, String, String);

/// A file that is read: where, by whom, and where that stands.
struct Read {
    path: PathBuf,
    /// The file that names it, and the place of the name; none for the manifest itself.
    by: Option<(usize, std::ops::Range<usize>)>,
}

/// The manifest with all it includes.
pub(crate) fn load<'t>(file_name: &str, text: &'t str, context: &Context<'_>) -> (Source<'t>, Vec<Mistake>) {
    let mut source = Source::new(file_name, text);
    let mut mistakes = Vec::new();
    let name = Path::new(file_name).file_name().unwrap_or_default();
    let mut files = vec![Read { path: context.dir().join(name), by: None }];
    let mut at = 0;
    while at < files.len() {
        let named = included(source.part(at), source.base(at), &mut mistakes);
        for (path, span) in named {
            match take(&path, at, &files, &source, context) {
                Ok((whole, bytes)) => {
                    source.push(&shown(&whole, file_name, context.dir()), &bytes, whole.parent());
                    files.push(Read { path: whole, by: Some((at, span)) });
                }
                Err((message, help)) => mistakes.push((span, message, help)),
            }
            if files.len() > FILES_MAX {
                return (source, mistakes);
            }
        }
        at += 1;
    }
    /// The path as the user would write it from where the manifest is.
    fn shown(path: &Path, file_name: &str, dir: &Path) -> String {
        let parent = Path::new(file_name).parent().unwrap_or(Path::new(""));
        path.strip_prefix(dir).map_or_else(|_| path.to_owned(), |below| parent.join(below)).display().to_string()
    }
    (source, mistakes)
}

/// Reads the file `text` names in file `by`, or says what is wrong and the fix.
fn take(
    text: &str,
    by: usize,
    files: &[Read],
    source: &Source<'_>,
    context: &Context<'_>,
) -> Result<(PathBuf, String), (String, String)> {
    let dir = files[by].path.parent().unwrap_or(context.dir());
    let whole = PathBuf::from(host_path(text, dir)?);
    // The chain that led here, the nearest last.
    let mut chain = vec![by];
    while let Some((above, _)) = chain.last().and_then(|last| files[*last].by.as_ref()) {
        chain.push(*above);
    }
    if chain.iter().any(|file| files[*file].path == whole) {
        let names: Vec<&str> = chain.iter().rev().map(|file| source.name(*file)).collect();
        let message = format!("`include` goes round in a circle: {} -> {text}", names.join(" -> "));
        return Err((message, "remove one of these includes".to_owned()));
    }
    if let Some(other) = files.iter().find(|file| file.path == whole)
        && let Some((_, place)) = &other.by
    {
        let message = format!("{} is included already ({})", quoted(text), source.whereabouts(place));
        return Err((message, "include it once".to_owned()));
    }
    if chain.len() >= DEPTH_MAX {
        let message = format!("files are included more than {DEPTH_MAX} deep");
        return Err((message, "include it from a file further up".to_owned()));
    }
    if files.len() >= FILES_MAX {
        return Err((format!("more than {FILES_MAX} files are included"), "join some of them".to_owned()));
    }
    let bytes = context.read(&whole).map_err(|error| {
        let help = format!("create {}, or correct the path (it starts at the including file)", whole.display());
        (format!("{} cannot be read: {error}", quoted(text)), help)
    })?;
    if source.text.len() + bytes.len() > FILE_MAX {
        let message = "the manifest and what it includes are larger than 1 MiB".to_owned();
        return Err((message, "split it into several apps".to_owned()));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok((whole, text)),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            Err((format!("{} is not UTF-8 text from byte {at} on", quoted(text)), "save it as UTF-8".to_owned()))
        }
    }
}

/// The paths in a file's `include`, with their places. Broken TOML has none: it is reported by who reads all of it.
fn included(text: &str, base: usize, mistakes: &mut Vec<Mistake>) -> Vec<(String, std::ops::Range<usize>)> {
    if !text.contains("include") {
        return Vec::new();
    }
    let (table, broken) = DeTable::parse_recoverable(text);
    if !broken.is_empty() {
        return Vec::new();
    }
    let Some(value) = table.into_inner().into_iter().find(|(key, _)| key.get_ref() == "include").map(|found| found.1)
    else {
        return Vec::new();
    };
    let items: Vec<Spanned<DeValue<'_>>> = match value.get_ref() {
        DeValue::Array(_) => match value.into_inner() {
            DeValue::Array(items) => items.into_iter().collect(),
            _ => Vec::new(),
        },
        _ => vec![value],
    };
    let mut found = Vec::new();
    for item in items {
        let span = base + item.span().start..base + item.span().end;
        let help = "write include = [\"db.toml\"]";
        match item.into_inner() {
            DeValue::String(path) if path.is_empty() => {
                mistakes.push((span, "a path in `include` is empty".to_owned(), help.to_owned()));
            }
            DeValue::String(path) if path.contains("${") || path.contains('\0') => {
                let message = "a path in `include` is taken as it is, without variables".to_owned();
                mistakes.push((span, message, "write the path itself, or choose by [env.NAME] and `when`".to_owned()));
            }
            DeValue::String(path) => {
                let plain = expand::expand(&path, |_| None).text;
                found.push((plain, span));
            }
            // The key's type is for the reader of the whole manifest to tell.
            _ => {}
        }
    }
    found
}
