//! Containers beside an app's instances: those that are to take an instance's place once they have proved themselves, those
//! that finish what they began before they were replaced.
//!
//! A candidate is not supervised: whether one that fails is worth another try is for the rollout to say, which hears of it
//! here. When it is promoted it is the instance, and the supervisor hears from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use coppice_api::ErrorKind;
use coppice_base::{Name, Timestamp};
use coppice_rollout::{CandidateId, Event as Told, Reason, Side};
use coppice_supervise::Event;
use tokio::sync::{mpsc, watch};

use super::tree::revision;
use super::{App, Slot, Wanted};
use crate::container::{Container, Owner, Phase, Place, exit_text};
use crate::containers::OfApp;
use crate::error::NodeError;
use crate::instance::{self, Hearer};
use crate::rollout::Seen;

/// What a rollout hears.
pub(crate) type RolloutEvents = mpsc::UnboundedSender<Told>;

/// Between two tries to write down what a container is.
const AGAIN: Duration = Duration::from_millis(250);

/// What promoted candidates have taken the place of.
#[derive(Default)]
pub(crate) struct Replaced {
    old: Vec<Arc<Container>>,
    /// Whose records do not say yet what they are, in the order in which they are to: the disk is full.
    unwritten: Vec<Arc<Container>>,
}

#[derive(Default)]
pub(super) struct Candidates {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By instance and number.
    here: BTreeMap<(String, u32), Candidate>,
    /// They finish what they have.
    leaving: Vec<Arc<Container>>,
    /// Shares of the requests that new instances get, in percent, by service.
    weights: BTreeMap<Name, u8>,
    /// What the proxy had counted when a canary's step began, by service.
    /// `None`: nobody has asked for it since its weight was set.
    begun: BTreeMap<Name, (Option<Timestamp>, Seen)>,
}

#[derive(Clone)]
struct Candidate {
    workload: Name,
    container: Option<Arc<Container>>,
    ready: bool,
    /// A task looks after it.
    watched: bool,
    stop: watch::Sender<bool>,
}

/// A container beside the instances, as traffic sees it.
pub(super) struct Beside {
    pub(super) container: Arc<Container>,
    pub(super) instance: String,
    pub(super) ready: bool,
    pub(super) leaving: bool,
}

impl Candidates {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic holds this lock")
    }

    /// A returning daemon has found one.
    pub(super) fn found(&self, container: &Arc<Container>) {
        let Owner::App { workload, instance, .. } = &container.owner else { return };
        let (place, run) = container.read(|record| (record.place, record.run));
        let (here, stop) = (Some(container.clone()), watch::Sender::new(false));
        let mut inner = self.inner();
        match place {
            Place::Own | Place::Cron | Place::Run | Place::Hook { .. } => {}
            Place::Leaving => inner.leaving.push(container.clone()),
            Place::Candidate => {
                let one = Candidate { workload: workload.clone(), container: here, ready: false, watched: false, stop };
                inner.here.insert((instance.clone(), run), one);
            }
        }
    }

    pub(super) fn weight(&self, workload: &Name) -> Option<u8> {
        self.inner().weights.get(workload).copied()
    }

    pub(super) fn beside(&self, workload: &Name) -> Vec<Beside> {
        let inner = self.inner();
        let of = |container: &Container| matches!(&container.owner, Owner::App { workload: of, .. } if of == workload);
        let leaving = inner.leaving.iter().filter(|container| of(container)).filter_map(|container| {
            let Owner::App { instance, .. } = &container.owner else { return None };
            Some(Beside { container: container.clone(), instance: instance.clone(), ready: true, leaving: true })
        });
        let here = inner.here.iter().filter(|(_, one)| one.workload == *workload).filter_map(|((instance, _), one)| {
            let leaving = *one.stop.borrow();
            let container = one.container.clone()?;
            Some(Beside { container, instance: instance.clone(), ready: one.ready, leaving })
        });
        leaving.chain(here).collect()
    }

    /// The highest number of those that were, or were to be, this instance; 0: there are none.
    fn latest_number(&self, instance: &str) -> u32 {
        let inner = self.inner();
        let of =
            |container: &&Arc<Container>| matches!(&container.owner, Owner::App { instance: of, .. } if of == instance);
        let leaving = inner.leaving.iter().filter(of).map(|container| container.read(|record| record.run));
        let here = inner.here.keys().filter(|(of, _)| of == instance).map(|(_, number)| *number);
        leaving.chain(here).max().unwrap_or(0)
    }

    /// Of candidates, and of those that leave.
    pub(super) fn containers(&self) -> Vec<Arc<Container>> {
        let inner = self.inner();
        let here = inner.here.values().filter_map(|one| one.container.clone());
        inner.leaving.iter().cloned().chain(here).collect()
    }
}

impl App {
    /// Starts a candidate, or takes up the one that is there, and tells what becomes of it.
    pub(crate) fn start_candidate(self: &Arc<Self>, id: CandidateId, workload: Name, side: Side, told: &RolloutEvents) {
        let key = (id.instance.clone(), id.number);
        let (found, stopped) = {
            let mut inner = self.candidates.inner();
            let one = inner.here.entry(key).or_insert_with(|| Candidate {
                workload: workload.clone(),
                container: None,
                ready: false,
                watched: false,
                stop: watch::Sender::new(false),
            });
            if std::mem::replace(&mut one.watched, true) {
                // Asked for again: whatever becomes of it is told already, but for what was told to nobody.
                if one.ready {
                    let _ = told.send(Told::CandidateReady(id));
                }
                return;
            }
            (one.container.clone(), one.stop.subscribe())
        };
        let (app, told) = (self.clone(), told.clone());
        tokio::spawn(async move {
            if let Err((reason, detail)) = app.run_candidate(&id, &workload, side, found, stopped, &told).await {
                let _ = told.send(Told::CandidateFailed { candidate: id, reason, detail });
            }
        });
    }

    async fn run_candidate(
        self: &Arc<Self>,
        id: &CandidateId,
        workload: &Name,
        side: Side,
        found: Option<Arc<Container>>,
        stopped: watch::Receiver<bool>,
        told: &RolloutEvents,
    ) -> Result<(), (Reason, String)> {
        let cannot = |reason| move |error: NodeError| (reason, error.to_string());
        let container = match found {
            Some(container) => container,
            None => {
                let wanted = self.wanted();
                let release = wanted.release_at(side);
                let of_app = OfApp {
                    range: wanted.uid_range.0,
                    revision: revision(release, workload),
                    home: None,
                    place: Place::Candidate,
                    run: id.number,
                };
                let made = self.create_instance(release, &id.instance, workload, of_app).await;
                made.map_err(cannot(Reason::ContainerRecordFailed))?
            }
        };
        {
            let mut inner = self.candidates.inner();
            let Some(one) = inner.here.get_mut(&(id.instance.clone(), id.number)) else { return Ok(()) };
            one.container = Some(container.clone());
        }
        if *stopped.borrow() {
            return Ok(());
        }
        match container.phase() {
            Phase::Running { .. } | Phase::Starting => {}
            Phase::Created => {
                let wanted = self.wanted();
                let started = self.start_container(&container, wanted.release_at(side), workload).await;
                started.map_err(cannot(Reason::StartFailed))?;
            }
            Phase::Exited { exit, lost, .. } => return Err((Reason::ProcessFailed, exit_text(&exit, lost))),
            Phase::Removed { .. } => return Ok(()),
        }
        let ungated = self.wanted().rollout().and_then(|(record, _)| record.plan.stage_of(workload.as_str()).cloned());
        let ungated = ungated.is_some_and(|stage| stage.ready_timeout.0.is_zero());
        let hearer = CandidateHearer { app: self, id, container: &container, told, ungated };
        if ungated {
            hearer.changed(true).await;
            hearer.tell(Event::Ready(id.instance.clone()));
        }
        instance::watch_over(&self.containers, &container, &id.instance, false, &hearer).await;
        self.sweep().await;
        Ok(())
    }

    /// Puts candidates into the slots of their instances, all at one moment; what they replace is to be
    /// [led away from](Self::lead_away). `Err`: this one is not there any more, and nothing was done.
    pub(crate) fn promote(
        &self,
        workload: &Name,
        ids: &[CandidateId],
        side: Side,
    ) -> Result<Replaced, (CandidateId, String)> {
        let wanted = self.wanted();
        let fingerprint = revision(wanted.release_at(side), workload);
        let mut replaced = Replaced::default();
        {
            let mut slots = self.slots();
            let mut inner = self.candidates.inner();
            let mut chosen = Vec::new();
            for id in ids {
                let one = inner.here.get(&(id.instance.clone(), id.number));
                let container = one.and_then(|one| one.container.clone());
                let slot = slots.get(&id.instance).and_then(|slot| slot.container.clone());
                let is_done = |c: &Arc<Container>| {
                    c.read(|r| r.run == id.number && r.place == Place::Own && r.revision == fingerprint)
                };
                match container {
                    Some(container) if container.phase().is_running() => chosen.push((id, Some(container))),
                    None if slot.as_ref().is_some_and(is_done) => chosen.push((id, None)),
                    Some(container) => {
                        let phase = container.phase();
                        let why = phase.exit().map(|exit| exit_text(&exit, false)).unwrap_or_else(|| "gone".to_owned());
                        return Err((id.clone(), why));
                    }
                    None => return Err((id.clone(), "it is gone".to_owned())),
                }
            }
            for (id, container) in chosen {
                let slot = slots.entry(id.instance.clone()).or_default();
                if let Some(container) = container {
                    inner.here.remove(&(id.instance.clone(), id.number));
                    let fresh = Slot { container: Some(container.clone()), ready: true, ..Slot::default() };
                    // The old one first: it has the name.
                    if let Some(old) = std::mem::replace(slot, fresh).container {
                        self.turn_into(&old, Place::Leaving);
                        inner.leaving.push(old.clone());
                        replaced.unwritten.push(old.clone());
                        replaced.old.push(old);
                    }
                    self.turn_into(&container, Place::Own);
                }
                replaced.unwritten.extend(slot.container.clone());
                self.supervisor().tell(Event::Replaced(id.instance.clone(), fingerprint.clone()));
            }
        }
        // In this order: of two records that claim a slot, nobody could say whose it is.
        let written = replaced.unwritten.iter().take_while(|container| self.write(container).is_ok()).count();
        replaced.unwritten.drain(..written);
        Ok(replaced)
    }

    /// A daemon that died in the middle of a promotion had taken what was there out of its slot: what was to come is put into
    /// it, before anything is started for want of it.
    pub(super) fn finish_promotions(&self, wanted: &Wanted) {
        let Some((record, _)) = wanted.rollout() else { return };
        for (workload, id, _) in record.candidates() {
            let is_free = self.view(&id.instance).container.is_none();
            if !is_free || record.promoting(workload.as_str(), &id.instance).is_none() {
                continue;
            }
            let key = (id.instance.clone(), id.number);
            let there = self.candidates.inner().here.get(&key).and_then(|one| one.container.clone());
            if let Some(container) = there.filter(|container| container.phase().is_running()) {
                self.candidates.inner().here.remove(&key);
                self.turn_into(&container, Place::Own);
                if let Err(error) = self.write(&container) {
                    tracing::warn!(%error, "the promotion tries on");
                }
                self.slots().entry(id.instance).or_default().container = Some(container);
            }
        }
    }

    /// Points everything at the instances there are now, and lets what these replaced go. `wait` is told why that does not
    /// happen yet, and when it does.
    pub(crate) async fn lead_away(self: &Arc<Self>, from: Replaced, wait: impl Fn(&str, Option<&NodeError>)) {
        self.refresh_network().await;
        // Until the records say who is who, a daemon that returned would not know. What is not for want of room does not pass.
        for container in &from.unwritten {
            let mut waits = false;
            while container.phase().is_running()
                && let Err(error) = self.write(container)
            {
                if !std::mem::replace(&mut waits, true) {
                    tracing::warn!(app = %self.name, %error, "what was replaced stays until that is written");
                }
                if error.kind() != ErrorKind::NoSpace {
                    break;
                }
                wait(container.id.as_str(), Some(&error));
                tokio::time::sleep(AGAIN).await;
            }
            if waits {
                wait(container.id.as_str(), None);
            }
        }
        for old in from.old {
            self.see_off(old);
        }
    }

    /// The highest number of the containers that are there of an instance: it, what it replaced, what stands beside it.
    pub(crate) fn latest_number(&self, instance: &str) -> u32 {
        let own = self.slots().get(instance).and_then(|slot| slot.container.clone());
        own.map_or(0, |container| container.read(|record| record.run)).max(self.candidates.latest_number(instance))
    }

    /// Gives a container another part, and the name that goes with it, without a word to its record.
    fn turn_into(&self, container: &Arc<Container>, place: Place) {
        let Owner::App { instance, .. } = &container.owner else { return };
        let run = container.read(|record| record.run);
        container.change(|record| record.place = place);
        if let Err(error) = self.containers.table.rename(container, &self.container_name(instance, place, run)) {
            tracing::warn!(app = %self.name, %instance, %error, "it keeps its name");
        }
    }

    /// Has its record say what a container is.
    fn write(&self, container: &Container) -> Result<(), NodeError> {
        let written = self.containers.write_record(container);
        written.map_err(|source| NodeError::disk(format!("cannot write down what {} is now", container.name()), source))
    }

    /// Lets a container that was replaced finish what it has, and takes it away.
    fn see_off(self: &Arc<Self>, container: Arc<Container>) {
        let app = self.clone();
        tokio::spawn(async move {
            if container.phase().is_running() {
                app.drained_of(&container).await;
                if let Err(error) = app.containers.stop(&container, None, None).await {
                    tracing::warn!(container = %container.name(), %error, "cannot stop it");
                }
            }
            if let Err(error) = app.containers.remove(&container, true, true).await {
                tracing::warn!(container = %container.name(), %error, "cannot remove it");
            }
            app.candidates.inner().leaving.retain(|one| !Arc::ptr_eq(one, &container));
            app.refresh_network().await;
        });
    }

    /// Stops and removes candidates, and tells of each when it is gone.
    pub(crate) fn discard(self: &Arc<Self>, ids: Vec<CandidateId>, told: &RolloutEvents) {
        for id in ids {
            let key = (id.instance.clone(), id.number);
            let one = self.candidates.inner().here.get(&key).cloned();
            let (app, told) = (self.clone(), told.clone());
            tokio::spawn(async move {
                if let Some(one) = one {
                    one.stop.send_replace(true);
                    app.refresh_network().await;
                    // One that is being made is there by then, or never will be.
                    let container = one.container.or_else(|| app.candidates.inner().here.get(&key)?.container.clone());
                    if let Some(container) = container {
                        app.drained_of(&container).await;
                        if let Err(error) = app.containers.stop(&container, None, None).await {
                            tracing::warn!(container = %container.name(), %error, "cannot stop it");
                        }
                        if let Err(error) = app.containers.remove(&container, true, true).await {
                            tracing::warn!(container = %container.name(), %error, "cannot remove it");
                        }
                    }
                    app.candidates.inner().here.remove(&key);
                    app.refresh_network().await;
                }
                let _ = told.send(Told::Discarded(id));
            });
        }
    }

    /// Takes away what a rollout of before left: `keep` are the candidates that the one that goes on knows.
    pub(crate) fn clear_candidates(self: &Arc<Self>, keep: &[CandidateId]) {
        let (leaving, strangers) = {
            let inner = self.candidates.inner();
            let known =
                |key: &(String, u32)| keep.iter().any(|id| (id.instance.as_str(), id.number) == (&key.0, key.1));
            let strangers = inner.here.keys().filter(|key| !known(key));
            let strangers =
                strangers.map(|(instance, number)| CandidateId { instance: instance.clone(), number: *number });
            (inner.leaving.clone(), strangers.collect::<Vec<_>>())
        };
        for container in leaving {
            self.see_off(container);
        }
        let (nobody, _) = mpsc::unbounded_channel();
        self.discard(strangers, &nobody);
    }

    /// `percent` of the workload's requests go to its new instances; `None`: candidates get none.
    pub(crate) async fn weigh(&self, workload: Name, percent: Option<u8>) {
        {
            let fresh = self.fresh_endpoints(&workload);
            let seen = self.containers.traffic.seen(&self.name, &workload, |instance| fresh.contains(instance));
            let mut inner = self.candidates.inner();
            inner.begun.insert(workload.clone(), (None, seen));
            match percent {
                Some(percent) => inner.weights.insert(workload, percent),
                None => inner.weights.remove(&workload),
            };
        }
        self.refresh_network().await;
    }

    /// What the proxy calls the workload's containers of the current release.
    pub(crate) fn fresh_endpoints(&self, workload: &Name) -> BTreeSet<String> {
        let newest = revision(self.wanted().current(), workload);
        let is_of =
            |container: &&Arc<Container>| matches!(&container.owner, Owner::App { workload: of, .. } if of == workload);
        let slots: Vec<Arc<Container>> = self.slots().values().filter_map(|slot| slot.container.clone()).collect();
        let all = slots.into_iter().chain(self.candidates.containers());
        let fresh = all.filter(|c| is_of(&c) && c.read(|record| record.revision == newest));
        fresh.map(|container| container.read(|record| record.endpoint())).collect()
    }

    /// What had been seen at `since`: now, if nobody has asked for that moment before.
    pub(crate) fn sampled_since(&self, workload: &Name, since: Timestamp, now: &Seen) -> Seen {
        let mut inner = self.candidates.inner();
        match inner.begun.get_mut(workload) {
            Some((at, seen)) if at.is_none_or(|at| at == since) => {
                *at = Some(since);
                seen.clone()
            }
            _ => {
                inner.begun.insert(workload.clone(), (Some(since), now.clone()));
                now.clone()
            }
        }
    }

    async fn drained_of(&self, container: &Container) {
        let Owner::App { workload, .. } = &container.owner else { return };
        let (endpoint, patience) = container.read(|record| (record.endpoint(), record.spec.workload.stop_timeout.0));
        self.containers.traffic.drained(&self.name, workload, &endpoint, patience).await;
    }
}

/// Tells the rollout of a candidate, and the supervisor once it is the instance.
struct CandidateHearer<'a> {
    app: &'a App,
    id: &'a CandidateId,
    container: &'a Arc<Container>,
    told: &'a RolloutEvents,
    /// It counts as ready once it runs, healthy or not.
    ungated: bool,
}

impl Hearer for CandidateHearer<'_> {
    async fn changed(&self, ready: bool) {
        let mut leads_nowhere = false;
        match self.container.read(|record| record.place) {
            Place::Own => {
                if let Some(slot) = self.app.slots().get_mut(&self.id.instance) {
                    slot.ready = ready && !slot.stop.as_ref().is_some_and(|stop| *stop.borrow());
                }
            }
            Place::Candidate => {
                let key = (self.id.instance.clone(), self.id.number);
                if let Some(one) = self.app.candidates.inner().here.get_mut(&key) {
                    one.ready = (ready || self.ungated) && !*one.stop.borrow();
                }
                // Without a weight nothing is led to it before it is promoted.
                let Owner::App { workload, .. } = &self.container.owner else { return };
                leads_nowhere = ready && self.app.candidates.weight(workload).is_none();
                // Without a health check nobody else says so.
                if ready && self.container.read(|record| record.spec.health.is_none()) {
                    let _ = self.told.send(Told::CandidateReady(self.id.clone()));
                }
            }
            Place::Leaving | Place::Hook { .. } | Place::Cron | Place::Run => {}
        }
        if !leads_nowhere {
            self.app.refresh_network().await;
        }
    }

    fn tell(&self, event: Event<String>) {
        let told = match (self.container.read(|record| record.place), event) {
            (Place::Own, event) => return self.app.supervisor().tell(event),
            (Place::Candidate, Event::Ready(_)) => Told::CandidateReady(self.id.clone()),
            (Place::Candidate, Event::Unhealthy(_, _)) if self.ungated => return,
            (Place::Candidate, Event::Unhealthy(_, why)) => Told::CandidateUnhealthy(self.id.clone(), why),
            (Place::Candidate, Event::Exited(_, reason)) => Told::CandidateFailed {
                candidate: self.id.clone(),
                reason: Reason::ProcessFailed,
                detail: reason.to_string(),
            },
            _ => return,
        };
        // An error means that the rollout has ended.
        let _ = self.told.send(told);
    }
}
