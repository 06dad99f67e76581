//! The hits of one source on a sliding window of event time.
//!
//! A source has earned a ban when some window holds enough hits, or hits of enough different patterns. A window is
//! closed: hits that are exactly its length apart still lie in one. Event time is what the log says, so lines that come
//! late or out of order count as if they had come in order, down to two windows behind the source's newest hit.

use smallvec::SmallVec;

/// One hit, as small as it goes: a source is remembered for 64 bytes with two of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hit {
    /// When it was logged, in microseconds since 1970.
    pub(super) at: i64,
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
    /// With a threshold on hits a window holds fewer than that, and two windows are kept. Without one, what matters is
    /// the newest hit of each pattern, and there are fewer than `unique_patterns` in a window.
    fn kept(&self) -> usize {
        2 * self.hits.max(2 * self.unique_patterns)
    }
}

/// What a hit came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Count {
    /// Too old to be kept.
    Stale,
    /// Not enough yet.
    Below,
    /// Enough; these are the hits of the window, oldest first. The counts start anew.
    Earned(Vec<Hit>),
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
            self.make_room();
        }
        let index = self.0.partition_point(|kept| kept.at <= hit.at);
        self.0.insert(index, hit);
        match self.enough_hits(index, thresholds).or_else(|| self.enough_patterns(index, thresholds)) {
            Some(start) => {
                let window = self.window_from(start, thresholds).to_vec();
                self.0 = SmallVec::new();
                Count::Earned(window)
            }
            None => Count::Below,
        }
    }

    /// Drops the oldest hit that a newer one of the same pattern stands for.
    fn make_room(&mut self) {
        let has_newer =
            |index: usize| self.0[index + 1..].iter().any(|newer| newer.pattern == self.0[index].pattern);
        let index = (0..self.0.len()).find(|&index| has_newer(index)).unwrap_or(0);
        self.0.remove(index);
    }

    /// The start of a window with enough hits, the new one at `index` among them.
    fn enough_hits(&self, index: usize, thresholds: &Thresholds) -> Option<usize> {
        let before_last = thresholds.hits.checked_sub(1)?;
        let first = index.saturating_sub(before_last);
        (first..=index).find(|&start| {
            let end = self.0.get(start + before_last);
            end.is_some_and(|end| end.at - self.0[start].at <= thresholds.window)
        })
    }

    /// The start of a window with enough patterns, where the new hit at `index` brought one more.
    fn enough_patterns(&self, index: usize, thresholds: &Thresholds) -> Option<usize> {
        if thresholds.unique_patterns == 0 {
            return None;
        }
        let new = self.0[index];
        let in_reach = |hit: &&Hit| hit.at - new.at <= thresholds.window;
        let ends = index..index + self.0[index..].iter().take_while(in_reach).count();
        ends.into_iter().find_map(|end| {
            let mut seen: SmallVec<[u16; 8]> = SmallVec::new();
            let limit = self.0[end].at.saturating_sub(thresholds.window);
            for start in (0..=end).rev().take_while(|&start| self.0[start].at >= limit) {
                let pattern = self.0[start].pattern;
                if start != index && pattern == new.pattern {
                    return None; // it was there already: this window is no richer than before
                }
                if !seen.contains(&pattern) {
                    seen.push(pattern);
                }
                if seen.len() >= thresholds.unique_patterns && start <= index {
                    return Some(start);
                }
            }
            None
        })
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

    /// Bytes on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        if self.0.spilled() { self.0.capacity() * size_of::<Hit>() } else { 0 }
    }
}

#[cfg(test)]
mod tests;
