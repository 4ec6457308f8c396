//! The transition function: one command in, one new state or one rejection out.
//!
//! Each command first decides (reading only, the rejections) and then does (writing only, nothing can fail), so
//! a rejection leaves no trace. [`State::apply`] is the only caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use coppice_base::Name;
use coppice_rollout::{Plan, Progress, Rollout};
use coppice_spec::AppSpec;

use crate::state::Seen;
use crate::{
    App, Applied, Body, Command, Digest, Effect, Node, NodeId, RELEASES_KEPT, Rejection, Release, ReleaseId,
    ReleaseTerms, SEEN_KEPT, State, UID_RANGES, UidRange, Verdict,
};

/// What a release runs with.
#[derive(Clone, Copy)]
struct Pins<'a> {
    images: &'a BTreeMap<Name, Digest>,
    secrets: &'a BTreeMap<Name, u64>,
}

impl State {
    /// Applies `command`, or says why not and changes nothing. A command whose id was applied before (among the
    /// last [`SEEN_KEPT`]) gets the answer it got then.
    pub fn apply(&mut self, command: &Command) -> Result<Applied, Rejection> {
        if let Some(applied) = self.answer_to(command.id) {
            return Ok(applied.clone());
        }
        let effect = self.apply_body(command)?;
        self.revision += 1;
        let applied = Applied { revision: self.revision, effect };
        let seen = Arc::make_mut(&mut self.seen);
        seen.push_back(Seen { id: command.id, applied: applied.clone() });
        if seen.len() > SEEN_KEPT {
            seen.pop_front();
        }
        debug_assert_eq!(self.check(), Vec::<String>::new(), "after {command:?}");
        Ok(applied)
    }

    fn apply_body(&mut self, command: &Command) -> Result<Effect, Rejection> {
        match &command.body {
            Body::Apply { release, spec, images, expected_release, stopped, secrets, terms } => {
                self.apply_spec(command, *release, spec, Pins { images, secrets }, *expected_release, stopped, terms)
            }
            Body::PinImages { app, release, images } => self.pin_images(app, *release, images),
            Body::Remove { app, remove_volumes } => self.remove(command, app, *remove_volumes),
            Body::SetScale { app, service, replicas } => self.set_scale(app, service, *replicas),
            Body::SetStopped { app, workloads, stopped } => self.set_stopped(app, workloads, *stopped),
            Body::Restart { app, workloads } => self.restart(app, workloads),
            Body::RecordVerdict { app, release, verdict } => self.record_verdict(command, app, *release, verdict),
            Body::RecoverApp { app, releases } => self.recover_app(command, app, releases),
            Body::RecordProgress { app, release, progress } => self.record_progress(command, app, *release, progress),
            Body::SetPolicyRule { from, to, verdict } => self.set_rule(command, from, to, *verdict),
            Body::RemovePolicyRule { from, to } => self.remove_rule(from, to),
            Body::SetSecret { name, version, sealed, kind, key } => {
                self.set_secret(command, name, *version, sealed, kind.as_ref(), key)
            }
            Body::RemoveSecret { name, force } => self.remove_secret(name, *force),
            Body::Rekey { from, to, versions } => self.rekey(from, to, versions),
            Body::PinSecrets { app, release, secrets } => self.pin_secrets(app, *release, secrets),
            Body::AddNode { node, name } => self.add_node(*node, name, command),
            Body::RemoveNode { node } => self.remove_node(*node),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    fn apply_spec(
        &mut self,
        command: &Command,
        id: ReleaseId,
        spec: &AppSpec,
        Pins { images, secrets }: Pins<'_>,
        expected: Option<ReleaseId>,
        stopped: &BTreeSet<Name>,
        terms: &ReleaseTerms,
    ) -> Result<Effect, Rejection> {
        let name = &spec.name;
        let broken = spec.check();
        if !broken.is_empty() {
            return Err(Rejection::InvalidSpec { app: name.clone(), broken });
        }
        known_workloads(spec, images.keys().chain(stopped))?;
        self.check_pins(spec, secrets)?;
        let existing = self.apps.get(name);
        let current = existing.map(|app| app.current());
        let refused =
            terms.preview.as_ref().and_then(|preview| preview.refused(name, existing.map(|a| a.preview.as_ref())));
        if let Some(rejection) = refused {
            return Err(rejection);
        }
        if let Some(expected) = expected
            && current.map(|release| release.id) != Some(expected)
        {
            return Err(Rejection::StaleRelease { app: name.clone(), expected, current: current.map(|c| c.id) });
        }
        if let Some(app) = existing
            && app.rollout().is_some()
        {
            return Err(Rejection::RolloutInProgress { app: name.clone(), number: app.current().number });
        }
        if let Some(current) = current
            && !terms.always
            && !current.is_void()
            && current.spec == *spec
            && current.images == *images
            && current.secrets == *secrets
        {
            let effect = Effect::Unchanged { release: current.id, number: current.number };
            let app = self.app_mut(name);
            app.stopped = stopped.clone();
            app.scale.clear();
            if terms.preview.is_some() {
                app.preview = terms.preview.clone();
            }
            return Ok(effect);
        }
        if self.apps.values().any(|app| app.release(id).is_some()) {
            return Err(Rejection::ReleaseIdTaken(id));
        }
        let uid_range = match self.uid_ranges.get(name) {
            Some(range) => *range,
            None => self.free_uid_range().ok_or(Rejection::NoUidRange)?,
        };
        let addresses = self.addresses_for(spec, command.at)?;

        let number = existing.map_or(1, |app| app.newest().number + 1);
        let from = current.filter(|release| !release.is_void()).map(|release| release.id);
        // What it asks for first is asked for again by whoever takes it up.
        let record = |plan: &Plan| Box::new(Rollout::begin(plan.clone(), command.at).0.record().clone());
        let release = Arc::new(Release {
            id,
            number,
            spec: spec.clone(),
            images: images.clone(),
            secrets: secrets.clone(),
            created_at: command.at,
            actor: command.actor.clone(),
            verdict: None,
            trigger: terms.trigger.clone(),
            from,
            rollout: terms.rollout.as_deref().map(record),
            ended_at: None,
        });
        self.uid_ranges.insert(name.clone(), uid_range);
        let app = self.apps.entry(name.clone()).or_insert_with(|| Arc::new(App::empty(uid_range)));
        let app = Arc::make_mut(app);
        if terms.preview.is_some() {
            app.preview = terms.preview.clone();
        }
        app.addresses.extend(addresses);
        if let Some(last) = app.releases.last_mut()
            && last.verdict.is_none()
        {
            let last = Arc::make_mut(last);
            (last.verdict, last.ended_at) = (Some(Verdict::Superseded), Some(command.at));
        }
        app.releases.push(release);
        app.stopped = stopped.clone();
        app.scale.clear();
        app.restarts.retain(|workload, _| spec.workload(workload.as_str()).is_some());
        drop_old_releases(app);
        let specs: Vec<AppSpec> = self.known_app(name)?.specs().cloned().collect();
        self.give_up_addresses(name, &specs, command.at);
        self.drop_old_secrets();
        Ok(Effect::Released { release: id, number })
    }

    fn pin_images(&mut self, name: &Name, id: ReleaseId, images: &BTreeMap<Name, Digest>) -> Result<Effect, Rejection> {
        let at = self.find_release(name, id)?;
        let release = &self.known_app(name)?.releases[at];
        known_workloads(&release.spec, images.keys())?;
        for (workload, digest) in images {
            if release.images.get(workload).is_some_and(|pinned| pinned != digest) {
                return Err(Rejection::ImagePinned { app: name.clone(), release: id, workload: workload.clone() });
            }
        }

        let release = Arc::make_mut(&mut self.app_mut(name).releases[at]);
        release.images.extend(images.iter().map(|(workload, digest)| (workload.clone(), digest.clone())));
        Ok(Effect::Recorded)
    }

    fn remove(&mut self, command: &Command, name: &Name, remove_volumes: bool) -> Result<Effect, Rejection> {
        let volumes_left = remove_volumes && self.uid_ranges.contains_key(name);
        if !self.apps.contains_key(name) && !volumes_left {
            return Err(Rejection::UnknownApp(name.clone()));
        }

        self.give_up_addresses(name, [], command.at);
        self.apps.remove(name);
        if remove_volumes {
            self.uid_ranges.remove(name);
        }
        self.drop_old_secrets();
        Ok(Effect::Removed)
    }

    fn set_scale(&mut self, name: &Name, service: &Name, replicas: u32) -> Result<Effect, Rejection> {
        let spec = self.known_app(name)?.spec();
        known_workloads(spec, [service])?;
        let Some(defined) = spec.services.get(service) else {
            return Err(Rejection::NotAService { app: name.clone(), workload: service.clone() });
        };
        let as_defined = defined.replicas == replicas;

        let app = self.app_mut(name);
        if as_defined {
            app.scale.remove(service);
        } else {
            app.scale.insert(service.clone(), replicas);
        }
        Ok(Effect::Recorded)
    }

    fn set_stopped(&mut self, name: &Name, workloads: &BTreeSet<Name>, stopped: bool) -> Result<Effect, Rejection> {
        let spec = self.known_app(name)?.spec();
        let crons = workloads.is_empty().then(|| spec.crons.keys().cloned()).into_iter().flatten();
        let workloads: BTreeSet<Name> = named_or_all(spec, workloads)?.into_iter().chain(crons).collect();

        let app = self.app_mut(name);
        if stopped {
            app.stopped.extend(workloads);
        } else {
            app.stopped.retain(|workload| !workloads.contains(workload));
        }
        Ok(Effect::Recorded)
    }

    fn restart(&mut self, name: &Name, workloads: &BTreeSet<Name>) -> Result<Effect, Rejection> {
        let spec = self.known_app(name)?.spec();
        let mut workloads = named_or_all(spec, workloads)?;
        // A cron has nothing that could be started anew.
        workloads.retain(|workload| spec.workload(workload.as_str()).is_some());

        let app = self.app_mut(name);
        app.stopped.retain(|workload| !workloads.contains(workload));
        for workload in workloads {
            *app.restarts.entry(workload).or_insert(0) += 1;
        }
        Ok(Effect::Recorded)
    }

    fn record_verdict(
        &mut self,
        command: &Command,
        name: &Name,
        id: ReleaseId,
        verdict: &Verdict,
    ) -> Result<Effect, Rejection> {
        let at = self.find_release(name, id)?;
        if *verdict == Verdict::Superseded {
            return Err(Rejection::OnlyReleasesSupersede { app: name.clone(), release: id });
        }
        match &self.known_app(name)?.releases[at].verdict {
            Some(given) if given != verdict => {
                return Err(Rejection::VerdictGiven { app: name.clone(), release: id });
            }
            _ => {}
        }

        let release = Arc::make_mut(&mut self.app_mut(name).releases[at]);
        if release.verdict.is_none() {
            (release.verdict, release.ended_at) = (Some(verdict.clone()), Some(command.at));
        }
        Ok(Effect::Recorded)
    }

    fn record_progress(
        &mut self,
        command: &Command,
        name: &Name,
        id: ReleaseId,
        progress: &Progress,
    ) -> Result<Effect, Rejection> {
        let no_rollout = || Rejection::NoRollout { app: name.clone(), release: id };
        let (_, before) = self.known_app(name)?.rollout().ok_or_else(no_rollout)?;
        let before = before.map(|before| before.spec.clone());
        let at = self.find_release(name, id)?;
        let release = &self.known_app(name)?.releases[at];
        if release.verdict.is_some() || release.rollout.is_none() {
            return Err(no_rollout());
        }

        let app = self.app_mut(name);
        let release = Arc::make_mut(&mut app.releases[at]);
        if let Some(record) = &mut release.rollout {
            record.progress = progress.clone();
        }
        let Some(verdict) = verdict_of(progress, before.is_none()) else { return Ok(Effect::Recorded) };
        let before = before.filter(|_| matches!(verdict, Verdict::RolledBack { .. }));
        (release.verdict, release.ended_at) = (Some(verdict), Some(command.at));
        let spec = before.unwrap_or_else(|| release.spec.clone());
        let is_there = |workload: &Name| spec.workload(workload.as_str()).is_some();
        app.stopped.retain(is_there);
        app.restarts.retain(|workload, _| is_there(workload));
        app.scale.retain(|service, _| spec.services.contains_key(service));
        self.give_up_addresses(name, [&spec], command.at);
        Ok(Effect::Recorded)
    }

    fn add_node(&mut self, id: NodeId, name: &Name, command: &Command) -> Result<Effect, Rejection> {
        if self.nodes.contains_key(&id) || self.removed_nodes.contains(&id) {
            return Err(Rejection::NodeExists(id));
        }
        if self.nodes.values().any(|node| node.name == *name) {
            return Err(Rejection::NodeNameTaken(name.clone()));
        }

        self.nodes.insert(id, Node { name: name.clone(), joined_at: command.at });
        Ok(Effect::Recorded)
    }

    fn remove_node(&mut self, id: NodeId) -> Result<Effect, Rejection> {
        if !self.nodes.contains_key(&id) {
            return Err(Rejection::UnknownNode(id));
        }
        if self.nodes.len() == 1 {
            return Err(Rejection::LastNode(id));
        }

        self.nodes.remove(&id);
        self.removed_nodes.insert(id);
        Ok(Effect::Recorded)
    }

    fn known_app(&self, name: &Name) -> Result<&App, Rejection> {
        self.apps.get(name).map(Arc::as_ref).ok_or_else(|| Rejection::UnknownApp(name.clone()))
    }

    /// For the doing half, after the app was found.
    fn app_mut(&mut self, name: &Name) -> &mut App {
        Arc::make_mut(self.apps.get_mut(name).expect("the deciding half found it"))
    }

    fn find_release(&self, name: &Name, id: ReleaseId) -> Result<usize, Rejection> {
        let at = self.known_app(name)?.releases.iter().position(|release| release.id == id);
        at.ok_or_else(|| Rejection::UnknownRelease { app: name.clone(), release: id })
    }

    /// The smallest free index, so that every replica picks the same.
    pub(crate) fn free_uid_range(&self) -> Option<UidRange> {
        let used: BTreeSet<UidRange> = self.uid_ranges.values().copied().collect();
        (0..UID_RANGES).map(UidRange).find(|range| !used.contains(range))
    }
}

fn known_workloads<'a>(spec: &AppSpec, workloads: impl IntoIterator<Item = &'a Name>) -> Result<(), Rejection> {
    match workloads.into_iter().find(|workload| spec.definition(workload.as_str()).is_none()) {
        Some(workload) => Err(Rejection::UnknownWorkload { app: spec.name.clone(), workload: workload.clone() }),
        None => Ok(()),
    }
}

fn named_or_all(spec: &AppSpec, workloads: &BTreeSet<Name>) -> Result<BTreeSet<Name>, Rejection> {
    if workloads.is_empty() {
        return Ok(spec.workloads().map(|(name, _)| name.clone()).collect());
    }
    known_workloads(spec, workloads)?;
    Ok(workloads.clone())
}

/// The verdict on a release whose rollout has ended.
fn verdict_of(progress: &Progress, is_first: bool) -> Option<Verdict> {
    let outcome = progress.outcome.as_ref()?;
    let reason = outcome.cause.iter().map(ToString::to_string).chain(outcome.remains.iter().cloned());
    let reason = reason.collect::<Vec<_>>().join("; ");
    Some(match outcome.verdict {
        coppice_rollout::Verdict::Completed => Verdict::Succeeded,
        // There is none before it to be the current one.
        _ if is_first => Verdict::Failed { reason },
        // Nothing of it was ever there, or is any more: either way the release before it is the current one.
        coppice_rollout::Verdict::Failed | coppice_rollout::Verdict::RolledBack => Verdict::RolledBack { reason },
    })
}

/// Drops the oldest releases beyond [`RELEASES_KEPT`], sparing the current one, the one it came from and the newest that
/// succeeded.
pub(crate) fn drop_old_releases(app: &mut App) {
    while app.releases.len() > RELEASES_KEPT {
        let current = app.current();
        let spared = [app.last_succeeded().map(|release| release.id), Some(current.id), current.from];
        let oldest = app.releases.iter().position(|release| !spared.contains(&Some(release.id))).unwrap_or(0);
        app.releases.remove(oldest);
    }
}
