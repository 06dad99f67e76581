//! What the kernel should hold at one moment.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::view::Until;
use crate::{net::Network, networks::Networks};

/// The longest life of a set entry that the kernel takes, in seconds: 24.8 days.
///
/// Source: `IPSET_MAX_TIMEOUT` is `(UINT_MAX >> 1) / 1000`; a longer one is cut to it without a word
/// (ipset protocol 7, kernel 6.18).
pub const MAX_TIMEOUT_SECS: u32 = 2_147_483;

/// What is left of a ban in the kernel, in seconds, `1..=MAX_TIMEOUT_SECS`.
///
/// Never zero: to the kernel that means for ever. A ban that lasts longer than the limit, or until it is
/// deleted, stands at the limit and is renewed long before that is used up, so that an agent that never comes
/// back leaves no ban for ever.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timeout(u32);

impl Timeout {
    /// What is left at `now`, rounded up: an entry never ends early; `None` once nothing is.
    #[must_use]
    pub fn between(now: Timestamp, until: Until) -> Option<Self> {
        let Some(end) = until.second() else { return Some(Self(MAX_TIMEOUT_SECS)) };
        let left = end.saturating_sub(now.as_second());
        if left <= 0 {
            return None;
        }
        Some(Self(u32::try_from(left).unwrap_or(MAX_TIMEOUT_SECS).min(MAX_TIMEOUT_SECS)))
    }

    /// The seconds.
    #[must_use]
    pub fn secs(self) -> u32 {
        self.0
    }

    /// Whether the kernel can't hold what is left, so that the entry has to be renewed later.
    #[must_use]
    pub fn is_clamped(self) -> bool {
        self.0 == MAX_TIMEOUT_SECS
    }
}

/// What the kernel should hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Desired {
    /// The networks that nothing may be dropped from, none of them a /0.
    pub protected: BTreeSet<Network>,
    /// The networks to drop and for how long.
    pub bans: BTreeMap<Network, Timeout>,
}

impl Desired {
    /// Takes out the bans that touch any network of `unguarded`, and says how many those were.
    ///
    /// For protected networks that could not be put into the kernel: without them there must be no drop.
    pub fn withhold(&mut self, unguarded: &Networks) -> usize {
        let before = self.bans.len();
        if !unguarded.is_empty() {
            self.bans.retain(|network, _| !unguarded.overlaps(network));
        }
        before - self.bans.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_never_zero_and_never_over_the_limit() {
        #[rustfmt::skip]
        let table = [
            // now, until, expect
            (0,   1,                 Some(1)),
            (10,  10,                None),
            (11,  10,                None),
            (0,   2_147_483,         Some(2_147_483)),
            (0,   2_147_484,         Some(2_147_483)),
            (0,   253_402_207_200,   Some(2_147_483)),
        ];
        for (now, until, expect) in table {
            let now = Timestamp::from_second(now).unwrap();
            let until = Until::at(Timestamp::from_second(until).unwrap());
            assert_eq!(Timeout::between(now, until).map(Timeout::secs), expect, "now {now}, until {until:?}");
        }
        assert!(Timeout::between(Timestamp::UNIX_EPOCH, Until::DELETED).unwrap().is_clamped());
    }

    #[test]
    fn bans_that_touch_an_unguarded_network_are_withheld() {
        let timeout = Timeout::between(Timestamp::UNIX_EPOCH, Until::DELETED).unwrap();
        let bans = ["203.0.113.7/32", "203.0.113.0/24", "198.51.100.1/32"];
        let mut desired = Desired {
            protected: BTreeSet::new(),
            bans: bans.iter().map(|text| (text.parse().unwrap(), timeout)).collect(),
        };
        let unguarded: Networks = [Network::host("203.0.113.7".parse().unwrap())].into_iter().collect();
        assert_eq!(desired.withhold(&unguarded), 2);
        assert_eq!(desired.bans.len(), 1);
        assert_eq!(desired.withhold(&Networks::default()), 0);
    }
}
