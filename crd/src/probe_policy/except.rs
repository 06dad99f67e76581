//! `spec.except`: what is never counted.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::schema;

/// What is never counted: a request that agrees with any one of these is no hit.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Except {
    /// Networks whose requests this policy ignores, as canonical CIDRs; at most 256. Adding one lifts this
    /// policy's bans that overlap it. For networks that nobody may ever ban see ProtectedNetworks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "cidrs")]
    pub cidrs: Vec<String>,
    /// Requests that are no hit though a pattern matches, by patterns of the same kind; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::patterns")]
    pub patterns: Vec<String>,
    /// Hosts whose requests are no hit, written as in match.hosts; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::hosts")]
    pub hosts: Vec<String>,
    /// User agents whose requests are no hit, written as in match.userAgents; at most 64. A client writes its
    /// own: whoever knows the expression is never banned by this policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::user_agents")]
    pub user_agents: Vec<String>,
}

fn cidrs(generator: &mut SchemaGenerator) -> Schema {
    schema::networks(generator, 256)
}
