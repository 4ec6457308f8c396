//! Which services may speak to which.

use std::collections::BTreeSet;

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
