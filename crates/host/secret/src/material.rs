//! A secret's value with its other parts (a password's hash, a key pair's public half), as one sealed text.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use coppice_base::Name;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::key::{Key, SealError};

/// Most bytes of a value: what a key, a certificate chain or a password file needs, many times over.
pub const VALUE_MAX: usize = 64 << 10;

/// One version of a secret. Never shown, and wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    pub value: Zeroizing<Vec<u8>>,
    /// `hash`, `public` or `certificate`.
    pub parts: BTreeMap<Name, Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Material {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Material(..)")
    }
}

/// What is sealed, as JSON.
#[derive(Serialize, Deserialize)]
struct Written {
    value: String,
    parts: BTreeMap<Name, String>,
}

impl Drop for Written {
    fn drop(&mut self) {
        self.value.zeroize();
        self.parts.values_mut().for_each(Zeroize::zeroize);
    }
}

/// What a sealed version is bound to.
fn place(name: &Name, version: u64) -> String {
    format!("secret/{name}/{version}")
}

impl Material {
    pub fn of(value: Vec<u8>) -> Self {
        Self { value: Zeroizing::new(value), parts: BTreeMap::new() }
    }

    /// The value itself, or another part.
    pub fn part(&self, part: Option<&Name>) -> Option<&[u8]> {
        match part {
            None => Some(&self.value),
            Some(part) => self.parts.get(part).map(|bytes| bytes.as_slice()),
        }
    }

    /// As text in base64, readable only with `key` and as this version of this secret.
    pub fn seal(&self, key: &Key, name: &Name, version: u64) -> String {
        let parts = self.parts.iter().map(|(part, bytes)| (part.clone(), BASE64_STANDARD.encode(bytes))).collect();
        let written = Written { value: BASE64_STANDARD.encode(&*self.value), parts };
        let text = Zeroizing::new(serde_json::to_vec(&written).expect("texts by name"));
        BASE64_STANDARD.encode(key.seal(&place(name, version), &text))
    }

    pub fn open(key: &Key, name: &Name, version: u64, sealed: &str) -> Result<Self, SealError> {
        let sealed = BASE64_STANDARD.decode(sealed).map_err(|_| SealError)?;
        let text = key.open(&place(name, version), &sealed)?;
        let mut written: Written = serde_json::from_slice(&text).map_err(|_| SealError)?;
        let bytes = |text: &str| BASE64_STANDARD.decode(text).map(Zeroizing::new).map_err(|_| SealError);
        let value = bytes(&written.value)?;
        let parts = std::mem::take(&mut written.parts).into_iter().map(|(part, mut text)| {
            let decoded = bytes(&text);
            text.zeroize();
            Ok((part, decoded?))
        });
        Ok(Self { value, parts: parts.collect::<Result<_, _>>()? })
    }

    /// Of the value; see [`Key::fingerprint`].
    pub fn fingerprint(&self, key: &Key, name: &Name) -> String {
        key.fingerprint(name.as_str(), &self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_version_opens_as_itself_and_as_no_other_secret_or_version() {
        let key = Key::generate();
        let mut material = Material::of(b"hunter2".to_vec());
        material.parts.insert(name("hash"), Zeroizing::new(b"$argon2".to_vec()));
        let sealed = material.seal(&key, &name("db"), 3);
        assert!(!sealed.contains("hunter2"));
        assert_eq!(Material::open(&key, &name("db"), 3, &sealed), Ok(material.clone()));
        assert_eq!(Material::open(&key, &name("db"), 4, &sealed), Err(SealError));
        assert_eq!(Material::open(&key, &name("other"), 3, &sealed), Err(SealError));
        assert_eq!(Material::open(&Key::generate(), &name("db"), 3, &sealed), Err(SealError));
        assert_eq!(Material::open(&key, &name("db"), 3, "no base64!"), Err(SealError));
        assert_eq!(format!("{material:?}"), "Material(..)");
    }
}
