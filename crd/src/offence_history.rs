//! `OffenceHistory`: what outlives a ban.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// The sources of one shard, each with what became of its bans.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "ipsentry.dev",
    version = "v1alpha1",
    kind = "OffenceHistory",
    plural = "offencehistories",
    shortname = "offences",
    category = "ip-sentry",
    derive = "PartialEq",
    derive = "Default",
    doc = "When the bans of sources ended: what the operator must still know when the IPBan is gone. Sharded by a hash of the network. Written by the operator only; no field is meant to be edited. Deleting one forgets the offences in it.",
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when this shard exists."
    )
)]
pub struct OffenceHistorySpec {
    /// One entry a source, at most 1,024; when it is full, the source whose last ban ended longest ago is
    /// forgotten first.
    #[serde(default)]
    #[schemars(schema_with = "entries")]
    pub entries: Vec<Offences>,
}

/// What is known of one source.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Offences {
    /// The network, as in the bans' `spec.cidr`.
    #[schemars(schema_with = "schema::plain_network")]
    pub cidr: String,
    /// When its bans ended, over all policies: the last 20, oldest first. What a policy's escalation counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "ends")]
    pub ends: Vec<Time>,
    /// When a ban of this source was last lifted by hand. Lines stamped before that never ban it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted_at: Option<Time>,
}

fn ends(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<Time>();
    json_schema!({
        "type": "array",
        "maxItems": 20,
        "x-kubernetes-list-type": "atomic",
        "items": items,
    })
}

fn entries(generator: &mut SchemaGenerator) -> Schema {
    let items = generator.subschema_for::<Offences>();
    json_schema!({
        "type": "array",
        "maxItems": 1024,
        "x-kubernetes-list-type": "atomic",
        "items": items,
    })
}
