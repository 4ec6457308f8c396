//! Apps that come back from what is written on their volumes, when the state that knew them is lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use coppice_base::Name;

use crate::apply::drop_old_releases;
use crate::invariants::check_app;
use crate::{App, Command, Effect, Rejection, Release, State, Verdict};

/// What became of the newest release that is known when a later one had come.
const SUCCESSOR_LOST: &str = "a later release had come, of which nothing is known";

impl State {
    /// Takes in an app with these releases, oldest first, as if it had always been there.
    pub(crate) fn recover_app(
        &mut self,
        command: &Command,
        name: &Name,
        releases: &[Release],
    ) -> Result<Effect, Rejection> {
        let refused = |why: &str| Rejection::Unrecoverable { app: name.clone(), why: why.to_owned() };
        if self.apps.contains_key(name) {
            return Err(refused("there is an app of that name"));
        }
        if !releases.is_sorted_by(|a, b| a.number < b.number) {
            return Err(refused("its releases are out of order"));
        }
        let Some(current) = releases.iter().rev().find(|release| !release.is_rolled_back()) else {
            return Err(refused("no release of it is left to run"));
        };
        for release in releases {
            let broken = release.spec.check();
            if release.spec.name != *name || !broken.is_empty() {
                return Err(refused(&format!("release {} is not valid: {}", release.number, broken.join("; "))));
            }
            if release.verdict.is_none() {
                return Err(refused(&format!("release {} was not over", release.number)));
            }
            let is_twice = releases.iter().any(|other| other.id == release.id && other.number != release.number);
            if is_twice || self.apps.values().any(|app| app.release(release.id).is_some()) {
                return Err(Rejection::ReleaseIdTaken(release.id));
            }
            self.check_pins(&release.spec, &release.secrets)?;
        }
        let uid_range = match self.uid_ranges.get(name) {
            Some(range) => *range,
            None => self.free_uid_range().ok_or(Rejection::NoUidRange)?,
        };
        let addresses = self.addresses_for(&current.spec, command.at)?;

        let (release, number) = (current.id, current.number);
        let mut app = App {
            releases: releases.iter().cloned().map(Arc::new).collect(),
            addresses: addresses.into_iter().collect(),
            ..App::empty(uid_range)
        };
        // Volumes that were not in use together remember more than one app keeps.
        drop_old_releases(&mut app);
        if let Some(newest) = app.releases.last_mut().filter(|newest| newest.verdict == Some(Verdict::Superseded)) {
            // By one that had not ended, which no volume knows.
            Arc::make_mut(newest).verdict = Some(Verdict::Failed { reason: SUCCESSOR_LOST.to_owned() });
        }
        let mut broken = Vec::new();
        check_app(name, &app, &mut broken);
        if !broken.is_empty() {
            return Err(refused(&broken.join("; ")));
        }
        self.uid_ranges.insert(name.clone(), uid_range);
        self.apps.insert(name.clone(), Arc::new(app));
        Ok(Effect::Released { release, number })
    }
}

impl App {
    /// Without a release yet.
    pub(crate) fn empty(uid_range: crate::UidRange) -> Self {
        Self {
            releases: Vec::new(),
            stopped: Default::default(),
            scale: BTreeMap::new(),
            restarts: BTreeMap::new(),
            uid_range,
            addresses: BTreeMap::new(),
            preview: None,
        }
    }
}
