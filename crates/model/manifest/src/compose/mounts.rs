//! Volumes of a Compose file: those of a service, and those declared at the top.

use std::path::Path;

use super::File;
use super::ledger::{Ledger, Map};
use super::reasons;
use super::yaml::{Node, Value};
use crate::mount;
use crate::starter::app_name;
use crate::toml_text::{Document, quote};

/// Options of a short volume that change nothing here.
const MARKS: &[&str] = &["z", "Z", "cached", "delegated", "consistent", "nocopy", "rw"];

/// `volumes` and `tmpfs` of a service.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) volumes: Vec<String>,
    pub(super) tmpfs: Vec<String>,
}

impl Mounts {
    pub(super) fn volumes(&mut self, node: &Node, path: &str, file: &File, ledger: &mut Ledger<'_>) {
        for (path, item) in ledger.items(node, path) {
            match &item.value {
                Value::Map(_) => self.long(item, &path, file, ledger),
                _ => {
                    if let Some(text) =
                        ledger.text(item, &path).and_then(|text| short(&text, item, &path, file, ledger))
                    {
                        self.add(text, item, &path, ledger);
                    }
                }
            }
        }
    }

    pub(super) fn tmpfs(&mut self, node: &Node, path: &str, ledger: &mut Ledger<'_>) {
        for (path, item) in ledger.items(node, path) {
            let Some(text) = ledger.text(item, &path) else { continue };
            let (target, options) = text.split_once(':').unwrap_or((&text, ""));
            let mut size = None;
            for option in options.split(',').filter(|option| !option.is_empty()) {
                match option.strip_prefix("size=") {
                    Some(bytes) => size = Some(bytes),
                    None => ledger.leave(&path, &item.span, format!("tmpfs option `{option}` is not carried")),
                }
            }
            self.add_tmpfs(target, size, item, &path, ledger);
        }
    }

    fn add(&mut self, text: String, item: &Node, path: &str, ledger: &mut Ledger<'_>) {
        match mount::parse(&text, Path::new("/")) {
            Err((why, _)) if !text.contains("${") => ledger.leave(path, &item.span, why),
            _ => self.volumes.push(text),
        }
    }

    fn add_tmpfs(&mut self, target: &str, size: Option<&str>, item: &Node, path: &str, ledger: &mut Ledger<'_>) {
        let text = size.map_or_else(|| target.to_owned(), |size| format!("{target}:size={size}"));
        match mount::parse_tmpfs(&text) {
            Err((why, _)) if !text.contains("${") => ledger.leave(path, &item.span, why),
            _ => self.tmpfs.push(text),
        }
    }

    fn long(&mut self, item: &Node, path: &str, file: &File, ledger: &mut Ledger<'_>) {
        let Some(map) = Map::open(item, path, ledger) else { return };
        let mut take = |key: &str| map.take(key).and_then(|(path, node)| ledger.text(node, &path));
        let kind = take("type").unwrap_or_else(|| "volume".to_owned());
        let (source, target) = (take("source").or_else(|| take("src")), take("target").or_else(|| take("dst")));
        let read_only = map.take("read_only").or_else(|| map.take("readonly"));
        let read_only = read_only.is_some_and(|(path, node)| {
            node.boolean().unwrap_or_else(|| {
                ledger.leave(&path, &node.span, "it is not true or false, so the mount is read-only");
                true
            })
        });
        let Some(target) = target else {
            return ledger.leave(path, &item.span, "it has no usable `target`");
        };
        let end = if read_only { ":ro" } else { "" };
        match (kind.as_str(), source) {
            ("tmpfs", _) => {
                let options = map.take("tmpfs").and_then(|(path, node)| Map::open(node, &path, ledger));
                let size = options.as_ref().and_then(|options| options.take("size"));
                let size = size.and_then(|(path, node)| ledger.text(node, &path));
                if let Some(options) = options {
                    options.finish(reasons::other, ledger);
                }
                self.add_tmpfs(&target, size.as_deref(), item, path, ledger);
            }
            ("bind", Some(source)) => {
                // Propagation, SELinux labels and the like have no counterpart; a missing source is an error here.
                let source = home(&source).unwrap_or(source);
                let plain = source.starts_with(['/', '.', '$']);
                let source = if plain { source } else { format!("./{source}") };
                self.add(format!("{source}:{target}{end}"), item, path, ledger);
            }
            ("volume", Some(source)) => {
                let name = volume_name(&source, file);
                self.add(format!("{name}:{target}{end}"), item, path, ledger);
            }
            ("volume", None) => self.add(target, item, path, ledger),
            (kind, _) => ledger.leave(path, &item.span, format!("a mount of type `{kind}` has no counterpart")),
        }
        map.finish(reasons::other, ledger);
    }
}

/// `[SOURCE:]TARGET[:OPTIONS]`.
fn short(text: &str, item: &Node, path: &str, file: &File, ledger: &mut Ledger<'_>) -> Option<String> {
    let parts = colons(text);
    let (source, target, options) = match parts[..] {
        [target] => return Some(target.to_owned()),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => {
            ledger.leave(path, &item.span, format!("`{text}` has too many colons"));
            return None;
        }
    };
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => {}
            _ if MARKS.contains(&option) => {
                ledger.leave(
                    path,
                    &item.span,
                    format!("option `{option}` is not needed: mounts are shared and id-mapped"),
                );
            }
            _ => ledger.leave(path, &item.span, format!("option `{option}` is not carried")),
        }
    }
    let source = match home(source) {
        Some(source) => source,
        None if source.starts_with(['/', '.', '$']) => source.to_owned(),
        None => volume_name(source, file),
    };
    Some(format!("{source}:{target}{}", if read_only { ":ro" } else { "" }))
}

/// The parts between colons, those inside `${…}` not counted.
pub(super) fn colons(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut from, mut inside, mut before) = (0, false, ' ');
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => inside = true,
            '}' => inside = false,
            ':' if !inside => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
        before = c;
    }
    parts.push(&text[from..]);
    parts
}

/// `~` and `~/x`, which Compose expands and the manifest does not.
fn home(source: &str) -> Option<String> {
    let rest = source.strip_prefix('~')?;
    (rest.is_empty() || rest.starts_with('/')).then(|| format!("${{HOME}}{rest}"))
}

/// The name of a volume as it is declared, or as it would be.
fn volume_name(source: &str, file: &File) -> String {
    file.volumes.get(source).cloned().unwrap_or_else(|| match source.contains(['/', '$', '\\']) {
        true => source.to_owned(),
        false => app_name(source).as_str().to_owned(),
    })
}

/// The directory of `driver_opts: { type: none, o: bind, device: /dir }`, the usual way to name one.
fn bound(node: &Node, path: &str, ledger: &mut Ledger<'_>) -> Option<String> {
    let map = Map::open(node, path, ledger)?;
    let mut take = |key: &str| map.take(key).and_then(|(path, node)| ledger.text(node, &path));
    let (kind, options, device) = (take("type"), take("o"), take("device")?);
    let bind = options.is_some_and(|options| options.split(',').all(|option| matches!(option, "bind" | "rbind")));
    let plain = kind.is_none_or(|kind| kind == "none" || kind == "bind");
    map.finish(reasons::other, ledger);
    (bind && plain && device.starts_with(['/', '.', '$'])).then_some(device)
}

/// The top-level `volumes`.
pub(super) fn declared(node: &Node, path: &str, file: &File, document: &mut Document, ledger: &mut Ledger<'_>) {
    let Some(top) = Map::open(node, path, ledger) else { return };
    for (key, node) in top.take_all() {
        let path = format!("{path}.{}", key.text);
        let Some(map) = Map::open(node, &path, ledger) else { continue };
        let Some(name) = file.volumes.get(&key.text) else { continue };
        document.section(&["volume", name]);
        let driver =
            map.take("driver").and_then(|(path, node)| ledger.text(node, &path).map(|text| (path, node, text)));
        let mut local = false;
        if let Some((path, node, driver)) = driver {
            local = driver == "local";
            if !local {
                let why = format!("driver `{driver}` is not available: the volume is a local one");
                ledger.leave(&path, &node.span, why);
            }
        }
        if let Some((path, node)) = map.take("driver_opts") {
            match bound(node, &path, ledger) {
                Some(device) => {
                    local = false;
                    document.line("driver", &quote("host"));
                    document.line("path", &quote(&device));
                }
                None => {
                    local = false;
                    let why = "mount it on the host, then write driver = \"host\" and path = \"…\"";
                    ledger.leave(&path, &node.span, why);
                }
            }
        }
        if local {
            document.line("driver", &quote("local"));
        }
        if let Some((path, node)) = map.take("external") {
            let why = "volumes belong to their app: copy the data in, or use driver = \"host\" with its path";
            ledger.leave(&path, &node.span, why);
        }
        let labels = map.take("labels").map(|(path, node)| ledger.pairs(node, &path)).unwrap_or_default();
        map.finish(
            |key| match key {
                "name" => "volumes are named after their section, within the app".to_owned(),
                key => reasons::other(key),
            },
            ledger,
        );
        if !labels.is_empty() {
            document.section(&["volume", name, "labels"]);
            for label in labels {
                document.line(&label.key, &quote(&label.value.unwrap_or_default()));
            }
        }
    }
}
