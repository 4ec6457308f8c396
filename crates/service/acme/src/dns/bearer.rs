//! Requests with JSON and a bearer token, as Cloudflare and Google take them.

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;

use super::{ProviderError, excerpt};
use crate::https::Https;
use crate::secret::Secret;

pub(super) struct Api {
    provider: &'static str,
    https: Https,
    token: Secret,
}

impl Api {
    pub(super) fn new(provider: &'static str, https: &Https, token: Secret) -> Self {
        Self { provider, https: https.clone(), token }
    }

    /// The answer, if it is a success. An empty `body` is none.
    pub(super) async fn ask(
        &self,
        action: &'static str,
        method: Method,
        url: &str,
        body: String,
    ) -> Result<Response<Bytes>, ProviderError> {
        let provider = self.provider;
        let mut request = Request::builder().method(method).uri(url).header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let unusable = |key: &str, why| ProviderError::Setting { provider, key: key.to_owned(), why };
        let mut authorization = header::HeaderValue::try_from(format!("Bearer {}", self.token.expose()))
            .map_err(|_| unusable("the token", "it has characters no header takes"))?;
        authorization.set_sensitive(true);
        let request = request.header(header::AUTHORIZATION, authorization).body(Full::from(body));
        let request: Request<Full<Bytes>> =
            request.map_err(|_| unusable("the configuration", "it makes no address with the endpoint"))?;
        let answer = self.https.send(request).await.map_err(|source| ProviderError::Https { provider, source })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, detail) = (answer.status().as_u16(), excerpt(answer.body()));
        Err(ProviderError::Refused { provider, action, status, detail })
    }
}
