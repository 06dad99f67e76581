//! How densely networks are banned: when many neighbours are, one ban of the network around them takes their place.
//!
//! A source that waits for its ban counts like one that has it, so that a network which is used up within seconds
//! becomes one ban before most of its members have been written.

use std::collections::HashMap;

use ip_sentry_core::net::{Network, Source};

/// The prefix lengths that IPv6 neighbours are joined to, narrow to wide. Nothing wider is ever banned by detection.
const IPV6_LEVELS: [u8; 3] = [64, 56, 48];
/// By how many bits a network is at least wider than its members.
const LEAST_STEP: u8 = 4;
/// A quarter of the neighbours makes a network dense, but never fewer than the one or more than the other.
const DENSE: std::ops::RangeInclusive<u32> = 4..=64;

/// Why a source counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Member {
    /// It waits for its ban.
    Waiting,
    /// Its ban is enforced.
    Banned,
}

#[derive(Clone, Copy, Debug, Default)]
struct Membership {
    waiting: Option<Source>,
    banned: Option<Source>,
}

/// The members of each network that could be banned as one.
#[derive(Debug, Default)]
pub(super) struct Density {
    members: HashMap<Source, Membership>,
    counts: HashMap<Source, u32>,
}

impl Density {
    /// `source` counts for the network around it, or no longer. IPv4 addresses are joined to `ipv4_prefix`, or not at
    /// all.
    pub(super) fn set(&mut self, source: Source, member: Member, counts: bool, ipv4_prefix: Option<u8>) {
        let around = if counts { around(source, ipv4_prefix) } else { None };
        if around.is_none() && !self.members.contains_key(&source) {
            return;
        }
        let membership = self.members.entry(source).or_default();
        let before = membership.waiting.or(membership.banned);
        match member {
            Member::Waiting => membership.waiting = around,
            Member::Banned => membership.banned = around,
        }
        let after = membership.waiting.or(membership.banned);
        if after.is_none() {
            self.members.remove(&source);
        }
        if before == after {
            return;
        }
        if let Some(network) = before
            && let Some(count) = self.counts.get_mut(&network)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&network);
            }
        }
        if let Some(network) = after {
            *self.counts.entry(network).or_default() += 1;
        }
    }

    /// The network around `source` that is dense enough to be banned as one, and how many of its members are banned
    /// or wait.
    pub(super) fn dense_around(&self, source: Source) -> Option<(Source, u32)> {
        let membership = self.members.get(&source)?;
        let network = membership.waiting.or(membership.banned)?;
        let count = *self.counts.get(&network)?;
        (count >= dense(source, network)).then_some((network, count))
    }
}

/// How many members make `network` dense, when they are as wide as `member`.
fn dense(member: Source, network: Source) -> u32 {
    let bits = u32::from(member.network().prefix() - network.network().prefix());
    let quarter = 1_u32.checked_shl(bits.saturating_sub(2)).unwrap_or(u32::MAX);
    quarter.clamp(*DENSE.start(), *DENSE.end())
}

/// The network that `source` is joined to with its neighbours.
fn around(source: Source, ipv4_prefix: Option<u8>) -> Option<Source> {
    let network = source.network();
    let widest_step = network.prefix().checked_sub(LEAST_STEP)?;
    let prefix = if network.is_ipv4() {
        ipv4_prefix.filter(|&prefix| prefix <= widest_step)
    } else {
        IPV6_LEVELS.into_iter().find(|&level| level <= widest_step)
    };
    Source::new(Network::around(network.address(), prefix?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    #[test]
    fn neighbours_are_joined_level_by_level_and_ipv4_only_where_a_policy_says_so() {
        #[rustfmt::skip]
        let table = [
            // source               ipv4      joined to               dense with
            ("2001:db8::1/128",     None,     Some(("2001:db8::/64",  64))),
            ("2001:db8:0:1::/64",   None,     Some(("2001:db8::/56",  64))),
            ("2001:db8:0:10::/60",  None,     Some(("2001:db8::/56",  4))),
            ("2001:db8:0:80::/57",  None,     Some(("2001:db8::/48",  64))),
            ("2001:db8:0:100::/56", None,     Some(("2001:db8::/48",  64))),
            ("2001:db8::/48",       None,     None),
            ("203.0.113.7/32",      None,     None),
            ("203.0.113.7/32",      Some(24), Some(("203.0.113.0/24", 64))),
            ("203.0.113.0/24",      Some(24), None),
        ];
        for (member, ipv4, expect) in table {
            let joined = around(source(member), ipv4);
            let found = joined.map(|network| (network, dense(source(member), network)));
            assert_eq!(found, expect.map(|(network, count)| (source(network), count)), "{member} {ipv4:?}");
        }
    }

    #[test]
    fn a_source_that_waits_and_is_banned_counts_once() {
        let mut density = Density::default();
        let member = |number: u32| {
            let address = std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(number) << 68);
            Source::of(address.into(), 60).unwrap()
        };
        for number in 0..16 {
            let member = member(number);
            density.set(member, Member::Waiting, true, None);
            density.set(member, Member::Banned, true, None);
            density.set(member, Member::Waiting, false, None);
            let expect = (number >= 3).then(|| (source("2001:db8::/56"), number + 1));
            assert_eq!(density.dense_around(member), expect, "{member}");
        }
        for number in 0..16 {
            density.set(member(number), Member::Banned, false, None);
        }
        assert!(density.members.is_empty() && density.counts.is_empty());
    }
}
