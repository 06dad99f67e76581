//! `ProtectedNetworks`: never banned, by nobody.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::{condition, schema};

/// The networks that you protect.
#[derive(Clone, CustomResource, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "ipsentry.dev",
    version = "v1alpha1",
    kind = "ProtectedNetworks",
    plural = "protectednetworks",
    singular = "protectednetworks",
    shortname = "protected",
    category = "ip-sentry",
    status = "ProtectedNetworksStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Networks that are never banned, by nobody: the cluster-wide ignore list. There is one object, named cluster. You write spec, the operator writes status. An IPBan that overlaps either is refused, the operator decides none, and every node lets these sources pass whatever its bans say.",
    printcolumn(
        name = "Observed",
        type_ = "date",
        json_path = ".status.observedAt",
        description = "When the operator last looked for the cluster's own networks."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when this object exists."
    )
)]
pub struct ProtectedNetworksSpec {
    /// Your own networks: offices, monitoring, partners, CDNs in front of the gateway. Canonical CIDRs of any
    /// width, at most 1,024. Adding one lifts the bans that overlap it at once.
    #[serde(default)]
    #[schemars(schema_with = "up_to_1024")]
    pub cidrs: Vec<String>,
}

/// What the operator found.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedNetworksStatus {
    /// The cluster's own networks: addresses of nodes, ranges of pods and services, the API server, load
    /// balancers and Gateways, aggregated, at most 1,024.
    #[serde(default)]
    #[schemars(schema_with = "found")]
    pub cidrs: Vec<String>,
    /// When the list was last found to differ or first written. Until it is there, no IPBan is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// `Complete` says whether everything that was looked for could be read and had room in the list.
    #[serde(default)]
    #[schemars(schema_with = "condition::schema")]
    pub conditions: Vec<Condition>,
}

fn up_to_1024(generator: &mut SchemaGenerator) -> Schema {
    schema::networks(generator, 1024)
}

fn found(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 1024,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 43},
    })
}
