//! Amazon Route 53, API of 2013-04-01: one record set for a name, replaced whole (`UPSERT`), so read first.

use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::Full;
use tokio::sync::Mutex;

use coppice_base::{Clock, SystemClock};
use coppice_spec::DnsProvider;

use super::sigv4::{Signed, Signer, stamp};
use super::{ProviderError, Record, TTL_SECONDS, endpoint, excerpt, secret, setting};
use crate::https::Https;
use crate::secret::Secret;

const PROVIDER: &str = "Route 53";
const NAMESPACE: &str = "https://route53.amazonaws.com/doc/2013-04-01/";

/// A set is read, changed and written back: one at a time.
static CHANGING: Mutex<()> = Mutex::const_new(());

pub(crate) struct Route53 {
    https: Https,
    endpoint: String,
    path: String,
    region: String,
    access_key_id: Secret,
    secret_access_key: Secret,
    session_token: Option<Secret>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct RecordSet {
    ttl: u32,
    /// Quoted, as they are written in a zone.
    values: Vec<String>,
}

impl Route53 {
    pub(super) fn of(spec: &DnsProvider, https: &Https) -> Result<Self, ProviderError> {
        let zone = setting(PROVIDER, spec, "hosted_zone_id")?;
        let zone = zone.trim_start_matches("/hostedzone/");
        if !zone.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            let (key, why) = ("hosted_zone_id".to_owned(), "it takes letters and digits alone");
            return Err(ProviderError::Setting { provider: PROVIDER, key, why });
        }
        let has_token = spec.secrets.contains_key("session_token");
        Ok(Self {
            https: https.clone(),
            endpoint: endpoint(spec, "https://route53.amazonaws.com"),
            path: format!("/2013-04-01/hostedzone/{zone}/rrset"),
            region: spec.config.get("region").cloned().unwrap_or_else(|| "us-east-1".to_owned()),
            access_key_id: secret(PROVIDER, spec, "access_key_id")?,
            secret_access_key: secret(PROVIDER, spec, "secret_access_key")?,
            session_token: has_token.then(|| secret(PROVIDER, spec, "session_token")).transpose()?,
        })
    }

    pub(super) async fn publish(&self, record: &Record) -> Result<(), ProviderError> {
        let _one = CHANGING.lock().await;
        let quoted = format!("\"{}\"", record.value);
        let mut set = self.find(record).await?.unwrap_or(RecordSet { ttl: TTL_SECONDS, values: Vec::new() });
        if set.values.contains(&quoted) {
            return Ok(());
        }
        set.values.push(quoted);
        self.change("UPSERT", record, &set).await
    }

    pub(super) async fn withdraw(&self, record: &Record) -> Result<(), ProviderError> {
        let _one = CHANGING.lock().await;
        let quoted = format!("\"{}\"", record.value);
        let Some(set) = self.find(record).await? else { return Ok(()) };
        if !set.values.contains(&quoted) {
            return Ok(());
        }
        if set.values.len() == 1 {
            return self.change("DELETE", record, &set).await;
        }
        let values = set.values.into_iter().filter(|value| *value != quoted).collect();
        self.change("UPSERT", record, &RecordSet { ttl: set.ttl, values }).await
    }

    async fn find(&self, record: &Record) -> Result<Option<RecordSet>, ProviderError> {
        // Sorted by name, as the signature wants it.
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("maxitems", "1")
            .append_pair("name", &format!("{}.", record.name))
            .append_pair("type", "TXT")
            .finish();
        let answer = self.ask("listing records", Method::GET, &query, String::new()).await?;
        let text = std::str::from_utf8(answer.body())
            .map_err(|error| ProviderError::Nonsense { provider: PROVIDER, why: error.to_string() })?;
        Ok(record_set(text, &record.name))
    }

    async fn change(&self, action: &str, record: &Record, set: &RecordSet) -> Result<(), ProviderError> {
        let values: String = set
            .values
            .iter()
            .map(|value| format!("<ResourceRecord><Value>{}</Value></ResourceRecord>", escaped(value)))
            .collect();
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <ChangeResourceRecordSetsRequest xmlns=\"{NAMESPACE}\"><ChangeBatch><Changes><Change>\
             <Action>{action}</Action><ResourceRecordSet><Name>{}.</Name><Type>TXT</Type><TTL>{}</TTL>\
             <ResourceRecords>{values}</ResourceRecords></ResourceRecordSet></Change></Changes></ChangeBatch>\
             </ChangeResourceRecordSetsRequest>",
            escaped(&record.name),
            set.ttl
        );
        self.ask("changing the record", Method::POST, "", body).await.map(drop)
    }

    async fn ask(
        &self,
        action: &'static str,
        method: Method,
        query: &str,
        body: String,
    ) -> Result<Response<Bytes>, ProviderError> {
        let unusable = |key: &str, why| ProviderError::Setting { provider: PROVIDER, key: key.to_owned(), why };
        let host = self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, host)| host);
        let stamp = stamp(SystemClock.now());
        let mut headers = vec![("host", host), ("x-amz-date", stamp.as_str())];
        if let Some(token) = &self.session_token {
            headers.push(("x-amz-security-token", token.expose()));
        }
        let signer = Signer {
            access_key_id: self.access_key_id.expose(),
            secret_access_key: &self.secret_access_key,
            region: &self.region,
            service: "route53",
        };
        let signed =
            Signed { method: method.as_str(), path: &self.path, query, headers: &headers, body: body.as_bytes() };
        let authorization = signer.authorization(&signed, &stamp);
        let separator = if query.is_empty() { "" } else { "?" };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{}{separator}{query}", self.endpoint, self.path))
            .header(header::AUTHORIZATION, authorization);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "text/xml");
        }
        let request: Request<Full<Bytes>> = request
            .body(Full::from(body))
            .map_err(|_| unusable("the configuration", "it makes no address or header"))?;
        let answer =
            self.https.send(request).await.map_err(|source| ProviderError::Https { provider: PROVIDER, source })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, detail) = (answer.status().as_u16(), excerpt(answer.body()));
        Err(ProviderError::Refused { provider: PROVIDER, action, status, detail })
    }
}

/// The TXT set of `name` in a listing. The listing begins at the name asked for, so it is the first or not there.
fn record_set(listing: &str, name: &str) -> Option<RecordSet> {
    let set = between(listing, "<ResourceRecordSet>", "</ResourceRecordSet>")?;
    let found = between(set, "<Name>", "</Name>")?;
    if found.trim_end_matches('.') != name || between(set, "<Type>", "</Type>")? != "TXT" {
        return None;
    }
    let ttl = between(set, "<TTL>", "</TTL>")?.parse().ok()?;
    let values = set.split("<Value>").skip(1).filter_map(|rest| rest.split_once("</Value>"));
    Some(RecordSet { ttl, values: values.map(|(value, _)| unescaped(value)).collect() })
}

fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    text.split_once(open)?.1.split_once(close).map(|(inner, _)| inner)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&#34;", "\"").replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_of_a_listing_is_read_and_another_name_is_not_taken_for_it() {
        let listing = "<ListResourceRecordSetsResponse><ResourceRecordSets><ResourceRecordSet>\
            <Name>_acme-challenge.a.example.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords><ResourceRecord>\
            <Value>&quot;one&quot;</Value></ResourceRecord><ResourceRecord><Value>\"a&amp;b\"</Value></ResourceRecord>\
            </ResourceRecords></ResourceRecordSet></ResourceRecordSets></ListResourceRecordSetsResponse>";
        let set = record_set(listing, "_acme-challenge.a.example").expect("there");
        assert_eq!(set, RecordSet { ttl: 60, values: vec!["\"one\"".to_owned(), "\"a&b\"".to_owned()] });
        assert_eq!(record_set(listing, "_acme-challenge.b.example"), None);
        assert_eq!(record_set("<ResourceRecordSets/>", "_acme-challenge.a.example"), None);
    }
}
