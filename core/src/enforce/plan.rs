//! The difference between what a set holds and what it should hold.
//!
//! A plan is data: it can be counted, tested and thrown away without anything having happened. It touches only
//! what differs, and carrying it out leaves nothing to plan, now or an hour later.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    desired::{MAX_TIMEOUT_SECS, Timeout},
    sets::{Family, Set},
};
use crate::net::Network;

/// What a set holds: networks and the seconds they have left, `None` for those without an end.
pub type Observed = BTreeMap<Network, Option<u32>>;

/// By how many seconds the life of an entry may differ from what it should be.
///
/// The kernel counts in its own ticks and reports whole seconds rounded down, while a timeout is rounded up.
const SLACK_SECS: u32 = 2;

/// By how much an entry at the kernel's limit may have counted down before it is renewed: a day, in seconds.
const RENEW_AFTER_SECS: u32 = 24 * 60 * 60;

/// One entry to put in; without a timeout it stays until it is taken out.
pub type Entry = (Network, Option<Timeout>);

/// What to change in one set.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// Entries to take out. They go first: a full set then has room.
    pub remove: Vec<Network>,
    /// Entries that are missing.
    pub add: Vec<Entry>,
    /// Entries that are there with another life than they should have.
    pub renew: Vec<Entry>,
}

impl Plan {
    /// Whether nothing has to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty() && self.renew.is_empty()
    }

    /// Whether somebody else must have changed the set: the passing of time renews, it never adds or removes.
    #[must_use]
    pub fn is_drift(&self) -> bool {
        !self.remove.is_empty() || !self.add.is_empty()
    }

    /// The plan for a set of bans.
    #[must_use]
    pub fn of_bans(set: Set, observed: &Observed, desired: &BTreeMap<Network, Timeout>) -> Self {
        let mut plan = Self::default();
        for (&network, &want) in desired {
            if Set::of_ban(&network) != set {
                continue;
            }
            match observed.get(&network) {
                None => plan.add.push((network, Some(want))),
                Some(Some(has)) if is_near(*has, want) => {}
                Some(_) => plan.renew.push((network, Some(want))),
            }
        }
        plan.remove = observed
            .iter()
            .filter(|(network, left)| {
                let wanted = desired.contains_key(network) && Set::of_ban(network) == set;
                // What ends in a moment was a ban until a moment ago: it goes by itself.
                !wanted && left.is_none_or(|left| left > SLACK_SECS)
            })
            .map(|(&network, _)| network)
            .collect();
        plan
    }

    /// The plan for a set of protected networks.
    #[must_use]
    pub fn of_protected(set: Set, observed: &Observed, desired: &BTreeSet<Network>) -> Self {
        let ours = |network: &&Network| Set::allow(Family::of(network)) == set;
        let add = desired.iter().filter(ours).filter(|network| !observed.contains_key(network));
        let remove = observed.keys().filter(|network| !(desired.contains(network) && ours(network)));
        Self {
            remove: remove.copied().collect(),
            add: add.map(|&network| (network, None)).collect(),
            renew: Vec::new(),
        }
    }
}

fn is_near(has: u32, want: Timeout) -> bool {
    let want = want.secs();
    // What is wanted stays at the limit while the entry counts down: with the usual slack it would be rewritten
    // at each sync. The same goes for what has just come down from the limit.
    let below = if want > MAX_TIMEOUT_SECS - RENEW_AFTER_SECS { RENEW_AFTER_SECS } else { SLACK_SECS };
    has <= want.saturating_add(SLACK_SECS) && has.saturating_add(below) >= want
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use proptest::prelude::*;

    use super::*;
    use crate::enforce::view::Until;

    /// A naive set: entries with an absolute end.
    type Model = BTreeMap<Network, Option<i64>>;

    fn observe(model: &Model, now: i64) -> Observed {
        model
            .iter()
            .filter(|(_, end)| end.is_none_or(|end| end > now))
            .map(|(&network, end)| (network, end.map(|end| u32::try_from(end - now).unwrap())))
            .collect()
    }

    fn apply(model: &mut Model, plan: &Plan, now: i64) {
        for network in &plan.remove {
            model.remove(network);
        }
        for (network, timeout) in plan.add.iter().chain(&plan.renew) {
            model.insert(*network, timeout.map(|timeout| now + i64::from(timeout.secs())));
        }
    }

    fn desired(bans: &BTreeMap<Network, Until>, now: i64) -> BTreeMap<Network, Timeout> {
        let now = Timestamp::from_second(now).unwrap();
        bans.iter().filter_map(|(&network, &until)| Some((network, Timeout::between(now, until)?))).collect()
    }

    fn network() -> impl Strategy<Value = Network> {
        prop_oneof![
            (0u32..16)
                .prop_map(|bits| Network::host(std::net::Ipv4Addr::from_bits(0xcb00_7100 | bits).into())),
            (0u32..4, 24u8..32).prop_map(|(bits, prefix)| {
                Network::around(std::net::Ipv4Addr::from_bits(0xcb00_7100 | bits << 3).into(), prefix)
            }),
        ]
    }

    fn until() -> impl Strategy<Value = Until> {
        let at = |second| Until::at(Timestamp::from_second(second).unwrap());
        prop_oneof![Just(Until::DELETED), (1i64..10_000).prop_map(at), (2_147_000i64..4_000_000).prop_map(at)]
    }

    fn model() -> impl Strategy<Value = Model> {
        let end =
            prop_oneof![Just(None), (1i64..10_000).prop_map(Some), (2_070_000i64..2_147_483).prop_map(Some)];
        prop::collection::btree_map(network(), end, 0..12)
    }

    proptest! {
        /// Whatever a set held, one plan converges, a second is empty, and an hour later it still is.
        #[test]
        fn a_plan_converges_then_rests_and_still_rests_an_hour_later(
            mut model in model(),
            bans in prop::collection::btree_map(network(), until(), 0..12),
        ) {
            for set in [Set::Hosts4, Set::Nets4] {
                let want = desired(&bans, 0);
                let plan = Plan::of_bans(set, &observe(&model, 0), &want);
                apply(&mut model, &plan, 0);
                let held = observe(&model, 0);
                prop_assert!(want.keys().filter(|network| Set::of_ban(network) == set).all(|network| held.contains_key(network)));
                for later in [0, 1, 3_600] {
                    let plan = Plan::of_bans(set, &observe(&model, later), &desired(&bans, later));
                    prop_assert!(plan.is_empty(), "after {later} s: {plan:?}");
                }
            }
        }

        /// However long the agent runs, a ban that lasts is always in the set.
        #[test]
        fn a_ban_beyond_the_limit_is_renewed_before_it_ends(pause in 1i64..2_000_000) {
            let network = Network::host("203.0.113.7".parse().unwrap());
            let bans = BTreeMap::from([(network, Until::DELETED)]);
            let mut model = Model::new();
            for round in 0..10 {
                let now = round * pause;
                let observed = observe(&model, now);
                prop_assert!(round == 0 || observed.contains_key(&network));
                apply(&mut model, &Plan::of_bans(Set::Hosts4, &observed, &desired(&bans, now)), now);
            }
        }

        #[test]
        fn protected_networks_converge(
            mut model in model(),
            protected in prop::collection::btree_set(network(), 0..12),
        ) {
            let plan = Plan::of_protected(Set::Allow4, &observe(&model, 0), &protected);
            apply(&mut model, &plan, 0);
            let held: BTreeSet<Network> = observe(&model, 0).into_keys().collect();
            prop_assert_eq!(held, protected);
        }
    }

    #[test]
    fn a_longer_or_shorter_ban_is_renewed_in_place() {
        let network = Network::host("203.0.113.7".parse().unwrap());
        let now = Timestamp::UNIX_EPOCH;
        let want = |secs| {
            let until = Until::at(now + SignedDuration::from_secs(secs));
            BTreeMap::from([(network, Timeout::between(now, until).unwrap())])
        };
        #[rustfmt::skip]
        let table = [
            // has        want       renewed
            (Some(600),   600,       false),
            (Some(598),   600,       false),
            (Some(597),   600,       true),
            (Some(603),   600,       true),
            (None,        600,       true),
            (Some(2_147_483 - 86_400),     3_000_000, false),
            (Some(2_147_483 - 86_401),     3_000_000, true),
        ];
        for (has, want_secs, renewed) in table {
            let plan = Plan::of_bans(Set::Hosts4, &Observed::from([(network, has)]), &want(want_secs));
            assert_eq!(!plan.renew.is_empty(), renewed, "has {has:?}, want {want_secs}");
            assert!(!plan.is_drift());
        }
    }

    #[test]
    fn an_entry_about_to_end_is_left_to_end() {
        let network = Network::host("203.0.113.7".parse().unwrap());
        let plan = |left| Plan::of_bans(Set::Hosts4, &Observed::from([(network, left)]), &BTreeMap::new());
        assert!(plan(Some(2)).is_empty());
        assert_eq!(plan(Some(3)).remove, [network]);
        assert_eq!(plan(None).remove, [network]);
    }
}
