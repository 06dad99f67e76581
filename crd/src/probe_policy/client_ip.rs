//! `spec.clientIP`: whose request it was, where the gateway stands behind a proxy.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::schema;

/// Where the client's address is found when the gateway's peer is a proxy. Give trustedProxies, trustedHops or
/// both. What the header says is anybody's to write but for what your own proxies add on the right: a wrong
/// number here bans people that never came.
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.trustedHops) || (has(self.trustedProxies) && self.trustedProxies.size() > 0)",
    "message": "give clientIP.trustedProxies or clientIP.trustedHops: without them anybody could write another's address into the header",
}]))]
pub struct ClientIp {
    /// The header that the proxies write. `XForwardedFor`: each proxy adds its peer on the right; the default.
    #[serde(default)]
    pub header: ClientIpHeader,
    /// The client is the n-th address from the right of the header, 1 to 32: 1 with one proxy in front, 2 with
    /// two. The gateway's own peer is not in the header. Only as many as are always there: with one too many
    /// the client writes the address itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "trusted_hops")]
    pub trusted_hops: Option<i32>,
    /// The proxies' networks, as canonical CIDRs; at most 256. The header is read only where the peer is one of
    /// them; from any other peer the peer is the client. Without trustedHops the client is the first address
    /// from the right that is none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "trusted_proxies")]
    pub trusted_proxies: Vec<String>,
}

/// A header that proxies write.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum ClientIpHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
}

fn trusted_hops(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 32})
}

fn trusted_proxies(generator: &mut SchemaGenerator) -> Schema {
    schema::networks(generator, 256)
}
