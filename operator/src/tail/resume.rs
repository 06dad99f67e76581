//! Which lines of a stream that was opened again have been handed over before.
//!
//! The API has no offsets: a stream is opened again at a time (`sinceTime`), of which the API server keeps whole
//! seconds only, and brings the lines of that second once more. So the stamp of the last line is remembered, and how
//! many lines bore it.

use jiff::{SignedDuration, Timestamp};

/// Where a log has been read to.
#[derive(Debug)]
pub(super) struct Resume {
    start: Timestamp,
    /// The last line's stamp.
    last: Option<Timestamp>,
    /// How many lines in a row have borne it.
    count: u64,
    /// The latest stamp of all. Later than `last` only after the node's clock was set back.
    highest: Timestamp,
    /// While a stream that was opened again brings what has been read: how many lines stamped `last` are to come.
    replay: Option<u64>,
}

impl Resume {
    /// A log that is to be read from `start` on.
    pub(super) fn new(start: Timestamp) -> Self {
        Self { start, last: None, count: 0, highest: Timestamp::MIN, replay: None }
    }

    /// The stream is opened, again or for the first time. Returns the time to open it at: whole seconds, rounded
    /// down, lest lines get lost.
    ///
    /// That is `reach_back` before the last line: the kubelet compares each line that it is ever going to send on
    /// this stream with it, so if the node's clock is set back by more, the log falls silent.
    pub(super) fn reopen(&mut self, reach_back: SignedDuration) -> Timestamp {
        self.replay = self.last.map(|_| self.count);
        let exact = self.last.map_or(self.start, |last| last.saturating_sub(reach_back).unwrap_or(last));
        Timestamp::from_second(exact.as_second()).unwrap_or(exact)
    }

    /// Whether it is known up to which line the log has been read.
    pub(super) fn has_begun(&self) -> bool {
        self.last.is_some()
    }

    /// What is stamped no later than `last` counts as read.
    pub(super) fn begin_after(&mut self, last: Timestamp) {
        *self = Self { last: Some(last), count: u64::MAX, highest: last, ..Self::new(last) };
    }

    /// The latest stamp so far.
    pub(super) fn highest(&self) -> Timestamp {
        self.highest
    }

    /// Whether what comes has been read before, or may have been.
    pub(super) fn is_replaying(&self) -> bool {
        self.replay.is_some()
    }

    /// What comes next is the log of a new instance of the container.
    ///
    /// Its lines are later than the last one, unless that was of this instance already: the kubelet serves a new
    /// instance's log a moment before the API server tells of it.
    pub(super) fn restart(&mut self) {
        self.highest = self.last.unwrap_or(Timestamp::MIN);
    }

    /// Takes in the next line's stamp; true when the line has not been handed over before.
    ///
    /// After the last line that was read all is new, also lines stamped earlier: the node's clock may be set back at
    /// any time. When that happened before the stream broke, lines from before it that are stamped later than the
    /// last one come again as well; they are known by being no later than the latest stamp of all. Where the log was
    /// rotated meanwhile, so that the last line never comes, new lines up to that stamp are lost rather than others
    /// counted twice.
    pub(super) fn admit(&mut self, stamp: Timestamp) -> bool {
        if let (Some(left), Some(last)) = (self.replay, self.last) {
            if stamp == last {
                // The last of them is the last line that was read.
                self.replay = (left > 1).then(|| left - 1);
                return false;
            }
            if stamp < last || stamp <= self.highest {
                return false;
            }
            self.replay = None;
        }
        self.count = if self.last == Some(stamp) { self.count + 1 } else { 1 };
        self.last = Some(stamp);
        self.highest = self.highest.max(stamp);
        true
    }
}

#[cfg(test)]
mod tests;
