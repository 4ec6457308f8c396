//! Cloudflare's API, version 4: a record of its own for each value.

use http::Method;
use serde::Deserialize;

use coppice_spec::DnsProvider;

use super::bearer::Api;
use super::{ProviderError, Record, TTL_SECONDS, endpoint, secret, setting};
use crate::https::Https;

const PROVIDER: &str = "Cloudflare";

pub(crate) struct Cloudflare {
    api: Api,
    records_url: String,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    result: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
    content: String,
}

impl Cloudflare {
    pub(super) fn of(spec: &DnsProvider, https: &Https) -> Result<Self, ProviderError> {
        let endpoint = endpoint(spec, "https://api.cloudflare.com/client/v4");
        let zone = setting(PROVIDER, spec, "zone_id")?;
        Ok(Self {
            api: Api::new(PROVIDER, https, secret(PROVIDER, spec, "api_token")?),
            records_url: format!("{endpoint}/zones/{zone}/dns_records"),
        })
    }

    pub(super) async fn publish(&self, record: &Record) -> Result<(), ProviderError> {
        if !self.find(record).await?.is_empty() {
            return Ok(());
        }
        let body = serde_json::json!({
            "type": "TXT", "name": record.name, "content": format!("\"{}\"", record.value), "ttl": TTL_SECONDS,
        });
        self.api.ask("creating the record", Method::POST, &self.records_url, body.to_string()).await.map(drop)
    }

    pub(super) async fn withdraw(&self, record: &Record) -> Result<(), ProviderError> {
        for id in self.find(record).await? {
            let url = format!("{}/{id}", self.records_url);
            match self.api.ask("removing the record", Method::DELETE, &url, String::new()).await {
                Ok(_) | Err(ProviderError::Refused { status: 404, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ids of the records with this very value.
    async fn find(&self, record: &Record) -> Result<Vec<String>, ProviderError> {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("type", "TXT")
            .append_pair("name", &record.name)
            .append_pair("per_page", "100")
            .finish();
        let url = format!("{}?{query}", self.records_url);
        let answer = self.api.ask("listing records", Method::GET, &url, String::new()).await?;
        let listing: Listing = serde_json::from_slice(answer.body())
            .map_err(|error| ProviderError::Nonsense { provider: PROVIDER, why: error.to_string() })?;
        let same = listing.result.into_iter().filter(|listed| listed.content.trim_matches('"') == record.value);
        Ok(same.map(|listed| listed.id).collect())
    }
}
