//! Answers the proxy gives itself.

use std::borrow::Cow;
use std::time::Duration;

/// A short answer, whole in memory.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Cow<'static, str>,
    pub(crate) fields: Vec<(&'static str, String)>,
    /// The connection ends with it: where the next request begins is not known.
    pub(crate) close: bool,
}

impl Answer {
    /// `status` with a sentence for people.
    pub(crate) fn text(status: u16, sentence: impl Into<Cow<'static, str>>) -> Self {
        let mut body = sentence.into();
        body.to_mut().push('\n');
        Self { status, content_type: "text/plain; charset=utf-8", body, fields: Vec::new(), close: false }
    }

    /// What a caller is told that the policy keeps from a service.
    pub(crate) fn denied() -> Self {
        Self::text(403, "The policy of this node does not let this container speak to this service.")
    }

    pub(crate) fn page(status: u16, html: &str) -> Self {
        let body = Cow::Owned(html.to_owned());
        Self { status, content_type: "text/html; charset=utf-8", body, fields: Vec::new(), close: false }
    }

    pub(crate) fn redirect(status: u16, to: String) -> Self {
        Self::text(status, format!("See {to}")).with("location", to)
    }

    pub(crate) fn with(mut self, name: &'static str, value: String) -> Self {
        self.fields.push((name, value));
        self
    }

    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        self.with("retry-after", wait.as_secs_f64().ceil().max(1.0).to_string())
    }

    pub(crate) fn closing(mut self) -> Self {
        self.close = true;
        self
    }
}

/// The words after a status; those we send ourselves.
pub(crate) fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Answer")
}
