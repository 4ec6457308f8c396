//! Verbs on secrets.

pub(crate) mod bootstrap;
pub(crate) mod change;
pub(crate) mod show;

use std::io::{IsTerminal, Read};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use coppice_api::{SecretText, SecretUser};

use crate::args::SecretValueArgs;
use crate::error::CommandError;
use crate::terminal;

/// Longer than any value that the node takes.
const VALUE_MAX: u64 = 1 << 20;

fn encoded(bytes: &[u8]) -> SecretText {
    SecretText(BASE64_STANDARD.encode(bytes))
}

/// The value that flags, standard input or a person give. Bytes are taken as they are.
fn value(args: &SecretValueArgs, name: &str) -> Result<SecretText, CommandError> {
    if let Some(value) = &args.value {
        return Ok(encoded(value.as_bytes()));
    }
    if let Some(path) = &args.file {
        let read = std::fs::File::open(path).and_then(all);
        return read.map(|bytes| encoded(&bytes)).map_err(|error| {
            CommandError::usage(format!("cannot read --file {}: {error}", path.display()), "check its path")
        });
    }
    if std::io::stdin().is_terminal() {
        let typed = terminal::read_secret(&format!("Value of {name}: "));
        return typed.map(|text| encoded(text.as_bytes())).map_err(CommandError::file("cannot read the value"));
    }
    all(std::io::stdin()).map(|bytes| encoded(&bytes)).map_err(CommandError::file("cannot read standard input"))
}

fn all(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(VALUE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `shop/web`, each once.
fn names_of(users: &[SecretUser]) -> Vec<String> {
    let mut names: Vec<String> = users.iter().map(|user| format!("{}/{}", user.app, user.workload)).collect();
    names.sort();
    names.dedup();
    names
}
