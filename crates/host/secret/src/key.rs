//! A key of 32 bytes and what is done with it: sealing (XChaCha20-Poly1305, a random nonce each), and fingerprints that
//! tell two values apart without letting anybody try values against them.
//!
//! A sealed text is bound to what it is (`secret/db-password/3`), so that one cannot pass for another.

use std::fmt;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ring::hmac;
use zeroize::Zeroizing;

pub(crate) const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
/// Begins every sealed text; the number is the format's.
const MAGIC: &[u8] = b"coppice-sealed-1\n";
/// Bytes of an id or fingerprint, of the 32 a MAC has: enough that no two meet by chance.
const SHORT: usize = 8;

/// A sealed text did not open: another key, another place, or changed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it was sealed with another key or for another place, or was changed; restore it from a backup")]
pub struct SealError;

/// A key; never shown, and wiped from memory when it is dropped.
#[derive(Clone)]
pub struct Key {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(..)")
    }
}

impl Key {
    /// From the kernel's random generator, which works on every kernel Coppice starts on.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random(&mut *bytes);
        Self { bytes }
    }

    pub fn from_bytes(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self { bytes }
    }

    pub(crate) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    /// Tells this key from others and says nothing else about it: 16 hex digits.
    pub fn id(&self) -> String {
        self.mac(b"coppice key id", b"")
    }

    /// Tells values of `what` from each other: 16 hex digits. Without the key, nobody can find the value by trying.
    pub fn fingerprint(&self, what: &str, value: &[u8]) -> String {
        self.mac(format!("coppice fingerprint {what}").as_bytes(), value)
    }

    fn mac(&self, purpose: &[u8], value: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.bytes);
        let mut context = hmac::Context::with_key(&key);
        context.update(purpose);
        // No purpose has a NUL, so none can continue into the value.
        context.update(b"\0");
        context.update(value);
        hex::encode(&context.sign().as_ref()[..SHORT])
    }

    /// `plain`, readable only with this key and as `what`.
    pub fn seal(&self, what: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce);
        let sealed = self
            .cipher()
            .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: what.as_bytes() })
            .expect("only texts of more than 256 GiB cannot be sealed");
        [MAGIC, &nonce, &sealed].concat()
    }

    /// What was sealed as `what`.
    pub fn open(&self, what: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let rest = sealed.strip_prefix(MAGIC).ok_or(SealError)?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(SealError)?;
        let payload = Payload { msg: text, aad: what.as_bytes() };
        self.cipher().decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| SealError)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&(*self.bytes).into())
    }
}

/// Fills `bytes` from the kernel's random generator.
pub(crate) fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("getrandom(2) works on every kernel Coppice starts on");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_sealed_opens_with_its_key_in_its_place_and_nowhere_else(
            plain in prop::collection::vec(any::<u8>(), 0..200),
            place in "[a-z/0-9]{1,20}",
            other in "[a-z/0-9]{1,20}",
        ) {
            let key = Key::generate();
            let sealed = key.seal(&place, &plain);
            prop_assert_eq!(&*key.open(&place, &sealed).unwrap(), &plain);
            prop_assert_eq!(Key::generate().open(&place, &sealed), Err(SealError));
            prop_assume!(place != other);
            prop_assert_eq!(key.open(&other, &sealed), Err(SealError));
        }

        #[test]
        fn a_sealed_text_with_any_bit_changed_or_any_end_cut_off_does_not_open(
            plain in prop::collection::vec(any::<u8>(), 0..60),
            at in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let key = Key::generate();
            let sealed = key.seal("place", &plain);
            let at = at.index(sealed.len());
            let mut changed = sealed.clone();
            changed[at] ^= 1 << bit;
            prop_assert_eq!(key.open("place", &changed), Err(SealError));
            prop_assert_eq!(key.open("place", &sealed[..at]), Err(SealError));
        }
    }

    #[test]
    fn fingerprints_tell_values_and_keys_apart_and_are_the_same_for_the_same() {
        let (one, two) = (Key::generate(), Key::generate());
        assert_eq!(one.fingerprint("a", b"x"), one.fingerprint("a", b"x"));
        assert_ne!(one.fingerprint("a", b"x"), one.fingerprint("a", b"y"));
        assert_ne!(one.fingerprint("a", b"x"), one.fingerprint("b", b"x"));
        assert_ne!(one.fingerprint("a", b"x"), two.fingerprint("a", b"x"));
        assert_ne!(one.id(), two.id());
    }

    #[test]
    fn a_key_is_not_shown_in_a_log() {
        assert_eq!(format!("{:?}", Key::generate()), "Key(..)");
    }
}
