//! Google Cloud DNS, version 1: one record set for a name, changed by removing the old and adding the new in one step.

use http::Method;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use coppice_spec::DnsProvider;

use super::bearer::Api;
use super::{ProviderError, Record, TTL_SECONDS, endpoint, secret, setting};
use crate::https::Https;

const PROVIDER: &str = "Google Cloud DNS";

/// A set is read, changed and written back: one at a time.
static CHANGING: Mutex<()> = Mutex::const_new(());

pub(crate) struct Gcloud {
    api: Api,
    zone_url: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct RecordSet {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    ttl: u32,
    #[serde(default)]
    rrdatas: Vec<String>,
}

#[derive(Deserialize)]
struct Listing {
    #[serde(default)]
    rrsets: Vec<RecordSet>,
}

#[derive(Serialize)]
struct Change {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    additions: Vec<RecordSet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deletions: Vec<RecordSet>,
}

impl Gcloud {
    pub(super) fn of(spec: &DnsProvider, https: &Https) -> Result<Self, ProviderError> {
        let endpoint = endpoint(spec, "https://dns.googleapis.com");
        let (project, zone) = (setting(PROVIDER, spec, "project")?, setting(PROVIDER, spec, "managed_zone")?);
        Ok(Self {
            api: Api::new(PROVIDER, https, secret(PROVIDER, spec, "access_token")?),
            zone_url: format!("{endpoint}/dns/v1/projects/{project}/managedZones/{zone}"),
        })
    }

    pub(super) async fn publish(&self, record: &Record) -> Result<(), ProviderError> {
        let _one = CHANGING.lock().await;
        let (quoted, old) = (quoted(record), self.find(record).await?);
        let mut values = old.as_ref().map(|set| set.rrdatas.clone()).unwrap_or_default();
        if values.contains(&quoted) {
            return Ok(());
        }
        values.push(quoted);
        self.replace(record, old, values).await
    }

    pub(super) async fn withdraw(&self, record: &Record) -> Result<(), ProviderError> {
        let _one = CHANGING.lock().await;
        let (quoted, Some(old)) = (quoted(record), self.find(record).await?) else { return Ok(()) };
        if !old.rrdatas.contains(&quoted) {
            return Ok(());
        }
        let rest = old.rrdatas.iter().filter(|value| **value != quoted).cloned().collect();
        self.replace(record, Some(old), rest).await
    }

    async fn replace(&self, record: &Record, old: Option<RecordSet>, values: Vec<String>) -> Result<(), ProviderError> {
        let new = RecordSet { name: absolute(record), kind: "TXT".to_owned(), ttl: TTL_SECONDS, rrdatas: values };
        let additions = if new.rrdatas.is_empty() { Vec::new() } else { vec![new] };
        let change = Change { additions, deletions: old.into_iter().collect() };
        let body = serde_json::to_string(&change).expect("a change is always JSON");
        let url = format!("{}/changes", self.zone_url);
        self.api.ask("changing the record", Method::POST, &url, body).await.map(drop)
    }

    async fn find(&self, record: &Record) -> Result<Option<RecordSet>, ProviderError> {
        let name = absolute(record);
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("name", &name)
            .append_pair("type", "TXT")
            .finish();
        let url = format!("{}/rrsets?{query}", self.zone_url);
        let answer = self.api.ask("listing records", Method::GET, &url, String::new()).await?;
        let listing: Listing = serde_json::from_slice(answer.body())
            .map_err(|error| ProviderError::Nonsense { provider: PROVIDER, why: error.to_string() })?;
        Ok(listing.rrsets.into_iter().find(|set| set.name == name && set.kind == "TXT"))
    }
}

fn absolute(record: &Record) -> String {
    format!("{}.", record.name)
}

fn quoted(record: &Record) -> String {
    format!("\"{}\"", record.value)
}
