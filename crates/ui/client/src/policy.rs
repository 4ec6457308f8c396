//! Who may speak to whom.

use coppice_api::{PolicyRuleRequest, PolicyRuleSummary, path};

use crate::target::Target;
use crate::{Client, ClientError};

impl Client {
    /// Those given by hand and those of manifests.
    pub async fn policy_rules(&self) -> Result<Vec<PolicyRuleSummary>, ClientError> {
        self.get(Target::of(path::POLICY)).await
    }

    /// Returns when it is in force.
    pub async fn set_policy_rule(&self, request: &PolicyRuleRequest) -> Result<(), ClientError> {
        self.command(Target::of(path::POLICY), Some(request)).await
    }

    pub async fn remove_policy_rule(&self, from: &str, to: &str) -> Result<(), ClientError> {
        self.delete(Target::of(path::POLICY).query("from", from).query("to", to)).await
    }
}
