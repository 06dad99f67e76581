//! `IPBan`: one source that every node drops.

use ip_sentry_core::detect::{
    decision::{self, Decision},
    escalation::Ban,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{condition, schema};

/// The source that is dropped, until when, and why.
#[derive(Clone, CustomResource, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "ipsentry.dev",
    version = "v1alpha1",
    kind = "IPBan",
    plural = "ipbans",
    shortname = "ban",
    shortname = "bans",
    category = "ip-sentry",
    status = "IPBanStatus",
    derive = "PartialEq",
    doc = "One source network whose packets every node of the cluster drops, on all ports, from the moment this object is stored until it expires or is deleted. The operator writes one when a ProbePolicy is triggered; write one yourself, with origin: Manual, to ban by hand. Deleting it lifts the ban on every node at once.",
    selectable = ".spec.cidr",
    selectable = ".spec.origin",
    selectable = ".spec.policyRef.namespace",
    selectable = ".spec.policyRef.name",
    printcolumn(
        name = "CIDR",
        type_ = "string",
        json_path = ".spec.cidr",
        description = "The network that is dropped."
    ),
    printcolumn(
        name = "Enforced",
        type_ = "string",
        json_path = ".status.enforced",
        description = "False where nodes do not drop it although it is there: its condition Enforced says why."
    ),
    printcolumn(
        name = "Policy",
        type_ = "string",
        json_path = ".spec.policyRef.name",
        description = "The ProbePolicy that earned it, empty for a ban made by hand."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".spec.reason",
        description = "The threshold that was met, by hits on what; or what the author of a Manual ban wrote."
    ),
    printcolumn(
        name = "Hits",
        type_ = "integer",
        json_path = ".spec.evidence.hits",
        description = "Hits counted when the ban was decided."
    ),
    printcolumn(
        name = "Offence",
        type_ = "integer",
        json_path = ".spec.offence",
        description = "The number of this ban among those of its source, from 1."
    ),
    printcolumn(
        name = "Expires",
        type_ = "string",
        json_path = ".spec.expiresAt",
        description = "When the ban ends, UTC; empty: when it is deleted."
    ),
    printcolumn(
        name = "Namespace",
        type_ = "string",
        priority = 1,
        json_path = ".spec.policyRef.namespace",
        description = "The namespace of the ProbePolicy."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when it is banned."
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "self.origin != 'Detected' || (has(self.expiresAt) && has(self.policyRef))",
        "message": "a Detected ban has expiresAt and policyRef",
    },
    {
        "rule": "self.origin == 'Detected' || ((!has(self.policyRef) || oldSelf.?policyRef.hasValue()) && (!has(self.evidence) || oldSelf.?evidence.hasValue()) && (!has(self.offence) || oldSelf.?offence.hasValue()))",
        "optionalOldSelf": true,
        "message": "policyRef, evidence and offence belong to a Detected ban: leave them out",
    },
    {
        "rule": "self.origin == oldSelf.origin || self.origin == 'Manual'",
        "message": "a Manual ban never becomes Detected: delete it, and the operator bans again what earns it",
    },
]))]
pub struct IPBanSpec {
    /// The network to drop, as a canonical CIDR with its prefix length: `203.0.113.7/32`, `203.0.113.0/24`,
    /// `2001:db8::/64`. Not wider than /16 (IPv4) or /32 (IPv6), unicast, and outside of every network that
    /// ProtectedNetworks lists. Immutable. The object's name follows from it: the address alone for a single
    /// IPv4 address (`203.0.113.7`), else the CIDR with `-` for `/` and `:` (`203.0.113.0-24`, `2001-db8---64`).
    #[schemars(schema_with = "schema::source")]
    pub cidr: String,
    /// Who decided the ban: `Detected` (the operator, from a log; nobody else may write these) or `Manual`
    /// (you). A Detected ban becomes yours when you apply a Manual one over it, or edit it to Manual: it then
    /// has your expiresAt or lasts until it is deleted, and the operator takes out what it wrote itself, its own
    /// expiresAt too; `kubectl replace` and other clients that send the whole object keep the one that they send.
    /// Never the other way round.
    pub origin: Origin,
    /// When the ban ends, in UTC and whole seconds: `2026-11-22T10:00:00Z`. Every node ends it by itself at that
    /// time, with the operator down too. Absent: it lasts until it is deleted (Manual only). May be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::utc_seconds")]
    pub expires_at: Option<Time>,
    /// Why: the threshold that was met and the patterns that were hit (`2 different patterns: /wp-admin, /.env`,
    /// `3 hits: /wp-admin`, `15 different paths, status 404`; at most three patterns are named, a literal one
    /// without its anchor and escapes), or your own words. At most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "reason")]
    pub reason: Option<String>,
    /// The ProbePolicy whose count was reached. Detected bans only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_ref: Option<PolicyRef>,
    /// The number of this ban among those of its source, from 1: one more than those, over all policies, that ended
    /// within the memory of the policy's escalation, or without one that are remembered. Detected bans only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "offence")]
    pub offence: Option<i32>,
    /// What was seen. Detected bans only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

impl IPBanSpec {
    /// The ban that a decision of `policy` becomes.
    #[must_use]
    pub fn detected(policy: PolicyRef, decision: &Decision, ban: Ban) -> Self {
        let evidence = &decision.evidence;
        Self {
            cidr: decision.source.to_string(),
            origin: Origin::Detected,
            expires_at: Some(Time(ban.expires_at)),
            reason: Some(decision.reason.clone()),
            policy_ref: Some(policy),
            offence: Some(i32::try_from(ban.offence).unwrap_or(i32::MAX)),
            evidence: Some(Evidence {
                hits: i32::try_from(evidence.hits).unwrap_or(i32::MAX),
                threshold: Some(evidence.threshold.into()),
                first_seen: Time(evidence.first_seen),
                last_seen: Time(evidence.last_seen),
                samples: evidence.samples.clone(),
            }),
        }
    }
}

/// Who decided a ban.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Origin {
    /// The operator, from a gateway's log.
    Detected,
    /// A person, or Git.
    Manual,
}

/// The `ProbePolicy` that a ban comes from.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct PolicyRef {
    /// Its namespace.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What was seen of a source when it was banned. Never holds query strings.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Hits counted in the window.
    #[schemars(schema_with = "hits")]
    pub hits: i32,
    /// The threshold of the policy that they met: `Hits` (threshold), `UniquePatterns` (uniquePatternThreshold) or
    /// `UniquePaths` (uniquePathThreshold).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<Threshold>,
    /// The log's time of the first of them.
    pub first_seen: Time,
    /// The log's time of the last of them. The ban lasts from here on.
    pub last_seen: Time,
    /// At most three of the requests, without their query strings: `GET /wp-admin/ 404`.
    #[serde(default)]
    #[schemars(schema_with = "samples")]
    pub samples: Vec<String>,
}

/// A threshold of a policy.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Threshold {
    /// `threshold`: hits.
    Hits,
    /// `uniquePatternThreshold`: different patterns.
    UniquePatterns,
    /// `uniquePathThreshold`: different paths.
    UniquePaths,
}

impl From<decision::Threshold> for Threshold {
    fn from(threshold: decision::Threshold) -> Self {
        match threshold {
            decision::Threshold::Hits => Self::Hits,
            decision::Threshold::UniquePatterns => Self::UniquePatterns,
            decision::Threshold::UniquePaths => Self::UniquePaths,
        }
    }
}

/// What the operator says of a ban, written only where the ban is not enforced.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct IPBanStatus {
    /// Whether nodes drop the network: `True` until the operator finds that they don't; then `False`, and the
    /// condition `Enforced` gives the reason. Each NodeFirewall shows whether its node does.
    #[serde(default = "enforced")]
    #[schemars(schema_with = "enforced_schema")]
    pub enforced: String,
    /// `Enforced=False` with reason `Expired` (it ran out and, not being the operator's own, was left for its
    /// author to delete), `Protected` (protected networks cover all of it; of a ban made by hand
    /// that they cover in part, the rest is dropped, and one by the operator is deleted) or `Deleting` (it was
    /// deleted, and something keeps the object). Absent while the ban is enforced.
    #[serde(default)]
    #[schemars(schema_with = "condition::schema")]
    pub conditions: Vec<Condition>,
}

fn enforced() -> String {
    "True".to_owned()
}

fn enforced_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "enum": ["True", "False"], "default": "True"})
}

fn reason(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "string", "maxLength": 256})
}

fn offence(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "integer", "format": "int32", "minimum": 1})
}

fn hits(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "integer", "format": "int32", "minimum": 0})
}

fn samples(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 3,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 256},
    })
}
