//! Who may speak to whom.

use coppice_base::Timestamp;
use coppice_spec::{Party, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Lets a service speak to another, or not. Replaces a rule for the same two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRuleRequest {
    /// Who begins: `shop/web`, or `shop` for all of an app's.
    #[schema(value_type = String)]
    pub from: Party,
    /// To whom.
    #[schema(value_type = String)]
    pub to: Party,
    /// `allow` or `deny`.
    #[schema(value_type = String)]
    pub verdict: Verdict,
}

/// Where a rule comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicySource {
    /// `coppice policy`.
    Rule,
    /// `[policy]` of the manifest of the app that `to` is of.
    Manifest,
}

/// One of the rules in force. Rules given by hand win over those of manifests; of the former the most specific, then
/// deny.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyRuleSummary {
    /// `None`: everybody else (a manifest's default).
    #[schema(value_type = Option<String>)]
    pub from: Option<Party>,
    #[schema(value_type = String)]
    pub to: Party,
    #[schema(value_type = String)]
    pub verdict: Verdict,
    pub source: PolicySource,
    /// When it was given by hand.
    #[schema(value_type = Option<u64>)]
    pub at: Option<Timestamp>,
    /// Who gave it: `uid 0`.
    pub by: Option<String>,
}
