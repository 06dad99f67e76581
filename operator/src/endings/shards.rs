//! When the shards of the offence history are written, and whose ban may go once one is.
//!
//! Ends that come close together share a write: all that wait for a shard are in its next one, and writes of all
//! shards together keep a distance.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::backoff;
use crate::history::SHARDS;

/// How far apart two writes begin: the first of a quiet time goes at once, 300 that come at once share 64.
const PACE: SignedDuration = SignedDuration::from_millis(100);

/// One shard's writing.
#[derive(Debug, Default)]
struct Shard {
    /// Bans whose end the next write covers.
    waiting: BTreeSet<Arc<str>>,
    /// Bans whose end the write under way covers.
    covered: BTreeSet<Arc<str>>,
    is_writing: bool,
    is_queued: bool,
    not_before: Option<Timestamp>,
    failures: u32,
}

/// All shards.
#[derive(Debug)]
pub(super) struct Shards {
    all: Vec<Shard>,
    /// Those that have something to write, the longest waiting first.
    queue: VecDeque<usize>,
    not_before: Option<Timestamp>,
}

impl Default for Shards {
    fn default() -> Self {
        let all = std::iter::repeat_with(Shard::default).take(SHARDS).collect();
        Self { all, queue: VecDeque::new(), not_before: None }
    }
}

impl Shards {
    /// The end of the ban of that name is to be written down in `index` before the ban goes.
    pub(super) fn want(&mut self, index: usize, name: &Arc<str>) {
        let shard = &mut self.all[index];
        if !shard.covered.contains(name) {
            shard.waiting.insert(name.clone());
            self.queue(index);
        }
    }

    /// Something of `index` is to be written that no ban waits for.
    pub(super) fn queue(&mut self, index: usize) {
        let shard = &mut self.all[index];
        if !shard.is_queued {
            shard.is_queued = true;
            self.queue.push_back(index);
        }
    }

    /// The shard to write now, if one is due: [`written`](Self::written) must follow.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<usize> {
        if self.not_before.is_some_and(|at| at > now) {
            return None;
        }
        let place = self.queue.iter().position(|&index| self.all[index].is_due(now))?;
        let index = self.queue.remove(place)?;
        let shard = &mut self.all[index];
        shard.covered = std::mem::take(&mut shard.waiting);
        (shard.is_queued, shard.is_writing) = (false, true);
        self.not_before = Some(now + PACE);
        Some(index)
    }

    /// What became of a write. Returns the bans whose end is written down now.
    pub(super) fn written(&mut self, index: usize, is_stored: bool, now: Timestamp) -> BTreeSet<Arc<str>> {
        let shard = &mut self.all[index];
        shard.is_writing = false;
        let mut covered = std::mem::take(&mut shard.covered);
        if is_stored {
            (shard.failures, shard.not_before) = (0, None);
            return covered;
        }
        shard.not_before = Some(now + backoff(shard.failures));
        shard.failures = shard.failures.saturating_add(1);
        shard.waiting.append(&mut covered);
        self.queue(index);
        BTreeSet::new()
    }

    /// Forgets every wait.
    pub(super) fn hurry(&mut self) {
        self.not_before = None;
        self.all.iter_mut().for_each(|shard| shard.not_before = None);
    }

    /// When [`next`](Self::next) has something again.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        let idle = self.queue.iter().map(|&index| &self.all[index]).filter(|shard| !shard.is_writing);
        idle.map(|shard| shard.not_before.max(self.not_before).unwrap_or(Timestamp::MIN)).min()
    }
}

impl Shard {
    fn is_due(&self, now: Timestamp) -> bool {
        !self.is_writing && self.not_before.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    #[test]
    fn ends_that_come_while_a_shard_waits_or_is_written_share_the_next_write() {
        let name = |index: u8| Arc::from(index.to_string());
        let names = |indices: &[u8]| indices.iter().map(|&index| name(index)).collect::<BTreeSet<_>>();
        let mut shards = Shards::default();
        shards.want(3, &name(1));
        assert_eq!(shards.next(at(0)), Some(3), "the first goes at once");
        shards.want(3, &name(1));
        shards.want(3, &name(2));
        shards.want(4, &name(3));
        assert_eq!(shards.next(at(99)), None, "too soon");
        assert_eq!(shards.next(at(100)), Some(4), "one write of a shard at a time");
        assert_eq!(shards.written(3, true, at(150)), names(&[1]));
        shards.want(3, &name(4));
        assert_eq!(shards.wake(), Some(at(200)));
        assert_eq!(shards.next(at(200)), Some(3));
        assert_eq!(shards.written(3, true, at(210)), names(&[2, 4]));
        assert_eq!(shards.written(4, true, at(210)), names(&[3]));
        assert_eq!((shards.next(at(900)), shards.wake()), (None, None));
    }

    #[test]
    fn a_shard_that_can_not_be_written_is_tried_again_later_and_keeps_no_other_waiting() {
        let name: Arc<str> = "a".into();
        let mut shards = Shards::default();
        shards.want(3, &name);
        assert_eq!(shards.next(at(0)), Some(3));
        assert!(shards.written(3, false, at(10)).is_empty());
        shards.queue(5);
        assert_eq!(shards.next(at(500)), Some(5));
        shards.written(5, true, at(510));
        assert_eq!(shards.next(at(1_000)), None);
        assert_eq!(shards.wake(), Some(at(1_010)));
        assert_eq!(shards.next(at(1_010)), Some(3));
        assert_eq!(shards.written(3, true, at(1_020)), BTreeSet::from([name]));
    }
}
