//! Bans that were lifted by hand: what a source did before that never counts again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;

use crate::net::Network;

/// What is forgiven, for all jails that share it: a ban that was lifted was lifted for all of them, and remembering it
/// takes memory once.
#[derive(Clone, Debug, Default)]
pub struct Pardons(Arc<RwLock<Forgiven>>);

impl Pardons {
    pub(super) fn add(&self, network: Network, until: Timestamp, max: usize) -> bool {
        self.0.write().unwrap_or_else(PoisonError::into_inner).add(network, until, max)
    }

    pub(super) fn until(&self, client: IpAddr) -> Option<Timestamp> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).until(client)
    }
}

/// Until when each network is forgiven.
#[derive(Clone, Debug, Default)]
struct Forgiven {
    until: BTreeMap<Network, Timestamp>,
    by_time: BTreeSet<(Timestamp, Network)>,
    /// The prefix lengths that occur, by family: a look-up asks for each.
    prefixes: BTreeSet<(bool, u8)>,
}

impl Forgiven {
    /// Forgives what was logged at or before `until`; the later of two counts. Of more than `max` the one that was
    /// forgiven longest ago goes, and the answer is whether one went.
    fn add(&mut self, network: Network, until: Timestamp, max: usize) -> bool {
        let known = self.until.entry(network).or_insert(until);
        self.by_time.remove(&(*known, network));
        *known = until.max(*known);
        self.by_time.insert((*known, network));
        self.prefixes.insert((network.is_ipv4(), network.prefix()));
        let is_over = self.until.len() > max;
        if is_over && let Some((_, oldest)) = self.by_time.pop_first() {
            self.until.remove(&oldest);
        }
        is_over
    }

    /// Until when what this client did is forgiven.
    fn until(&self, client: IpAddr) -> Option<Timestamp> {
        self.prefixes
            .iter()
            .filter(|&&(is_ipv4, _)| is_ipv4 == client.is_ipv4())
            .filter_map(|&(_, prefix)| self.until.get(&Network::around(client, prefix)).copied())
            .max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_forgiven_by_every_network_it_lies_in_and_no_other() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut forgiven = Forgiven::default();
        for (network, until) in
            [("203.0.113.7/32", 100), ("203.0.113.0/24", 50), ("2001:db8::/64", 100), ("203.0.113.7/32", 90)]
        {
            assert!(!forgiven.add(network.parse().unwrap(), at(until), 3));
        }
        #[rustfmt::skip]
        let table = [
            ("203.0.113.7", 100, true),  ("203.0.113.7", 101, false), ("203.0.113.8", 50, true), ("203.0.113.8", 51, false),
            ("2001:db8::9", 100, true),  ("2001:db8:0:1::9", 1, false), ("198.51.100.1", 1, false),
        ];
        for (client, second, expect) in table {
            let until = forgiven.until(client.parse().unwrap());
            assert_eq!(until.is_some_and(|until| at(second) <= until), expect, "client {client} at {second}");
        }
    }

    #[test]
    fn of_too_many_the_one_forgiven_longest_ago_goes() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut forgiven = Forgiven::default();
        assert!(!forgiven.add("203.0.113.7/32".parse().unwrap(), at(20), 2));
        assert!(!forgiven.add("203.0.113.8/32".parse().unwrap(), at(10), 2));
        assert!(forgiven.add("203.0.113.9/32".parse().unwrap(), at(30), 2));
        let is_forgiven = |client: &str| forgiven.until(client.parse().unwrap()).is_some();
        assert_eq!(["203.0.113.7", "203.0.113.8", "203.0.113.9"].map(is_forgiven), [true, false, true]);
    }
}
