//! `PolicyLimits`: how far the authors of policies may go.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// How far policies may go. What is absent is limited by ProbePolicy's own bounds alone.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "ipsentry.dev",
    version = "v1alpha1",
    kind = "PolicyLimits",
    plural = "policylimits",
    singular = "policylimits",
    category = "ip-sentry",
    derive = "PartialEq",
    derive = "Default",
    doc = "How far the authors of ProbePolicies may go. There is one object, named cluster, written by whoever runs the cluster; without it nothing is limited beyond ProbePolicy's own bounds. The API server holds a policy to it when the policy is created and whenever its spec changes: one that was stored before goes on as it is. Who may ban at all is not said here but by the right to enforce: see the ClusterRole ip-sentry-enforce.",
    printcolumn(
        name = "Longest",
        type_ = "string",
        json_path = ".spec.maxBanDuration",
        description = "The longest ban that a policy may ask for."
    ),
    printcolumn(
        name = "IPv6",
        type_ = "integer",
        json_path = ".spec.minIPv6PrefixLength",
        description = "The shortest ipv6PrefixLength that a policy may ask for."
    ),
    printcolumn(
        name = "Namespaces",
        type_ = "string",
        json_path = ".spec.namespaces",
        description = "The namespaces that may have policies; empty: every one."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when this object exists."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct PolicyLimitsSpec {
    /// The longest ban: banDuration and escalation.maxDuration may not be longer; 1m to 8760h. Default: 8760h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "max_ban_duration")]
    pub max_ban_duration: Option<String>,
    /// The shortest ipv6PrefixLength, that is the widest IPv6 network that counts as one source; 32 to 128.
    /// Default: 32.
    #[serde(default, rename = "minIPv6PrefixLength", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "min_ipv6_prefix_length")]
    pub min_ipv6_prefix_length: Option<i32>,
    /// The only namespaces that may have policies, by name, at most 1,024. Absent: every namespace. Empty: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "namespaces")]
    pub namespaces: Option<Vec<String>>,
}

fn max_ban_duration(_: &mut SchemaGenerator) -> Schema {
    schema::duration("maxBanDuration", "1m", "8760h")
}

fn min_ipv6_prefix_length(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 32, "maximum": 128})
}

fn namespaces(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 1024,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "minLength": 1, "maxLength": 63},
    })
}
