//! What the operator says of a policy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition;

/// Whether the policy works, and what it counted. Written by the replica of the operator that leads: at once when a
/// condition changes, else every 30 seconds, with more than 180 policies as much more seldom as there are more. A
/// status that is older than that is no longer looked after: `observedAt` says.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbePolicyStatus {
    /// `Ready` sums up the next four: the policy as written is in force, and the logs of its targets are read and
    /// understood. Wait for it, and let Flux or Argo CD do so. False with the reason of the first of them that does
    /// not hold; a log without lines yet holds nothing up.
    /// `Accepted`: the policy as written is in force. `ResolvedRefs`: its targets exist and have pods.
    /// `LogsStreaming`: their logs can be read. `LogsParsed`: the lines have the policy's format.
    /// `WindowComplete`: every hit of the last window was seen; not so for a while where a log did not go back
    /// that far when the operator began to read it, the policy came to a log that was read already, or its window
    /// was made longer.
    /// `ClientIPPreserved`: the log shows the clients' own addresses, not those of nodes or proxies.
    /// `BansEffective`: every agent's NodeFirewall is Ready, as the operator looks each minute, and no source is seen
    /// in the log long after it was banned.
    /// `BansStored`: the API server takes the bans that are earned.
    /// `BansLimited`: more bans are earned than are written.
    #[serde(default)]
    #[schemars(schema_with = "condition::schema")]
    pub conditions: Vec<Condition>,
    /// When the operator last looked at the policy and its logs. While it grows older than a minute, nobody is
    /// detected, whatever the conditions say: does the operator run?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Containers whose logs are being read.
    #[serde(default)]
    pub streams: i32,
    /// Since when the counters below count: since the replica that leads took the policy up. They start over when the
    /// policy is created again, and change to another replica's when that one leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counters_since: Option<Time>,
    /// Lines read.
    #[serde(default)]
    pub lines: i64,
    /// Lines of them that had the policy's format.
    #[serde(default)]
    pub parsed: i64,
    /// Requests that matched and counted.
    #[serde(default)]
    pub hits: i64,
    /// Sources that earned a ban; in mode Shadow they were let go.
    #[serde(default)]
    pub earned: i64,
    /// Bans of this policy that are in force now, whoever counted them.
    #[serde(default)]
    pub bans: i64,
    /// The last source that earned a ban.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ban: Option<LastBan>,
}

/// The last source that earned a ban.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct LastBan {
    /// Its network.
    pub cidr: String,
    /// The log's time of its last hit.
    pub at: Time,
    /// The threshold that it met, by hits on what: as in the ban's `spec.reason`.
    pub reason: String,
    /// Whether it was banned, or in mode Shadow let go.
    pub enforced: bool,
}
