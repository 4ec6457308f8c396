//! `up`, after the app has settled: its names get their first certificates, which clients of HTTPS need as much as they
//! need instances.
//!
//! Bounded, and never a reason for `up` to fail: what is missing is said as a warning, in the authority's words where
//! there are some, and ordered again by the node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use coppice_api::CertificateList;
use coppice_client::Client;
use coppice_spec::AppSpec;

use crate::error::{CommandError, eprint_all};
use crate::output::{Paint, moment, visible};
use crate::settings::Settings;

/// Between two looks while waiting.
const INTERVAL: Duration = Duration::from_millis(200);

/// Longer than an authority takes that is asked once; the rest of `--timeout` where that is less.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names of `spec` that need a certificate before a client comes.
struct Wanted {
    ordered: BTreeSet<String>,
    /// Brought by hand.
    installed: BTreeSet<String>,
}

impl Wanted {
    fn of(spec: &AppSpec) -> Self {
        let mut wanted = Self { ordered: BTreeSet::new(), installed: BTreeSet::new() };
        for tls in spec.services.values().filter_map(|service| service.tls.as_ref()) {
            match &tls.acme {
                // Ordered when the first client comes.
                Some(acme) if acme.on_demand => {}
                Some(_) => wanted.ordered.extend(tls.domains.iter().cloned()),
                None => wanted.installed.extend(tls.domains.iter().cloned()),
            }
        }
        wanted
    }

    /// What is to be said of those that have none; `None`: one is still on its way.
    fn missing(&self, list: &CertificateList, is_last: bool) -> Option<Vec<String>> {
        let has =
            |domain: &String| list.certificates.iter().any(|one| one.domain == *domain || one.names.contains(domain));
        let mut words = Vec::new();
        for domain in self.ordered.iter().filter(|domain| !has(domain)) {
            let said = match list.failed.iter().find(|failure| failure.domain == *domain) {
                Some(failure) => format!(
                    "{domain} has no certificate yet: {}; it is ordered again at {}, and at once by `coppice cert renew {domain}`",
                    failure.why,
                    moment(failure.next_at)
                ),
                None if is_last => {
                    format!("{domain} has no certificate yet: the order is under way, `coppice cert list` shows it")
                }
                None => return None,
            };
            words.push(said);
        }
        words.extend(self.installed.iter().filter(|domain| !has(domain)).map(|domain| {
            format!(
                "{domain} has no certificate: `coppice cert install` brings one, or set tls.acme to have it ordered"
            )
        }));
        Some(words)
    }
}

/// Returns when all names of `spec` have their certificates, or cannot have them now, which is said.
pub(super) async fn wait(
    settings: &Settings,
    client: &Client,
    spec: &AppSpec,
    deadline: Instant,
) -> Result<(), CommandError> {
    let wanted = Wanted::of(spec);
    if wanted.ordered.is_empty() && wanted.installed.is_empty() {
        return Ok(());
    }
    let deadline = deadline.min(Instant::now() + PATIENCE);
    let mut told = false;
    loop {
        let is_last = Instant::now() >= deadline;
        if let Some(words) = wanted.missing(&client.certificates().await?, is_last) {
            for word in words {
                eprint_all(&format!("{} {}\n", settings.stderr.paint(Paint::Yellow, "warning:"), visible(&word)));
            }
            return Ok(());
        }
        if !told {
            let names: Vec<String> = wanted.ordered.iter().map(|name| visible(name)).collect();
            eprint_all(&format!("waiting for the certificates of {}\n", names.join(", ")));
            told = true;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use coppice_api::CertificateFailure;
    use coppice_base::Timestamp;

    use super::*;

    #[test]
    fn what_failed_is_told_in_the_authoritys_words_and_what_is_under_way_is_waited_for() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let wanted = Wanted { ordered: names(&["a.example", "b.example"]), installed: names(&["c.example"]) };
        let mut list = CertificateList::default();
        assert_eq!(wanted.missing(&list, false), None);
        let failure = |domain: &str| CertificateFailure {
            domain: domain.into(),
            failures: 1,
            next_at: Timestamp(1_000),
            why: "the authority says: NXDOMAIN".into(),
        };
        list.failed = vec![failure("a.example"), failure("other.example")];
        assert_eq!(wanted.missing(&list, false), None, "b is under way");
        let words = wanted.missing(&list, true).unwrap();
        assert_eq!(words.len(), 3);
        assert!(words[0].starts_with("a.example has no certificate yet: the authority says: NXDOMAIN;"), "{words:?}");
        assert!(words[1].contains("under way") && words[2].contains("cert install"), "{words:?}");
    }
}
