//! A set of networks that answers "is this address, or any of this network, in it?" quickly.
//!
//! Protected networks are asked about for every line of every log, so the set is kept as merged, sorted
//! ranges of addresses and a look-up is one binary search.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::net::Network;

/// A set of networks, as merged ranges of addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Networks {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
    /// First octets of IPv4 addresses in the set, as bits: most addresses need no search.
    octets: [u64; 4],
}

impl Networks {
    /// Whether the set holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether the address lies in one of the networks; IPv4-mapped IPv6 counts as IPv4.
    #[must_use]
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) if !self.has_octet(v4) => false,
            address => self.search(address),
        }
    }

    /// Whether any IPv4 network in the set has addresses with this first octet.
    #[inline]
    fn has_octet(&self, address: Ipv4Addr) -> bool {
        let first = usize::from(address.octets()[0]);
        self.octets[first / 64] & 1 << (first % 64) != 0
    }

    fn search(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        hit(self.family(address.is_ipv4()), bits(address), bits(address))
    }

    /// Whether the network shares any address with the set.
    #[must_use]
    pub fn overlaps(&self, network: &Network) -> bool {
        hit(self.family(network.is_ipv4()), bits(network.address()), bits(network.last_address()))
    }

    /// Whether all of the network's addresses are in the set.
    #[must_use]
    pub fn covers(&self, network: &Network) -> bool {
        let (first, last) = (bits(network.address()), bits(network.last_address()));
        let ranges = self.family(network.is_ipv4());
        let next = ranges.partition_point(|&(_, end)| end < last);
        ranges.get(next).is_some_and(|&(start, _)| start <= first)
    }

    /// Ranges of addresses, each of one family: outside of them the two sets hold the same.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (IpAddr, IpAddr)> + 'a {
        let v4 = |bits: u128| IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or(u32::MAX)));
        let v6 = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(bits));
        let v4s = only_one_has(&self.v4, &other.v4).map(move |(start, end)| (v4(start), v4(end)));
        v4s.chain(only_one_has(&self.v6, &other.v6).map(move |(start, end)| (v6(start), v6(end))))
    }

    fn family(&self, is_ipv4: bool) -> &[(u128, u128)] {
        if is_ipv4 { &self.v4 } else { &self.v6 }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether any range meets `first..=last`: the ranges don't touch, so the first that ends late enough decides.
fn hit(ranges: &[(u128, u128)], first: u128, last: u128) -> bool {
    let next = ranges.partition_point(|&(_, end)| end < first);
    ranges.get(next).is_some_and(|&(start, _)| start <= last)
}

fn only_one_has<'a>(a: &'a [(u128, u128)], b: &'a [(u128, u128)]) -> impl Iterator<Item = (u128, u128)> + 'a {
    let not_in = |other: &'a [(u128, u128)]| move |range: &&(u128, u128)| other.binary_search(range).is_err();
    a.iter().filter(not_in(b)).chain(b.iter().filter(not_in(a))).copied()
}

fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            let range = (bits(network.address()), bits(network.last_address()));
            if network.is_ipv4() { v4.push(range) } else { v6.push(range) }
        }
        let v4 = merged(v4);
        let mut octets = [0; 4];
        for first in 0..256 {
            if hit(&v4, first << 24, (first << 24) + 0xff_ffff) {
                octets[(first / 64) as usize] |= 1 << (first % 64);
            }
        }
        Self { v4, v6: merged(v6), octets }
    }
}

/// The fewest networks that cover the same addresses and no others.
#[must_use]
pub fn aggregate(networks: impl IntoIterator<Item = Network>) -> Vec<Network> {
    let nets: Vec<IpNet> = networks.into_iter().map(|network| network.as_ip_net()).collect();
    IpNet::aggregate(&nets).into_iter().map(|net| Network::around(net.addr(), net.prefix_len())).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_found_in_its_family_only() {
        let set: Networks =
            ["10.0.0.0/8", "203.0.113.7/32", "fd00::/8"].iter().map(|text| text.parse().unwrap()).collect();
        #[rustfmt::skip]
        let table = [
            ("10.255.255.255", true),  ("11.0.0.0", false),      ("203.0.113.7", true), ("203.0.113.8", false),
            ("fd12::1", true),         ("::10.0.0.1", false),    ("::ffff:10.0.0.1", true), ("2001:db8::1", false),
        ];
        for (address, expect) in table {
            assert_eq!(set.contains(address.parse().unwrap()), expect, "address {address}");
        }
        assert!(!Networks::default().contains("10.0.0.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn an_aggregate_covers_the_same_addresses_with_no_more_networks(
            networks in prop::collection::vec((0u32..4096, 20u8..=32), 0..50),
        ) {
            let each: Vec<Network> = networks
                .into_iter()
                .map(|(bits, prefix)| Network::around(Ipv4Addr::from_bits(bits).into(), prefix))
                .collect();
            let short = aggregate(each.iter().copied());
            prop_assert!(short.len() <= each.len());
            let (short, exact): (Networks, Networks) = (short.into_iter().collect(), each.into_iter().collect());
            prop_assert_eq!(short, exact);
        }

        #[test]
        fn two_sets_agree_outside_of_the_ranges_in_which_they_differ(
            one in prop::collection::vec((0u32..4096, 20u8..=32), 0..10),
            other in prop::collection::vec((0u32..4096, 20u8..=32), 0..10),
            probe in 0u32..4096,
        ) {
            let set = |networks: Vec<(u32, u8)>| networks.into_iter()
                .map(|(bits, prefix)| Network::around(Ipv4Addr::from_bits(bits).into(), prefix))
                .collect::<Networks>();
            let (one, other, probe) = (set(one), set(other), IpAddr::V4(Ipv4Addr::from_bits(probe)));
            let is_told = one.differing(&other).any(|(first, last)| first <= probe && probe <= last);
            prop_assert!(is_told || one.contains(probe) == other.contains(probe));
            prop_assert_eq!(one.differing(&one).count(), 0);
        }

        #[test]
        fn the_set_agrees_with_asking_each_network(
            networks in prop::collection::vec((0u32..4096, 20u8..=32), 0..20),
            probe in (0u32..4096, 20u8..=32),
        ) {
            let network = |(bits, prefix)| Network::around(Ipv4Addr::from_bits(bits).into(), prefix);
            let each: Vec<Network> = networks.into_iter().map(network).collect();
            let set: Networks = each.iter().copied().collect();
            let address = Ipv4Addr::from_bits(probe.0).into();
            prop_assert_eq!(set.contains(address), each.iter().any(|net| net.contains(address)));
            let probe = network(probe);
            prop_assert_eq!(set.overlaps(&probe), each.iter().any(|net| net.overlaps(&probe)));
            let [first, last] = [probe.address(), probe.last_address()].map(|address| u32::try_from(bits(address)).unwrap());
            let has_all = (first..=last).all(|bits| set.contains(Ipv4Addr::from_bits(bits).into()));
            prop_assert_eq!(set.covers(&probe), has_all);
        }
    }
}
