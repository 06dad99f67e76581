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
        description = "When a leading operator last looked for the cluster's own networks; more than a minute ago, none is at work."
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Complete\")].status",
        description = "Whether all that was found is protected."
    ),
    printcolumn(
        name = "Paused-Until",
        type_ = "string",
        json_path = ".spec.pausedUntil",
        description = "Until when no node drops anything; a time that has passed means nothing."
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when this object exists."
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedNetworksSpec {
    /// Your own networks: offices, monitoring, partners, CDNs in front of the gateway. Canonical CIDRs, at most
    /// 1,024, none wider than /8 (IPv4) or /16 (IPv6; `fc00::/7` and its parts are taken too). Adding one lifts the
    /// bans that overlap it at once.
    #[serde(default)]
    #[schemars(schema_with = "schema::protected")]
    pub cidrs: Vec<String>,
    /// The way out when a ban locks your own people out: until this time no node drops anything, whatever is
    /// banned. UTC in whole seconds, at most one hour ahead. Each node that is connected lets everybody pass
    /// within a second, and drops again by its own clock when the time has passed; detection and bans go on
    /// meanwhile. A time that has passed means nothing. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::utc_seconds")]
    pub paused_until: Option<Time>,
    /// Ports of the nodes themselves that answer banned sources too, at most 16; pods' ports never do. Default: none.
    /// The API server's own addresses and ports always do and need not be listed. A port listed here is open to every
    /// attacker that is banned: TCP 22 saves an administrator from being locked out of the nodes, and lets those who try SSH
    /// passwords go on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "up_to_16_ports")]
    pub failsafe_ports: Vec<FailsafePort>,
}

/// A port that answers banned sources too.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct FailsafePort {
    /// `TCP` or `UDP`. Default TCP.
    #[serde(default)]
    pub protocol: Protocol,
    /// The port that packets are addressed to, 1 to 65,535: what a program on the node listens on. A Service's
    /// port and a `nodePort` lead to pods.
    #[schemars(schema_with = "port")]
    pub port: u16,
}

/// A transport protocol with ports.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
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
    /// Addresses and ports of the API servers, such as `10.0.0.5:6443`, at most 32: every node lets banned sources
    /// reach them, so that a person whom a ban locks out can lift it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "up_to_32_servers")]
    pub api_servers: Vec<String>,
    /// When the leading operator last looked, which it does every 20 seconds: a time of more than a minute ago
    /// means that no operator is at work. Until it is there, no IPBan is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// `Complete` says whether everything that was looked for could be read and had room in the list, and whether the
    /// API server takes the list.
    #[serde(default)]
    #[schemars(schema_with = "condition::schema")]
    pub conditions: Vec<Condition>,
}

fn port(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535})
}

fn up_to_16_ports(generator: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "atomic",
        "items": generator.subschema_for::<FailsafePort>(),
    })
}

fn up_to_32_servers(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 47},
    })
}

fn found(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": 1024,
        "x-kubernetes-list-type": "atomic",
        "items": {"type": "string", "maxLength": 43},
    })
}
