//! Query strings: single values, flags, and keys given several times.

use std::str::FromStr;

use axum::extract::FromRequestParts;
use coppice_api::ErrorKind;
use http::request::Parts;

use crate::answer::{Answer, Failed};

/// A request's query.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    pub(crate) fn one(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn required(&self, key: &str) -> Answer<&str> {
        self.one(key).ok_or_else(|| Failed::new(ErrorKind::Invalid, format!("the query lacks {key}=")))
    }

    pub(crate) fn parsed<T: FromStr>(&self, key: &str) -> Answer<Option<T>> {
        let invalid = |value: &str| Failed::new(ErrorKind::Invalid, format!("{key}={value} cannot be read"));
        self.one(key).map(|value| value.parse().map_err(|_| invalid(value))).transpose()
    }

    pub(crate) fn flag(&self, key: &str) -> Answer<bool> {
        Ok(self.parsed(key)?.unwrap_or(false))
    }

    /// A JSON list of strings.
    pub(crate) fn list(&self, key: &str) -> Answer<Vec<String>> {
        match self.one(key) {
            None => Ok(Vec::new()),
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Failed::new(ErrorKind::Invalid, format!("{key}= is not a JSON list of strings: {e}"))),
        }
    }

    pub(crate) fn log(&self) -> Answer<coppice_api::LogQuery> {
        Ok(coppice_api::LogQuery {
            since: self.parsed("since")?.map(coppice_base::Timestamp),
            until: self.parsed("until")?.map(coppice_base::Timestamp),
            tail: self.parsed("tail")?,
            follow: self.flag("follow")?,
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = std::convert::Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let text = parts.uri.query().unwrap_or_default();
        Ok(Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect()))
    }
}
