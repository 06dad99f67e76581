//! The decisions that wait, and the orders in which they are looked for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use ip_sentry_core::{
    detect::decision::Decision,
    net::{Network, Source},
};
use jiff::Timestamp;

use crate::{
    bans::Ban,
    policies::{PolicyJail, PolicyKey},
};

/// How much speaks against a source, the stronger the greater: its hits, and of two with as many the one that has
/// waited longer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Rank {
    pub(super) hits: u32,
    waits_since: Reverse<u64>,
}

/// What a decision is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// It can be written, and needs a place of its own among the bans.
    NeedsPlace,
    /// It can be written, to a ban that exists.
    HasPlace,
    /// It is looked at again at that time, or when what it depends on changes.
    Until(Instant),
    /// It is being written.
    InFlight,
}

/// One decision.
pub(super) struct Waiting {
    pub(super) policy: Arc<PolicyJail>,
    pub(super) decision: Decision,
    /// When its ban would end.
    pub(super) expires_at: Timestamp,
    /// Since when its name is held by an object that is about to go.
    pub(super) held_since: Option<Instant>,
    /// The objects that hold its names, read after the table was: they count until the table changes.
    pub(super) seen: Vec<Ban>,
    /// Writes that were refused for a reason of this decision's own.
    pub(super) refusals: u32,
    rank: Rank,
    phase: Phase,
}

impl Waiting {
    pub(super) fn source(&self) -> Source {
        self.decision.source
    }

    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }
}

/// Every decision that waits, one a source.
#[derive(Default)]
pub(super) struct Waitlist {
    /// In the order of addresses, so that those inside a network lie together.
    entries: BTreeMap<Network, Waiting>,
    /// Those that are not being written, the weakest first.
    ranked: BTreeSet<(Rank, Source)>,
    needs_place: BTreeSet<(Rank, Source)>,
    has_place: BTreeSet<(Rank, Source)>,
    timers: BTreeSet<(Instant, Source)>,
    ends: BTreeSet<(Timestamp, Source)>,
    by_policy: BTreeMap<PolicyKey, BTreeSet<Source>>,
    in_flight: usize,
    arrivals: u64,
}

impl Waitlist {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Those that could be written now.
    pub(super) fn ready(&self) -> usize {
        self.needs_place.len() + self.has_place.len()
    }

    pub(super) fn get(&self, source: Source) -> Option<&Waiting> {
        self.entries.get(&source.network())
    }

    /// Every decision about `network` or what lies in it.
    pub(super) fn within(&self, network: Network) -> impl Iterator<Item = &Waiting> {
        let entries = self.entries.range(network..);
        entries.take_while(move |(inside, _)| network.contains(inside.address())).map(|(_, waiting)| waiting)
    }

    /// Every decision about a network that shares an address with the range from `first` to `last`.
    pub(super) fn meeting(&self, (first, last): (IpAddr, IpAddr)) -> impl Iterator<Item = &Waiting> {
        let lowest = Network::host(first);
        let around = (0..lowest.prefix()).filter_map(move |prefix| {
            let around = Network::around(first, prefix);
            self.entries.get(&around)
        });
        // In the order of networks all of IPv4 comes before IPv6, so a range never leaves its family unnoticed.
        let inside = self
            .entries
            .range(lowest..)
            .take_while(move |(inside, _)| inside.is_ipv4() == last.is_ipv4() && inside.address() <= last);
        around.chain(inside.map(|(_, waiting)| waiting))
    }

    /// Every source that waits for a ban of this policy.
    pub(super) fn of_policy(&self, key: &PolicyKey) -> impl Iterator<Item = Source> {
        self.by_policy.get(key).into_iter().flatten().copied()
    }

    /// Takes in a source that does not wait yet.
    pub(super) fn insert(
        &mut self,
        policy: Arc<PolicyJail>,
        decision: Decision,
        expires_at: Timestamp,
        now: Instant,
    ) {
        let source = decision.source;
        self.arrivals += 1;
        let rank = Rank { hits: decision.evidence.hits, waits_since: Reverse(self.arrivals) };
        let waiting = Waiting {
            policy,
            decision,
            expires_at,
            held_since: None,
            seen: Vec::new(),
            refusals: 0,
            rank,
            phase: Phase::Until(now),
        };
        self.index(source, &waiting);
        self.entries.insert(source.network(), waiting);
    }

    /// Changes an entry, whatever of it: every order follows.
    pub(super) fn change(&mut self, source: Source, change: impl FnOnce(&mut Waiting)) {
        let Some(mut waiting) = self.entries.remove(&source.network()) else { return };
        self.unindex(source, &waiting);
        change(&mut waiting);
        self.index(source, &waiting);
        self.entries.insert(source.network(), waiting);
    }

    pub(super) fn set_phase(&mut self, source: Source, phase: Phase) {
        self.change(source, |waiting| waiting.phase = phase);
    }

    /// More hits of a source that waits already speak against it.
    pub(super) fn strengthen(&mut self, source: Source, hits: u32) {
        self.change(source, |waiting| waiting.rank.hits = waiting.rank.hits.saturating_add(hits));
    }

    pub(super) fn remove(&mut self, source: Source) -> Option<Waiting> {
        let waiting = self.entries.remove(&source.network())?;
        self.unindex(source, &waiting);
        Some(waiting)
    }

    /// The strongest that can be written; with `has_place` only one that needs no place of its own.
    pub(super) fn strongest(&self, has_place: bool) -> Option<Source> {
        let needs_place = if has_place { None } else { self.needs_place.last() };
        needs_place.max(self.has_place.last()).map(|&(_, source)| source)
    }

    /// The weakest that is not being written.
    pub(super) fn weakest(&self) -> Option<(u32, Source)> {
        self.ranked.first().map(|&(rank, source)| (rank.hits, source))
    }

    /// The next one that waits for a time.
    pub(super) fn next_timer(&self) -> Option<(Instant, Source)> {
        self.timers.first().copied()
    }

    /// The next one whose ban would be over.
    pub(super) fn next_end(&self) -> Option<(Timestamp, Source)> {
        self.ends.first().copied()
    }

    fn index(&mut self, source: Source, waiting: &Waiting) {
        let ranked = (waiting.rank, source);
        match waiting.phase {
            Phase::NeedsPlace => drop(self.needs_place.insert(ranked)),
            Phase::HasPlace => drop(self.has_place.insert(ranked)),
            Phase::Until(time) => drop(self.timers.insert((time, source))),
            Phase::InFlight => self.in_flight += 1,
        }
        if waiting.phase != Phase::InFlight {
            self.ranked.insert(ranked);
            self.ends.insert((waiting.expires_at, source));
        }
        self.by_policy.entry(waiting.policy.key.clone()).or_default().insert(source);
    }

    fn unindex(&mut self, source: Source, waiting: &Waiting) {
        let ranked = (waiting.rank, source);
        match waiting.phase {
            Phase::NeedsPlace => drop(self.needs_place.remove(&ranked)),
            Phase::HasPlace => drop(self.has_place.remove(&ranked)),
            Phase::Until(time) => drop(self.timers.remove(&(time, source))),
            Phase::InFlight => self.in_flight -= 1,
        }
        self.ranked.remove(&ranked);
        self.ends.remove(&(waiting.expires_at, source));
        if let Some(sources) = self.by_policy.get_mut(&waiting.policy.key) {
            sources.remove(&source);
            if sources.is_empty() {
                self.by_policy.remove(&waiting.policy.key);
            }
        }
    }
}
