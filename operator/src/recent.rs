//! What share of the latest lines was good: a policy's conditions speak of now, not of all time.

use std::time::{Duration, Instant};

use ip_sentry_core::detect::{counters::Counters, record::RecordError};

/// Lines that must have been read before a share of them means anything.
pub const ENOUGH_LINES: u64 = 10;
/// How long a period is at the least.
const PERIOD: Duration = Duration::from_mins(1);

/// A few of a jail's counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Lines read.
    pub lines: u64,
    /// Lines of the policy's format.
    pub parsed: u64,
    /// Lines of another format. Junk that clients send, as TLS to a plain port, speaks against no format.
    pub foreign: u64,
    /// Lines that were not counted, since they may be the rest of a long one.
    pub rests: u64,
    /// Lines not counted because they may be a part of a message of nginx.
    pub quoted: u64,
    /// Requests of clients: not of the kubelet's probes.
    pub requests: u64,
    /// Those of them that came from node, private or protected addresses.
    pub hidden: u64,
    /// Those of them whose X-Forwarded-For does not say for certain who the client is.
    pub unknown: u64,
}

impl Tally {
    /// The counts of a jail.
    #[must_use]
    pub fn of(counters: &Counters) -> Self {
        let hidden = counters.protected_clients + counters.private_clients;
        let against = [RecordError::Shape, RecordError::Client, RecordError::Time];
        let foreign = against.iter().map(|&reason| counters.unparsed(reason)).sum();
        let requests = counters.parsed - counters.probes;
        let unknown = counters.unknown_clients;
        let [rests, quoted] = [RecordError::Rest, RecordError::Quoted].map(|why| counters.unparsed(why));
        Self {
            lines: counters.lines,
            parsed: counters.parsed,
            foreign,
            rests,
            quoted,
            requests,
            hidden,
            unknown,
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            lines: self.lines - earlier.lines,
            parsed: self.parsed - earlier.parsed,
            foreign: self.foreign - earlier.foreign,
            rests: self.rests - earlier.rests,
            quoted: self.quoted - earlier.quoted,
            requests: self.requests - earlier.requests,
            hidden: self.hidden - earlier.hidden,
            unknown: self.unknown - earlier.unknown,
        }
    }
}

/// The latest one or two periods. A period ends when it is old enough and has lines enough, so that a quiet
/// gateway is judged by what it last did.
#[derive(Debug)]
pub struct Recent {
    base: Tally,
    mark: Tally,
    marked_at: Instant,
}

impl Recent {
    /// Nothing has been read at `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { base: Tally::default(), mark: Tally::default(), marked_at: now }
    }

    /// What came lately, given all that has come until `now`.
    pub fn tally(&mut self, all: Tally, now: Instant) -> Tally {
        let is_over = now.saturating_duration_since(self.marked_at) >= PERIOD;
        if is_over && all.lines - self.mark.lines >= ENOUGH_LINES {
            (self.base, self.mark, self.marked_at) = (self.mark, all, now);
        }
        all.since(self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_are_forgotten_once_there_are_enough_new_ones() {
        let start = Instant::now();
        let mut recent = Recent::new(start);
        let tally = |lines, parsed| Tally { lines, parsed, foreign: lines - parsed, ..Tally::default() };
        assert_eq!(recent.tally(tally(1000, 1000), start), tally(1000, 1000));
        assert_eq!(recent.tally(tally(1000, 1000), start + PERIOD), tally(1000, 1000));
        // The format has changed: of the next 50 lines none parses.
        assert_eq!(recent.tally(tally(1050, 1000), start + PERIOD * 2), tally(50, 0));
        assert_eq!(
            recent.tally(tally(1055, 1000), start + PERIOD * 3),
            tally(55, 0),
            "too few for a new period"
        );
    }
}
