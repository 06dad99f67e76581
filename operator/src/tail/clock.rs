//! When a line was written by the operator's clock, whatever its node's clock says.
//!
//! A line's age is the operator's time when it comes, less its stamp. No line is read before it is written, so the least
//! age says how far the node's clock is behind the operator's at most, and an age below zero proves that it is ahead.
//! That it is behind is another matter: what is old may also be late, or be read back. So it is believed only of a node
//! whose lines keep coming at one age, which those of a log that is read back don't: they come faster than they were
//! written.
//!
//! A line is dated later only if it is live, that is, no older than the others are when they come. What is read back
//! keeps its stamp, so that nobody is banned a second time for what he was let off.

use jiff::{SignedDuration, Timestamp};

/// How far ahead of the operator's clock a stamp may be; also how much alike ages are.
pub(super) const SLACK: SignedDuration = SignedDuration::from_secs(2);

/// From when on a node's clock is behind: less may be the way that its lines take.
const BEHIND: SignedDuration = SignedDuration::from_secs(10);

/// How much older than its fellows a line may be and still be live.
const LIVE: SignedDuration = SignedDuration::from_secs(10);

/// How long lines must come at one age for it to be their clock's.
const STEADY: SignedDuration = SignedDuration::from_secs(5);

/// What was done to a line's stamp.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Dated {
    /// Nothing.
    AsStamped(Timestamp),
    /// Made earlier: the node's clock is ahead.
    Earlier(Timestamp),
    /// Made later: the node's clock is behind.
    Later(Timestamp),
}

/// A node's clock, as its lines show it beside the operator's.
#[derive(Debug, Default)]
pub(super) struct NodeClock {
    /// What must be added to a stamp to have the operator's time. Positive where the node's clock is behind.
    skew: SignedDuration,
    /// Since when ages are alike, and the least of them.
    steady: Option<(Timestamp, SignedDuration)>,
    /// The skew that was told last.
    told: SignedDuration,
}

impl NodeClock {
    /// Dates a line that comes at `now`.
    pub(super) fn date(&mut self, stamp: Timestamp, now: Timestamp) -> Dated {
        let age = now.duration_since(stamp);
        self.learn(age, now);
        let corrected = || stamp.saturating_add(self.skew).unwrap_or(stamp).min(now);
        if self.skew < -SLACK {
            Dated::Earlier(corrected())
        } else if self.skew >= BEHIND && age <= self.skew.saturating_add(LIVE) {
            Dated::Later(corrected())
        } else {
            // What is ahead by less than the slack stays so: where two replicas read a log, both date it alike.
            Dated::AsStamped(stamp)
        }
    }

    /// By how much the node's clock is off, where it is by much: positive where it is behind. Once each time that it
    /// changes.
    pub(super) fn news(&mut self) -> Option<SignedDuration> {
        let is_off = self.skew < -SLACK || self.skew >= BEHIND;
        let skew = if is_off { self.skew } else { SignedDuration::ZERO };
        let is_news = (skew - self.told).abs() > SLACK || skew.is_zero() && !self.told.is_zero();
        is_news.then(|| {
            self.told = skew;
            skew
        })
    }

    fn learn(&mut self, age: SignedDuration, now: Timestamp) {
        self.skew = self.skew.min(age);
        let (since, least) = match self.steady {
            Some((since, least)) if (age - least).abs() <= SLACK => (since, least.min(age)),
            _ => (now, age),
        };
        let has_lasted = now.duration_since(since) >= STEADY;
        if has_lasted {
            self.skew = least;
        }
        self.steady = Some(if has_lasted { (now, age) } else { (since, least) });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// When lines come, and their stamps, in seconds.
    type Lines<'a> = &'a [(i64, i64)];

    fn dated(clock: &mut NodeClock, lines: Lines) -> Vec<i64> {
        let second = |&(now, stamp): &(i64, i64)| match clock.date(at(NOW + stamp), at(NOW + now)) {
            Dated::AsStamped(at) | Dated::Earlier(at) | Dated::Later(at) => at.as_second() - NOW,
        };
        lines.iter().map(second).collect()
    }

    #[test]
    fn each_line_is_dated_by_what_is_known_of_its_nodes_clock() {
        #[rustfmt::skip]
        let table: &[(&str, Lines, &[i64])] = &[
            ("clocks agree",                         &[(0, 0), (6, 5), (12, 12)],                        &[0, 5, 12]),
            ("a little ahead",                       &[(0, 2), (6, 8)],                                  &[2, 8]),
            ("ahead: never later than now",          &[(0, 330), (1, 331), (9, 330)],                    &[0, 1, 0]),
            ("ahead in what is read back",           &[(0, 100), (0, 330), (7, 337)],                    &[0, 0, 7]),
            ("behind: once lines keep coming",       &[(0, -9_000), (3, -8_997), (6, -8_994), (7, -8_993)], &[-9_000, -8_997, 6, 7]),
            ("behind, quiet",                        &[(0, -90), (60, -30), (120, 30)],                  &[-90, 60, 120]),
            ("behind, and late: as stamped",         &[(0, -90), (6, -84), (40, -84)],                   &[-90, 6, -84]),
            ("late, not behind",                     &[(0, -5), (6, 1), (12, 7)],                        &[-5, 1, 7]),
            ("read back in no time, then live",      &[(0, -3_600), (0, -1_800), (1, -60), (9, 9)],      &[-3_600, -1_800, -60, 9]),
            ("read back slowly",                     &[(0, -100), (5, -80), (10, -60), (15, -40)],       &[-100, -80, -60, -40]),
            ("a stall, then all at once",            &[(0, 0), (50, 10), (50, 40), (50, 50), (56, 56)],  &[0, 10, 40, 50, 56]),
            ("behind, then set right",               &[(0, -90), (6, -84), (7, 7), (8, 8)],              &[-90, 6, 7, 8]),
            ("right, then set back",                 &[(0, 0), (6, 6), (7, -93), (13, -87)],             &[0, 6, -93, 13]),
        ];
        for (what, lines, expect) in table {
            assert_eq!(dated(&mut NodeClock::default(), lines), *expect, "{what}");
        }
    }

    #[test]
    fn what_is_read_back_over_a_reconnect_keeps_its_stamp_though_the_clock_is_known_to_be_behind() {
        let mut clock = NodeClock::default();
        assert_eq!(dated(&mut clock, &[(0, -500), (6, -494)]), [-500, 6]);
        // A minute was missed; the last of it is live again.
        assert_eq!(dated(&mut clock, &[(70, -490), (70, -460), (70, -430)]), [-490, -460, 70]);
    }

    #[test]
    fn a_clock_that_is_off_is_told_once_and_again_when_it_is_right() {
        let mut clock = NodeClock::default();
        let mut news = |lines| {
            dated(&mut clock, lines);
            clock.news().map(|skew| skew.as_secs())
        };
        assert_eq!(news(&[(0, 0)]), None);
        assert_eq!(news(&[(1, 331)]), Some(-330));
        assert_eq!(news(&[(2, 332), (8, 338)]), None);
        assert_eq!(news(&[(9, 9), (15, 15)]), Some(0));
        assert_eq!(news(&[(16, -84), (22, -78)]), Some(100));
    }

    proptest! {
        #[test]
        fn no_line_is_dated_later_than_it_came_but_for_the_slack(
            lines in proptest::collection::vec((0_i64..100, -10_000_i64..10_000), 0..50),
        ) {
            let mut clock = NodeClock::default();
            let mut now = 0;
            for (pause, stamp) in lines {
                now += pause;
                let got = dated(&mut clock, &[(now, stamp)])[0];
                prop_assert!(got <= now + SLACK.as_secs(), "{} at {}", got, now);
                // And what is made later was as old as lines are when they come.
                prop_assert!(got <= stamp || got >= now - LIVE.as_secs(), "{} of {} at {}", got, stamp, now);
            }
        }
    }
}
