//! What is remembered of a source when its ban is gone: how often it was banned, when the last ban ended,
//! when one was lifted by hand.
//!
//! [`History`] is the table, spread over [`SHARDS`] shards by a hash of the network; [`store`] keeps it in
//! `OffenceHistory` objects. Merging is by "the later wins", so two leaders, or a leader and what it reads
//! back, always agree in the end.

pub mod store;

use std::collections::{BTreeSet, HashMap};

use ip_sentry_core::net::Source;
use ip_sentry_crd::offence_history::Offences;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The number of shards, so that one ban rewrites a 64th of what is known.
pub const SHARDS: usize = 64;
/// The most sources that one shard remembers; the CRD allows no more.
pub const SHARD_CAPACITY: usize = 1024;

/// What is remembered of one source.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// Bans so far.
    pub bans: i32,
    /// When the last ended; `None` while it lasts.
    pub ended_at: Option<Timestamp>,
    /// When one was last lifted by hand.
    pub lifted_at: Option<Timestamp>,
}

impl Memory {
    /// Both memories in one: the later ban decides whether one lasts, the latest times win.
    #[must_use]
    fn merge(self, other: Self) -> Self {
        let ended_at = match self.bans.cmp(&other.bans) {
            std::cmp::Ordering::Less => other.ended_at,
            std::cmp::Ordering::Greater => self.ended_at,
            std::cmp::Ordering::Equal => self.ended_at.max(other.ended_at),
        };
        Self { bans: self.bans.max(other.bans), ended_at, lifted_at: self.lifted_at.max(other.lifted_at) }
    }
}

/// The table of all sources.
#[derive(Debug, Default)]
pub struct History {
    sources: HashMap<Source, Memory>,
    dirty: BTreeSet<usize>,
}

impl History {
    /// What is known of `source`.
    #[must_use]
    pub fn get(&self, source: Source) -> Memory {
        self.sources.get(&source).copied().unwrap_or_default()
    }

    /// The how-manieth ban a new one of `source` is: one more than those that ended.
    #[must_use]
    pub fn next_offence(&self, source: Source) -> i32 {
        let known = self.get(source);
        // A ban that never ended here is the one being made again by a new leader.
        if known.ended_at.is_some() { known.bans.saturating_add(1) } else { known.bans.max(1) }
    }

    /// A ban of `source` began, its `offence`-th.
    pub fn begin(&mut self, source: Source, offence: i32) {
        let known = self.get(source);
        self.remember(source, Memory { bans: offence, ended_at: None, lifted_at: known.lifted_at });
    }

    /// The `offence`-th ban of `source` ended at `ended_at`; by hand at `lifted_at`, if so.
    pub fn end(&mut self, source: Source, offence: i32, ended_at: Timestamp, lifted_at: Option<Timestamp>) {
        self.remember(source, Memory { bans: offence, ended_at: Some(ended_at), lifted_at });
    }

    /// A ban of `source` that nobody counted, as a manual one, was lifted by hand.
    pub fn lift(&mut self, source: Source, lifted_at: Timestamp) {
        let known = self.get(source);
        self.remember(source, Memory { lifted_at: Some(lifted_at), ..known });
    }

    fn remember(&mut self, source: Source, news: Memory) {
        let known = self.sources.entry(source).or_default();
        let merged = known.merge(news);
        if *known != merged {
            *known = merged;
            self.dirty.insert(shard_of(source));
        }
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
                bans: entry.bans,
                ended_at: entry.ended_at.as_ref().map(|time| time.0),
                lifted_at: entry.lifted_at.as_ref().map(|time| time.0),
            };
            let known = self.sources.entry(source).or_default();
            *known = known.merge(news);
        }
        unreadable
    }

    /// The entries that shard `index` is to hold, in order; the ones whose bans ended longest ago go first when
    /// there are too many, and are forgotten here as well.
    pub fn shard(&mut self, index: usize) -> Vec<Offences> {
        let mut entries: Vec<(Source, Memory)> = self
            .sources
            .iter()
            .filter(|&(&source, _)| shard_of(source) == index)
            .map(|(&source, &memory)| (source, memory))
            .collect();
        if entries.len() > SHARD_CAPACITY {
            entries.sort_by_key(|(_, memory)| std::cmp::Reverse(memory.ended_at.unwrap_or(Timestamp::MAX)));
            for (source, _) in entries.drain(SHARD_CAPACITY..) {
                self.sources.remove(&source);
            }
        }
        entries.sort_by_key(|&(source, _)| source);
        entries
            .into_iter()
            .map(|(source, memory)| Offences {
                cidr: source.to_string(),
                bans: memory.bans,
                ended_at: memory.ended_at.map(Time),
                lifted_at: memory.lifted_at.map(Time),
            })
            .collect()
    }

    /// The shards that changed since they were last written.
    #[must_use]
    pub fn dirty(&self) -> Vec<usize> {
        self.dirty.iter().copied().collect()
    }

    /// Shard `index` is about to be written: what changes from here on makes it dirty again.
    pub fn clean(&mut self, index: usize) {
        self.dirty.remove(&index);
    }

    /// Shard `index` could not be written.
    pub fn soil(&mut self, index: usize) {
        self.dirty.insert(index);
    }

    /// Sources that were lifted by hand after `since`.
    pub fn lifted_since(&self, since: Timestamp) -> impl Iterator<Item = (Source, Timestamp)> {
        self.sources.iter().filter_map(move |(&source, memory)| {
            memory.lifted_at.filter(|&at| at > since).map(|at| (source, at))
        })
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
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn source() -> Source {
        "203.0.113.7/32".parse().unwrap()
    }

    #[test]
    fn an_offence_counts_once_its_ban_has_ended() {
        let mut history = History::default();
        assert_eq!(history.next_offence(source()), 1);
        history.begin(source(), 1);
        assert_eq!(history.next_offence(source()), 1, "the same ban, made again by a new leader");
        history.end(source(), 1, at(100), None);
        assert_eq!(history.next_offence(source()), 2);
        history.begin(source(), 2);
        assert_eq!(history.next_offence(source()), 2);
    }

    #[test]
    fn what_is_written_reads_back_the_same() {
        let mut history = History::default();
        history.begin(source(), 1);
        history.end(source(), 1, at(100), Some(at(90)));
        let [index] = history.dirty()[..] else { panic!("one dirty shard") };
        let entries = history.shard(index);
        let mut other = History::default();
        assert_eq!(other.read(&entries), 0);
        assert_eq!(other.get(source()), history.get(source()));
        assert!(other.dirty().is_empty(), "what was read needs no writing");
        assert_eq!(other.lifted_since(at(0)).collect::<Vec<_>>(), [(source(), at(90))]);
    }

    #[test]
    fn a_full_shard_forgets_whose_ban_ended_longest_ago() {
        let mut history = History::default();
        let in_shard_0 =
            (0u32..).map(|bits| Source::of(std::net::Ipv4Addr::from_bits(0x0b00_0000 + bits).into(), 64));
        let sources: Vec<Source> = in_shard_0
            .filter_map(Result::ok)
            .filter(|&source| shard_of(source) == 0)
            .take(SHARD_CAPACITY + 2)
            .collect();
        for (index, &source) in sources.iter().enumerate() {
            history.end(source, 1, at(1000 + i64::try_from(index).unwrap()), None);
        }
        history.begin(sources[0], 2); // lasts: never the first to go
        let kept = history.shard(0);
        assert_eq!(kept.len(), SHARD_CAPACITY);
        assert_eq!(history.get(sources[0]).bans, 2);
        assert_eq!(history.get(sources[1]), Memory::default());
        assert_eq!(history.get(sources[2]), Memory::default());
        assert_eq!(history.get(sources[3]).bans, 1);
    }

    fn memory() -> impl Strategy<Value = Memory> {
        (0i32..4, prop::option::of(0i64..50), prop::option::of(0i64..50)).prop_map(|(bans, ended, lifted)| {
            Memory { bans, ended_at: ended.map(at), lifted_at: lifted.map(at) }
        })
    }

    proptest! {
        #[test]
        fn merging_knows_no_order(a in memory(), b in memory(), c in memory()) {
            prop_assert_eq!(a.merge(b), b.merge(a));
            prop_assert_eq!(a.merge(b).merge(c), a.merge(b.merge(c)));
            prop_assert_eq!(a.merge(a), a);
        }
    }
}
