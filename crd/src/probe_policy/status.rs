//! What the operator says of a policy.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition;

/// Whether the policy works, and what it counted. Written by the replica of the operator that leads: at once when a
/// condition changes, else every 30 seconds; with more than 180 policies six a second, in turn. `observedAt` shows how
/// old it is: when it grows much older than that, no operator is at work.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbePolicyStatus {
    /// `Ready` sums up the next four: the policy as written is in force, and the logs of its targets are read and
    /// understood. Wait for it, and let Flux or Argo CD do so. When one of them is False, `Ready` has the reason of the
    /// first; a log that has no lines yet does not keep it from being True. In mode Enforce it is False, too, when the
    /// API server has refused every ban for a minute for want of rights, of ProtectedNetworks/cluster or of a kind.
    /// Where it is True, its reason is `Enforcing`, `Shadow` or, when another condition says that something is wrong,
    /// `Degraded`; its message names each. In mode Shadow what is said of bans leaves it alone.
    /// `Accepted`: the policy as written is in force. `ResolvedRefs`: its targets exist and have pods.
    /// `LogsStreaming`: their logs can be read. `LogsParsed`: the lines have the policy's format.
    /// `LinesWhole`: no line was left out because it came right after a line of 16 KiB or more, or after a message of
    /// nginx that quotes a client, and may be a part of it.
    /// `ClocksAgree`: the clocks of the nodes agree with the operator's.
    /// `WindowComplete`: every hit of the last window was seen; not so for a while where a log did not go back
    /// that far when the operator began to read it, the policy came to a log that was read already, or its window
    /// was made longer.
    /// `ClientIPPreserved`: the log shows the clients' own addresses, not those of nodes or proxies.
    /// `BansEffective`: drops are not paused, every agent's NodeFirewall is Ready, which the operator checks every 20
    /// seconds, and the log shows no source long after it was banned.
    /// `BansStored`: the API server takes the bans that are earned.
    /// `BansLimited`: more bans are earned than are written.
    #[serde(default)]
    #[schemars(schema_with = "condition::schema")]
    pub conditions: Vec<Condition>,
    /// When the operator last looked at the policy and its logs. Older than a minute (with more than 300
    /// policies: than 0.2 seconds for each): no operator is at work, whatever the conditions say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Containers whose logs are being read.
    #[serde(default)]
    pub streams: i32,
    /// Since when `lines`, `parsed`, `hits` and `earned` have been counted: since the replica that leads took the policy
    /// up. They start over when the policy is created again, and change to another replica's when that one leads.
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
    /// Bans of this policy that are in force now.
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
