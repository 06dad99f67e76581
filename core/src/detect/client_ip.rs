//! Whose request it was, where the gateway stands behind a proxy.

use crate::net::Network;

/// Where to look for the client's address instead of the peer's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientIpDraft {
    /// Which header the proxies write.
    pub header: ClientIpHeader,
    /// How many proxies in front write to the header: the client is the n-th address from the right. 0: not said.
    pub trusted_hops: u32,
    /// The proxies' networks. Empty: not said.
    pub trusted_proxies: Vec<Network>,
}

/// A header that proxies write.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ClientIpHeader {
    /// `X-Forwarded-For`: each proxy adds its peer on the right.
    XForwardedFor,
}
