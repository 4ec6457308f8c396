//! Host names in routes and certificates.

use crate::diagnostic::{Report, quoted};
use crate::fields::Placed;

/// A host name in lower case, or an error: letters, digits and `-` in labels of at most 63, 253 in all (RFC 1035),
/// the first of them possibly `*`.
pub(crate) fn read(found: &Placed<String>, report: &mut Report<'_>) -> Option<String> {
    let text = found.value.to_ascii_lowercase();
    let labels = text.strip_prefix("*.").unwrap_or(&text);
    let good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && labels.split('.').all(good) {
        return Some(text);
    }
    let help = if text.contains("://") || text.contains('/') {
        "write the name alone, without scheme and path"
    } else if text.contains(':') {
        "write the name alone, without a port"
    } else {
        "write a name such as shop.example.com or *.example.com (letters outside ASCII as xn--…)"
    };
    report.error(&found.span, format!("{} is not a host name", quoted(&found.value)), help);
    None
}
