//! When the NodeFirewall is due to be written.

use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::between;

/// Between two heartbeats, in milliseconds: 60 s, give or take.
const HEARTBEAT_MILLIS: (u64, u64) = (55_000, 63_000);
/// The least time between two writes, however often the conditions change.
const LEAST: Duration = Duration::from_secs(1);
/// How soon a changed number of entries is written, in milliseconds; each node's own time, as all hear of a ban at
/// once.
const FIGURES_MILLIS: (u64, u64) = (1_000, 3_000);
/// The least time between two writes that only such a number asks for.
const FIGURES: Duration = Duration::from_secs(20);

/// Why and when to write next.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    last: Instant,
    heartbeat: Instant,
    figures: Option<Instant>,
    conditions: bool,
}

impl Pace {
    /// Nothing was written yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now - FIGURES, heartbeat: now, figures: None, conditions: false }
    }

    /// How what holds differs from what was written last.
    pub(super) fn differs(&mut self, conditions: bool, figures: bool, now: Instant) {
        self.conditions = conditions;
        self.figures = figures.then(|| self.figures.unwrap_or_else(|| now + millis(FIGURES_MILLIS)));
    }

    /// When to write.
    pub(super) fn due(&self) -> Instant {
        let figures = self.figures.map(|soon| soon.max(self.last + FIGURES));
        let conditions = self.conditions.then_some(self.last + LEAST);
        figures.into_iter().chain(conditions).fold(self.heartbeat, Instant::min)
    }

    /// It was written.
    pub(super) fn written(&mut self, now: Instant) {
        *self =
            Self { last: now, heartbeat: now + millis(HEARTBEAT_MILLIS), figures: None, conditions: false };
    }

    /// It could not be written. What differs does not count as changed again until `pause` is over.
    pub(super) fn failed(&mut self, now: Instant, pause: Duration) {
        *self = Self { last: now, heartbeat: now + pause, figures: None, conditions: false };
    }
}

fn millis((least, most): (u64, u64)) -> Duration {
    Duration::from_millis(between(least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_due_at_once_figures_soon_and_all_with_the_heartbeat() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut pace = Pace::new(start);
        assert_eq!(pace.due(), start, "the first report waits for nothing");
        pace.written(start);
        assert!((at(55)..=at(63)).contains(&pace.due()));

        pace.differs(false, true, at(30));
        let due = pace.due();
        assert!((at(31)..=at(33)).contains(&due));
        pace.differs(false, true, at(32));
        assert_eq!(pace.due(), due, "another change does not put it off");
        pace.written(due);
        pace.differs(false, true, due);
        assert_eq!(pace.due(), due + FIGURES, "figures that go on changing are written now and then");
        pace.differs(true, true, due);
        assert_eq!(pace.due(), due + LEAST);
        pace.differs(false, false, due);
        assert!(pace.due() > due + FIGURES, "what is back to what was written is not written");
    }

    #[test]
    fn a_write_that_fails_is_repeated_after_its_pause() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        pace.differs(true, true, start);
        pace.failed(start, Duration::from_secs(4));
        assert_eq!(pace.due(), start + Duration::from_secs(4));
    }
}
