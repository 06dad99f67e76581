//! `spec.aggregate`: which neighbours are banned together.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Which neighbours are banned together. IPv6 neighbours always are: where a quarter of a network, or 64 of its members,
/// earned a ban, the network is banned as one, from /64 to /56 to /48.
#[derive(Clone, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Aggregate {
    /// 24: where 64 addresses of an IPv4 /24 earned a ban, one ban of the /24 takes their place, bystanders included.
    /// Never over a protected network or one that except.cidrs names. Default: IPv4 addresses are banned one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "ipv4")]
    pub ipv4: Option<i32>,
}

fn ipv4(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "enum": [24]})
}
