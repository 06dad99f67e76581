//! `NodeFirewall`: what one node enforces.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::condition;

/// Nothing: there is nothing to configure on a node.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "ipsentry.dev",
    version = "v1alpha1",
    kind = "NodeFirewall",
    plural = "nodefirewalls",
    shortname = "nfw",
    category = "ip-sentry",
    status = "NodeFirewallStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "What one node enforces. Named as the node, written by that node's agent only, and gone when the node goes. Read it to see whether bans work there.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether this node drops every banned source."
    ),
    printcolumn(
        name = "Backend",
        type_ = "string",
        json_path = ".status.backend",
        description = "How: kernel sets (Ipset) or one rule a ban (Rules)."
    ),
    printcolumn(
        name = "Entries",
        type_ = "integer",
        json_path = ".status.entries",
        description = "Banned networks in the kernel."
    ),
    printcolumn(
        name = "Dropped",
        type_ = "integer",
        json_path = ".status.packetsDropped",
        description = "Packets dropped."
    ),
    printcolumn(
        name = "Operator",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"OperatorActive\")].status",
        description = "Whether an operator leads, as this node sees it: without one nothing new is banned."
    ),
    printcolumn(
        name = "Heartbeat",
        type_ = "date",
        json_path = ".status.lastHeartbeat",
        description = "When the agent last wrote this."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not ready."
    )
)]
pub struct NodeFirewallSpec {}

/// What the agent found and did.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFirewallStatus {
    /// `Ready`: every ban is in the kernel, the rules stand where they must, and `Enforcing` is True. `Enforcing`:
    /// drops are not paused, and packets to pods were not seen to go around the rules. `BackendDetected`: the
    /// kernel has what the backend needs. `ChainFirst`: nothing in INPUT, FORWARD or OUTPUT comes before our
    /// chains. `OperatorActive`: an operator leads, by its sign of life in ProtectedNetworks; False 50 seconds
    /// after the last.
    #[serde(default)]
    #[schemars(schema_with = "condition::schema")]
    pub conditions: Vec<Condition>,
    /// How bans are enforced: `Ipset` (kernel sets, any number) or `Rules` (one rule a ban, a bounded number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<Backend>,
    /// What this node's kube-proxy writes its rules with: `nft`, `legacy`, `nftables` or `unknown`.
    /// Bans work with each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kube_proxy: Option<String>,
    /// Banned networks in the kernel, IPv4 and IPv6 together. Written some seconds after it changes, at most every
    /// 20 seconds; packets, bytes and times with the heartbeat.
    #[serde(default)]
    pub entries: i64,
    /// Packets of banned sources dropped since the chain was made.
    #[serde(default)]
    pub packets_dropped: i64,
    /// Bytes of those packets.
    #[serde(default)]
    pub bytes_dropped: i64,
    /// The resourceVersion of the last change to the bans that is in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_applied_resource_version: Option<String>,
    /// How long the last changes took from their arrival here until the kernel confirmed them, 99th
    /// percentile, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_micros_p99: Option<i64>,
    /// How often this agent had to put right what somebody else changed, since it started.
    #[serde(default)]
    pub repairs: i64,
    /// Until when nothing is dropped here, by spec.pausedUntil of ProtectedNetworks. Absent where drops are not
    /// paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Time>,
    /// Ports of this node that banned sources reach, such as `TCP/22`: spec.failsafePorts of ProtectedNetworks, and
    /// the API server's where it runs here. As read back from the kernel's rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "up_to_64_texts")]
    pub failsafe_ports: Vec<String>,
    /// API servers on other nodes that banned sources reach through this one, such as `10.0.0.5:6443`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "up_to_64_texts")]
    pub api_servers: Vec<String>,
    /// When the agent last wrote this; at least every 60 seconds and some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<Time>,
}

fn up_to_64_texts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 64},
    })
}

/// How a node enforces bans.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Backend {
    /// Kernel sets: one look-up a packet, however many bans.
    Ipset,
    /// One rule a ban, for kernels without sets.
    Rules,
}
