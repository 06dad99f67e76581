//! The sources that are being counted: a table with a hard limit in bytes.
//!
//! When it is full, the least suspicious source goes: the one with the fewest hits, of these the one whose last hit is
//! oldest, among a few that a clock hand passes. A spray of addresses thus pushes out its own kind and not those that
//! are about to earn a ban.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    net::{IpAddr, Ipv6Addr},
};

use hashbrown::{HashTable, hash_table};
use jiff::Timestamp;

use super::{pages::Pages, window::Hits};
use crate::net::{Network, Source};

/// How many sources are compared before one is evicted.
const COMPARED: usize = 16;

/// What a source takes at most beside its spilled hits: its entry, and its share of the index, of which a place takes
/// five bytes. The index is never less than 7/16 full, and while it grows there are the old and the new one.
const SOURCE_BYTES: usize = size_of::<Entry>() + 18;

/// Hits by source.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    entries: Pages<Entry>,
    /// Places in `entries`.
    index: HashTable<u32>,
    /// Keyed, since clients choose what is hashed.
    hasher: RandomState,
    heap_bytes: usize,
    hand: usize,
    last_sweep: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// The first address of the source; all sources of a family have the same prefix length.
    key: u128,
    hits: Hits,
    /// Whether it had a hit since the last sweep.
    is_fresh: bool,
}

impl Sources {
    /// Gives `change` the hits of a source, which begins empty and is forgotten when it stays so, and then evicts
    /// until `max_bytes` are enough again; how many sources that took.
    pub(super) fn update<T>(
        &mut self,
        source: Source,
        max_bytes: usize,
        change: impl FnOnce(&mut Hits) -> T,
    ) -> (T, u64) {
        let place = self.find_or_add(key(source.network()));
        let entry = &mut self.entries[place];
        entry.is_fresh = true;
        let before = entry.hits.heap_bytes();
        let result = change(&mut entry.hits);
        self.heap_bytes = self.heap_bytes + entry.hits.heap_bytes() - before;
        if entry.hits.len() == 0 {
            self.remove(place);
        }
        (result, self.evict(max_bytes))
    }

    /// Evicts until `max_bytes` are enough, and gives back what that leaves empty; how many sources that took.
    pub(super) fn shrink(&mut self, max_bytes: usize) -> u64 {
        let evicted = self.evict(max_bytes);
        // An index that grows by itself is never emptier.
        if self.entries.len() < self.index.capacity() / 2 {
            self.rebuild();
        }
        evicted
    }

    fn evict(&mut self, max_bytes: usize) -> u64 {
        let mut evicted = 0;
        while self.bytes() > max_bytes && self.entries.len() > 1 {
            let least = self.least_suspicious();
            self.remove(least);
            evicted += 1;
        }
        evicted
    }

    /// Keeps of every hit what `keep` says; sources without any left are forgotten.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(IpAddr, &mut Hits)) {
        self.entries.retain_mut(|entry| {
            keep(address(entry.key), &mut entry.hits);
            entry.hits.len() > 0
        });
        self.rebuild();
    }

    /// Forgets the sources that had no hit for at least `idle_secs` of the caller's time.
    pub(super) fn sweep(&mut self, now: Timestamp, idle_secs: i64) {
        let is_due = self
            .last_sweep
            .is_none_or(|last| now.as_second().abs_diff(last.as_second()) >= idle_secs.unsigned_abs());
        if is_due {
            self.last_sweep = Some(now);
            self.entries.retain_mut(|entry| std::mem::take(&mut entry.is_fresh));
            self.rebuild();
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.entries.len() * SOURCE_BYTES + self.heap_bytes
    }

    fn find_or_add(&mut self, key: u128) -> usize {
        let Self { entries, index, hasher, .. } = self;
        let hash = |&place: &u32| hasher.hash_one(entries[place as usize].key);
        let is_it = |&place: &u32| entries[place as usize].key == key;
        match index.entry(hasher.hash_one(key), is_it, hash) {
            hash_table::Entry::Occupied(found) => *found.get() as usize,
            hash_table::Entry::Vacant(vacant) => {
                let place = entries.len();
                // The limit in bytes keeps the places far below 2^32.
                vacant.insert(u32::try_from(place).unwrap_or(u32::MAX));
                entries.push(Entry { key, hits: Hits::default(), is_fresh: true });
                place
            }
        }
    }

    /// Takes one out and lets the last one have its place.
    fn remove(&mut self, place: usize) {
        self.unindex(place);
        let last = self.entries.len() - 1;
        if place != last {
            self.unindex(last);
        }
        if let Some(removed) = self.entries.swap_remove(place) {
            self.heap_bytes -= removed.hits.heap_bytes();
        }
        if place != last {
            self.reindex(place);
        }
    }

    fn unindex(&mut self, place: usize) {
        let hash = self.hasher.hash_one(self.entries[place].key);
        if let Ok(found) = self.index.find_entry(hash, |&other| other as usize == place) {
            found.remove();
        }
    }

    fn reindex(&mut self, place: usize) {
        let Self { entries, index, hasher, .. } = self;
        let hash = |&place: &u32| hasher.hash_one(entries[place as usize].key);
        index.insert_unique(
            hasher.hash_one(entries[place].key),
            u32::try_from(place).unwrap_or(u32::MAX),
            hash,
        );
    }

    fn rebuild(&mut self) {
        self.index = HashTable::with_capacity(self.entries.len());
        for place in 0..self.entries.len() {
            self.reindex(place);
        }
        self.heap_bytes = self.entries.iter().map(|entry| entry.hits.heap_bytes()).sum();
    }

    fn least_suspicious(&mut self) -> usize {
        let count = self.entries.len();
        let start = self.hand % count;
        self.hand = start + COMPARED;
        let suspicion = |place: &usize| (self.entries[*place].hits.len(), self.entries[*place].hits.newest());
        (start..start + COMPARED.min(count)).map(|place| place % count).min_by_key(suspicion).unwrap_or(start)
    }
}

/// IPv4 as IPv4-mapped IPv6: no source has an address that is written so.
fn key(network: Network) -> u128 {
    match network.address() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(key: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(key)).to_canonical()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::detect::window::{Hit, Thresholds};

    const THRESHOLDS: Thresholds =
        Thresholds { hits: 100, unique_patterns: 0, unique_paths: 0, window: 1_000 };

    #[test]
    fn a_source_with_two_hits_takes_less_than_128_bytes() {
        assert_eq!(SOURCE_BYTES, 98);
    }

    #[test]
    fn a_table_that_shrinks_keeps_the_most_suspicious_and_gives_back_the_rest() {
        let mut sources = Sources::default();
        let source =
            |client: u32| Source::of(std::net::Ipv4Addr::from_bits(0x0101_0101 + client).into(), 64).unwrap();
        for client in 0..10_000 {
            for _ in 0..if client % 1_000 == 0 { 2 } else { 1 } {
                let hit = Hit { at: client.into(), path: 0, sample: 0, pattern: 0 };
                sources.update(source(client), usize::MAX, |hits| hits.count(hit, &THRESHOLDS));
            }
        }
        let evicted = sources.shrink(100 * SOURCE_BYTES);
        assert_eq!((sources.len(), evicted), (100, 9_900));
        assert!(sources.index.capacity() <= 200, "{}", sources.index.capacity());
        let mut twice = 0;
        sources.retain(|_, hits| twice += usize::from(hits.len() == 2));
        assert_eq!(twice, 10);
        assert_eq!(sources.shrink(100 * SOURCE_BYTES), 0);
    }

    proptest! {
        /// Whatever is added, swept, emptied or evicted, each source keeps its own hits.
        #[test]
        fn the_table_agrees_with_a_map(
            steps in prop::collection::vec((0u32..40, 0u8..20), 0..120),
            max_sources in 2usize..50,
        ) {
            let mut sources = Sources::default();
            let mut map: BTreeMap<IpAddr, usize> = BTreeMap::new();
            // Room for the hits as well, so that what is evicted is known to be none of the heap's doing.
            let max_bytes = max_sources * SOURCE_BYTES + 120 * (4 * size_of::<Hit>() + 16);
            for (time, (client, action)) in (0..).zip(steps) {
                let address = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0101_0101 + client));
                let source = Source::of(address, 64).unwrap();
                let empties = action == 0;
                let ((), evicted) = sources.update(source, max_bytes, |hits| {
                    hits.count(Hit { at: time, path: 0, sample: 0, pattern: 0 }, &THRESHOLDS);
                    if empties {
                        hits.retain(|_| false);
                    }
                });
                if empties { map.remove(&address); } else { *map.entry(address).or_default() += 1; }
                prop_assert_eq!(sources.len() as u64 + evicted, map.len() as u64);
                prop_assert!(sources.bytes() <= max_bytes);
                let mut kept = BTreeMap::new();
                sources.retain(|address, hits| { kept.insert(address, hits.len()); });
                for (address, hits) in &kept {
                    prop_assert_eq!(map.get(address), Some(hits));
                }
                map.retain(|address, _| kept.contains_key(address));
                if action == 1 {
                    sources.retain(|other, hits| if other == address { hits.retain(|_| false) });
                    map.remove(&address);
                }
            }
        }
    }
}
