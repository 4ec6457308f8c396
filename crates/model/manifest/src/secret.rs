//! `[secret.X]`, and the `secrets` of a workload.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Name;
use coppice_spec::{OnRotate, SecretKind, SecretSpec, SecretTarget, SecretUse, WorkloadSpec};

use crate::diagnostic::{Report, quoted};
use crate::fields::{self, Fields, Placed, wrong_type};
use crate::keys::{SECRET, SECRET_USE};
use crate::names;
use crate::tree::{Entry, Node, Value};

/// One declared secret.
pub(crate) fn read(entry: &Entry, report: &mut Report<'_>) -> Option<SecretSpec> {
    let fields = Fields::open(&entry.node, &SECRET, format!("[secret.{}]", entry.key), report)?;
    let kind = fields.choice("generate", report);
    let name = fields.text("name", report);
    let is_tls = kind.as_ref().is_some_and(|kind| kind.value == "tls");
    if let Some(name) = name.as_ref().filter(|_| !is_tls && (kind.is_some() || !fields.has("generate"))) {
        report.error(&name.span, "`name` is for generate = \"tls\" alone", "remove it");
    }
    if is_tls && !fields.has("name") {
        let message = format!("{} does not say which name its certificate is for", fields.title);
        report.error(&entry.key_span, message, "add name = \"db.internal\"");
    }
    if let Some(name) = name.as_ref().filter(|name| {
        let host = &name.value;
        host.is_empty() || host.len() > 253 || host.contains(|c: char| c.is_whitespace() || c.is_control())
    }) {
        let message = format!("{} is not a name for a certificate", quoted(&name.value));
        report.error(&name.span, message, "write it as in \"db.internal\"");
    }
    fields.finish();
    let generate = kind.and_then(|kind| {
        Some(match kind.value {
            "random-256" => SecretKind::Random256,
            "password" => SecretKind::Password,
            "ed25519" => SecretKind::Ed25519,
            _ => SecretKind::Tls { name: name?.value },
        })
    });
    Some(SecretSpec { generate })
}

/// The `secrets` of a workload: names (a file of that name) and tables.
pub(crate) fn uses(fields: &Fields<'_>, workload: &WorkloadSpec, report: &mut Report<'_>) -> Vec<Placed<SecretUse>> {
    let Some(entry) = fields.entry("secrets", report) else { return Vec::new() };
    let items: &[Node] = match &entry.node.value {
        Value::List(items) => items,
        Value::Text { .. } => std::slice::from_ref(&entry.node),
        Value::Unknown => return Vec::new(),
        _ => {
            let help = "write [\"db_password\", { secret = \"token\", env = \"TOKEN\" }]";
            wrong_type("secrets", &entry.node, "an array", help, report);
            return Vec::new();
        }
    };
    let mut found: Vec<Placed<SecretUse>> = Vec::new();
    let (mut variables, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (at, item) in items.iter().enumerate() {
        let one = match &item.value {
            Value::Text { text, .. } => fields::name("a secret", text, &item.span, report).map(file),
            Value::Table(_) => table(item, &format!("secret {} of {}", at + 1, fields.title), report),
            Value::Unknown => None,
            other => {
                let message = format!("`secrets` takes names and tables, and this is {}", other.kind());
                report.error(&item.span, message, "write \"name\", or { secret = \"name\", env = \"NAME\" }");
                None
            }
        };
        let Some(one) = one else { continue };
        if let Err(why) = one.target.check() {
            report.error(&item.span, why, "write a variable as in \"DB_PASSWORD\", a file as in \"/run/secrets/db\"");
            continue;
        }
        match &one.target {
            SecretTarget::Env(variable) => {
                if workload.env.contains_key(variable) || !variables.insert(variable.clone()) {
                    let message = format!("{} is set twice in {}", quoted(variable), fields.title);
                    report.error(&item.span, message, "give one of the two another name");
                }
            }
            SecretTarget::File { path, .. } => {
                let is_mounted = workload.volumes.iter().any(|mount| mount.target == *path);
                let taken = is_mounted || workload.tmpfs.contains_key(path);
                if taken || !paths.insert(path.clone()) {
                    let message = format!("{} is there twice in {}", quoted(path), fields.title);
                    report.error(&item.span, message, "give one of the two another path: file = \"/…\"");
                }
            }
        }
        found.push(Placed::new(one, &item.span));
    }
    found
}

fn file(secret: Name) -> SecretUse {
    let path = SecretUse::absolute(secret.as_str());
    let target = SecretTarget::File { path, mode: SecretUse::DEFAULT_MODE, uid: 0, gid: 0 };
    SecretUse { secret, part: None, target, on_rotate: OnRotate::default() }
}

fn table(item: &Node, title: &str, report: &mut Report<'_>) -> Option<SecretUse> {
    let fields = Fields::open(item, &SECRET_USE, title.to_owned(), report)?;
    let secret = fields.text("secret", report);
    if !fields.has("secret") {
        report.error(&item.span, format!("{title} does not say which"), "add secret = \"db_password\"");
    }
    let secret = secret.and_then(|found| fields::name("a secret", &found.value, &found.span, report));
    let part = fields.text("part", report).and_then(|found| {
        let known = ["hash", "public", "certificate"].contains(&found.value.as_str());
        if !known {
            let message = format!("{} is not a part of a secret", quoted(&found.value));
            report.error(&found.span, message, "write \"hash\", \"public\" or \"certificate\"");
        }
        Name::new(&found.value).ok().filter(|_| known)
    });
    let variable = fields.text("env", report);
    let path = fields.text("file", report);
    let mode = fields.text("mode", report).and_then(|found| mode(&found, report));
    let owner = fields.text_or_integer("owner", report).and_then(|found| owner(&found, report));
    let on_rotate = fields.text("on_rotate", report).map_or(OnRotate::default(), |found| rotation(&found, report));
    if let Some(variable) = &variable {
        for key in ["file", "mode", "owner"] {
            if let Some(other) = fields.entry(key, report) {
                let message = format!("`{key}` has no meaning for a secret in `env`");
                report.error(&other.key_span, message, "remove it, or write the secret twice");
            }
        }
        if matches!(on_rotate, OnRotate::Signal(_)) {
            let message = "a signal does not change the environment of a program that runs";
            report.warning(&variable.span, message, "use a file, or on_rotate = \"restart\"");
        }
    }
    fields.finish();
    let mut one = file(secret?);
    (one.part, one.on_rotate) = (part, on_rotate);
    one.target = match (variable, path) {
        (Some(variable), _) => SecretTarget::Env(variable.value),
        (None, path) => {
            let of_part = one.part.as_ref().map(|part| format!("{}.{part}", one.secret));
            let written = path.map(|path| path.value).or(of_part).unwrap_or_else(|| one.secret.to_string());
            let (uid, gid) = owner.unwrap_or_default();
            let mode = mode.unwrap_or(SecretUse::DEFAULT_MODE);
            SecretTarget::File { path: SecretUse::absolute(&written), mode, uid, gid }
        }
    };
    Some(one)
}

fn mode(found: &Placed<String>, report: &mut Report<'_>) -> Option<u32> {
    let digits = found.value.strip_prefix("0o").unwrap_or(&found.value);
    let plain = !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit());
    let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| plain && *mode <= 0o777);
    if mode.is_none() {
        let message = format!("{} is not the mode of a secret's file", quoted(&found.value));
        report.error(&found.span, message, "write it in octal, as in \"0440\", at most \"0777\"");
    }
    mode
}

fn owner(found: &Placed<String>, report: &mut Report<'_>) -> Option<(u32, u32)> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX && !text.starts_with('+'));
    let owner = match found.value.split_once(':') {
        Some((user, group)) => number(user).zip(number(group)),
        None => number(&found.value).map(|id| (id, id)),
    };
    if owner.is_none() {
        let message = format!("{} is not an owner", quoted(&found.value));
        report.error(&found.span, message, "write ids, as in 999 or \"999:999\": names are known only to the image");
    }
    owner
}

fn rotation(found: &Placed<String>, report: &mut Report<'_>) -> OnRotate {
    let wrong = |help: String, report: &mut Report<'_>| {
        report.error(&found.span, format!("{} is not a value of `on_rotate`", quoted(&found.value)), help);
        OnRotate::default()
    };
    match (found.value.as_str(), found.value.strip_prefix("signal:")) {
        ("restart", _) => OnRotate::Restart,
        ("nothing", _) => OnRotate::Nothing,
        (_, Some(signal)) => match names::signal(signal) {
            Ok(signal) => OnRotate::Signal(signal),
            Err(Some(near)) => wrong(format!("did you mean \"signal:{near}\"?"), report),
            Err(None) => wrong("write a signal as in \"signal:HUP\"".to_owned(), report),
        },
        _ => wrong("write \"restart\", \"nothing\" or \"signal:HUP\"".to_owned(), report),
    }
}

/// What the parts that are used need of the secrets that are declared; and secrets that nobody uses.
pub(crate) fn check<'u>(
    declared: &BTreeMap<Name, (SecretSpec, std::ops::Range<usize>)>,
    uses: impl Iterator<Item = &'u Placed<SecretUse>>,
    report: &mut Report<'_>,
) {
    let mut used: BTreeSet<&Name> = BTreeSet::new();
    for one in uses {
        used.insert(&one.value.secret);
        let Some((secret, _)) = declared.get(&one.value.secret) else { continue };
        let Some(part) = &one.value.part else { continue };
        let has = secret.generate.as_ref().and_then(SecretKind::part);
        if has != Some(part.as_str()) {
            let message = format!("secret `{}` has no part `{part}`", one.value.secret);
            let help = match has {
                Some(part) => format!("write part = \"{part}\", or leave `part` out for the secret itself"),
                None => "leave `part` out, or add `generate` to the secret".to_owned(),
            };
            report.error(&one.span, message, help);
        }
    }
    for (name, (_, span)) in declared.iter().filter(|(name, _)| !used.contains(name)) {
        let message = format!("secret `{name}` is declared and used by nothing");
        report.warning(span, message, "add it to the `secrets` of a service, or remove it");
    }
}
