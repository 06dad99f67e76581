//! The resume rule against a kubelet that filters by whole seconds, and against a naive list of what was logged.

use super::*;
use proptest::prelude::*;

/// A stamp in milliseconds, so that tables stay readable.
fn at(milli: i64) -> Timestamp {
    Timestamp::from_millisecond(milli).unwrap()
}

/// What the kubelet sends of `log` for a `sinceTime`: each line that is not stamped before it, in the file's order.
fn served(log: &[i64], since: Timestamp) -> impl Iterator<Item = (usize, Timestamp)> {
    log.iter().map(|milli| at(*milli)).enumerate().filter(move |(_, stamp)| *stamp >= since)
}

const REACH_BACK: SignedDuration = SignedDuration::from_secs(5);

/// Reads a growing `log`, over streams that break after so many lines each; returns the lines handed over.
fn read(resume: &mut Resume, log: &[i64], breaks: &[usize]) -> Vec<usize> {
    let mut got = Vec::new();
    for lines in breaks.iter().chain(&[usize::MAX]) {
        let stream = served(log, resume.reopen(REACH_BACK)).take(*lines);
        got.extend(stream.filter(|(_, stamp)| resume.admit(*stamp)).map(|(index, _)| index));
    }
    got
}

#[test]
fn a_stream_is_opened_at_a_whole_second_rounded_down() {
    let mut resume = Resume::new(at(1_700));
    assert_eq!(resume.reopen(REACH_BACK), at(1_000), "the start is not reached behind");
    assert!(resume.admit(at(22_999)));
    assert_eq!(resume.reopen(REACH_BACK), at(17_000));
}

#[test]
fn each_line_comes_once_over_a_cut() {
    #[rustfmt::skip]
    let table: [(&str, &[i64], &[usize]); 7] = [
        ("within a second",                   &[1_000, 1_100, 1_200, 2_000],        &[2]),
        ("within one stamp",                  &[1_000, 1_500, 1_500, 1_500, 2_000], &[2]),
        ("after one stamp",                   &[1_000, 1_500, 1_500, 1_500, 2_000], &[4]),
        ("at once, several times",            &[1_000, 1_500, 1_500],               &[0, 0, 2, 0]),
        ("in the middle of a replay",         &[1_000, 1_100, 1_200, 1_300],        &[3, 1, 2]),
        ("after the clock was set back",      &[5_000, 6_000, 1_500, 1_600, 7_000], &[3]),
        ("after the clock had caught up",     &[5_000, 6_000, 1_500, 5_500, 5_600], &[4]),
    ];
    for (what, log, breaks) in table {
        let all: Vec<usize> = (0..log.len()).collect();
        assert_eq!(read(&mut Resume::new(at(0)), log, breaks), all, "cut {what}: {log:?} after {breaks:?}");
    }
}

#[test]
fn a_clock_set_back_while_reading_loses_nothing() {
    let mut resume = Resume::new(at(0));
    resume.reopen(REACH_BACK);
    assert!([5_000, 6_000, 1_000, 1_000, 500].into_iter().all(|milli| resume.admit(at(milli))));
}

#[test]
fn a_clock_may_be_set_back_by_five_seconds_before_the_log_falls_silent() {
    let mut resume = Resume::new(at(0));
    resume.reopen(REACH_BACK);
    assert!(resume.admit(at(60_900)));
    let since = resume.reopen(REACH_BACK);
    assert_eq!(served(&[55_900, 54_999], since).map(|(index, _)| index).collect::<Vec<_>>(), [0]);
}

#[test]
fn a_clock_set_back_after_the_replay_loses_nothing() {
    let mut resume = Resume::new(at(0));
    resume.reopen(REACH_BACK);
    assert!(resume.admit(at(5_000)));
    resume.reopen(REACH_BACK);
    assert!(!resume.admit(at(5_000)));
    assert!(resume.admit(at(4_000)));
    assert!(resume.admit(at(4_100)));
}

#[test]
fn a_new_instance_is_read_from_its_first_line() {
    let mut resume = Resume::new(at(0));
    resume.reopen(REACH_BACK);
    assert!(resume.admit(at(9_000)) && resume.admit(at(5_000)));
    resume.restart();
    resume.reopen(REACH_BACK);
    assert!(resume.admit(at(6_000)), "9.0 s was the latest stamp, but of another instance");
}

#[test]
fn when_the_last_line_was_rotated_away_the_next_ones_are_new() {
    let mut resume = Resume::new(at(0));
    resume.reopen(REACH_BACK);
    assert!(resume.admit(at(1_000)));
    resume.reopen(REACH_BACK);
    assert!(resume.admit(at(1_001)));
}

proptest! {
    /// Clocks that only go forward, many lines to a stamp, cuts anywhere, the file growing meanwhile or not.
    #[test]
    fn every_line_comes_exactly_once(
        steps in proptest::collection::vec(prop_oneof![3 => Just(0_i64), 3 => 1_i64..400, 1 => 400_i64..3000], 1..80),
        breaks in proptest::collection::vec(0_usize..60, 0..8),
    ) {
        let log: Vec<i64> = steps.iter().scan(1_000, |now, step| { *now += step; Some(*now) }).collect();
        let got = read(&mut Resume::new(at(0)), &log, &breaks);
        prop_assert_eq!(got, (0..log.len()).collect::<Vec<_>>());
    }

    /// A clock that is set back as well, to stamps that were not used before: of what the kubelet sends
    /// nothing is lost, and nothing comes twice.
    #[test]
    fn every_line_comes_exactly_once_though_the_clock_is_set_back(
        steps in proptest::collection::vec(prop_oneof![6 => 1_i64..400, 1 => -5_000_i64..0], 1..60),
        cuts in proptest::collection::vec(1_usize..60, 0..6),
    ) {
        let mut log: Vec<i64> = Vec::new();
        let mut now = 100_000;
        for step in steps {
            now += step;
            while log.contains(&now) {
                now += 1;
            }
            log.push(now);
        }
        // Each stream ends where the file ended then, as when a connection breaks while the log is followed.
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
        cuts.sort_unstable();
        cuts.push(log.len());
        let mut resume = Resume::new(at(0));
        let (mut got, mut sent, mut begin) = (Vec::new(), Vec::new(), 0);
        for end in cuts {
            let since = resume.reopen(REACH_BACK);
            let stream = served(&log[..end], since);
            got.extend(stream.filter(|(_, stamp)| resume.admit(*stamp)).map(|(index, _)| index));
            sent.extend((begin..end).filter(|index| at(log[*index]) >= since));
            begin = end;
        }
        prop_assert!(got.is_sorted_by(|one, next| one < next), "twice or out of order: {:?}", got);
        prop_assert!(sent.iter().all(|index| got.contains(index)), "sent {:?}, got {:?}", sent, got);
    }
}
