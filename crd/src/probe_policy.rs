//! `ProbePolicy`: what probing looks like in one gateway's access log.

mod status;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

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
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Accepted\")].status",
        description = "Whether the policy as written is in force."
    ),
    printcolumn(
        name = "Parsed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"LogsParsed\")].status",
        description = "Whether the log's lines have the policy's format."
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
        description = "Hits since status.countersSince."
    ),
    printcolumn(
        name = "Bans",
        type_ = "integer",
        json_path = ".status.bans",
        description = "Bans since status.countersSince; in mode Shadow the ones it would have made."
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
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.targetRefs) != has(self.podSelector)",
        "message": "give exactly one of targetRefs and podSelector",
    },
    {
        "rule": "self.threshold > 0 || self.uniquePatternThreshold > 0",
        "message": "threshold and uniquePatternThreshold are both 0: nothing would ever be banned",
    },
]))]
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
    /// How long a hit counts, by the log's own time; 1s to 24h. Default 2m.
    #[serde(default = "two_minutes")]
    #[schemars(schema_with = "window")]
    pub window: String,
    /// How long a ban lasts from its last hit on; 1m to 8760h. Default 24h.
    #[serde(default = "one_day")]
    #[schemars(schema_with = "ban_duration")]
    pub ban_duration: String,
    /// The prefix length by which IPv6 sources are counted and banned, 32 to 128. Default 64: what one customer
    /// usually gets, who else would have 18 trillion million addresses to try.
    #[serde(default = "sixty_four")]
    #[schemars(schema_with = "ipv6_prefix_length")]
    pub ipv6_prefix_length: i32,
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

/// How a line of the log reads: exactly one of the two.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.preset) != has(self.regex)",
    "message": "give exactly one of format.preset and format.regex",
}]))]
pub struct LogFormat {
    /// A well-known format. `NginxCombined`: what nginx and NGINX Gateway Fabric write by default, and the
    /// common log format of Apache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// A regular expression for one line, in the syntax that RE2 and Rust share, anchored with `^`. The groups
    /// `(?P<ip>…)` and `(?P<path>…)` name the client and the request target, `(?P<method>…)` and
    /// `(?P<status>…)` may be there for the evidence; without named groups the first is the client and the
    /// second the target. At most 1,024 characters.
    /// Put the client left of everything that a client writes itself, or it can forge another's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "format_regex")]
    pub regex: Option<String>,
}

/// A well-known log format.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Preset {
    /// `203.0.113.7 - - [22/Nov/2026:10:00:00 +0000] "GET /wp-admin/ HTTP/1.1" 404 153 "-" "curl/8"`
    NginxCombined,
}

/// What a hit is: a request whose path matches one of the catalogues' patterns or of your own.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(has(self.catalogues) && self.catalogues.size() > 0) || (has(self.patterns) && self.patterns.size() > 0)",
    "message": "say what a hit is: give match.catalogues or match.patterns",
}]))]
pub struct Match {
    /// Lists of patterns that come with ip-sentry. `Default`: the 15 classic probe paths, such as /wp-admin,
    /// /.env, /.git/ and /phpmyadmin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "catalogues")]
    pub catalogues: Vec<Catalogue>,
    /// Your own patterns: regular expressions in the syntax that RE2 and Rust share, searched in the request
    /// target (the normalised path, then `?` and the query); `^` is the path's root. At most 64 of at most 512
    /// characters. The first that matches is the one reported; the catalogues' come before yours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::patterns")]
    pub patterns: Vec<String>,
}

/// A list of patterns that comes with ip-sentry.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Catalogue {
    /// The 15 classic probe paths.
    Default,
}

/// What is never counted.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Except {
    /// Networks whose requests this policy ignores, as canonical CIDRs; at most 256. Adding one lifts this
    /// policy's bans that overlap it. For networks that nobody may ever ban see ProtectedNetworks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "except_cidrs")]
    pub cidrs: Vec<String>,
    /// Requests that are no hit though a pattern matches, by patterns of the same kind; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::patterns")]
    pub patterns: Vec<String>,
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

impl Default for LogFormat {
    fn default() -> Self {
        Self { preset: Some(Preset::NginxCombined), regex: None }
    }
}

impl Default for Match {
    fn default() -> Self {
        Self { catalogues: vec![Catalogue::Default], patterns: Vec::new() }
    }
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

fn format_regex(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "minLength": 1,
        "maxLength": 1024,
        "x-kubernetes-validations": [
            {
                "rule": "self.startsWith('^')",
                "message": "format.regex must start with ^: unanchored, a client could place a forged line inside its own",
            },
            {
                "rule": "!''.matches(self)",
                "message": "format.regex must compile as RE2 and must not match an empty line",
            },
            {
                "rule": "self.contains('?P<') || self.contains('?<') ? (self.contains('<ip>') && self.contains('<path>')) : self.replace('(?:', '').matches('[(].*[(]')",
                "message": "format.regex needs the groups (?P<ip>…) and (?P<path>…), or two plain groups: the client, then the path",
            },
        ],
    })
}

fn catalogues(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<Catalogue>();
    json_schema!({"type": "array", "maxItems": 32, "x-kubernetes-list-type": "atomic", "items": items})
}

fn except_cidrs(generator: &mut SchemaGenerator) -> Schema {
    schema::networks(generator, 256)
}

fn threshold(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 10_000})
}

fn unique_pattern_threshold(_: &mut SchemaGenerator) -> Schema {
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
