//! Who may speak to whom: rules given by hand, over what each app's manifest says.
//!
//! The most specific rule decides: one between two services, then one between a service and an app, then one between
//! two apps; of equally specific ones deny wins. Where no rule is about a pair, services of one app ask their `[policy]`,
//! and whoever comes from elsewhere (another app, a container started ad hoc) gets the default of the app they speak to.
//!
//! A rule about an app is about its previews, too, where none names the preview: among a preview's services, and between
//! them and other apps. To the app beside which it stands a preview is a stranger: what the app's services are allowed
//! among themselves is not allowed to the preview's; what they are denied is.

use coppice_base::{Name, Timestamp};
use coppice_spec::{Pair, Party, Verdict};
use serde::{Deserialize, Serialize};

use crate::{Actor, Command, Effect, Rejection, State};

/// Rules there can be: more than any set of rules a person keeps in mind, and few enough for every packet's lookup.
pub const RULES_MAX: usize = 4096;

/// A rule given by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    pub verdict: Verdict,
    pub at: Timestamp,
    pub actor: Actor,
}

/// A service or worker of an app.
pub type Speaker<'a> = (&'a Name, &'a Name);

/// What decides about a pair, in the order in which it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decider {
    /// What a service says to itself is nobody's business.
    Itself,
    /// A rule given by hand.
    Rule { from: Party, to: Party },
    /// A line of `[policy]` of this app's manifest.
    Manifest { app: Name },
    /// `[policy] default` of this app's manifest.
    Default { app: Name },
}

impl State {
    /// All rules given by hand, from → to.
    pub fn policy_rules(&self) -> impl Iterator<Item = (&Party, &Party, &PolicyRule)> {
        self.policy.iter().flat_map(|(from, rules)| rules.iter().map(move |(to, rule)| (from, to, rule)))
    }

    /// Whether `from` may begin to speak to `to`. `None` is a container that is of no app. What a service says to itself
    /// is nobody's business.
    pub fn may_speak(&self, from: Option<Speaker<'_>>, to: Speaker<'_>) -> bool {
        self.decide(from, to).0 == Verdict::Allow
    }

    /// The same, and what decides it.
    pub fn decide(&self, from: Option<Speaker<'_>>, to: Speaker<'_>) -> (Verdict, Decider) {
        if from == Some(to) {
            return (Verdict::Allow, Decider::Itself);
        }
        let ruled = from.and_then(|from| self.ruled(from, to));
        ruled.unwrap_or_else(|| self.declared(from, to))
    }

    /// What the rules given by hand say, those that name a preview before those that name what it stands beside.
    fn ruled(&self, from: Speaker<'_>, to: Speaker<'_>) -> Option<(Verdict, Decider)> {
        let (of_from, of_to) = (self.stands_for(from.0), self.stands_for(to.0));
        let ways = [(from.0, to.0), (from.0, of_to), (of_from, to.0), (of_from, of_to)];
        // What is said of a preview and its app is not of the preview's own services.
        let mut ways = ways.into_iter().filter(|(one, other)| from.0 != to.0 || one == other);
        ways.find_map(|(one, other)| {
            let (verdict, decider) = self.rule_between((one, from.1), (other, to.1))?;
            let is_of_one = from.0 != to.0 && one == other;
            (!is_of_one || verdict == Verdict::Deny).then_some((verdict, decider))
        })
    }

    /// The app beside which a preview stands; any other is itself.
    fn stands_for<'n>(&'n self, app: &'n Name) -> &'n Name {
        self.app(app.as_str()).and_then(|app| app.preview.as_ref()).map_or(app, |preview| &preview.of)
    }

    fn rule_between(&self, from: Speaker<'_>, to: Speaker<'_>) -> Option<(Verdict, Decider)> {
        let sides = |(app, workload): Speaker<'_>| {
            [Party { app: app.clone(), workload: Some(workload.clone()) }, Party { app: app.clone(), workload: None }]
        };
        let (from, to) = (sides(from), sides(to));
        let rule = |(one, other): (usize, usize)| {
            let verdict = self.policy.get(&from[one])?.get(&to[other])?.verdict;
            Some((verdict, (one, other)))
        };
        let levels: [&[(usize, usize)]; 3] = [&[(0, 0)], &[(0, 1), (1, 0)], &[(1, 1)]];
        let (verdict, (one, other)) =
            levels.iter().find_map(|level| level.iter().filter_map(|place| rule(*place)).max())?;
        Some((verdict, Decider::Rule { from: from[one].clone(), to: to[other].clone() }))
    }

    /// What the manifests say.
    fn declared(&self, from: Option<Speaker<'_>>, to: Speaker<'_>) -> (Verdict, Decider) {
        let by_default = Decider::Default { app: to.0.clone() };
        let Some(policy) = self.app(to.0.as_str()).map(|app| &app.spec().policy) else {
            return (Verdict::Allow, by_default);
        };
        match from {
            Some((app, workload)) if app == to.0 => {
                let pair = Pair { from: workload.clone(), to: to.1.clone() };
                let is_named = policy.deny.contains(&pair) || policy.allow.contains(&pair);
                let decider = if is_named { Decider::Manifest { app: app.clone() } } else { by_default };
                (policy.verdict(workload, to.1), decider)
            }
            _ => (policy.default, by_default),
        }
    }

    pub(crate) fn set_rule(
        &mut self,
        command: &Command,
        from: &Party,
        to: &Party,
        verdict: Verdict,
    ) -> Result<Effect, Rejection> {
        self.known_party(from)?;
        self.known_party(to)?;
        let is_new = self.policy.get(from).is_none_or(|rules| !rules.contains_key(to));
        if is_new && self.policy_rules().count() >= RULES_MAX {
            return Err(Rejection::TooManyRules);
        }

        let rule = PolicyRule { verdict, at: command.at, actor: command.actor.clone() };
        self.policy.entry(from.clone()).or_default().insert(to.clone(), rule);
        Ok(Effect::Recorded)
    }

    pub(crate) fn remove_rule(&mut self, from: &Party, to: &Party) -> Result<Effect, Rejection> {
        if self.policy.get(from).is_none_or(|rules| !rules.contains_key(to)) {
            return Err(Rejection::UnknownRule { from: from.clone(), to: to.clone() });
        }

        let rules = self.policy.get_mut(from).expect("the rule was found above");
        rules.remove(to);
        if rules.is_empty() {
            self.policy.remove(from);
        }
        Ok(Effect::Recorded)
    }

    /// A rule about a name that is not there would protect nothing, and nobody would notice.
    fn known_party(&self, party: &Party) -> Result<(), Rejection> {
        let app = self.app(party.app.as_str()).ok_or_else(|| Rejection::UnknownApp(party.app.clone()))?;
        match &party.workload {
            Some(workload) if app.spec().workload(workload.as_str()).is_none() => {
                Err(Rejection::UnknownWorkload { app: party.app.clone(), workload: workload.clone() })
            }
            _ => Ok(()),
        }
    }
}
