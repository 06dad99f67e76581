//! Bans as one rule each, for kernels that have no sets.
//!
//! Every packet walks every rule, about 5 ns each, so their number is bounded. The protected networks hold here
//! too: where one lies inside a banned network, a rule before it lets the packet return.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::{
    rules::{self, Exceptions, HIT_CHAIN, Matches, Rules},
    sets::Family,
    view::{Complete, Until, View},
};
use crate::net::Network;

/// How many bans of each family are enforced without sets.
///
/// 500 rules cost a clean packet about 2.5 µs, four times what it costs without them (kernel 6.18, measured).
pub const MOST_RULES: usize = 500;

/// Rules for one family.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PlainRules {
    /// The rules, in order.
    pub rules: Rules,
    /// How many of them are bans.
    pub bans: usize,
    /// How many bans had no room.
    pub refused: usize,
}

/// The rules for the bans in force at `now`, the longest [`MOST_RULES`] of them.
///
/// Where the kernel can match dates it ends a ban itself; else a rule stays until the next rendering leaves it out.
#[must_use]
pub fn rules(
    view: &View<Complete>,
    family: Family,
    exceptions: &Exceptions,
    now: Timestamp,
    matches: Matches,
) -> PlainRules {
    let mut bans: Vec<(Until, Network)> = view
        .in_force(now)
        .map(|(source, until)| (until, source.network()))
        .filter(|(_, network)| Family::of(network) == family)
        .collect();
    bans.sort_unstable_by(|one, other| other.cmp(one));
    let refused = bans.len().saturating_sub(MOST_RULES);
    bans.truncate(MOST_RULES);

    let returns: BTreeSet<Network> = bans
        .iter()
        .flat_map(|(_, ban)| view.protected().iter().filter(|network| ban.overlaps(network)))
        .copied()
        .collect();
    let returns = returns.into_iter().map(|network| format!("-s {network} -j RETURN"));
    let hits = bans.iter().map(|(until, network)| match until.second().and_then(rules::date) {
        Some(date) if matches.dates => format!("-s {network} -m time --datestop {date} -j {HIT_CHAIN}"),
        _ => format!("-s {network} -j {HIT_CHAIN}"),
    });
    let rules = Rules::of(family, exceptions, matches, returns.chain(hits), None);
    PlainRules { rules, bans: bans.len(), refused }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        enforce::view::{BanKey, Bans, Partial},
        net::Source,
    };

    fn view(bans: &[(&str, Until)], protected: &[&str]) -> View<Complete> {
        let mut view = View::<Partial>::default();
        let mut listed = Bans::default();
        for (text, until) in bans {
            let source: Source = text.parse().unwrap();
            listed.insert(BanKey::of(&source.ban_name(), source).unwrap(), *until);
        }
        view.bans_listed(listed);
        view.protected_listed(protected.iter().map(|text| text.parse().unwrap()).collect());
        view.own_found(Vec::new());
        view.complete().unwrap()
    }

    fn until(text: &str) -> Until {
        Until::at(text.parse().unwrap())
    }

    #[test]
    fn a_ban_ends_in_the_kernel_where_it_can() {
        let view = view(
            &[
                ("203.0.113.7/32", until("2026-11-22T10:00:00Z")),
                ("203.0.113.8/32", until("2099-01-01T00:00:00Z")),
                ("203.0.113.0/28", Until::DELETED),
                ("2001:db8::/64", until("2026-11-22T10:00:00Z")),
            ],
            &["203.0.113.4/32", "198.51.100.0/24"],
        );
        let got = |family, dates| {
            let matches = Matches { dates, labels: false };
            rules(&view, family, &Exceptions::default(), Timestamp::UNIX_EPOCH, matches).rules.chain
        };
        assert_eq!(
            got(Family::V4, true),
            [
                "-s 203.0.113.4/32 -j RETURN",
                "-s 203.0.113.0/28 -j IP-BLOCKER-HIT",
                "-s 203.0.113.8/32 -j IP-BLOCKER-HIT",
                "-s 203.0.113.7/32 -m time --datestop 2026-11-22T09:59:59 -j IP-BLOCKER-HIT",
            ]
        );
        assert_eq!(got(Family::V6, false), ["-s 2001:db8::/64 -j IP-BLOCKER-HIT"]);
    }

    #[test]
    fn the_longest_bans_are_kept_and_the_rest_counted() {
        let texts: Vec<String> =
            (0..=MOST_RULES + 1).map(|n| format!("10.0.{}.{}/32", n / 256, n % 256)).collect();
        let bans: Vec<(&str, Until)> = texts
            .iter()
            .zip(1i64..)
            .map(|(text, second)| (text.as_str(), Until::at(Timestamp::from_second(second).unwrap())))
            .collect();
        let view = view(&bans, &[]);
        let got = rules(&view, Family::V4, &Exceptions::default(), Timestamp::UNIX_EPOCH, Matches::default());
        assert_eq!((got.bans, got.refused, got.rules.chain.len()), (MOST_RULES, 2, 1 + MOST_RULES));
        assert!(
            !got.rules.chain.iter().any(|rule| rule.contains("10.0.0.0/32") || rule.contains("10.0.0.1/32"))
        );
    }

    proptest! {
        /// No packet from a protected network reaches a rule that drops it.
        #[test]
        fn a_protected_address_is_never_dropped(
            bans in prop::collection::vec((0u32..64, 26u8..=32), 0..8),
            protected in prop::collection::vec((0u32..64, 26u8..=32), 0..8),
            probe in 0u32..64,
        ) {
            let network = |(bits, prefix)| Network::around(std::net::Ipv4Addr::from_bits(0xcb00_7100 | bits).into(), prefix);
            let protected: Vec<Network> = protected.into_iter().map(network).collect();
            let mut view = View::<Partial>::default();
            let mut listed = Bans::default();
            for ban in bans.into_iter().map(network) {
                let source = Source::new(ban).unwrap();
                listed.insert(BanKey::of(&source.ban_name(), source).unwrap(), Until::DELETED);
            }
            view.bans_listed(listed.clone());
            view.protected_listed(protected.clone());
            view.own_found(Vec::new());
            let view = view.complete().unwrap();
            let address = std::net::Ipv4Addr::from_bits(0xcb00_7100 | probe).into();
            let rules = rules(&view, Family::V4, &Exceptions::default(), Timestamp::UNIX_EPOCH, Matches::default()).rules;
            let verdict = rules.chain.iter().find_map(|rule| {
                let (network, target) = rule.strip_prefix("-s ")?.split_once(" -j ")?;
                network.parse::<Network>().unwrap().contains(address).then(|| target == HIT_CHAIN)
            });
            let is_protected = protected.iter().any(|network| network.contains(address));
            let is_banned = (26u8..=32).any(|prefix| {
                Source::new(Network::around(address, prefix)).is_ok_and(|source| listed.until(source).is_some())
            });
            prop_assert_eq!(verdict == Some(true), is_banned && !is_protected);
        }
    }
}
