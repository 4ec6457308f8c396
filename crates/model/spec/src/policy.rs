//! Which services may speak to which.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use coppice_base::Name;
use serde::{Deserialize, Serialize};

/// `[policy]`: what holds between services of one app, and from other apps to it. Rules set by `coppice policy` win
/// over these. A denied pair is denied on every way: address, virtual address, published port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySpec {
    pub default: Verdict,
    pub allow: BTreeSet<Pair>,
    pub deny: BTreeSet<Pair>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    #[default]
    Allow,
    Deny,
}

/// A direction: who begins to speak, and to whom. Answers are always let through.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pair {
    pub from: Name,
    pub to: Name,
}

/// One side of a rule that is about several apps: a service or worker of an app (`shop/web`), or all of them (`shop`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Party {
    pub app: Name,
    /// `None`: every one of the app's.
    pub workload: Option<Name>,
}

/// What is neither `APP` nor `APP/SERVICE`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no service: write APP/SERVICE (`shop/web`), or APP for all of an app's; {why}")]
pub struct PartyError {
    text: String,
    why: String,
}

impl Party {
    /// Whether `workload` of `app` is meant.
    pub fn covers(&self, app: &Name, workload: &Name) -> bool {
        self.app == *app && self.workload.as_ref().is_none_or(|own| own == workload)
    }
}

impl FromStr for Party {
    type Err = PartyError;

    fn from_str(text: &str) -> Result<Self, PartyError> {
        let name =
            |part: &str| Name::new(part).map_err(|error| PartyError { text: text.to_owned(), why: error.to_string() });
        match text.split_once('/') {
            Some((app, workload)) => Ok(Self { app: name(app)?, workload: Some(name(workload)?) }),
            None => Ok(Self { app: name(text)?, workload: None }),
        }
    }
}

impl TryFrom<String> for Party {
    type Error = PartyError;

    fn try_from(text: String) -> Result<Self, PartyError> {
        text.parse()
    }
}

impl From<Party> for String {
    fn from(party: Party) -> Self {
        party.to_string()
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.workload {
            Some(workload) => write!(f, "{}/{workload}", self.app),
            None => write!(f, "{}", self.app),
        }
    }
}

impl PolicySpec {
    /// Deny wins over allow, and either over the default. A service may always speak to itself.
    pub fn verdict(&self, from: &Name, to: &Name) -> Verdict {
        let pair = Pair { from: from.clone(), to: to.clone() };
        if from == to {
            Verdict::Allow
        } else if self.deny.contains(&pair) {
            Verdict::Deny
        } else if self.allow.contains(&pair) {
            Verdict::Allow
        } else {
            self.default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_is_an_app_or_a_service_of_one() {
        for good in ["shop", "shop/web"] {
            assert_eq!(good.parse::<Party>().unwrap().to_string(), good);
        }
        for bad in ["", "/web", "shop/", "shop/web/1", "Shop!", "a b"] {
            assert!(bad.parse::<Party>().is_err(), "{bad:?}");
        }
        let name = |text| Name::new(text).unwrap();
        let all: Party = "shop".parse().unwrap();
        assert!(all.covers(&name("shop"), &name("web")) && !all.covers(&name("blog"), &name("web")));
    }

    #[test]
    fn deny_wins_over_allow_and_both_over_the_default() {
        let name = |text| Name::new(text).unwrap();
        let pair = |from, to| Pair { from: name(from), to: name(to) };
        let mut policy = PolicySpec { default: Verdict::Deny, allow: [pair("web", "db")].into(), deny: [].into() };
        assert_eq!(policy.verdict(&name("web"), &name("db")), Verdict::Allow);
        assert_eq!(policy.verdict(&name("db"), &name("web")), Verdict::Deny);
        assert_eq!(policy.verdict(&name("db"), &name("db")), Verdict::Allow);
        policy.deny.insert(pair("web", "db"));
        assert_eq!(policy.verdict(&name("web"), &name("db")), Verdict::Deny);
    }
}
