//! What is remembered of a source when its ban is gone: when its bans ended, and when one was lifted by hand.
//!
//! [`History`] is the table, spread over [`SHARDS`] shards by a hash of the network; [`store`] keeps it in
//! `OffenceHistory` objects. Merging is by union and by "the later wins", so two leaders, or a leader and what
//! it reads back, always agree in the end.

pub mod store;

use std::collections::{BTreeMap, BTreeSet};

use ip_sentry_core::{
    detect::{
        decision::Decision,
        escalation::{Ban, PastBans},
    },
    net::Source,
};
use ip_sentry_crd::offence_history::Offences;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The number of shards, so that one ban rewrites a 64th of what is known.
pub const SHARDS: usize = 64;
/// The most sources that one shard remembers; the CRD allows no more.
pub const SHARD_CAPACITY: usize = 1024;

/// What is remembered of one source.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// When its bans ended.
    pub past: PastBans,
    /// When one was last lifted by hand.
    pub lifted_at: Option<Timestamp>,
}

impl Memory {
    /// Takes in what another one knows.
    fn merge(&mut self, other: &Self) {
        other.past.ends().for_each(|end| self.past.end(end));
        self.lifted_at = self.lifted_at.max(other.lifted_at);
    }

    /// When it was last heard of.
    fn last(&self) -> Option<Timestamp> {
        self.past.last().max(self.lifted_at)
    }
}

/// The table of all sources.
#[derive(Debug)]
pub struct History {
    shards: Vec<Shard>,
    /// When sources were last lifted.
    lifts: BTreeSet<(Timestamp, Source)>,
    forgotten: u64,
}

#[derive(Debug, Default)]
struct Shard {
    sources: BTreeMap<Source, Memory>,
    /// The sources by when they were last heard of: the first is forgotten first.
    by_age: BTreeSet<(Option<Timestamp>, Source)>,
    is_dirty: bool,
}

impl Default for History {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(SHARDS).collect();
        Self { shards, lifts: BTreeSet::new(), forgotten: 0 }
    }
}

impl History {
    fn known(&self, source: Source) -> Option<&Memory> {
        self.shards[shard_of(source)].sources.get(&source)
    }

    /// What is known of `source`.
    #[must_use]
    pub fn get(&self, source: Source) -> Memory {
        self.known(source).cloned().unwrap_or_default()
    }

    /// When a ban of `source` was last lifted by hand.
    #[must_use]
    pub fn lifted_at(&self, source: Source) -> Option<Timestamp> {
        self.known(source).and_then(|memory| memory.lifted_at)
    }

    /// The ban that a decision asks for, after those of its source that have ended.
    ///
    /// A ban that lasts has no end yet: the decision that led to it asks for the same one again.
    #[must_use]
    pub fn ban_for(&self, decision: &Decision) -> Ban {
        match self.known(decision.source) {
            Some(known) => known.past.ban_for(decision),
            None => PastBans::default().ban_for(decision),
        }
    }

    /// A ban of `source` ended. Whether that is news.
    pub fn end(&mut self, source: Source, at: Timestamp) -> bool {
        self.remember(source, &Memory { past: PastBans::from_iter([at]), lifted_at: None }, true)
    }

    /// A ban of `source` was lifted. Whether that is news.
    pub fn lift(&mut self, source: Source, at: Timestamp) -> bool {
        self.remember(source, &Memory { past: PastBans::default(), lifted_at: Some(at) }, true)
    }

    /// Takes in news of a source, which are `ours` to write down. Of too many sources in a shard the one whose last
    /// ban ended longest ago is forgotten, and counted.
    fn remember(&mut self, source: Source, news: &Memory, ours: bool) -> bool {
        let shard = &mut self.shards[shard_of(source)];
        let known = shard.sources.entry(source).or_default();
        let before = known.clone();
        known.merge(news);
        if *known == before {
            return false;
        }
        shard.is_dirty |= ours;
        shard.by_age.remove(&(before.last(), source));
        shard.by_age.insert((known.last(), source));
        if before.lifted_at != known.lifted_at {
            before.lifted_at.map(|at| self.lifts.remove(&(at, source)));
            known.lifted_at.map(|at| self.lifts.insert((at, source)));
        }
        if shard.sources.len() > SHARD_CAPACITY
            && let Some((_, oldest)) = shard.by_age.pop_first()
        {
            let lifted_at = shard.sources.remove(&oldest).and_then(|memory| memory.lifted_at);
            lifted_at.map(|at| self.lifts.remove(&(at, oldest)));
            self.forgotten += 1;
        }
        true
    }

    /// Takes in what a shard's object says. Entries that can't be read are passed over; their number returns.
    pub fn read(&mut self, entries: &[Offences]) -> usize {
        let mut unreadable = 0;
        for entry in entries {
            let Ok(source) = entry.cidr.parse::<Source>() else {
                unreadable += 1;
                continue;
            };
            let news = Memory {
                past: entry.ends.iter().map(|time| time.0).collect(),
                lifted_at: entry.lifted_at.as_ref().map(|time| time.0),
            };
            self.remember(source, &news, false);
        }
        unreadable
    }

    /// These entries are stored as shard `index` and have been read: where no more is known, there is nothing to write.
    pub fn stored(&mut self, index: usize, entries: &[Offences]) {
        if self.shards[index].is_dirty && self.shard(index) == entries {
            self.clean(index);
        }
    }

    /// The entries that shard `index` is to hold, in order.
    #[must_use]
    pub fn shard(&self, index: usize) -> Vec<Offences> {
        let entries = self.shards[index].sources.iter();
        entries
            .map(|(source, memory)| Offences {
                cidr: source.to_string(),
                ends: memory.past.ends().map(Time).collect(),
                lifted_at: memory.lifted_at.map(Time),
            })
            .collect()
    }

    /// Sources that were forgotten because there were too many.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The shards that changed since they were last written.
    pub fn dirty(&self) -> impl Iterator<Item = usize> {
        self.shards.iter().enumerate().filter(|(_, shard)| shard.is_dirty).map(|(index, _)| index)
    }

    /// Whether shard `index` changed since it was last written.
    #[must_use]
    pub fn is_dirty(&self, index: usize) -> bool {
        self.shards[index].is_dirty
    }

    /// Shard `index` is about to be written: what changes from here on makes it dirty again.
    pub fn clean(&mut self, index: usize) {
        self.shards[index].is_dirty = false;
    }

    /// Shard `index` could not be written.
    pub fn soil(&mut self, index: usize) {
        self.shards[index].is_dirty = true;
    }

    /// Sources that were lifted after `since`.
    pub fn lifted_since(&self, since: Timestamp) -> impl Iterator<Item = (Source, Timestamp)> {
        let lifts = self.lifts.iter().rev().take_while(move |&&(at, _)| at > since);
        lifts.map(|&(at, source)| (source, at))
    }
}

/// The shard of a source: FNV-1a of its text, so that every version of the operator agrees.
#[must_use]
pub fn shard_of(source: Source) -> usize {
    let hash = source.to_string().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % SHARDS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ip_sentry_core::detect::{
        decision::{Evidence, Threshold},
        escalation::{BanTime, Escalation},
    };
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn source() -> Source {
        "203.0.113.7/32".parse().unwrap()
    }

    fn decision(last_seen: i64, memory: u64) -> Decision {
        let escalation = Escalation {
            factor: 2,
            max_duration: Duration::from_hours(1),
            memory: Duration::from_secs(memory),
        };
        Decision {
            source: source(),
            reason: String::new(),
            evidence: Evidence {
                hits: 3,
                threshold: Threshold::Hits,
                first_seen: at(last_seen - 1),
                last_seen: at(last_seen),
                samples: Vec::new(),
            },
            ban_time: BanTime { first: Duration::from_secs(100), escalation: Some(escalation) },
        }
    }

    #[test]
    fn an_offence_counts_once_its_ban_has_ended_and_as_long_as_the_policy_remembers() {
        let mut history = History::default();
        assert_eq!(history.ban_for(&decision(1_000, 500)).offence, 1);
        history.end(source(), at(1_100));
        history.end(source(), at(1_100)); // told by another leader too
        #[rustfmt::skip]
        let table = [
            // last hit, memory, offence
            (1_000,      500,    1), // the same ban, decided anew from lines that were read again
            (1_100,      500,    2),
            (1_600,      500,    2),
            (1_601,      500,    1),
            (1_601,      501,    2),
        ];
        for (last_seen, memory, offence) in table {
            let ban = history.ban_for(&decision(last_seen, memory));
            assert_eq!(ban.offence, offence, "last hit at {last_seen}, memory {memory}");
            let length = ban.expires_at.duration_since(at(last_seen)).as_secs();
            assert_eq!(length >= 200, offence == 2, "{length} s");
        }
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let mut history = History::default();
        history.end(source(), at(100));
        history.end(source(), at(300));
        history.lift(source(), at(300));
        let [index] = history.dirty().collect::<Vec<_>>()[..] else { panic!("one dirty shard") };
        let entries = history.shard(index);
        let mut other = History::default();
        assert_eq!(other.read(&entries), 0);
        assert_eq!(other.get(source()), history.get(source()));
        assert_eq!(other.ban_for(&decision(400, 1_000)).offence, 3);
        assert_eq!(other.dirty().count(), 0, "what was read needs no writing");
        assert_eq!(other.lifted_since(at(0)).collect::<Vec<_>>(), [(source(), at(300))]);
        assert_eq!(other.lifted_since(at(300)).count(), 0);
    }

    #[test]
    fn a_standby_has_nothing_to_write_once_the_leader_has_written_what_both_saw() {
        let (mut leader, mut standby) = (History::default(), History::default());
        for history in [&mut leader, &mut standby] {
            assert!(history.lift(source(), at(300)));
            assert!(!history.lift(source(), at(300)), "that is no news");
        }
        let index = shard_of(source());
        let entries = leader.shard(index);
        standby.end(source(), at(310));
        standby.read(&entries);
        standby.stored(index, &entries);
        assert!(standby.is_dirty(index), "it knows of one more");
        leader.end(source(), at(310));
        standby.stored(index, &leader.shard(index));
        assert!(!standby.is_dirty(index));
    }

    #[test]
    fn a_full_shard_forgets_whose_ban_ended_longest_ago_and_counts_it() {
        let mut history = History::default();
        let in_shard_0 =
            (0u32..).map(|bits| Source::of(std::net::Ipv4Addr::from_bits(0x0b00_0000 + bits).into(), 64));
        let sources: Vec<Source> = in_shard_0
            .filter_map(Result::ok)
            .filter(|&source| shard_of(source) == 0)
            .take(SHARD_CAPACITY + 2)
            .collect();
        for (index, &source) in sources.iter().enumerate() {
            if index == SHARD_CAPACITY {
                history.end(sources[0], at(9_000));
            }
            history.end(source, at(1000 + i64::try_from(index).unwrap()));
        }
        let kept = history.shard(0);
        assert_eq!(kept.len(), SHARD_CAPACITY);
        assert_eq!(history.forgotten(), 2);
        assert_eq!(history.get(sources[0]).past.ends().count(), 2);
        assert_eq!(history.get(sources[1]), Memory::default());
        assert_eq!(history.get(sources[2]), Memory::default());
        assert_eq!(history.get(sources[3]).past.ends().count(), 1);
    }

    fn memory() -> impl Strategy<Value = Memory> {
        (prop::collection::vec(0i64..50, 0..30), prop::option::of(0i64..50)).prop_map(|(ends, lifted)| {
            Memory { past: ends.into_iter().map(at).collect(), lifted_at: lifted.map(at) }
        })
    }

    fn merged(memories: &[&Memory]) -> Memory {
        let mut all = Memory::default();
        for memory in memories {
            all.merge(memory);
        }
        all
    }

    proptest! {
        #[test]
        fn merging_knows_no_order(a in memory(), b in memory(), c in memory()) {
            prop_assert_eq!(merged(&[&a, &b, &c]), merged(&[&c, &a, &b]));
            prop_assert_eq!(merged(&[&merged(&[&a, &b]), &c]), merged(&[&a, &merged(&[&b, &c])]));
            prop_assert_eq!(merged(&[&a, &a]), a);
        }
    }
}
