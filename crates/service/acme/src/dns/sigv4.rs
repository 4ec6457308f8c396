//! Signatures of requests to AWS: version 4, as its documentation describes it ("Create a signed AWS API request").

use jiff::tz::TimeZone;
use ring::hmac;
use sha2::{Digest, Sha256};

use coppice_base::Timestamp;

use crate::secret::Secret;

/// Who signs, and for what.
pub(super) struct Signer<'a> {
    pub(super) access_key_id: &'a str,
    pub(super) secret_access_key: &'a Secret,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// What is signed. Headers in lower case, sorted by name, values trimmed; `host` and `x-amz-date` among them.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    /// Encoded as it is sent.
    pub(super) path: &'a str,
    /// Sorted and encoded as it is sent.
    pub(super) query: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// `20261121T143800Z`.
pub(super) fn stamp(at: Timestamp) -> String {
    let at = i64::try_from(at.0).ok().and_then(|at| jiff::Timestamp::from_millisecond(at).ok()).unwrap_or_default();
    at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ").to_string()
}

impl Signer<'_> {
    /// The `Authorization` header for a request sent at `stamp`.
    pub(super) fn authorization(&self, signed: &Signed<'_>, stamp: &str) -> String {
        let names: Vec<_> = signed.headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let headers: String = signed.headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let Signed { method, path, query, body, .. } = signed;
        let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{}", hex::encode(Sha256::digest(body)));
        let day = &stamp[..8];
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
        let first = zeroize::Zeroizing::new(format!("AWS4{}", self.secret_access_key.expose()));
        let parts = [day, self.region, self.service, "aws4_request", &text];
        let signature = parts.iter().fold(first.as_bytes().to_vec(), |key, part| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec()
        });
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
            self.access_key_id,
            hex::encode(signature)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of AWS's documentation ("get-vanilla-query-order-key-case" of its test suite is close; this is the
    /// IAM one with its published intermediate values).
    #[test]
    fn the_example_of_the_documentation_is_signed_as_it_says() {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned());
        let signer =
            Signer { access_key_id: "AKIDEXAMPLE", secret_access_key: &secret, region: "us-east-1", service: "iam" };
        let signed = Signed {
            method: "GET",
            path: "/",
            query: "Action=ListUsers&Version=2010-05-08",
            headers: &[
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("host", "iam.amazonaws.com"),
                ("x-amz-date", "20150830T123600Z"),
            ],
            body: b"",
        };
        assert_eq!(
            signer.authorization(&signed, "20150830T123600Z"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
    }

    #[test]
    fn a_stamp_is_in_utc_without_separators() {
        assert_eq!(stamp(Timestamp(1_440_938_160_000)), "20150830T123600Z");
    }
}
