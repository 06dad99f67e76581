//! The names of bans by where their networks begin, to find those that a range of addresses meets.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ip_sentry_core::net::{Network, Source, WIDEST_V4_PREFIX, WIDEST_V6_PREFIX};

/// Bans by the first address of their network.
#[derive(Debug, Default)]
pub(super) struct ByNetwork(BTreeSet<(IpAddr, Arc<str>)>);

impl ByNetwork {
    /// The ban of that name is of `source`.
    pub(super) fn insert(&mut self, source: Source, name: Arc<str>) {
        self.0.insert((source.network().address(), name));
    }

    /// The ban of that name is of `source` no more.
    pub(super) fn remove(&mut self, source: Source, name: Arc<str>) {
        self.0.remove(&(source.network().address(), name));
    }

    /// At least the bans that share an address with `first..=last`, which are of one family.
    pub(super) fn near(&self, first: IpAddr, last: IpAddr) -> impl Iterator<Item = &Arc<str>> {
        // No ban is wider than that, so none that begins earlier reaches as far.
        let widest = if first.is_ipv4() { WIDEST_V4_PREFIX } else { WIDEST_V6_PREFIX };
        let from = Network::around(first, widest).address();
        let begins = (from, Arc::from(""));
        self.0.range(begins..).take_while(move |(address, _)| *address <= last).map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_ban_is_found_from_its_last_address_and_none_of_the_other_family() {
        let mut bans = ByNetwork::default();
        for cidr in ["203.0.0.0/16", "203.0.113.7/32", "203.1.0.0/32", "2001:db8::/32", "2001:db9::/64"] {
            bans.insert(cidr.parse().unwrap(), cidr.into());
        }
        let near = |first: &str, last: &str| {
            let found = bans.near(first.parse().unwrap(), last.parse().unwrap());
            found.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(near("203.0.255.255", "203.0.255.255"), ["203.0.0.0/16", "203.0.113.7/32"]);
        assert_eq!(near("203.1.0.0", "255.255.255.255"), ["203.1.0.0/32"]);
        assert_eq!(near("2001:db8:ffff::1", "2001:db8:ffff::1"), ["2001:db8::/32"]);
        assert!(near("198.51.100.0", "198.51.100.255").is_empty());
    }
}
