//! A release on its way: whom it waits for, its steps as they come, and how it ended.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use coppice_api::{AppStatus, ReleaseEntry, ReleaseStep};
use coppice_base::{Clock, SystemClock};
use coppice_client::{Client, ClientError};

use super::text;
use crate::error::{CommandError, eprint_all};
use crate::settings::Settings;

/// A request that takes longer than this may have to wait for somebody.
const PATIENCE: Duration = Duration::from_millis(300);

/// A release that is this old while the node still does not answer is not the one that was asked for.
const NOT_OURS: Duration = Duration::from_secs(2);

/// Does the request; while it waits for another release of the app, says for which.
pub(crate) async fn in_turn<T>(
    client: &Client,
    app: &str,
    request: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let asked = SystemClock.now();
    let mut request = pin!(request);
    let mut told = None;
    loop {
        tokio::select! {
            biased;
            answer = &mut request => return answer,
            () = tokio::time::sleep(PATIENCE) => {}
        }
        let looked = tokio::select! {
            biased;
            answer = &mut request => return answer,
            looked = client.app(app) => looked,
        };
        // An app that is not there yet has no other release.
        let Ok(status) = looked else { continue };
        let (fields, now) = (&status.releases.newest, SystemClock.now());
        let is_others = fields.created_at < asked || now.since(fields.created_at) > NOT_OURS;
        // One without a rollout is waited for while it comes up.
        let comes_up = !status.settled && matches!(status.state.as_str(), "starting" | "degraded");
        let goes_on = (status.releases.rollout.phase.is_some() || comes_up) && !fields.has_ended();
        if goes_on && is_others && told != Some(fields.number) {
            told = Some(fields.number);
            eprint_all(&format!("{app}: waits for {}, which is being rolled out\n", text::named(fields, now)));
        }
    }
}

/// How a release is doing.
pub(crate) enum Doing {
    /// It replaces nothing: the app's status says all there is.
    AtOnce,
    OnTheWay,
    Completed,
    /// It was rolled back, or rests because of a failure.
    Failed,
}

/// One release, watched.
pub(crate) struct Release {
    number: u64,
    /// As it was seen last.
    pub(crate) entry: Option<ReleaseEntry>,
    told: Option<ReleaseStep>,
    /// What was told to hold it up. It is no step of its any more once it goes on.
    waits: Option<ReleaseStep>,
    superseded: bool,
}

/// How the step begins that comes last while the log takes none.
const WAITS: &str = "waits: ";

impl Release {
    pub(crate) fn new(number: u64) -> Self {
        Self { number, entry: None, told: None, waits: None, superseded: false }
    }

    /// Looks at it, when it has ended or after `patience`. The steps that are new are the second.
    pub(crate) async fn look(
        &mut self,
        client: &Client,
        app: &str,
        patience: Duration,
    ) -> Result<(Doing, String), CommandError> {
        let entry = match client.release_once_over(app, &self.number.to_string(), patience).await {
            Ok(entry) => entry,
            // So old by now that it is not kept, or of a node that knows no releases.
            Err(ClientError::Api(error)) if error.kind != coppice_api::ErrorKind::Internal => {
                return Ok((Doing::AtOnce, String::new()));
            }
            Err(error) => return Err(error.into()),
        };
        let mut said = String::new();
        let doing = if entry.fields.status == "superseded" {
            if !std::mem::replace(&mut self.superseded, true) {
                let why = entry.fields.message.as_deref().unwrap_or("another came");
                said = format!("release {}: superseded: {}\n", self.number, crate::output::visible(why));
            }
            Doing::AtOnce
        } else if entry.rollout.phase.is_none() {
            Doing::AtOnce
        } else {
            said = self.told_of(&entry.steps);
            match entry.fields.status.as_str() {
                "completed" => Doing::Completed,
                "failed" | "rolled_back" | "partially_failed" => Doing::Failed,
                _ => Doing::OnTheWay,
            }
        };
        self.entry = Some(entry);
        Ok((doing, said))
    }

    /// What of its steps is new.
    fn told_of(&mut self, steps: &[ReleaseStep]) -> String {
        let (steps, waits) = match steps.split_last() {
            Some((last, before)) if last.what.starts_with(WAITS) => (before, Some(last)),
            _ => (steps, None),
        };
        let from = self.told.as_ref().and_then(|told| {
            let same = steps.iter().rposition(|step| step == told);
            // The oldest of many are not kept.
            same.or_else(|| steps.iter().rposition(|step| step.at <= told.at))
        });
        let fresh = &steps[from.map_or(0, |at| at + 1)..];
        self.told = fresh.last().cloned().or(self.told.take());
        let news = waits.filter(|waits| self.waits.as_ref() != Some(*waits));
        let said = fresh.iter().chain(news).map(|step| text::step(self.number, step)).collect();
        self.waits = waits.cloned();
        said
    }
}

/// Where a release that was waited for, and its app, are.
pub(crate) struct Arrival {
    pub(crate) status: AppStatus,
    pub(crate) release: Release,
    pub(crate) doing: Doing,
}

impl Arrival {
    /// Whether there is nothing more to wait for.
    pub(crate) fn is_there(&self) -> bool {
        match self.doing {
            Doing::AtOnce => self.status.settled,
            Doing::Completed => self.status.settled || self.was_followed(),
            Doing::OnTheWay => false,
            Doing::Failed => true,
        }
    }

    /// Whether it has completed, and another one has come since: how that one does is for others to wait for.
    pub(crate) fn was_followed(&self) -> bool {
        matches!(self.doing, Doing::Completed) && self.status.releases.newest.number > self.release.number
    }

    /// Why the release did not come to stay, or that it has not ended within `limit`; nothing when it did.
    pub(crate) fn failure(&self, settings: &Settings, limit: Duration) -> Option<String> {
        let entry = self.release.entry.as_ref()?;
        match self.doing {
            Doing::AtOnce | Doing::Completed => None,
            Doing::OnTheWay => Some(text::unfinished(entry, limit, &settings.stderr)),
            Doing::Failed => Some(text::failure(entry, self.status.release, &settings.stderr, SystemClock.now())),
        }
    }
}

/// Whether time is up.
pub(crate) fn is_over(deadline: Instant) -> bool {
    Instant::now() >= deadline
}

#[cfg(test)]
mod tests {
    use coppice_base::Timestamp;

    use super::*;

    #[test]
    fn what_was_decided_while_it_waited_is_told_after_it_goes_on() {
        let mut release = Release::new(2);
        let mut said = |steps: &[(u64, &str)]| {
            let step = |&(at, what): &(u64, &str)| ReleaseStep { at: Timestamp(at), what: what.to_owned() };
            let steps: Vec<ReleaseStep> = steps.iter().map(step).collect();
            release.told_of(&steps)
        };
        assert_eq!(said(&[(1, "begun")]), "release 2: begun\n");
        assert_eq!(said(&[(1, "begun"), (5, "waits: full")]), "release 2: waits: full\n");
        assert_eq!(said(&[(1, "begun"), (5, "waits: full")]), "");
        let gone_on = [(1, "begun"), (5, "web: next"), (5, "web: ready"), (9, "waited 4s: full")];
        assert_eq!(said(&gone_on), "release 2: web: next\nrelease 2: web: ready\nrelease 2: waited 4s: full\n");
        assert_eq!(said(&gone_on), "");
        assert_eq!(said(&[(9, "waited 4s: full"), (10, "done")]), "release 2: done\n");
    }
}
