//! Whose request it was, where the gateway stands behind proxies.
//!
//! A client writes into `X-Forwarded-For` what it likes; then each proxy on the way adds its own peer on the right. So
//! the list is read from the right, as far as the policy says that proxies wrote it. What can't be read for certain
//! names nobody: not the peer, which is a proxy in front of many people, and no guess.

use std::net::IpAddr;

use memchr::memrchr;

use super::record;
use crate::{net::Network, networks::Networks};

/// The most proxies that a policy may name by their number.
pub const MAX_TRUSTED_HOPS: u32 = 32;

/// Where to look for the client's address instead of the peer's. At least one of hops and proxies is said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientIpDraft {
    /// Which header the proxies write.
    pub header: ClientIpHeader,
    /// How many proxies in front write to the header: the client is the n-th address from the right, at most
    /// [`MAX_TRUSTED_HOPS`]. 0: not said.
    pub trusted_hops: u32,
    /// The proxies' networks: the header counts only when the peer is in one, and none of their addresses is ever the
    /// client. Without hops the client is the first address from the right that is in none. Empty: not said.
    pub trusted_proxies: Vec<Network>,
}

/// A header that proxies write.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ClientIpHeader {
    /// `X-Forwarded-For`: each proxy adds its peer on the right.
    XForwardedFor,
}

/// Why a draft can't be used. Fields are named as in a ProbePolicy's spec.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientIpError {
    /// Nothing says which part of the header proxies wrote.
    #[error("clientIP needs trustedHops or trustedProxies: all else in the header is what clients write")]
    NobodyTrusted,
    /// More hops than allowed.
    #[error("clientIP.trustedHops is {0}; it goes from 1 to {MAX_TRUSTED_HOPS}")]
    TooManyHops(u32),
    /// The format has no such header.
    #[error(
        "clientIP needs the X-Forwarded-For header, which the format does not have: add forwardedFor to it"
    )]
    NoHeader,
}

/// Why nobody knows whose request it was.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoClient {
    /// Fewer addresses than there are trusted hops, or none but proxies.
    #[error("X-Forwarded-For has fewer addresses than the trusted proxies write")]
    TooShort,
    /// What stands there, or right of it, is no address.
    #[error("X-Forwarded-For has something else than an address where trusted proxies write one")]
    Unreadable,
    /// The address at the place of the client is a proxy's.
    #[error("X-Forwarded-For has a trusted proxy's address at the place of the client's")]
    Proxy,
}

/// A draft, ready to be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ClientIp {
    hops: usize,
    proxies: Networks,
}

impl ClientIp {
    pub(super) fn compile(draft: &ClientIpDraft) -> Result<Self, ClientIpError> {
        if draft.trusted_hops > MAX_TRUSTED_HOPS {
            return Err(ClientIpError::TooManyHops(draft.trusted_hops));
        }
        if draft.trusted_hops == 0 && draft.trusted_proxies.is_empty() {
            return Err(ClientIpError::NobodyTrusted);
        }
        let ClientIpHeader::XForwardedFor = draft.header;
        Ok(Self {
            hops: draft.trusted_hops as usize,
            proxies: draft.trusted_proxies.iter().copied().collect(),
        })
    }

    /// The client of a request that came from `peer` with this header.
    pub(super) fn find(&self, peer: IpAddr, forwarded_for: &[u8]) -> Result<IpAddr, NoClient> {
        if !self.proxies.is_empty() && !self.proxies.contains(peer) {
            return Ok(peer);
        }
        let mut entries = Entries(Some(forwarded_for));
        if self.hops == 0 {
            // Entries right of the client are proxies, each of them readable.
            return entries
                .find(|entry| entry.map_or(true, |address| !self.proxies.contains(address)))
                .ok_or(NoClient::TooShort)?;
        }
        let right_of_client = self.hops - 1;
        for _ in 0..right_of_client {
            entries.next().ok_or(NoClient::TooShort)??;
        }
        let client = entries.next().ok_or(NoClient::TooShort)??;
        if self.proxies.contains(client) { Err(NoClient::Proxy) } else { Ok(client) }
    }
}

/// The addresses of a list, from the right.
struct Entries<'a>(Option<&'a [u8]>);

impl Iterator for Entries<'_> {
    type Item = Result<IpAddr, NoClient>;

    fn next(&mut self) -> Option<Self::Item> {
        let list = self.0?;
        let comma = memrchr(b',', list);
        self.0 = comma.map(|comma| &list[..comma]);
        let entry = &list[comma.map_or(0, |comma| comma + 1)..];
        // Nothing at all, or what logs write for it, is a list of none.
        if self.0.is_none() && matches!(entry.trim_ascii(), b"" | b"-") {
            return None;
        }
        Some(address(entry.trim_ascii()).ok_or(NoClient::Unreadable))
    }
}

/// An address as proxies write it: bare, with a port, IPv6 with a port in brackets.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let with_port = || {
        let colon = memrchr(b':', entry)?;
        let (address, port) = (&entry[..colon], &entry[colon + 1..]);
        let is_port = (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit);
        // The last colon of a bare IPv6 address is none before a port.
        let is_set_off = address.ends_with(b"]") || !address.contains(&b':');
        (is_port && is_set_off).then(|| record::client(address))?
    };
    record::client(entry).or_else(with_port)
}

#[cfg(test)]
mod tests;
