//! The hits of one source on a sliding window of event time.
//!
//! A source has earned a ban when some window holds enough hits, or hits of enough different patterns or paths. A
//! window is closed: hits that are exactly its length apart still lie in one. Event time is what the log says, so lines
//! that come late or out of order count as if they had come in order, down to two windows behind the source's newest
//! hit.

use std::{collections::HashMap, hash::Hash};

use smallvec::SmallVec;

use super::decision::Threshold;

/// One hit, as small as it goes: a source is remembered for 80 bytes with two of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hit {
    /// When it was logged, in microseconds since 1970.
    pub(super) at: i64,
    /// Hash of the normalised path. It is keyed, so that nobody finds two paths that look like one.
    pub(super) path: u64,
    /// Number of its [`super::samples::Samples`] entry.
    pub(super) sample: u32,
    /// Number of the pattern.
    pub(super) pattern: u16,
}

/// What is enough, and within what.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Thresholds {
    /// Hits; 0 is off.
    pub(super) hits: usize,
    /// Different patterns; 0 is off.
    pub(super) unique_patterns: usize,
    /// Different paths; 0 is off.
    pub(super) unique_paths: usize,
    /// Length of the window, in microseconds.
    pub(super) window: i64,
}

impl Thresholds {
    /// The most hits of one source that are kept.
    ///
    /// With a threshold on hits a window holds fewer than that, and two windows are kept. Without one, hits that others
    /// stand for are left out (see [`Hits::has_stand_ins`]). Of those of one pattern or path that is left, each but the
    /// first and the last lies between two that are more than a window apart: no more than three such fit into two
    /// windows. And in two windows there are fewer than twice as many patterns or paths as earn a ban.
    fn kept(&self) -> usize {
        if self.hits > 0 { 2 * self.hits } else { 10 * (self.unique_patterns + self.unique_paths) }
    }
}

/// What a hit came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Count {
    /// Too old to be kept.
    Stale,
    /// Not enough yet.
    Below,
    /// Enough: the threshold that was met, and the hits of the window, oldest first. The counts start over.
    Earned(Threshold, Vec<Hit>),
}

/// The hits of one source that may still matter, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Hits(SmallVec<[Hit; 2]>);

impl Hits {
    /// Takes in one hit.
    pub(super) fn count(&mut self, hit: Hit, thresholds: &Thresholds) -> Count {
        let newest = self.0.last().map_or(hit.at, |last| last.at.max(hit.at));
        let oldest = newest.saturating_sub(thresholds.window.saturating_mul(2));
        if hit.at < oldest {
            return Count::Stale;
        }
        let gone = self.0.partition_point(|kept| kept.at < oldest);
        self.0.drain(..gone);
        if self.0.len() >= thresholds.kept() {
            self.make_room(thresholds);
        }
        let index = self.0.partition_point(|kept| kept.at <= hit.at);
        self.0.insert(index, hit);
        if let Some((threshold, start)) = self.enough(index, thresholds) {
            let window = self.window_from(start, thresholds).to_vec();
            self.0 = SmallVec::new();
            return Count::Earned(threshold, window);
        }
        if thresholds.hits == 0 {
            self.thin_around(index, thresholds);
        }
        Count::Below
    }

    /// Makes room for one more, which only takes something after the policy has changed.
    fn make_room(&mut self, thresholds: &Thresholds) {
        if thresholds.hits == 0 {
            for place in (0..self.0.len()).rev() {
                self.thin(place, thresholds);
            }
        }
        let over = (self.0.len() + 1).saturating_sub(thresholds.kept());
        self.0.drain(..over);
    }

    /// The first threshold that a window with the new hit at `index` meets, and the start of that window.
    fn enough(&self, index: usize, thresholds: &Thresholds) -> Option<(Threshold, usize)> {
        let &Thresholds { unique_patterns, unique_paths, window, .. } = thresholds;
        let met = |threshold| move |start| (threshold, start);
        let hits = || self.enough_hits(index, thresholds);
        let patterns = || self.enough_different(index, unique_patterns, window, |hit| hit.pattern);
        let paths = || self.enough_different(index, unique_paths, window, |hit| hit.path);
        (hits().map(met(Threshold::Hits)))
            .or_else(|| patterns().map(met(Threshold::UniquePatterns)))
            .or_else(|| paths().map(met(Threshold::UniquePaths)))
    }

    /// The start of a window with enough hits, the new one at `index` among them.
    fn enough_hits(&self, index: usize, thresholds: &Thresholds) -> Option<usize> {
        let before_last = thresholds.hits.checked_sub(1)?;
        let first = index.saturating_sub(before_last);
        let last = index.min(self.0.len().checked_sub(thresholds.hits)?);
        (first..=last).find(|&start| self.0[start + before_last].at - self.0[start].at <= thresholds.window)
    }

    /// The start of a window with enough different keys, the one of the new hit at `index` among them.
    ///
    /// A window in which another hit has that key too is no richer than it was before the new one.
    fn enough_different<K: Eq + Hash>(
        &self,
        index: usize,
        enough: usize,
        window: i64,
        key: impl Fn(&Hit) -> K,
    ) -> Option<usize> {
        let (before, after) = self.0.split_at(index);
        let (new, after) = after.split_first().filter(|_| enough > 0)?;
        let is_fresh = |hit: &&Hit| (hit.at - new.at).abs() <= window && key(hit) != key(new);
        let first = index - before.iter().rev().take_while(is_fresh).count();
        let last = index + after.iter().take_while(is_fresh).count();
        if last - first + 1 < enough {
            return None;
        }
        let mut times: HashMap<K, u32> = HashMap::new();
        let mut start = first;
        for end in first..=last {
            *times.entry(key(&self.0[end])).or_default() += 1;
            while self.0[end].at - self.0[start].at > window {
                let key = key(&self.0[start]);
                if let Some(left) = times.get_mut(&key) {
                    *left -= 1;
                    if *left == 0 {
                        times.remove(&key);
                    }
                }
                start += 1;
            }
            if end >= index && times.len() >= enough {
                return Some(start);
            }
        }
        None
    }

    /// Leaves out the new hit at `index`, and those that it stands for together with another, where nothing is lost.
    fn thin_around(&mut self, index: usize, thresholds: &Thresholds) {
        let new = self.0[index];
        let same_pattern = |hit: &Hit| hit.pattern == new.pattern;
        let same_path = |hit: &Hit| hit.path == new.path;
        let (before, after) = (&self.0[..index], &self.0[index + 1..]);
        let mut places = [
            before.iter().rposition(same_pattern),
            before.iter().rposition(same_path),
            Some(index),
            after.iter().position(same_pattern).map(|place| index + 1 + place),
            after.iter().position(same_path).map(|place| index + 1 + place),
        ];
        // From the right, so that the places of those that are still to be looked at stay the same.
        places.sort_unstable();
        let mut last = None;
        for place in places.into_iter().rev().flatten() {
            if last != Some(place) {
                self.thin(place, thresholds);
            }
            last = Some(place);
        }
    }

    /// Leaves out one hit if others stand for it in whatever is asked about.
    fn thin(&mut self, place: usize, thresholds: &Thresholds) {
        let Hit { pattern, path, .. } = self.0[place];
        let window = thresholds.window;
        if (thresholds.unique_patterns == 0
            || self.has_stand_ins(place, window, |hit| hit.pattern == pattern))
            && (thresholds.unique_paths == 0 || self.has_stand_ins(place, window, |hit| hit.path == path))
        {
            self.0.remove(place);
        }
    }

    /// Whether every window that holds the hit at `place` also holds the one before or the one after it of the same
    /// kind, which is so when these two lie in one window.
    fn has_stand_ins(&self, place: usize, window: i64, is_same: impl Fn(&&Hit) -> bool) -> bool {
        let at = self.0[place].at;
        let is_near = |hit: &&Hit| (hit.at - at).abs() <= window;
        let before = self.0[..place].iter().rev().take_while(is_near).find(&is_same);
        let after = self.0[place + 1..].iter().take_while(is_near).find(&is_same);
        before.zip(after).is_some_and(|(before, after)| after.at - before.at <= window)
    }

    fn window_from(&self, start: usize, thresholds: &Thresholds) -> &[Hit] {
        let end = self.0[start].at.saturating_add(thresholds.window);
        let rest = &self.0[start..];
        &rest[..rest.partition_point(|hit| hit.at <= end)]
    }

    /// Forgets the hits for which `keep` says no, which may also give them another pattern number.
    pub(super) fn retain(&mut self, keep: impl FnMut(&mut Hit) -> bool) {
        self.0.retain(keep);
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the newest was logged.
    pub(super) fn newest(&self) -> Option<i64> {
        self.0.last().map(|hit| hit.at)
    }

    /// Bytes on the heap, with what the allocator takes for itself.
    pub(super) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() * size_of::<Hit>() + 16 } else { 0 }
    }
}

#[cfg(test)]
mod tests;
