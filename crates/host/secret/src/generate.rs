//! Secrets that the node makes: random bits, passwords, key pairs.

use std::collections::BTreeMap;

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, SaltString};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use coppice_base::{Name, Timestamp};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use crate::key::random;
use crate::material::Material;

/// Of 62 letters and digits: 142 bits.
const PASSWORD_LENGTH: usize = 24;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// PKCS #8 of an Ed25519 key up to its 32 bytes (RFC 8410, section 10.3): version 1, which every OpenSSL reads.
const ED25519_PRIVATE: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// SubjectPublicKeyInfo of one up to its 32 bytes (RFC 8410, section 4).
const ED25519_PUBLIC: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// How long a certificate is good for: it is made anew by rotating the secret, when somebody asks for it.
const CERTIFICATE_YEARS: i16 = 10;

/// What can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 256 random bits, as 64 hex digits.
    Random256,
    /// A password; its part `hash` is its argon2id hash (PHC).
    Password,
    /// A private key (PKCS #8, PEM); its part `public` is the public one (PEM).
    Ed25519,
    /// A private key (PKCS #8, PEM); its part `certificate` is a self-signed one for a name (PEM).
    Tls { name: String },
}

/// A kind of secret could not be made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    #[error("cannot make a certificate for {name:?}: {why}; use a host name, as in `db.example.org`")]
    Certificate { name: String, why: String },
}

/// A new value of this kind. `now` begins a certificate's life.
pub fn generate(kind: &Kind, now: Timestamp) -> Result<Material, GenerateError> {
    Ok(match kind {
        Kind::Random256 => {
            let mut bytes = Zeroizing::new([0; 32]);
            random(&mut *bytes);
            Material::of(hex::encode(*bytes).into_bytes())
        }
        Kind::Password => password(),
        Kind::Ed25519 => ed25519(),
        Kind::Tls { name } => tls(name, now)?,
    })
}

fn with_part(value: Zeroizing<Vec<u8>>, part: &str, bytes: Vec<u8>) -> Material {
    let part = Name::new(part).expect("a part's name is a name");
    Material { value, parts: BTreeMap::from([(part, Zeroizing::new(bytes))]) }
}

fn password() -> Material {
    let mut text = Zeroizing::new(Vec::with_capacity(PASSWORD_LENGTH));
    let mut bytes = Zeroizing::new([0u8; 64]);
    while text.len() < PASSWORD_LENGTH {
        random(&mut *bytes);
        // 248 is the last multiple of 62: above it some letters would come more often.
        let fair = bytes.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(*byte) % ALPHABET.len()]);
        let missing = PASSWORD_LENGTH - text.len();
        text.extend(fair.take(missing));
    }
    let mut salt = [0; 16];
    random(&mut salt);
    let salt = SaltString::encode_b64(&salt).expect("16 bytes are a salt");
    let hash = Argon2::default().hash_password(&text, &salt).expect("the default parameters are valid").to_string();
    with_part(text, "hash", hash.into_bytes())
}

fn ed25519() -> Material {
    let mut seed = Zeroizing::new([0; 32]);
    random(&mut *seed);
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).expect("32 bytes are a seed");
    let private = Zeroizing::new([&ED25519_PRIVATE[..], &*seed].concat());
    let public = [&ED25519_PUBLIC[..], pair.public_key().as_ref()].concat();
    with_part(pem("PRIVATE KEY", &private), "public", pem("PUBLIC KEY", &public).to_vec())
}

/// Both are 48 bytes or less, so each is one line of base64.
fn pem(label: &str, der: &[u8]) -> Zeroizing<Vec<u8>> {
    let text = Zeroizing::new(BASE64_STANDARD.encode(der));
    Zeroizing::new(format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", *text).into_bytes())
}

fn tls(name: &str, now: Timestamp) -> Result<Material, GenerateError> {
    let failed = |why: String| GenerateError::Certificate { name: name.to_owned(), why };
    let told = |error: rcgen::Error| failed(error.to_string());
    let pair = rcgen::KeyPair::generate().map_err(told)?;
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).map_err(told)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let millis = i64::try_from(now.0).map_err(|error| failed(error.to_string()))?;
    let moment = jiff::Timestamp::from_millisecond(millis).map_err(|error| failed(error.to_string()))?;
    let day = moment.to_zoned(jiff::tz::TimeZone::UTC).date();
    // A day earlier, for clocks that are behind. The 28th is in every month.
    let date = |date: jiff::civil::Date| {
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().min(28).unsigned_abs())
    };
    params.not_before = date(day.yesterday().map_err(|error| failed(error.to_string()))?);
    params.not_after =
        date(day.checked_add(jiff::Span::new().years(CERTIFICATE_YEARS)).map_err(|error| failed(error.to_string()))?);
    let certificate = params.self_signed(&pair).map_err(told)?;
    Ok(with_part(Zeroizing::new(pair.serialize_pem().into_bytes()), "certificate", certificate.pem().into_bytes()))
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::{PasswordHash, PasswordVerifier};

    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);

    fn made(kind: Kind, expected: &[&str]) -> Material {
        let (one, two) = (generate(&kind, NOW).unwrap(), generate(&kind, NOW).unwrap());
        assert_ne!(*one.value, *two.value, "each is its own");
        let parts: Vec<&str> = one.parts.keys().map(Name::as_str).collect();
        assert_eq!(parts, expected);
        one
    }

    fn part(material: &Material, part: &str) -> String {
        String::from_utf8(material.part(Some(&Name::new(part).unwrap())).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn random_256_is_64_hex_digits() {
        let value = made(Kind::Random256, &[]).value;
        assert!(value.len() == 64 && value.iter().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(c)));
    }

    #[test]
    fn a_passwords_hash_is_of_it_and_does_not_have_it() {
        let material = made(Kind::Password, &["hash"]);
        assert!(material.value.len() == PASSWORD_LENGTH && material.value.iter().all(u8::is_ascii_alphanumeric));
        let hash = part(&material, "hash");
        assert!(hash.starts_with("$argon2id$"));
        let hash = PasswordHash::new(&hash).unwrap();
        Argon2::default().verify_password(&material.value, &hash).expect("it verifies");
        assert!(Argon2::default().verify_password(b"another", &hash).is_err());
    }

    #[test]
    fn an_ed25519_pair_is_a_pkcs8_key_and_its_public_half() {
        let material = made(Kind::Ed25519, &["public"]);
        let private = String::from_utf8(material.value.to_vec()).unwrap();
        let pair = rcgen::KeyPair::from_pem(&private).expect("PKCS #8");
        assert_eq!(pair.public_key_pem().replace("\r\n", "\n"), part(&material, "public"));
    }

    #[test]
    fn a_tls_pair_is_a_self_signed_certificate_for_its_name_and_the_key_of_it() {
        let material = made(Kind::Tls { name: "db.example".to_owned() }, &["certificate"]);
        let (_, pem) = x509_parser::pem::parse_x509_pem(part(&material, "certificate").as_bytes()).unwrap();
        let certificate = pem.parse_x509().unwrap();
        assert_eq!(certificate.issuer(), certificate.subject());
        let pair = rcgen::KeyPair::from_pem(std::str::from_utf8(&material.value).unwrap()).unwrap();
        assert_eq!(certificate.public_key().subject_public_key.data, pair.public_key_raw());
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names, [x509_parser::prelude::GeneralName::DNSName("db.example")]);
        let (before, after) = (certificate.validity().not_before, certificate.validity().not_after);
        let now = i64::try_from(NOW.0 / 1000).unwrap();
        assert!(before.timestamp() <= now && now < after.timestamp());
        assert!(after.timestamp() - before.timestamp() < 3_700 * 86_400);
    }
}
