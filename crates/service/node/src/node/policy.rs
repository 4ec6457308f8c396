//! What can be asked about who may speak to whom.

use coppice_api::{PolicyRuleRequest, PolicyRuleSummary, PolicySource};
use coppice_spec::{Pair, Party, PartyError, Verdict};
use coppice_state::Body;

use super::Node;
use crate::error::NodeError;
use crate::host_network;

impl Node {
    /// The rules given by hand, then those of the manifests.
    pub fn policy_rules(&self) -> Vec<PolicyRuleSummary> {
        let state = self.log.read();
        let by_hand = state.policy_rules().map(|(from, to, rule)| PolicyRuleSummary {
            from: Some(from.clone()),
            to: to.clone(),
            verdict: rule.verdict,
            source: PolicySource::Rule,
            at: Some(rule.at),
            by: Some(rule.actor.to_string()),
        });
        let mut rules: Vec<PolicyRuleSummary> = by_hand.collect();
        for (app, wanted) in state.apps() {
            let policy = &wanted.spec().policy;
            let declared = |from: Option<Party>, to: Party, verdict: Verdict| PolicyRuleSummary {
                from,
                to,
                verdict,
                source: PolicySource::Manifest,
                at: None,
                by: None,
            };
            let party = |workload: &coppice_base::Name| Party { app: app.clone(), workload: Some(workload.clone()) };
            let pair = |pair: &Pair, verdict| declared(Some(party(&pair.from)), party(&pair.to), verdict);
            rules.extend(policy.deny.iter().map(|denied| pair(denied, Verdict::Deny)));
            rules.extend(policy.allow.iter().map(|allowed| pair(allowed, Verdict::Allow)));
            if policy.default == Verdict::Deny {
                rules.push(declared(None, Party { app: app.clone(), workload: None }, Verdict::Deny));
            }
        }
        rules
    }

    /// Returns when the rule is in the log and in force on this node.
    pub async fn set_policy_rule(&self, uid: u32, request: PolicyRuleRequest) -> Result<(), NodeError> {
        let PolicyRuleRequest { from, to, verdict } = request;
        if verdict == Verdict::Deny
            && let Some(why) = host_network::refused_rule(&self.log.read(), &from, &to)
        {
            return Err(NodeError::Invalid(why));
        }
        self.change_policy(uid, Body::SetPolicyRule { from, to, verdict }).await
    }

    pub async fn remove_policy_rule(&self, uid: u32, from: &str, to: &str) -> Result<(), NodeError> {
        let party = |text: &str| text.parse().map_err(|error: PartyError| NodeError::Invalid(error.to_string()));
        self.change_policy(uid, Body::RemovePolicyRule { from: party(from)?, to: party(to)? }).await
    }

    async fn change_policy(&self, uid: u32, body: Body) -> Result<(), NodeError> {
        self.propose(uid, body).await?;
        self.containers.policies.follow(self.log.read());
        self.containers.enforce()
    }
}
