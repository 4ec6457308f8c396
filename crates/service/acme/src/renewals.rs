//! When certificates are ordered: time and outcomes in, names to order out. No clock, disk or network.
//!
//! ```text
//!            want                 due                    ordered
//!  unknown ───────► no certificate ───► order under way ─────────► certificate ──┐
//!                        ▲                   │  ▲                                │ a third of its life left
//!                        └──── failed: wait ─┘  └────────────────────────────────┘
//! ```
//!
//! A name has at most one order under way. A certificate is ordered anew when a third of its life is left, or a little
//! before (jitter, so that certificates made together are not ordered together for ever). After a failure it waits:
//! two minutes, three times as long after each further one, at most six hours and at most a twelfth of the
//! certificate's life, a quarter more or less by chance; never less than the authority asked for. Three tries fit into
//! the first hour: Let's Encrypt allows five failed validations of a name an hour.
//!
//! Refuses to order more than [`Renewals::MOST_AT_ONCE`] at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use coppice_base::{Random, Timestamp};

/// After the first failure.
pub(crate) const FIRST_WAIT: Duration = Duration::from_secs(120);
/// After however many failures.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(6 * 3600);
/// How much longer each wait is than the one before.
const GROWTH: u32 = 3;
/// Jitter of a renewal: at most this part of the certificate's life before its third is left.
const JITTER_PART: u64 = 30;

/// The dates of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Life {
    fn length(self) -> u64 {
        self.not_after.0.saturating_sub(self.not_before.0)
    }

    /// When a third is left.
    fn last_third(self) -> Timestamp {
        Timestamp(self.not_after.0.saturating_sub(self.length() / 3))
    }
}

/// What is remembered of failures, also across restarts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    pub failures: u32,
    /// No order before.
    pub until: Timestamp,
    /// What the last error said.
    pub why: String,
}

#[derive(Debug, Default)]
struct Standing {
    life: Option<Life>,
    renew_at: Timestamp,
    setback: Option<Setback>,
    /// Ordered at the next [`Renewals::due`] whatever the dates.
    asked: bool,
    under_way: bool,
    directory: String,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Renewals {
    names: BTreeMap<String, Standing>,
    /// Failures from before a restart, of names not wanted yet.
    remembered: BTreeMap<String, Setback>,
    /// Directories that limited us, and until when.
    limited: BTreeMap<String, Timestamp>,
}

impl Renewals {
    /// Orders under way at once.
    pub const MOST_AT_ONCE: usize = 4;

    /// These names are to have certificates from these directories, and no others. What is known of a name stays; an
    /// order under way for one that is gone may end.
    pub fn want(&mut self, wanted: &BTreeMap<String, String>) {
        self.names.retain(|name, standing| standing.under_way || wanted.contains_key(name));
        for (name, directory) in wanted {
            let standing = self.names.entry(name.clone()).or_insert_with(|| Standing {
                directory: directory.clone(),
                setback: self.remembered.remove(name),
                ..Standing::default()
            });
            if standing.directory != *directory {
                standing.directory.clone_from(directory);
                // Failures of the authority before are not this one's, nor is its certificate what is wanted now: who
                // goes from a staging authority to the real one does not wait two thirds of a life.
                (standing.setback, standing.life) = (None, None);
            }
        }
    }

    /// There is a certificate for `name`, from before or just installed.
    pub fn have(&mut self, name: &str, life: Life, random: &mut dyn Random) {
        if let Some(standing) = self.names.get_mut(name) {
            standing.take(life, random);
        }
    }

    /// There is none for `name` any more.
    pub fn lost(&mut self, name: &str) {
        if let Some(standing) = self.names.get_mut(name) {
            standing.life = None;
        }
    }

    /// Puts back what was remembered of a failure before a restart, for when the name is wanted again.
    pub fn remember(&mut self, name: &str, setback: Setback) {
        match self.names.get_mut(name) {
            Some(standing) => standing.setback = Some(setback),
            None => drop(self.remembered.insert(name.to_owned(), setback)),
        }
    }

    /// Somebody asks for an order now: dates and waits do not count, an authority's limit does.
    pub fn ask(&mut self, name: &str) -> bool {
        let standing = self.names.get_mut(name);
        standing.map(|standing| standing.asked = true).is_some()
    }

    /// Until when the directory of `name` limits us, if it does after `now`.
    pub fn limited_until(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        self.limited.get(&self.names.get(name)?.directory).copied().filter(|until| *until > now)
    }

    /// The names to order now; each is under way until [`Renewals::ordered`] or [`Renewals::failed`].
    pub fn due(&mut self, now: Timestamp) -> Vec<String> {
        let free = Self::MOST_AT_ONCE.saturating_sub(self.names.values().filter(|name| name.under_way).count());
        let mut due: Vec<_> = self
            .names
            .iter()
            .filter(|(_, standing)| !standing.under_way)
            .filter_map(|(name, standing)| Some((standing.next(&self.limited)?, name.clone())))
            .filter(|(at, _)| *at <= now)
            .collect();
        // Those that wait longest go first, so that none starves.
        due.sort();
        due.truncate(free);
        for (_, name) in &due {
            let standing = self.names.get_mut(name).expect("its name was just read");
            (standing.under_way, standing.asked) = (true, false);
        }
        due.into_iter().map(|(_, name)| name).collect()
    }

    /// When [`Renewals::due`] has something next; `None`: not before something happens.
    pub fn next(&self) -> Option<Timestamp> {
        if self.names.values().filter(|standing| standing.under_way).count() >= Self::MOST_AT_ONCE {
            return None;
        }
        let waiting = self.names.values().filter(|standing| !standing.under_way);
        waiting.filter_map(|standing| standing.next(&self.limited)).min()
    }

    /// The order for `name` brought a certificate.
    pub fn ordered(&mut self, name: &str, life: Life, random: &mut dyn Random) {
        if let Some(standing) = self.names.get_mut(name) {
            standing.under_way = false;
            standing.setback = None;
            standing.take(life, random);
        }
    }

    /// The order for `name` failed. `until`: what the authority said; `whole_directory`: of all names. Returns what to
    /// remember.
    pub fn failed(
        &mut self,
        name: &str,
        why: String,
        until: Option<Timestamp>,
        whole_directory: bool,
        now: Timestamp,
        random: &mut dyn Random,
    ) -> Option<Setback> {
        let standing = self.names.get_mut(name)?;
        standing.under_way = false;
        let failures = standing.setback.as_ref().map_or(0, |setback| setback.failures).saturating_add(1);
        let wait = wait_after(failures, standing.life, random);
        let until = now.plus(wait).max(until.unwrap_or_default());
        if whole_directory {
            let limited = self.limited.entry(standing.directory.clone()).or_default();
            *limited = until.max(*limited);
        }
        let setback = Setback { failures, until, why };
        standing.setback = Some(setback.clone());
        Some(setback)
    }

    /// Failures of all names, for the disk and for people.
    pub fn setbacks(&self) -> BTreeMap<String, Setback> {
        let wanted = self.names.iter().filter_map(|(name, standing)| Some((name.clone(), standing.setback.clone()?)));
        self.remembered.clone().into_iter().chain(wanted).collect()
    }

    /// Names with an order under way.
    pub fn under_way(&self) -> BTreeSet<String> {
        self.names.iter().filter(|(_, standing)| standing.under_way).map(|(name, _)| name.clone()).collect()
    }

    /// Whether `name` is one that certificates are ordered for.
    pub fn is_wanted(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }
}

impl Standing {
    fn take(&mut self, life: Life, random: &mut dyn Random) {
        self.life = Some(life);
        self.renew_at = Timestamp(life.last_third().0.saturating_sub(random.below(life.length() / JITTER_PART)));
    }

    fn next(&self, limited: &BTreeMap<String, Timestamp>) -> Option<Timestamp> {
        let limit = limited.get(&self.directory).copied().unwrap_or_default();
        if self.asked {
            return Some(limit);
        }
        let renewal = if self.life.is_some() { self.renew_at } else { Timestamp::ZERO };
        let setback = self.setback.as_ref().map_or(Timestamp::ZERO, |setback| setback.until);
        Some(renewal.max(setback).max(limit))
    }
}

fn wait_after(failures: u32, life: Option<Life>, random: &mut dyn Random) -> Duration {
    let mut wait = FIRST_WAIT.saturating_mul(GROWTH.saturating_pow(failures.saturating_sub(1).min(16)));
    wait = wait.min(LONGEST_WAIT);
    if let Some(life) = life {
        // Certificates of a day or an hour must not end while we wait.
        wait = wait.min(Duration::from_millis(life.length() / 12).max(Duration::from_secs(10)));
    }
    // Three quarters to five quarters.
    let quarter = u64::try_from(wait.as_millis() / 4).unwrap_or(u64::MAX / 8);
    Duration::from_millis(quarter * 3 + random.below(quarter * 2 + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use coppice_base::random::Seeded;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;

    fn life(from: u64, length: u64) -> Life {
        Life { not_before: Timestamp(from), not_after: Timestamp(from + length) }
    }

    fn wanting(names: &[&str]) -> Renewals {
        let mut renewals = Renewals::default();
        renewals.want(&names.iter().map(|name| ((*name).to_owned(), "dir".to_owned())).collect());
        renewals
    }

    #[test]
    fn a_name_without_a_certificate_is_ordered_at_once_and_only_once() {
        let mut renewals = wanting(&["a.example"]);
        assert_eq!(renewals.due(Timestamp(5)), ["a.example"]);
        assert!(renewals.due(Timestamp(5)).is_empty());
        assert!(renewals.ask("a.example"));
        assert!(renewals.due(Timestamp(u64::MAX)).is_empty(), "also when asked for while under way");
    }

    #[test]
    fn no_more_than_the_most_at_once_and_none_starves() {
        let names: Vec<_> = (0..10).map(|number| format!("{number}.example")).collect();
        let mut renewals = wanting(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let (mut random, mut seen) = (Seeded::new(1), BTreeSet::new());
        while seen.len() < names.len() {
            let due = renewals.due(Timestamp(1));
            assert!(!due.is_empty() && renewals.under_way().len() <= Renewals::MOST_AT_ONCE);
            if due.len() == Renewals::MOST_AT_ONCE {
                assert_eq!(renewals.next(), None, "the end of an order is waited for, not a time");
            }
            for name in due {
                renewals.ordered(&name, life(0, HOUR), &mut random);
                assert!(seen.insert(name));
            }
        }
    }

    #[test]
    fn an_authority_s_limit_holds_all_its_names_also_those_asked_for() {
        let mut renewals = wanting(&["a.example", "b.example"]);
        let mut random = Seeded::new(1);
        renewals.due(Timestamp(0));
        let until = Timestamp(50 * HOUR);
        renewals.failed("a.example", "limited".to_owned(), Some(until), true, Timestamp(0), &mut random);
        renewals.failed("b.example", "no".to_owned(), None, false, Timestamp(0), &mut random);
        renewals.ask("b.example");
        assert!(renewals.due(Timestamp(until.0 - 1)).is_empty());
        assert_eq!(renewals.due(until).len(), 2);
    }

    #[test]
    fn another_authority_is_asked_at_once() {
        let mut renewals = wanting(&["a.example"]);
        renewals.have("a.example", life(0, 1000 * HOUR), &mut Seeded::new(1));
        assert!(renewals.due(Timestamp(1)).is_empty());
        renewals.want(&BTreeMap::from([("a.example".to_owned(), "another".to_owned())]));
        assert_eq!(renewals.due(Timestamp(1)), ["a.example"]);
    }

    #[test]
    fn somebody_who_asks_does_not_wait_for_a_setback() {
        let mut renewals = wanting(&["a.example"]);
        renewals.due(Timestamp(0));
        renewals.failed("a.example", "no".to_owned(), None, false, Timestamp(0), &mut Seeded::new(1));
        assert!(renewals.due(Timestamp(1)).is_empty());
        renewals.ask("a.example");
        assert_eq!(renewals.due(Timestamp(1)), ["a.example"]);
    }

    #[test]
    fn failures_remembered_from_before_a_restart_count_on() {
        let mut before = wanting(&["a.example"]);
        let mut random = Seeded::new(3);
        before.due(Timestamp(0));
        let first = before.failed("a.example", "no".to_owned(), None, false, Timestamp(0), &mut random).expect("known");
        let mut after = Renewals::default();
        after.remember("a.example", first.clone());
        assert_eq!(after.setbacks().len(), 1, "not forgotten before the name is wanted");
        after.want(&BTreeMap::from([("a.example".to_owned(), "dir".to_owned())]));
        assert!(after.due(Timestamp(first.until.0 - 1)).is_empty());
        assert_eq!(after.due(first.until), ["a.example"]);
        let second = after.failed("a.example", "no".to_owned(), None, false, first.until, &mut random).expect("known");
        assert_eq!(second.failures, 2);
    }

    proptest! {
        #[test]
        fn a_renewal_is_due_by_the_last_third_and_not_a_thirtieth_of_the_life_earlier(
            from in 0..1u64 << 40, length in 1000..400 * 24 * HOUR, seed: u64,
        ) {
            let mut renewals = wanting(&["a.example"]);
            let life = life(from, length);
            renewals.have("a.example", life, &mut Seeded::new(seed));
            let third_left = life.not_after.0 - length / 3;
            prop_assert!(renewals.due(Timestamp(third_left - length / 30 - 1)).is_empty());
            prop_assert_eq!(renewals.next().map(|at| at.0 <= third_left), Some(true));
            prop_assert_eq!(renewals.due(Timestamp(third_left)).len(), 1);
        }

        #[test]
        fn waits_grow_to_their_cap_and_never_undercut_the_authority(
            failures in 1..40u32, told in proptest::option::of(0..1000 * HOUR), seed: u64, length in proptest::option::of(HOUR..2000 * HOUR),
        ) {
            let mut renewals = wanting(&["a.example"]);
            let mut random = Seeded::new(seed);
            let mut now = Timestamp(7 * HOUR);
            if let Some(length) = length {
                renewals.have("a.example", life(0, length), &mut random);
            }
            for number in 1..=failures {
                renewals.ask("a.example");
                renewals.due(now);
                let until = told.map(Timestamp);
                let setback = renewals.failed("a.example", String::new(), until, false, now, &mut random).expect("known");
                prop_assert_eq!(setback.failures, number);
                prop_assert!(setback.until >= until.unwrap_or_default());
                let full = FIRST_WAIT.as_millis() as u64 * 3u64.pow(number.min(12) - 1);
                let cap = (LONGEST_WAIT.as_millis() as u64).min(length.map_or(u64::MAX, |length| (length / 12).max(10_000)));
                let wait = full.min(cap);
                let least = now.0 + wait / 4 * 3;
                let most = now.0 + wait / 4 * 5 + 4;
                prop_assert!(setback.until.0 >= least);
                prop_assert!(setback.until.0 <= most.max(told.unwrap_or(0)));
                now = setback.until;
            }
        }

        #[test]
        fn whatever_happens_a_name_never_has_two_orders_under_way(
            steps in proptest::collection::vec((0..5u8, 0..4usize, 0..10 * HOUR), 1..200), seed: u64,
        ) {
            let names = ["a.example", "b.example", "c.example", "d.example"];
            let mut renewals = wanting(&names);
            let (mut random, mut now, mut open) = (Seeded::new(seed), Timestamp(1), BTreeSet::new());
            for (kind, which, passed) in steps {
                now = Timestamp(now.0 + passed);
                let name = names[which];
                match kind {
                    0 => for name in renewals.due(now) {
                        prop_assert!(open.insert(name));
                    },
                    1 => drop(renewals.ask(name)),
                    2 if open.remove(name) => renewals.ordered(name, life(now.0, HOUR), &mut random),
                    3 if open.remove(name) => {
                        renewals.failed(name, String::new(), None, passed % 2 == 0, now, &mut random);
                    }
                    // A manifest that drops and takes a name again while its order is under way.
                    4 => {
                        renewals.want(&BTreeMap::new());
                        renewals.want(&names.iter().map(|name| ((*name).to_owned(), "dir".to_owned())).collect());
                    }
                    _ => {}
                }
                prop_assert_eq!(&renewals.under_way(), &open);
            }
        }
    }
}
