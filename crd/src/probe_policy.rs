//! `ProbePolicy`: what probing looks like in one gateway's access log.

mod aggregate;
mod client_ip;
mod escalation;
mod except;
mod format;
mod r#match;
mod rules;
mod status;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

pub use aggregate::Aggregate;
pub use client_ip::{ClientIp, ClientIpHeader};
pub use escalation::Escalation;
pub use except::Except;
pub use format::{JsonFields, LogFormat, Preset};
pub use r#match::{Catalogue, Match};
pub use status::{LastBan, ProbePolicyStatus};

/// Which log is read, what counts as a hit, and how many hits earn a ban.
#[derive(Clone, CustomResource, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "ipsentry.dev",
    version = "v1alpha1",
    kind = "ProbePolicy",
    plural = "probepolicies",
    namespaced,
    shortname = "probepol",
    category = "ip-sentry",
    status = "ProbePolicyStatus",
    derive = "PartialEq",
    doc = "What probing looks like in one gateway's access log, and when it earns a ban. Attaches to gateways of its own namespace. With nothing but a target it bans for 24 hours whoever asks for 3 of the classic probe paths, or for 2 different ones, within 2 minutes. Several policies on one gateway each count alone. Whoever may write these can ban on every node: grant it with care.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mode",
        description = "Enforce or Shadow."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether the policy as written is in force, and its targets' logs are read and understood."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is not Ready; Degraded: it is, but another condition says what is wrong. Else Enforcing or Shadow."
    ),
    printcolumn(
        name = "Streams",
        type_ = "integer",
        json_path = ".status.streams",
        description = "Containers whose logs are being read."
    ),
    printcolumn(
        name = "Hits",
        type_ = "integer",
        json_path = ".status.hits",
        description = "Requests that matched and counted, since COUNTED: they start over when another replica of the operator leads."
    ),
    printcolumn(
        name = "Bans",
        type_ = "integer",
        json_path = ".status.bans",
        description = "Bans of this policy that are in force now: kubectl get ipbans --field-selector spec.policyRef.name=NAME"
    ),
    printcolumn(
        name = "Counted",
        type_ = "date",
        json_path = ".status.countersSince",
        description = "For how long HITS have been counted."
    ),
    printcolumn(
        name = "Observed",
        type_ = "date",
        json_path = ".status.observedAt",
        description = "How long ago the operator last looked at it. More than a minute: no operator detects."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the policy as written is in force."
    ),
    printcolumn(
        name = "Parsed",
        type_ = "string",
        priority = 1,
        json_path = ".status.conditions[?(@.type==\"LogsParsed\")].status",
        description = "Whether the log's lines have the policy's format."
    ),
    printcolumn(
        name = "Target",
        type_ = "string",
        priority = 1,
        json_path = ".spec.targetRefs[*].name",
        description = "What it is attached to."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when it exists."
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules::of_spec()))]
pub struct ProbePolicySpec {
    /// The Gateways or Services whose pods' logs are read, in this policy's own namespace; 1 to 16. A Gateway's
    /// pods are those labelled `gateway.networking.k8s.io/gateway-name`, a Service's those of its selector.
    /// Give this or podSelector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "target_refs")]
    pub target_refs: Option<Vec<TargetRef>>,
    /// The pods whose logs are read, by their labels, in this policy's own namespace. Give this or targetRefs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "pod_selector")]
    pub pod_selector: Option<LabelSelector>,
    /// The container whose log is read. Default: the pod's only container, else the one that is named as a
    /// known gateway's is (nginx, envoy, traefik, haproxy, controller, istio-proxy).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "container")]
    pub container: Option<String>,
    /// How a line of the log reads. Default: preset `NginxCombined`.
    #[serde(default)]
    pub format: LogFormat,
    /// Where the client's address is found when the gateway's peer is a proxy in front of it. Default: the peer
    /// is the client, as the gateway saw it; nothing that a client sends can change that.
    #[serde(default, rename = "clientIP", skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIp>,
    /// What a hit is. Default: the catalogue Default.
    #[serde(default, rename = "match")]
    pub r#match: Match,
    /// What is never counted by this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<Except>,
    /// Hits of one source within the window that earn a ban, 0 to 10,000; 0 turns it off. Default 3.
    #[serde(default = "three")]
    #[schemars(schema_with = "threshold")]
    pub threshold: i32,
    /// Different patterns that one source hits within the window and that earn a ban, 0 to 1,000; 0 turns it
    /// off. Default 2.
    #[serde(default = "two")]
    #[schemars(schema_with = "unique_pattern_threshold")]
    pub unique_pattern_threshold: i32,
    /// Different paths that one source hits within the window and that earn a ban, 0 to 1,000; 0 turns it off.
    /// Paths are told apart in their normalised form, without the query. Default 0.
    #[serde(default)]
    #[schemars(schema_with = "unique_path_threshold")]
    pub unique_path_threshold: i32,
    /// How long a hit counts, by the log's own time; 1s to 24h. Default 2m.
    #[serde(default = "two_minutes")]
    #[schemars(schema_with = "window")]
    pub window: String,
    /// How long a source's first ban lasts, from its last hit on, and without escalation every ban; 1m to 8760h.
    /// Default 24h.
    #[serde(default = "one_day")]
    #[schemars(schema_with = "ban_duration")]
    pub ban_duration: String,
    /// How the bans of one source become longer. Default: every ban lasts banDuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<Escalation>,
    /// The prefix length by which IPv6 sources are counted and banned, 32 to 128. Default 64: what one customer
    /// usually gets, who else would have 18 trillion million addresses to try.
    #[serde(default = "sixty_four")]
    #[schemars(schema_with = "ipv6_prefix_length")]
    pub ipv6_prefix_length: i32,
    /// Which neighbours are banned together. Default: IPv6 networks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregate: Option<Aggregate>,
    /// What to do with clients of private addresses (RFC 1918, RFC 4193, RFC 6598): `Ignore`, as they mostly
    /// are a proxy or a node in front of many people, or `Ban`, for a gateway inside a company network.
    /// Protected networks are never banned either way. Default Ignore.
    #[serde(default)]
    pub private_clients: PrivateClients,
    /// `Enforce`, or `Shadow`: everything but the ban. What it would have done is in the status, the events and
    /// the metrics. Bans that exist already stay. Default Enforce.
    #[serde(default)]
    pub mode: Mode,
}

/// A Gateway or a Service in the policy's own namespace.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.group == 'gateway.networking.k8s.io' && self.kind == 'Gateway') || (self.group == '' && self.kind == 'Service')",
    "message": "a target is a Gateway (group gateway.networking.k8s.io) or a Service (empty group)",
}]))]
pub struct TargetRef {
    /// `gateway.networking.k8s.io` for a Gateway, empty for a Service.
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Gateway` or `Service`.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What to do with clients of private addresses.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum PrivateClients {
    /// Never count them.
    #[default]
    Ignore,
    /// Treat them as any other.
    Ban,
}

/// Whether a policy bans.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Mode {
    /// It bans.
    #[default]
    Enforce,
    /// It only says what it would do.
    Shadow,
}

fn three() -> i32 {
    3
}

fn two() -> i32 {
    2
}

fn sixty_four() -> i32 {
    64
}

fn two_minutes() -> String {
    "2m".to_owned()
}

fn one_day() -> String {
    "24h".to_owned()
}

fn target_refs(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<TargetRef>();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "x-kubernetes-validations": [{
            "rule": "self.all(a, self.exists_one(b, a.group == b.group && a.kind == b.kind && a.name == b.name))",
            "message": "targetRefs must be distinct",
        }],
        "items": items,
    })
}

fn pod_selector(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = LabelSelector::json_schema(generator);
    schema.insert("x-kubernetes-map-type".into(), "atomic".into());
    schema
}

fn container(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "minLength": 1, "maxLength": 63})
}

fn threshold(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 10_000})
}

fn unique_pattern_threshold(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 1_000})
}

fn unique_path_threshold(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 1_000})
}

fn ipv6_prefix_length(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 32, "maximum": 128})
}

fn window(_: &mut SchemaGenerator) -> Schema {
    schema::duration("window", "1s", "24h")
}

fn ban_duration(_: &mut SchemaGenerator) -> Schema {
    schema::duration("banDuration", "1m", "8760h")
}
