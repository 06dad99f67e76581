//! The links and flowtables of this network namespace, as far as they tell which way packets to pods go.

use std::collections::{BTreeMap, BTreeSet};

use ip_sentry_core::enforce::paths::{Dataplane, Look};

use super::netlink::{self, Message, NETLINK_NETFILTER, NETLINK_ROUTE, Netlink, NetlinkError};

/// How many links of pods are counted; a node has one to three hundred.
const MOST_LINKS: usize = 4_096;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
/// Length of `struct ifinfomsg` and `struct ifaddrmsg`, in bytes, and where each has its link's number.
const IFINFOMSG: (usize, usize) = (16, 4);
const IFADDRMSG: (usize, usize) = (8, 4);
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_STATS64: u16 = 23;
const IFLA_LINK_NETNSID: u16 = 37;
/// Where `struct rtnl_link_stats64` has the packets sent.
const TX_PACKETS: usize = 8;
const RT_SCOPE_LINK: u8 = 253;
const NFT_NEWFLOWTABLE: u16 = (10 << 8) | 0x16;
const NFT_GETFLOWTABLE: u16 = (10 << 8) | 0x17;
const NFTA_FLOWTABLE_TABLE: u16 = 1;
const NFTA_FLOWTABLE_NAME: u16 = 2;
const NFTA_FLOWTABLE_USE: u16 = 4;

/// Looks at all of them; `forwarded` is what the chain counted.
pub fn look(forwarded: u64) -> Result<Look, NetlinkError> {
    let mut route = Netlink::open(NETLINK_ROUTE)?;
    let uplinks = with_subnet(&mut route)?;
    let mut pods = BTreeMap::new();
    let mut dataplane = None;
    let message = Message::new(RTM_GETLINK, 0, &[0; IFINFOMSG.0]);
    route.dump(message, |kind, payload| {
        let Some(link) = (kind == RTM_NEWLINK).then(|| Link::read(payload)).flatten() else { return };
        dataplane = dataplane.or_else(|| Dataplane::of_link(&link.name));
        if link.is_pair && !uplinks.contains(&link.number) && pods.len() < MOST_LINKS {
            pods.insert(link.number, link.sent);
        }
    })?;
    // A kernel without flowtables has none.
    let flowtable = flowtable().unwrap_or_default();
    Ok(Look { dataplane, flowtable, pods, forwarded })
}

/// The links whose own address has a subnet: where nodes are containers, their uplink is half of a pair too, as the
/// pods' links are; but those have no address, or a single one.
fn with_subnet(route: &mut Netlink) -> Result<BTreeSet<u32>, NetlinkError> {
    let mut found = BTreeSet::new();
    let message = Message::new(RTM_GETADDR, 0, &[0; IFADDRMSG.0]);
    route.dump(message, |kind, payload| {
        // struct ifaddrmsg: family, prefix length, flags, scope, link.
        let (Some(&[family, prefix, _, scope]), Some(number)) =
            (payload.first_chunk(), number_at(payload, IFADDRMSG.1))
        else {
            return;
        };
        let single = if family == 2 { 32 } else { 128 };
        if kind == RTM_NEWADDR && scope < RT_SCOPE_LINK && prefix < single {
            found.insert(number);
        }
    })?;
    Ok(found)
}

struct Link {
    number: u32,
    name: String,
    /// Half of a pair whose other half is in another namespace.
    is_pair: bool,
    sent: u64,
}

impl Link {
    fn read(payload: &[u8]) -> Option<Self> {
        let attributes = payload.get(IFINFOMSG.0..)?;
        let kind = netlink::attribute(attributes, IFLA_LINKINFO)
            .and_then(|info| netlink::attribute(info, IFLA_INFO_KIND))
            .and_then(netlink::text);
        let sent = netlink::attribute(attributes, IFLA_STATS64)
            .and_then(|stats| stats.get(TX_PACKETS..)?.first_chunk().copied());
        Some(Self {
            number: number_at(payload, IFINFOMSG.1)?,
            name: netlink::attribute(attributes, IFLA_IFNAME).and_then(netlink::text)?.to_owned(),
            is_pair: matches!(kind, Some("veth" | "netkit"))
                && netlink::attribute(attributes, IFLA_LINK_NETNSID).is_some(),
            sent: sent.map_or(0, u64::from_ne_bytes),
        })
    }
}

/// A flowtable that rules use, by its table and name.
fn flowtable() -> Result<Option<String>, NetlinkError> {
    let mut found = None;
    let message = Message::new(NFT_GETFLOWTABLE, 0, &[0; 4]);
    Netlink::open(NETLINK_NETFILTER)?.dump(message, |kind, payload| {
        if kind == NFT_NEWFLOWTABLE && found.is_none() {
            found = read_flowtable(payload);
        }
    })?;
    Ok(found)
}

fn read_flowtable(payload: &[u8]) -> Option<String> {
    let attributes = payload.get(4..)?;
    let text = |kind| netlink::attribute(attributes, kind).and_then(netlink::text);
    let uses = netlink::attribute(attributes, NFTA_FLOWTABLE_USE).and_then(netlink::number)?;
    (uses > 0).then(|| Some(format!("{} {}", text(NFTA_FLOWTABLE_TABLE)?, text(NFTA_FLOWTABLE_NAME)?)))?
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A reply as `nf_tables_fill_flowtable_info` of Linux 6.12 writes it.
    fn flowtable(uses: u32) -> Vec<u8> {
        let mut message = Message::new(NFT_NEWFLOWTABLE, 0, &[1, 0, 0, 9]);
        message.text(NFTA_FLOWTABLE_TABLE, "filter");
        message.text(NFTA_FLOWTABLE_NAME, "fast");
        message.attribute(NFTA_FLOWTABLE_USE, &uses.to_be_bytes());
        message.payload().to_vec()
    }

    #[test]
    fn a_flowtable_counts_once_a_rule_uses_it() {
        assert_eq!(read_flowtable(&flowtable(2)).as_deref(), Some("filter fast"));
        assert_eq!(read_flowtable(&flowtable(0)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _read = (Link::read(&bytes), read_flowtable(&bytes));
        }
    }
}
