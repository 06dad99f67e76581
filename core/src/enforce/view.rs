//! What a node has heard of: bans, and the networks that are never banned.
//!
//! Lists and watch events come in, [`Desired`](super::desired::Desired) goes out, but only from a
//! `View<Complete>`. An agent that has just started has a `View<Partial>`, which has no way to name anything to
//! add or to remove: it cannot sweep bans that it merely has not listed yet, nor ban before it knows whom not to.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    desired::{Desired, Timeout},
    sets::without_slash_zero,
};
use crate::{
    net::{Network, Source},
    networks::Networks,
};

/// What the name of a second `IPBan` of the same network ends in.
const BESIDE: &str = ".detected";

/// Which `IPBan` is meant.
///
/// An object's name follows from its network, so a network has two at most: the one named after it, and the
/// operator's own beside it when that name was taken. No names need to be kept: a ban costs about 50 bytes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BanKey {
    source: Source,
    beside: bool,
}

/// The name of an `IPBan` is not the name of its network, so somebody wrote it around the API's rules.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the ban of {0} must be named {name} or {name}{BESIDE}", name = .0.ban_name())]
pub struct ForeignName(pub Source);

impl BanKey {
    /// The key of the ban of `source` with that name.
    pub fn of(name: &str, source: Source) -> Result<Self, ForeignName> {
        let (plain, beside) = match name.strip_suffix(BESIDE) {
            Some(plain) => (plain, true),
            None => (name, false),
        };
        if plain == source.ban_name() { Ok(Self { source, beside }) } else { Err(ForeignName(source)) }
    }

    /// The network that is banned.
    #[must_use]
    pub fn source(&self) -> Source {
        self.source
    }
}

/// When a ban ends by itself, in whole seconds since 1970; the later one is the greater.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Until(i64);

impl Until {
    /// It does not: it lasts until it is deleted.
    pub const DELETED: Self = Self(i64::MAX);

    /// At that time, or at the next whole second: never early.
    #[must_use]
    pub fn at(time: Timestamp) -> Self {
        let up = i64::from(time.subsec_nanosecond() > 0);
        Self(time.as_second().saturating_add(up))
    }

    /// The second, or `None` for [`Until::DELETED`].
    #[must_use]
    pub fn second(self) -> Option<i64> {
        (self != Self::DELETED).then_some(self.0)
    }

    /// Whether the ban has ended at `now`.
    #[must_use]
    pub fn is_over(self, now: Timestamp) -> bool {
        Timeout::between(now, self).is_none()
    }
}

/// Bans by key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Bans(BTreeMap<BanKey, Until>);

impl Bans {
    /// Takes in a ban, or its new end.
    pub fn insert(&mut self, key: BanKey, until: Until) {
        self.0.insert(key, until);
    }

    /// Forgets a ban.
    pub fn remove(&mut self, key: BanKey) {
        self.0.remove(&key);
    }

    /// How many bans there are, ended ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// When the ban of this network ends: the later, where there are two.
    #[must_use]
    pub fn until(&self, source: Source) -> Option<Until> {
        [false, true].into_iter().filter_map(|beside| self.0.get(&BanKey { source, beside }).copied()).max()
    }

    /// Every network with the end of its longest ban, in order.
    fn longest(&self) -> impl Iterator<Item = (Source, Until)> {
        let mut bans = self.0.iter().map(|(key, &until)| (key.source, until)).peekable();
        std::iter::from_fn(move || {
            let (source, mut until) = bans.next()?;
            while let Some((_, other)) = bans.next_if(|&(next, _)| next == source) {
                until = until.max(other);
            }
            Some((source, until))
        })
    }
}

/// Networks that no packet may be dropped from, as three parties say.
#[derive(Clone, Debug, Default)]
struct Protected {
    /// `ProtectedNetworks`, spec and status together.
    told: Vec<Network>,
    /// What the agent found by itself: its node's addresses and its API server.
    own: Vec<Network>,
    /// Both as entries for the kernel.
    entries: BTreeSet<Network>,
    /// Both as ranges, to ask.
    ranges: Networks,
}

impl Protected {
    fn merge(&mut self) {
        self.entries = self.told.iter().chain(&self.own).copied().flat_map(without_slash_zero).collect();
        self.ranges = self.entries.iter().copied().collect();
    }

    /// Whether one protected network holds all of this one, so that a ban of it would drop nothing.
    fn covers(&self, network: &Network) -> bool {
        self.ranges.overlaps(network)
            && self
                .entries
                .iter()
                .any(|entry| entry.prefix() <= network.prefix() && entry.contains(network.address()))
    }
}

/// State of a [`View`] that has not heard everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Partial {
    bans: bool,
    told: bool,
    own: bool,
}

/// State of a [`View`] that has heard both lists and knows its own addresses.
#[derive(Clone, Copy, Debug)]
pub struct Complete(());

/// The bans and protected networks that a node has heard of.
///
/// ```compile_fail
/// use ip_sentry_core::enforce::view::View;
/// // A view that has not heard everything desires nothing: this does not compile.
/// let _ = View::default().desired(jiff::Timestamp::UNIX_EPOCH);
/// ```
#[derive(Clone, Debug, Default)]
pub struct View<S> {
    bans: Bans,
    protected: Protected,
    state: S,
}

impl View<Partial> {
    /// The list of bans is here.
    pub fn bans_listed(&mut self, bans: Bans) {
        self.bans = bans;
        self.state.bans = true;
    }

    /// The list of protected networks is here.
    pub fn protected_listed(&mut self, networks: Vec<Network>) {
        self.protected.told = networks;
        self.state.told = true;
    }

    /// The node's own addresses are known.
    pub fn own_found(&mut self, networks: Vec<Network>) {
        self.protected.own = networks;
        self.state.own = true;
    }

    /// The complete view, once all three are here.
    #[expect(clippy::result_large_err, reason = "either way it is the view itself")]
    pub fn complete(mut self) -> Result<View<Complete>, Self> {
        if self.state.bans && self.state.told && self.state.own {
            self.protected.merge();
            Ok(View { bans: self.bans, protected: self.protected, state: Complete(()) })
        } else {
            Err(self)
        }
    }

    /// What is still missing, for people.
    #[must_use]
    pub fn missing(&self) -> &'static str {
        match (self.state.bans, self.state.told, self.state.own) {
            (false, false, _) => "the lists of IPBans and ProtectedNetworks",
            (false, true, _) => "the list of IPBans",
            (true, false, _) => "the list of ProtectedNetworks",
            (true, true, _) => "this node's own addresses",
        }
    }
}

impl<S> View<S> {
    /// A ban was made or its end has changed.
    pub fn ban(&mut self, key: BanKey, until: Until) {
        self.bans.insert(key, until);
    }

    /// A ban was lifted.
    pub fn lift(&mut self, key: BanKey) {
        self.bans.remove(key);
    }
}

impl View<Complete> {
    /// The bans were listed anew.
    pub fn replace_bans(&mut self, bans: Bans) {
        self.bans = bans;
    }

    /// The protected networks have changed; says whether anything did.
    pub fn protect(&mut self, networks: Vec<Network>) -> bool {
        let before = std::mem::replace(&mut self.protected.told, networks);
        self.protected.merge();
        before != self.protected.told
    }

    /// The node's own addresses have changed; says whether anything did.
    pub fn protect_own(&mut self, networks: Vec<Network>) -> bool {
        let before = std::mem::replace(&mut self.protected.own, networks);
        self.protected.merge();
        before != self.protected.own
    }

    /// The networks that nothing may be dropped from, none of them a /0.
    #[must_use]
    pub fn protected(&self) -> &BTreeSet<Network> {
        &self.protected.entries
    }

    /// How many bans were heard of, ended ones included.
    #[must_use]
    pub fn heard(&self) -> usize {
        self.bans.len()
    }

    /// The bans in force at `now` and when they end, in order; of two for one network the longer.
    ///
    /// A ban that lies in a protected network drops nothing and is left out.
    pub fn in_force(&self, now: Timestamp) -> impl Iterator<Item = (Source, Until)> {
        self.bans.longest().filter(move |(source, until)| self.holds(*source, *until, now))
    }

    /// What the kernel should hold at `now`.
    #[must_use]
    pub fn desired(&self, now: Timestamp) -> Desired {
        let bans = self
            .in_force(now)
            .filter_map(|(source, until)| Some((source.network(), Timeout::between(now, until)?)))
            .collect();
        Desired { protected: self.protected.entries.clone(), bans }
    }

    /// What is left of the ban of this one network, if it is to be enforced at `now`.
    #[must_use]
    pub fn desired_of(&self, source: Source, now: Timestamp) -> Option<Timeout> {
        let until = self.bans.until(source)?;
        if self.holds(source, until, now) { Timeout::between(now, until) } else { None }
    }

    /// When the next ban in force at `now` ends.
    #[must_use]
    pub fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        let second = self.in_force(now).filter_map(|(_, until)| until.second()).min()?;
        Timestamp::from_second(second).ok()
    }

    fn holds(&self, source: Source, until: Until, now: Timestamp) -> bool {
        !until.is_over(now) && !self.protected.covers(&source.network())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse().unwrap()
    }

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn view(bans: &[(&str, i64)], protected: &[&str]) -> View<Complete> {
        let mut view = View::<Partial>::default();
        let mut listed = Bans::default();
        for (text, until) in bans {
            let source = source(text);
            listed.insert(BanKey::of(&source.ban_name(), source).unwrap(), Until::at(at(*until)));
        }
        view.bans_listed(listed);
        view.protected_listed(networks(protected));
        view.own_found(Vec::new());
        view.complete().unwrap()
    }

    #[test]
    fn a_view_is_complete_only_with_both_lists_and_the_own_addresses() {
        let mut view = View::<Partial>::default();
        assert_eq!(view.missing(), "the lists of IPBans and ProtectedNetworks");
        view.bans_listed(Bans::default());
        let mut view = view.complete().unwrap_err();
        assert_eq!(view.missing(), "the list of ProtectedNetworks");
        view.protected_listed(Vec::new());
        let mut view = view.complete().unwrap_err();
        assert_eq!(view.missing(), "this node's own addresses");
        view.own_found(Vec::new());
        assert!(view.complete().is_ok());
    }

    #[test]
    fn a_ban_that_expired_is_not_desired() {
        let view = view(&[("203.0.113.7/32", 100), ("203.0.113.8/32", 101)], &[]);
        let desired = view.desired(at(100));
        assert_eq!(desired.bans.keys().map(ToString::to_string).collect::<Vec<_>>(), ["203.0.113.8/32"]);
        assert_eq!(view.desired_of(source("203.0.113.7/32"), at(100)), None);
        assert_eq!(view.next_end(at(0)), Some(at(100)));
        assert_eq!(view.next_end(at(100)), Some(at(101)));
    }

    #[test]
    fn of_two_bans_of_one_network_the_longer_holds() {
        let client = source("203.0.113.7/32");
        let mut view = view(&[("203.0.113.7/32", 100)], &[]);
        let beside = BanKey::of("203.0.113.7.detected", client).unwrap();
        view.ban(beside, Until::at(at(500)));
        assert_eq!(view.desired_of(client, at(0)).map(Timeout::secs), Some(500));
        assert_eq!(view.desired(at(0)).bans.len(), 1);
        view.lift(beside);
        assert_eq!(view.desired_of(client, at(0)).map(Timeout::secs), Some(100));
        view.lift(BanKey::of("203.0.113.7", client).unwrap());
        assert_eq!(view.desired_of(client, at(0)), None);
    }

    #[test]
    fn a_ban_inside_a_protected_network_is_not_desired_and_a_wider_one_is() {
        let mut view =
            view(&[("203.0.113.7/32", 100), ("203.0.113.0/24", 100), ("2001:db8::/64", 100)], &["0.0.0.0/0"]);
        assert_eq!(view.protected().len(), 2, "/0 is two entries");
        assert_eq!(view.desired(at(0)).bans.len(), 1);
        assert!(view.protect(networks(&["203.0.113.7/32"])));
        assert!(!view.protect(networks(&["203.0.113.7/32"])));
        let desired = view.desired(at(0));
        let banned: Vec<_> = desired.bans.keys().map(ToString::to_string).collect();
        assert_eq!(banned, ["203.0.113.0/24", "2001:db8::/64"]);
        assert!(view.protect_own(networks(&["2001:db8::/32"])));
        assert_eq!(view.desired(at(0)).bans.len(), 1);
    }

    #[test]
    fn a_ban_is_known_by_its_network_name_only() {
        let client = source("2001:db8::/64");
        assert!(BanKey::of("2001-db8---64", client).is_ok());
        assert!(BanKey::of("2001-db8---64.detected", client).is_ok());
        let error = BanKey::of("other", client).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the ban of 2001:db8::/64 must be named 2001-db8---64 or 2001-db8---64.detected"
        );
    }

    #[test]
    fn a_fraction_of_a_second_counts_as_the_next_whole_one() {
        assert_eq!(Until::at("1970-01-01T00:00:10.5Z".parse().unwrap()).second(), Some(11));
        assert_eq!(Until::at(at(10)).second(), Some(10));
        assert_eq!(Until::DELETED.second(), None);
    }
}
