//! `spec.escalation`: how the bans of one source become longer.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// The n-th ban of a source lasts banDuration × factor^(n−1), at most maxDuration; n counts its bans over all
/// policies that ended within the memory. From the second on up to 5 % are added, so that sources that were
/// banned together do not come back together.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Escalation {
    /// By what each ban is longer than the one before, 2 to 64.
    #[schemars(schema_with = "factor")]
    pub factor: i32,
    /// The longest ban, banDuration to 8760h. Default 672h (4 weeks).
    #[serde(default = "four_weeks")]
    #[schemars(schema_with = "max_duration")]
    pub max_duration: String,
    /// How long after its end a ban still counts, 1m to 8760h. Default 720h (30 days).
    #[serde(default = "thirty_days")]
    #[schemars(schema_with = "memory")]
    pub memory: String,
}

fn four_weeks() -> String {
    "672h".to_owned()
}

fn thirty_days() -> String {
    "720h".to_owned()
}

fn factor(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 2, "maximum": 64})
}

fn max_duration(_: &mut SchemaGenerator) -> Schema {
    schema::duration("escalation.maxDuration", "1m", "8760h")
}

fn memory(_: &mut SchemaGenerator) -> Schema {
    schema::duration("escalation.memory", "1m", "8760h")
}
