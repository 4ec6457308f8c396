//! What protects the key itself: nothing but its file's mode, a passphrase, or a credential of systemd.
//!
//! With either of the last two the key's file is wrapped: the key in it is random all the same, sealed with what the
//! passphrase (argon2id, parameters beside it) or the credential gives. So another key can take its place without another
//! passphrase, and the other way round.

use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::key::{KEY_BYTES, Key, random};
use crate::key_file::{KeyFileError, key_of, read_private};

/// Begins a wrapped key's file.
const WRAPPED: &[u8] = b"coppice-wrapped-key-1\n";
/// What the key is sealed as.
const PLACE: &str = "wrapped-key";
/// Fewer letters can be tried one after the other.
const PASSPHRASE_MIN: usize = 12;
/// The second recommendation of RFC 9106, section 4: for where memory is limited.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 4;
/// What a file may ask for at most: it is our own, but may be a damaged one.
const MEMORY_KIB_MAX: u32 = 1 << 20;

/// Where what opens the key's file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// Nowhere: the file has the key itself.
    File,
    /// A file with a passphrase, such as one that a person fills at boot on a tmpfs.
    Passphrase { path: PathBuf },
    /// A credential of the service (systemd.exec(5), `LoadCredentialEncrypted=`): 32 bytes, or their 64 hex digits.
    /// `directory`: `$CREDENTIALS_DIRECTORY`.
    Credential { directory: Option<PathBuf>, name: String },
}

/// Why the key's file was not opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error(transparent)]
    File(#[from] KeyFileError),
    #[error("the passphrase in {path} has fewer than {PASSPHRASE_MIN} characters: choose a longer one")]
    Short { path: PathBuf },
    #[error(
        "there is no $CREDENTIALS_DIRECTORY, from which credential {name} is read: have systemd start the node, with \
         LoadCredentialEncrypted={name} in its unit"
    )]
    NoCredentials { name: String },
    #[error(
        "credential {name} is not 32 bytes or 64 hex digits: make one with `head -c 32 /dev/urandom | systemd-creds encrypt --name={name} - FILE`"
    )]
    Credential { name: String },
    #[error("{name:?} is not the name of a credential: it has no `/` and is not empty")]
    CredentialName { name: String },
    #[error("{path} is protected by a passphrase or credential: name it as `key` under [secrets] in node.toml")]
    Wrapped { path: PathBuf },
    #[error(
        "neither the passphrase or credential of `key` under [secrets] in node.toml nor that of `previous_key` opens {path}: \
         give the right one, or restore the file from a backup"
    )]
    Wrong { path: PathBuf },
    #[error("{path} is damaged ({why}); restore it from a backup")]
    Damaged { path: PathBuf, why: String },
}

#[derive(Serialize, Deserialize)]
struct Wrapped {
    /// `None`: sealed with the credential's own bytes.
    kdf: Option<Kdf>,
    sealed: String,
}

/// Parameters of argon2id.
#[derive(Clone, Serialize, Deserialize)]
struct Kdf {
    salt: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Kdf {
    fn fresh() -> Self {
        let mut salt = [0; 16];
        random(&mut salt);
        Self { salt: BASE64_STANDARD.encode(salt), memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES }
    }

    fn derive(&self, passphrase: &[u8]) -> Result<Key, String> {
        if self.memory_kib > MEMORY_KIB_MAX {
            return Err(format!("it asks for {} KiB of memory", self.memory_kib));
        }
        let salt = BASE64_STANDARD.decode(&self.salt).map_err(|error| error.to_string())?;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(KEY_BYTES));
        let params = params.map_err(|error| error.to_string())?;
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(passphrase, &salt, &mut *bytes).map_err(|error| error.to_string())?;
        Ok(Key::from_bytes(bytes))
    }
}

impl KeySource {
    /// What the key's file is to have.
    pub(crate) fn wrap(&self, key: &Key) -> Result<Zeroizing<Vec<u8>>, SourceError> {
        let kdf = match self {
            Self::File => return Ok(Zeroizing::new(key.bytes().to_vec())),
            Self::Passphrase { .. } => Some(Kdf::fresh()),
            Self::Credential { .. } => None,
        };
        let outer = self.outer(kdf.as_ref())?.expect("only a file has no outer key");
        let sealed = BASE64_STANDARD.encode(outer.seal(PLACE, key.bytes()));
        let text = serde_json::to_vec(&Wrapped { kdf, sealed }).expect("texts and numbers");
        Ok(Zeroizing::new([WRAPPED, &text].concat()))
    }

    /// What the key is sealed with; `None` where it is not, or otherwise than this source would.
    fn outer(&self, kdf: Option<&Kdf>) -> Result<Option<Key>, SourceError> {
        match (self, kdf) {
            (Self::Passphrase { path }, Some(kdf)) => {
                let text = read_private(path)?;
                let passphrase = text.strip_suffix(b"\n").unwrap_or(&text);
                if passphrase.len() < PASSPHRASE_MIN {
                    return Err(SourceError::Short { path: path.clone() });
                }
                kdf.derive(passphrase).map(Some).map_err(|why| SourceError::Damaged { path: path.clone(), why })
            }
            (Self::Credential { directory, name }, None) => credential(directory.as_deref(), name).map(Some),
            _ => Ok(None),
        }
    }
}

fn credential(directory: Option<&Path>, name: &str) -> Result<Key, SourceError> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(SourceError::CredentialName { name: name.to_owned() });
    }
    let directory = directory.ok_or_else(|| SourceError::NoCredentials { name: name.to_owned() })?;
    let path = directory.join(name);
    let bytes = std::fs::read(&path).map(Zeroizing::new).map_err(|source| KeyFileError::Io { path, source })?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(bytes.as_slice()) {
        *key = raw;
        return Ok(Key::from_bytes(key));
    }
    hex::decode_to_slice(bytes.trim_ascii(), &mut *key)
        .map_err(|_| SourceError::Credential { name: name.to_owned() })?;
    Ok(Key::from_bytes(key))
}

/// The key in the file at `path`, and whether the file is as the first of `sources` would write it.
pub(crate) fn unwrap(path: &Path, sources: &[KeySource]) -> Result<(Key, bool), SourceError> {
    let bytes = read_private(path)?;
    let first = sources.first().unwrap_or(&KeySource::File);
    let Some(text) = bytes.strip_prefix(WRAPPED) else {
        return Ok((key_of(path, &bytes)?, *first == KeySource::File));
    };
    let damaged = |why: String| SourceError::Damaged { path: path.to_owned(), why };
    let wrapped: Wrapped = serde_json::from_slice(text).map_err(|error| damaged(error.to_string()))?;
    let sealed = BASE64_STANDARD.decode(&wrapped.sealed).map_err(|error| damaged(error.to_string()))?;
    if sources.iter().all(|source| *source == KeySource::File) {
        return Err(SourceError::Wrapped { path: path.to_owned() });
    }
    for source in sources {
        let Some(outer) = source.outer(wrapped.kdf.as_ref())? else { continue };
        if let Ok(bytes) = outer.open(PLACE, &sealed) {
            return Ok((key_of(path, &bytes)?, source == first));
        }
    }
    Err(SourceError::Wrong { path: path.to_owned() })
}
