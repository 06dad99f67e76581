use proptest::prelude::*;

use super::*;
use crate::detect::decision::{Evidence, Threshold};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn ban_time(first: u64, factor: u32, longest: u64, memory: u64) -> BanTime {
    let [first, max_duration, memory] = [first, longest, memory].map(Duration::from_secs);
    BanTime { first, escalation: Some(Escalation { factor, max_duration, memory }) }
}

fn source(host: u32) -> Source {
    Source::of(std::net::Ipv4Addr::from_bits(0xcb00_7100 + host).into(), 64).unwrap()
}

fn decision(source: Source, last_seen: i64, ban_time: BanTime) -> Decision {
    let [first_seen, last_seen] = [last_seen - 1, last_seen].map(at);
    let evidence =
        Evidence { hits: 3, threshold: Threshold::Hits, first_seen, last_seen, samples: Vec::new() };
    Decision { source, reason: String::new(), evidence, ban_time }
}

/// What fail2ban's jail.conf says of `bantime.increment`: a ban time of 600 s with the multipliers
/// `1 2 4 8 16 32 64`, or the formula `ban.Time * (1<<ban.Count)`, grows to 64 × 600 s, 10.6 hours, and no further.
///
/// The same here: `ban.Count` is the number of bans before, so that the first lasts `bantime`; with `maxtime` the
/// growth ends; `overalljails = true` is how bans of all policies add up. Not the same: fail2ban counts the bans that
/// its database holds (`dbpurgeage`), of which each new one renews all before it, here each is forgotten by itself
/// when it is older than `memory`; its formula ends at 2^20, here at the longest duration; its `rndtime` is drawn anew
/// each time and comes on top of `maxtime`; and it takes fewer failures of a source that it knows to ban it again.
#[test]
fn bans_grow_as_in_fail2ban_s_worked_example() {
    let ban_time = ban_time(600, 2, 64 * 600, 30 * DAY);
    for host in 0..100 {
        for (offence, times) in (1..).zip([1u32, 2, 4, 8, 16, 32, 64, 64, 64]) {
            let exact = Duration::from_mins(10) * times;
            let length = ban_time.length(source(host), offence);
            if times == 1 || times == 64 {
                assert_eq!(length, exact, "ban {offence}");
            } else {
                assert!((exact..=exact + exact / 20).contains(&length), "ban {offence} lasts {length:?}");
            }
        }
    }
}

#[test]
fn a_length_is_the_same_for_ever() {
    let ban_time = ban_time(HOUR, 2, DAY, DAY);
    let lengths = |source: &str| {
        let source = source.parse().unwrap();
        [1, 2, 3, 4, 5, 6, u32::MAX].map(|offence| ban_time.length(source, offence).as_millis())
    };
    assert_eq!(
        lengths("203.0.113.7/32"),
        [3_600_000, 7_219_440, 14_436_000, 28_866_240, 57_720_960, 86_400_000, 86_400_000]
    );
    assert_eq!(
        lengths("2001:db8::/64"),
        [3_600_000, 7_499_520, 15_001_920, 29_986_560, 59_984_640, 86_400_000, 86_400_000]
    );
}

#[test]
fn without_escalation_every_ban_is_as_long_as_the_first() {
    let plain = BanTime { first: Duration::from_secs(HOUR), escalation: None };
    let by_one = ban_time(HOUR, 1, DAY, DAY);
    for offence in [0, 1, 2, 3, u32::MAX] {
        assert_eq!(plain.length(source(7), offence).as_secs(), HOUR);
        assert_eq!(by_one.length(source(7), offence).as_secs(), HOUR);
    }
}

#[test]
fn bans_count_from_their_end_for_as_long_as_the_memory() {
    let past: PastBans = [at(100), at(200), at(300), at(200)].into_iter().collect();
    let memory = Some(Duration::from_secs(100));
    #[rustfmt::skip]
    let table = [
        (99, memory, 1), (100, memory, 2), (199, memory, 2), (200, memory, 3), (201, memory, 2), (300, memory, 3),
        (400, memory, 2), (401, memory, 1), (401, None, 4), (150, None, 2), (300, Some(Duration::MAX), 4),
    ];
    for (now, memory, expect) in table {
        assert_eq!(past.next_offence(at(now), memory), expect, "at {now}, memory {memory:?}");
    }
}

#[test]
fn the_longest_ban_needs_no_more_than_what_is_remembered() {
    let (shortest, longest) = crate::detect::policy::BAN_BOUNDS;
    let ban_time = ban_time(shortest.as_secs(), 2, longest.as_secs(), longest.as_secs());
    let past: PastBans = (0..100).map(at).collect();
    assert_eq!(past.ends().count(), REMEMBERED_ENDS);
    assert_eq!(past.last(), Some(at(99)));
    let offence = past.next_offence(at(100), ban_time.memory());
    assert_eq!(offence, 21);
    assert_eq!(ban_time.length(source(1), offence), longest);
}

#[test]
fn a_replayed_source_is_banned_again_for_longer_once_it_is_free() {
    let ban_time = ban_time(HOUR, 2, 4 * HOUR, DAY);
    let mut offences = Offences::default();
    let mut begin = |last_seen: i64| offences.begin(&decision(source(7), last_seen, ban_time));
    let first = begin(1000).unwrap();
    assert_eq!((first.offence, first.length.as_secs(), first.expires_at), (1, HOUR, at(4600)));
    assert_eq!(begin(1001), None, "banned");
    assert_eq!(begin(4599), None, "banned");
    let second = begin(4600).unwrap();
    assert_eq!(second.offence, 2);
    assert!((2 * HOUR..=2 * HOUR + HOUR / 10).contains(&second.length.as_secs()));
    let third = begin(second.expires_at.as_second() + 1).unwrap();
    assert_eq!((third.offence, third.length.as_secs()), (3, 4 * HOUR));
    assert_eq!(begin(third.expires_at.as_second() + 25 * 3600).unwrap().offence, 1, "forgotten");
}

#[test]
fn of_too_many_sources_the_one_free_first_is_forgotten() {
    let ban_time = ban_time(HOUR, 2, DAY, 30 * DAY);
    let most = u32::try_from(Offences::MOST_SOURCES).unwrap();
    let mut offences = Offences::default();
    let mut begin = |host: u32, last_seen: u32| {
        offences.begin(&decision(source(host), i64::from(last_seen), ban_time)).map(|ban| ban.offence)
    };
    for host in 0..=most {
        assert_eq!(begin(host, host), Some(1));
    }
    assert_eq!(begin(0, most + 7200), Some(1), "forgotten");
    assert_eq!(begin(most, most + 7200), Some(2));
    assert_eq!((offences.bans.len(), offences.forgotten()), (Offences::MOST_SOURCES, 2));
    assert_eq!(offences.by_end.len(), Offences::MOST_SOURCES);
}

proptest! {
    #[test]
    fn lengths_never_fall_and_never_pass_the_longest(
        first in 60_000u64..31_536_000_000,
        more in 0u64..31_536_000_000,
        factor in 1u32..=64,
        host in 0u32..1000,
    ) {
        let max_duration = Duration::from_millis(first + more);
        let escalation = Some(Escalation { factor, max_duration, memory: Duration::from_secs(DAY) });
        let ban_time = BanTime { first: Duration::from_millis(first), escalation };
        let lengths: Vec<Duration> = (1..40).map(|offence| ban_time.length(source(host), offence)).collect();
        prop_assert_eq!(lengths[0], ban_time.first);
        prop_assert!(lengths.is_sorted());
        prop_assert!(lengths.iter().all(|&length| length <= max_duration));
        if factor > 1 {
            prop_assert_eq!(ban_time.length(source(host), 40), max_duration);
        }
    }

    #[test]
    fn past_bans_know_no_order(ends in prop::collection::vec(0i64..40, 0..60), now in 0i64..60, memory in 0u64..60) {
        let past: PastBans = ends.iter().copied().map(at).collect();
        let reversed: PastBans = ends.iter().rev().copied().map(at).collect();
        prop_assert_eq!(&past, &reversed);
        let memory = Duration::from_secs(memory);
        let offence = past.next_offence(at(now), Some(memory));
        let wider = past.next_offence(at(now), Some(memory * 2));
        prop_assert!((1..=wider).contains(&offence));
    }
}
