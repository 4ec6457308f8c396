//! One order at an authority, from the first request to the certificate.
//!
//! ```text
//! new order ─► on disk ─► challenge answered ─► authority looks ─► ready ─► request signed ─► certificate
//!     ▲           │                                  │
//!     └───────────┴── killed: resumed by its address └── invalid: forgotten, its record removed
//! ```
//!
//! The order's address and the certificate's key are on disk, sealed, before the authority is asked for anything that
//! counts, so that an order cut short is taken up again and makes no second certificate. What was published for a
//! challenge is taken back however the order ends, also by the next start if this one was killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error as AcmeError, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use coppice_base::{Clock, Timestamp};
use coppice_spec::{AcmeChallenge, AcmeSpec};

use crate::account::{AccountError, Accounts};
use crate::certificate::{Certificate, CertificateError, date};
use crate::challenge::{Answered, Challenges};
use crate::dns::{Provider, ProviderError, Record, propagation};
use crate::https::{AcmeTransport, Https, HttpsError, RetryAfter};
use crate::seal::SealKey;
use crate::secret::Secret;
use crate::store::{challenge_name, file_stem};
use coppice_secret::durable;

/// Nonces go stale when an authority is restarted or has many servers; one that takes none is not asked for ever.
const MOST_NONCE_TRIES: u32 = 10;

/// Why an order brought no certificate. The certificate there was, if any, is still used.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    #[error("the authority cannot be asked for {domain}: {source}")]
    Unreachable { domain: String, source: HttpsError },
    #[error(
        "{directory} limits our requests: {detail}; it is asked again {}",
        .until.map_or_else(|| "later".to_owned(), |at| format!("after {}", date(at)))
    )]
    RateLimited { directory: String, detail: String, until: Option<Timestamp> },
    #[error(
        "the authority found no right answer to {challenge} for {domain}: {detail}; check that the name leads to this \
         node{}",
        match *.challenge {
            "http-01" => " and port 80 is open",
            "tls-alpn-01" => " and port 443 is open, with no TLS proxy before it",
            _ => "'s zone, and its name servers are the ones the domain is delegated to",
        }
    )]
    Validation { domain: String, challenge: &'static str, detail: String },
    #[error("the authority offers no {challenge} for {domain}; use one of: {offered}")]
    NotOffered { domain: String, challenge: &'static str, offered: String },
    #[error("*.{parent} is a wildcard, which only dns-01 can prove; set acme.challenge = \"dns-01\" and its provider")]
    WildcardNeedsDns { parent: String },
    #[error("the authority refused the order for {domain}: {detail}")]
    Refused { domain: String, detail: String, until: Option<Timestamp> },
    #[error("{directory} takes none of our nonces; it may be overloaded")]
    Nonce { directory: String },
    #[error("the authority did not finish the order for {domain} in time; it is taken up again")]
    Slow { domain: String, until: Option<Timestamp> },
    #[error("the authority's answer for {domain} makes no sense: {why}; is the directory's address right?")]
    Nonsense { domain: String, why: String, until: Option<Timestamp> },
    #[error("the record of {domain} was not published: {source}")]
    Provider { domain: String, source: ProviderError },
    #[error("the certificate from the authority for {domain} was not taken: {source}")]
    Certificate { domain: String, source: CertificateError },
    #[error("the order for {domain} cannot be kept: {path}: {source}; free space, or mend the disk")]
    Disk { domain: String, path: PathBuf, source: std::io::Error },
    #[error("the account for {domain} cannot be used: {path}: {why}; remove the file to make a new account")]
    Account { domain: String, path: PathBuf, why: String },
    #[error("the request for {domain} cannot be made: {why}")]
    Request { domain: String, why: String },
}

impl OrderError {
    /// When the authority said it may be asked again.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::RateLimited { until, .. }
            | Self::Refused { until, .. }
            | Self::Slow { until, .. }
            | Self::Nonsense { until, .. } => *until,
            _ => None,
        }
    }

    /// Whether [`OrderError::until`] is about all names of the directory.
    pub fn is_about_directory(&self) -> bool {
        matches!(self, Self::RateLimited { .. })
    }
}

/// How long an authority may take, and where names are looked up.
#[derive(Clone, Debug)]
pub struct OrderSettings {
    /// For the authority to look at a challenge, and again to sign.
    pub within: Duration,
    /// Where and how published records are looked for.
    pub propagation: propagation::Lookup,
}

/// What is remembered of an order under way.
#[derive(Serialize, Deserialize)]
struct UnderWay {
    directory: String,
    email: String,
    url: String,
    key_pem: Secret,
    /// A record that may be in the zone, with what removes it.
    record: Option<(AcmeSpec, Record)>,
}

/// Places orders. See the module.
pub(crate) struct Orders {
    pub(crate) folder: PathBuf,
    pub(crate) key: Arc<SealKey>,
    pub(crate) accounts: Accounts,
    pub(crate) https: Https,
    pub(crate) challenges: Arc<Challenges>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: OrderSettings,
}

impl Orders {
    /// Orders a certificate for `domain`, or finishes the order for it that was cut short.
    pub(crate) async fn certificate(&self, domain: &str, acme: &AcmeSpec) -> Result<Certificate, OrderError> {
        if let Some(parent) = domain.strip_prefix("*.")
            && !matches!(acme.challenge, AcmeChallenge::Dns01(_))
        {
            return Err(OrderError::WildcardNeedsDns { parent: parent.to_owned() });
        }
        let transport = AcmeTransport::new(self.https.clone());
        let run = Run { orders: self, transport, domain, acme };
        let mut outcome = run.certificate().await;
        // The client under us tries thrice; the order goes on where it stood.
        for _ in 0..MOST_NONCE_TRIES {
            let Err(OrderError::Nonce { .. }) = outcome else { break };
            outcome = run.certificate().await;
        }
        if let Err(OrderError::Refused { .. }) = &outcome {
            self.accounts.refresh(acme).await;
        }
        outcome
    }

    /// Called when the certificate is kept: the order need not be taken up again.
    pub(crate) fn done(&self, domain: &str) -> Result<(), OrderError> {
        let path = self.path_of(domain);
        let removed = durable::remove(&path);
        removed.map(drop).map_err(|source| OrderError::Disk { domain: domain.to_owned(), path, source })
    }

    fn path_of(&self, domain: &str) -> PathBuf {
        self.folder.join(format!("{}.sealed", file_stem(domain)))
    }
}

struct Run<'a> {
    orders: &'a Orders,
    transport: AcmeTransport,
    domain: &'a str,
    acme: &'a AcmeSpec,
}

impl Run<'_> {
    async fn certificate(&self) -> Result<Certificate, OrderError> {
        let account = self.account().await?;
        let (mut order, mut under_way) = self.order(&account).await?;
        let proved = match order.state().status {
            OrderStatus::Pending => self.prove(&mut order, &mut under_way).await,
            _ => Ok(()),
        };
        // However it ended, nothing of it stays in the zone.
        let cleaned = self.clean(&mut under_way).await;
        if let Err(error) = proved {
            if !matches!(error, OrderError::Slow { .. } | OrderError::Unreachable { .. } | OrderError::Nonce { .. })
                && cleaned.is_ok()
            {
                self.orders.done(self.domain)?;
            }
            return Err(error);
        }
        if let Err(error) = cleaned {
            // The record is harmless and on disk; the certificate is not worth less for it.
            tracing::warn!(domain = self.domain, %error, "a challenge's record was not removed; the next order tries again");
        }
        let policy = RetryPolicy::new().timeout(self.orders.settings.within).backoff(1.5);
        if order.state().status == OrderStatus::Ready {
            let request = self.request(under_way.key_pem.expose())?;
            order.finalize_csr(&request).await.map_err(|error| self.error(error))?;
        }
        let chain = order.poll_certificate(&policy).await.map_err(|error| {
            if order.state().status == OrderStatus::Invalid {
                drop(self.orders.done(self.domain));
            }
            self.error(error)
        })?;
        let refused = |source| OrderError::Certificate { domain: self.domain.to_owned(), source };
        Certificate::parse(&chain, under_way.key_pem.expose()).map_err(refused)
    }

    async fn account(&self) -> Result<Account, OrderError> {
        let domain = || self.domain.to_owned();
        self.orders.accounts.get(self.acme, &self.transport).await.map_err(|error| match error {
            AccountError::Io { path, source } => OrderError::Disk { domain: domain(), path, source },
            AccountError::Damaged { path, why } => OrderError::Account { domain: domain(), path, why },
            AccountError::Acme(error) => self.error(error),
        })
    }

    /// The order that was cut short if it can still be finished, else a new one.
    async fn order(&self, account: &Account) -> Result<(Order, UnderWay), OrderError> {
        if let Some(mut under_way) = self.load()? {
            if under_way.directory == self.acme.directory.url() && under_way.email == self.acme.email {
                match account.order(under_way.url.clone()).await {
                    Ok(mut order) => {
                        if order.state().status != OrderStatus::Invalid {
                            return Ok((order, under_way));
                        }
                    }
                    // The authority does not know it any more.
                    Err(AcmeError::Api(_)) => {}
                    Err(error) => return Err(self.error(error)),
                }
            }
            self.clean(&mut under_way).await?;
        }
        let key = KeyPair::generate().map_err(|error| self.unmade(&error))?;
        let identifiers = [Identifier::Dns(self.domain.to_owned())];
        let order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(|error| self.error(error))?;
        let under_way = UnderWay {
            directory: self.acme.directory.url().to_owned(),
            email: self.acme.email.clone(),
            url: order.url().to_owned(),
            key_pem: Secret::new(key.serialize_pem()),
            record: None,
        };
        self.save(&under_way)?;
        Ok((order, under_way))
    }

    /// Answers the challenges and waits until the authority has seen the answers.
    async fn prove(&self, order: &mut Order, under_way: &mut UnderWay) -> Result<(), OrderError> {
        let name = challenge_name(&self.acme.challenge);
        let mut answered = Vec::new();
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(|error| self.error(error))?;
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                status => {
                    let detail = format!("its authorization is {status:?}");
                    return Err(OrderError::Validation { domain: self.domain.to_owned(), challenge: name, detail });
                }
            }
            let offered: Vec<_> = authorization.challenges.iter().map(|offered| written(&offered.r#type)).collect();
            let kind = match self.acme.challenge {
                AcmeChallenge::Http01 => ChallengeType::Http01,
                AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
                AcmeChallenge::Dns01(_) => ChallengeType::Dns01,
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                return Err(OrderError::NotOffered {
                    domain: self.domain.to_owned(),
                    challenge: name,
                    offered: offered.join(", "),
                });
            };
            let proof = challenge.key_authorization();
            match &self.acme.challenge {
                AcmeChallenge::Http01 => {
                    let text = proof.as_str().to_owned();
                    answered.push(self.orders.challenges.answer_token(challenge.token.clone(), text));
                }
                AcmeChallenge::TlsAlpn01 => {
                    let made = self.orders.challenges.answer_handshake(self.domain, proof.digest().as_ref());
                    answered.push(made.map_err(|error| self.unmade(&error))?);
                }
                AcmeChallenge::Dns01(_) => self.publish(proof.dns_value(), under_way).await?,
            }
            challenge.set_ready().await.map_err(|error| self.error(error))?;
        }
        let policy = RetryPolicy::new().timeout(self.orders.settings.within).backoff(1.5);
        let outcome = order.poll_ready(&policy).await;
        drop::<Vec<Answered>>(answered);
        match outcome {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(self.invalid(order, None).await),
            Err(AcmeError::Api(problem)) if order.state().status == OrderStatus::Invalid => {
                Err(self.invalid(order, Some(problem.to_string())).await)
            }
            Err(error) => Err(self.error(error)),
        }
    }

    async fn publish(&self, value: String, under_way: &mut UnderWay) -> Result<(), OrderError> {
        let failed = |source| OrderError::Provider { domain: self.domain.to_owned(), source };
        let AcmeChallenge::Dns01(provider) = &self.acme.challenge else { return Ok(()) };
        let host = self.domain.strip_prefix("*.").unwrap_or(self.domain);
        let record = Record {
            domain: self.domain.to_owned(),
            name: format!("_acme-challenge.{host}"),
            value,
            directory: self.acme.directory.url().to_owned(),
        };
        under_way.record = Some((self.acme.clone(), record.clone()));
        self.save(under_way)?;
        Provider::of(provider, &self.orders.https).map_err(failed)?.publish(&record).await.map_err(failed)?;
        let timeout = Duration::from_secs(provider.propagation_timeout_secs.max(1));
        let poll = Duration::from_secs(provider.poll_interval_secs.max(1));
        propagation::wait(&self.orders.settings.propagation, &record, timeout, poll).await.map_err(failed)
    }

    /// Takes back what [`Run::publish`] put in the zone.
    async fn clean(&self, under_way: &mut UnderWay) -> Result<(), OrderError> {
        let failed = |source| OrderError::Provider { domain: self.domain.to_owned(), source };
        let Some((acme, record)) = &under_way.record else { return Ok(()) };
        if let AcmeChallenge::Dns01(provider) = &acme.challenge {
            Provider::of(provider, &self.orders.https).map_err(failed)?.withdraw(record).await.map_err(failed)?;
        }
        under_way.record = None;
        self.save(under_way)
    }

    fn request(&self, key_pem: &str) -> Result<Vec<u8>, OrderError> {
        let key = KeyPair::from_pem(key_pem).map_err(|error| self.unmade(&error))?;
        let mut params = CertificateParams::new(vec![self.domain.to_owned()]).map_err(|error| self.unmade(&error))?;
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&key).map(|made| made.der().to_vec()).map_err(|error| self.unmade(&error))
    }

    /// Why the authority found an order invalid: said by the challenge, not by the order.
    async fn invalid(&self, order: &mut Order, said: Option<String>) -> OrderError {
        let mut detail = said;
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let Ok(state) = authorization.refresh().await else { continue };
            if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
                detail = Some(problem.to_string());
            }
        }
        OrderError::Validation {
            domain: self.domain.to_owned(),
            challenge: challenge_name(&self.acme.challenge),
            detail: detail.unwrap_or_else(|| "it does not say why".to_owned()),
        }
    }

    fn unmade(&self, error: &rcgen::Error) -> OrderError {
        OrderError::Request { domain: self.domain.to_owned(), why: error.to_string() }
    }

    fn error(&self, error: AcmeError) -> OrderError {
        let domain = self.domain.to_owned();
        let now = self.orders.clock.now();
        let until = self.transport.take_retry_after().map(|given| match given {
            RetryAfter::Seconds(seconds) => now.plus(Duration::from_secs(seconds)),
            RetryAfter::At(seconds) => Timestamp(seconds.saturating_mul(1000)),
        });
        match error {
            AcmeError::Api(problem) if problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:rateLimited") => {
                let directory = self.acme.directory.url().to_owned();
                OrderError::RateLimited { directory, detail: problem.detail.unwrap_or_default(), until }
            }
            AcmeError::Api(problem) if problem.r#type.as_deref() == Some("urn:ietf:params:acme:error:badNonce") => {
                OrderError::Nonce { directory: self.acme.directory.url().to_owned() }
            }
            AcmeError::Api(problem) => OrderError::Refused { domain, detail: problem.to_string(), until },
            AcmeError::Timeout(_) => OrderError::Slow { domain, until },
            AcmeError::Other(source) => match source.downcast::<HttpsError>() {
                Ok(source) => OrderError::Unreachable { domain, source: *source },
                Err(source) => OrderError::Nonsense { domain, why: source.to_string(), until },
            },
            error => OrderError::Nonsense { domain, why: error.to_string(), until },
        }
    }

    fn load(&self) -> Result<Option<UnderWay>, OrderError> {
        let path = self.orders.path_of(self.domain);
        let sealed = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|source| OrderError::Disk { domain: self.domain.to_owned(), path, source })?,
        };
        // One that cannot be read cannot be finished: a new one is placed.
        let opened = self.orders.key.open(&self.purpose(), &sealed).ok();
        Ok(opened.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    fn save(&self, under_way: &UnderWay) -> Result<(), OrderError> {
        let path = self.orders.path_of(self.domain);
        let text = Zeroizing::new(serde_json::to_vec(under_way).expect("an order is always JSON"));
        durable::write(&path, &self.orders.key.seal(&self.purpose(), &text)).map_err(|source| OrderError::Disk {
            domain: self.domain.to_owned(),
            path,
            source,
        })
    }

    fn purpose(&self) -> String {
        format!("order/{}", self.domain)
    }
}

fn written(kind: &ChallengeType) -> String {
    match kind {
        ChallengeType::Http01 => "http-01".to_owned(),
        ChallengeType::Dns01 => "dns-01".to_owned(),
        ChallengeType::TlsAlpn01 => "tls-alpn-01".to_owned(),
        other => format!("{other:?}"),
    }
}
