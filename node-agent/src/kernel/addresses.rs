//! Addresses that must never be dropped, as this node itself sees them: its own, and those of the API server
//! that the agent talks to.
//!
//! They go into the allow sets beside what `ProtectedNetworks` says, so that a ban of them is without effect
//! even where that object is missing or forged.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use ip_sentry_core::net::{Network, Scope, scope};

use super::netlink::{self, Message, NETLINK_NETFILTER, NETLINK_ROUTE, Netlink, NetlinkError};

/// How many addresses of a node are protected; a node has tens, one with an address for each pod hundreds.
const MOST: usize = 4_096;

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// Length of `struct ifaddrmsg`, in bytes.
const IFADDRMSG: usize = 8;

/// The addresses of all interfaces of this network namespace, but for those that can't be banned anyway.
pub fn of_node() -> Result<BTreeSet<IpAddr>, NetlinkError> {
    let mut found = BTreeSet::new();
    let message = Message::new(RTM_GETADDR, 0, &[0; IFADDRMSG]);
    Netlink::open(NETLINK_ROUTE)?.dump(message, |kind, payload| {
        if kind != RTM_NEWADDR || found.len() >= MOST {
            return;
        }
        let attributes = payload.get(IFADDRMSG..).unwrap_or_default();
        // On a point-to-point link ADDRESS is the other end's and LOCAL is ours.
        let address =
            netlink::attribute(attributes, IFA_LOCAL).or_else(|| netlink::attribute(attributes, IFA_ADDRESS));
        let address = address.and_then(read_address).filter(|address| scope(*address) != Scope::Special);
        found.extend(address);
    })?;
    Ok(found)
}

const CONNTRACK_GET: u16 = (1 << 8) | 1;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const TCP: u8 = 6;

/// The addresses and ports that packets from the API server carry: the peer's, and those behind it where the peer
/// is a Service's address that this node translates.
///
/// A reply is turned back into the Service's only after INPUT has seen it, so the one behind counts.
#[must_use]
pub fn of_peer(local: SocketAddr, remote: SocketAddr) -> BTreeSet<SocketAddr> {
    let (local, remote) = (canonical(local), canonical(remote));
    let mut found = BTreeSet::from([remote]);
    // Without connection tracking, or without an entry, nothing is translated.
    if let Ok(Some(behind)) = behind(local, remote) {
        found.insert(behind);
    }
    found.retain(|address| scope(address.ip()) != Scope::Special);
    found
}

/// Where connection tracking expects the replies of this TCP connection from.
fn behind(local: SocketAddr, remote: SocketAddr) -> Result<Option<SocketAddr>, NetlinkError> {
    // Which attributes hold an IPv4 or IPv6 address, source and destination.
    let (family, source, destination) = if local.is_ipv4() { (2, 1, 2) } else { (10, 3, 4) };
    let mut message = Message::new(CONNTRACK_GET, 0, &[family, 0, 0, 0]);
    let tuple = message.open(CTA_TUPLE_ORIG);
    let ip = message.open(CTA_TUPLE_IP);
    write_address(&mut message, source, local.ip());
    write_address(&mut message, destination, remote.ip());
    message.close(ip);
    let proto = message.open(CTA_TUPLE_PROTO);
    message.attribute(CTA_PROTO_NUM, &[TCP]);
    message.network_order(CTA_PROTO_SRC_PORT, &local.port().to_be_bytes());
    message.network_order(CTA_PROTO_DST_PORT, &remote.port().to_be_bytes());
    message.close(proto);
    message.close(tuple);

    let mut found = None;
    Netlink::open(NETLINK_NETFILTER)?.get(message, |_, payload| {
        let tuple = payload.get(4..).and_then(|attributes| netlink::attribute(attributes, CTA_TUPLE_REPLY));
        found = tuple.and_then(|tuple| {
            let ip = netlink::attribute(netlink::attribute(tuple, CTA_TUPLE_IP)?, source)?;
            let port = netlink::attribute(netlink::attribute(tuple, CTA_TUPLE_PROTO)?, CTA_PROTO_SRC_PORT)?;
            Some(SocketAddr::new(read_address(ip)?, u16::from_be_bytes(port.try_into().ok()?)))
        });
    })?;
    Ok(found)
}

fn write_address(message: &mut Message, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => message.attribute(kind, &address.octets()),
        IpAddr::V6(address) => message.attribute(kind, &address.octets()),
    }
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(address.to_canonical())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The networks of these addresses, one each.
#[must_use]
pub fn as_networks(addresses: &BTreeSet<IpAddr>) -> Vec<Network> {
    addresses.iter().map(|address| Network::host(*address)).collect()
}
