//! Addresses that no other test uses at the moment.
//!
//! The documentation ranges stand in for the internet. Each process begins somewhere else in them, so that what an
//! earlier one left behind in the cluster's history is rarely met again.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use ip_sentry_core::net::Network;
use jiff::Timestamp;

/// 203.0.113.1 to .254, then 198.51.100.1 to .254.
const IPV4: u32 = 2 * 254;

static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| {
    let time = u32::try_from(Timestamp::now().as_millisecond() % 1_000_000_007).unwrap_or_default();
    AtomicU32::new(time.wrapping_mul(2_654_435_761) >> 8)
});

/// An address of 203.0.113.0/24 or 198.51.100.0/24.
#[must_use]
pub fn ipv4() -> Ipv4Addr {
    nth_ipv4(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A /64 of `2001:db8::/32`.
#[must_use]
pub fn ipv6_network() -> Network {
    Network::around(nth_ipv6(NEXT.fetch_add(1, Ordering::Relaxed)).into(), 64)
}

/// The address of an IPv6 network with `host` as its last 16 bits.
#[must_use]
pub fn host_of(network: &Network, host: u16) -> Ipv6Addr {
    let first = match network.address() {
        std::net::IpAddr::V6(address) => address,
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped(),
    };
    Ipv6Addr::from(u128::from(first) | u128::from(host))
}

/// The documentation range's address of that number, counted round and round.
#[must_use]
pub fn nth_ipv4(number: u32) -> Ipv4Addr {
    let index = number % IPV4;
    let host = u8::try_from(index % 254 + 1).unwrap_or(1);
    if index < 254 { Ipv4Addr::new(203, 0, 113, host) } else { Ipv4Addr::new(198, 51, 100, host) }
}

/// The first address of the /64 of that number. (The /48 of number 0 is left to people.)
#[must_use]
pub fn nth_ipv6(number: u32) -> Ipv6Addr {
    let [_, a, b, c] = number.to_be_bytes();
    Ipv6Addr::new(0x2001, 0xdb8, u16::from(a) + 1, u16::from_be_bytes([b, c]), 0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_differ_and_are_of_the_documentation_ranges() {
        let all: BTreeSet<Ipv4Addr> = (7..7 + IPV4).map(nth_ipv4).collect();
        assert_eq!(all.len(), 508);
        let ranges: [Network; 2] = ["203.0.113.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
        assert!(all.iter().all(|&address| ranges.iter().any(|range| range.contains(address.into()))));
        let documentation: Network = "2001:db8::/32".parse().unwrap();
        assert!([0, 1, u32::MAX].iter().all(|&number| documentation.contains(nth_ipv6(number).into())));
        assert_ne!(nth_ipv6(1), nth_ipv6(257));
    }

    #[test]
    fn hosts_are_inside_their_network() {
        let network = ipv6_network();
        assert!(network.contains(host_of(&network, 0xffff).into()));
    }
}
