//! Which node this is, as the agent's own token says.
//!
//! A pod's token names the node that the pod is bound to, with its uid. So the agent can make its NodeFirewall
//! belong to its Node without any right to read nodes, and an admission policy can hold it to that one object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;

/// Where the token lies in a pod.
pub const TOKEN_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its uid; some clusters' tokens don't have it.
    pub uid: Option<String>,
}

/// Why the node is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// No token and no name.
    #[error("{TOKEN_FILE} can't be read: give the pod its service account's token")]
    NoToken(#[from] std::io::Error),
    /// Not a token of a pod.
    #[error("the service account's token names no node: set NODE_NAME by the downward API (spec.nodeName)")]
    NoNode,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(rename = "kubernetes.io")]
    kubernetes: Kubernetes,
}

#[derive(Deserialize)]
struct Kubernetes {
    node: Option<NodeClaim>,
}

#[derive(Deserialize)]
struct NodeClaim {
    name: String,
    uid: Option<String>,
}

/// The node by the token, or by the name that the pod was given.
pub fn find(given: Option<&str>) -> Result<Node, IdentityError> {
    let token = std::fs::read_to_string(TOKEN_FILE);
    let claimed = token.as_deref().ok().and_then(node_of);
    match (claimed, given) {
        // The admission policy goes by the token, whatever the name says.
        (Some(node), given) => {
            if given.is_some_and(|given| given != node.name) {
                tracing::warn!(
                    given,
                    token = node.name,
                    "NODE_NAME is not the node of the token, which counts"
                );
            }
            Ok(node)
        }
        (None, Some(given)) => Ok(Node { name: given.to_owned(), uid: None }),
        (None, None) => Err(token.err().map_or(IdentityError::NoNode, IdentityError::NoToken)),
    }
}

/// The node that a token's claims name. The token is not verified: the API server does that.
fn node_of(token: &str) -> Option<Node> {
    let payload = token.trim().split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&decode(payload)?).ok()?;
    let node = claims.kubernetes.node?;
    Some(Node { name: node.name, uid: node.uid })
}

/// Base64 with the URL alphabet and without padding, as in RFC 7515.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(bytes)
}

impl Node {
    /// The owner reference that makes an object go when the node goes.
    #[must_use]
    pub fn as_owner(&self) -> Option<OwnerReference> {
        Some(OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone()?,
            ..OwnerReference::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_node() {
        // {"kubernetes.io":{"node":{"name":"node-1","uid":"u-1"}}} and {"kubernetes.io":{}}
        let bound = "h.eyJrdWJlcm5ldGVzLmlvIjp7Im5vZGUiOnsibmFtZSI6Im5vZGUtMSIsInVpZCI6InUtMSJ9fX0.s";
        let unbound = "h.eyJrdWJlcm5ldGVzLmlvIjp7fX0.s";
        let node = node_of(bound).unwrap();
        assert_eq!(node, Node { name: "node-1".to_owned(), uid: Some("u-1".to_owned()) });
        assert_eq!(node.as_owner().unwrap().uid, "u-1");
        for text in [unbound, "", "a.b", "a.!.c", "a..c"] {
            assert_eq!(node_of(text), None, "given {text}");
        }
    }

    #[test]
    fn the_url_alphabet_is_read() {
        assert_eq!(decode("-_-_").unwrap(), [0xfb, 0xff, 0xbf]);
        assert_eq!(decode("TWE").unwrap(), b"Ma");
        assert_eq!(decode("a+b/"), None);
    }
}
