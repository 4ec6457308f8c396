//! Basic authentication of a route (RFC 7617).
//!
//! A password hash costs milliseconds on purpose, so it is worked out on a thread of its own, never on a worker's, and a
//! credential that was right once is remembered by its SHA-256 for as long as the routes stay.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use argon2::password_hash::{PasswordHash, PasswordVerifier};
use base64::Engine;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// Right credentials that are remembered for one route.
const REMEMBERED: usize = 1024;

/// Hashes that are worked out at a time: guesses wait for each other, not for the machine.
static WORKING: Semaphore = Semaphore::const_new(2);

#[derive(Clone, Debug, Default)]
pub(crate) struct Passwords(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    hashes: BTreeMap<String, String>,
    right: Mutex<HashSet<[u8; 32]>>,
}

impl Passwords {
    pub(crate) fn new(hashes: &BTreeMap<String, String>) -> Self {
        if hashes.is_empty() {
            return Self(None);
        }
        Self(Some(Arc::new(Inner { hashes: hashes.clone(), right: Mutex::default() })))
    }

    /// A user whose hash is none we can check.
    pub(crate) fn unreadable(hashes: &BTreeMap<String, String>) -> Option<&str> {
        let readable = |hash: &str| match hash.strip_prefix("{SHA256}") {
            Some(digits) => hex::decode(digits).is_ok_and(|digest| digest.len() == 32),
            None => hash.starts_with("$2") || PasswordHash::new(hash).is_ok(),
        };
        hashes.iter().find(|(_, hash)| !readable(hash)).map(|(user, _)| user.as_str())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether `authorization` (a header's value) names a user and that user's password.
    pub(crate) async fn admits(&self, authorization: Option<Vec<u8>>) -> bool {
        let Some(inner) = &self.0 else { return true };
        let Some((user, password)) = authorization.as_deref().and_then(credentials) else { return false };
        let fingerprint: [u8; 32] =
            Sha256::new().chain_update(&user).chain_update([0]).chain_update(&password).finalize().into();
        if inner.right.lock().is_ok_and(|right| right.contains(&fingerprint)) {
            return true;
        }
        let Ok(_permit) = WORKING.acquire().await else { return false };
        let work = Arc::clone(inner);
        let admitted = tokio::task::spawn_blocking(move || work.verify(&user, &password)).await.unwrap_or(false);
        if admitted && let Ok(mut right) = inner.right.lock() {
            if right.len() >= REMEMBERED {
                right.clear();
            }
            right.insert(fingerprint);
        }
        admitted
    }
}

impl Inner {
    fn verify(&self, user: &str, password: &[u8]) -> bool {
        // An unknown user costs as much as a known one with a wrong password: any other user's hash is worked out.
        let (known, hash) = match self.hashes.get(user) {
            Some(hash) => (true, hash),
            None => match self.hashes.values().next() {
                Some(hash) => (false, hash),
                None => return false,
            },
        };
        let right = if let Some(digits) = hash.strip_prefix("{SHA256}") {
            let digest = Sha256::digest(password);
            let wanted = hex::decode(digits).unwrap_or_default();
            // All bytes are compared, whichever differs first.
            wanted.len() == digest.len() && wanted.iter().zip(digest).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
        } else if hash.starts_with("$2") {
            bcrypt::verify(password, hash).unwrap_or(false)
        } else {
            PasswordHash::new(hash).is_ok_and(|hash| argon2::Argon2::default().verify_password(password, &hash).is_ok())
        };
        known && right
    }
}

fn credentials(header: &[u8]) -> Option<(String, Vec<u8>)> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let plain = base64::engine::general_purpose::STANDARD.decode(rest.trim_ascii()).ok()?;
    let colon = plain.iter().position(|byte| *byte == b':')?;
    let user = String::from_utf8(plain[..colon].to_vec()).ok()?;
    Some((user, plain[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Vec<u8> {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)).into_bytes()
    }

    #[tokio::test]
    async fn each_kind_of_hash_admits_its_password_and_nothing_else() {
        let hashes = BTreeMap::from([
            ("sha".to_owned(), format!("{{SHA256}}{}", hex::encode(Sha256::digest("secret")))),
            ("bcrypt".to_owned(), bcrypt::hash("secret", 4).unwrap()),
            // From `echo -n secret | argon2 saltsalt -id -t 1 -m 8`.
            ("argon".to_owned(), argon_hash()),
        ]);
        assert_eq!(Passwords::unreadable(&hashes), None);
        let passwords = Passwords::new(&hashes);
        for user in hashes.keys() {
            assert!(passwords.admits(Some(header(&format!("{user}:secret")))).await, "{user}");
            assert!(passwords.admits(Some(header(&format!("{user}:secret")))).await, "{user}, remembered");
            assert!(!passwords.admits(Some(header(&format!("{user}:Secret")))).await, "{user}");
        }
        for bad in [&b""[..], b"Basic", b"Basic !!!", b"Bearer x", &header("nobody:secret"), &header("sha")] {
            assert!(!passwords.admits(Some(bad.to_vec())).await);
        }
        assert!(!passwords.admits(None).await);
    }

    fn argon_hash() -> String {
        use argon2::password_hash::{PasswordHasher, SaltString};
        let salt = SaltString::encode_b64(b"saltsalt").unwrap();
        argon2::Argon2::default().hash_password(b"secret", &salt).unwrap().to_string()
    }

    #[test]
    fn a_hash_nobody_can_check_is_told_by_its_user() {
        let hashes = BTreeMap::from([("eve".to_owned(), "plain".to_owned())]);
        assert_eq!(Passwords::unreadable(&hashes), Some("eve"));
    }
}
