//! The jails that people bring along from fail2ban, written as policies, and what they do around their thresholds.

#![expect(clippy::unwrap_used, reason = "what a test sets up must be there, or the test fails")]

use std::time::Duration;

use ip_sentry_core::{
    detect::{
        decision::{Decision, Verdict},
        escalation::{Ban, Escalation, Offences},
        format::FormatDraft,
        jail::{Jail, Limits},
        policy::{Policy, PolicyDraft},
    },
    networks::Networks,
};
use jiff::{SignedDuration, Timestamp};

const HOUR: i64 = 3600;
const WEEK: i64 = 7 * 24 * HOUR;

/// Every path, with one of these statuses.
fn any_path(statuses: &[&str]) -> PolicyDraft {
    PolicyDraft {
        catalogues: Vec::new(),
        any_path: true,
        statuses: statuses.iter().map(|&status| status.to_owned()).collect(),
        threshold: 0,
        unique_pattern_threshold: 0,
        unique_path_threshold: 0,
        ..PolicyDraft::default()
    }
}

/// Doubling, at most four weeks.
fn doubling() -> Escalation {
    let [max_duration, memory] = [672, 2160].map(Duration::from_hours);
    Escalation { factor: 2, max_duration, memory }
}

/// A jail, and the bans that come of it.
struct Court {
    jail: Jail,
    offences: Offences,
}

impl Court {
    fn of(draft: &PolicyDraft) -> Self {
        let jail = Jail::new(Policy::compile(draft).unwrap(), Limits::default());
        Self { jail, offences: Offences::default() }
    }

    /// What a line at that second comes to, if to a ban.
    fn hears(&mut self, second: i64, line: &str) -> Option<Decision> {
        match self.jail.observe(Some(at(second)), line.as_bytes(), &Networks::default()) {
            Verdict::Earned(decision) => Some(decision),
            Verdict::Counted | Verdict::Miss => None,
            other => panic!("{line}: {other:?}"),
        }
    }

    /// Which of the lines, from 1, earns a ban first.
    fn first_ban<'a>(draft: &PolicyDraft, lines: impl IntoIterator<Item = (i64, &'a str)>) -> Option<usize> {
        let mut court = Self::of(draft);
        let mut numbered = (1..).zip(lines);
        numbered.find_map(|(number, (second, line))| court.hears(second, line).map(|_| number))
    }

    /// The ban that three lines at these seconds earn.
    fn ban(&mut self, seconds: [i64; 3], line: &str) -> Ban {
        let [first, second, third] = seconds.map(|second| self.hears(second, line));
        assert!(first.is_none() && second.is_none());
        self.offences.begin(&third.unwrap()).unwrap()
    }
}

fn at(second: i64) -> Timestamp {
    let start: Timestamp = "2026-11-22T00:00:00Z".parse().unwrap();
    start.checked_add(SignedDuration::from_secs(second)).unwrap()
}

fn second_of(time: Timestamp) -> i64 {
    time.duration_since(at(0)).as_secs()
}

fn nginx(path: &str, status: u16) -> String {
    format!(r#"203.0.113.7 - - [22/Nov/2026:00:00:00 +0000] "GET {path} HTTP/1.1" {status} 153 "-" "-""#)
}

/// One week, two weeks and up to a twentieth more, four weeks, and never more.
fn assert_doubles(draft: &PolicyDraft, apart: i64, line: &str) {
    let mut court = Court::of(draft);
    let mut start = 0;
    for (offence, weeks, jitter) in [(1, 1, 0), (2, 2, 20), (3, 4, 0), (4, 4, 0)] {
        let ban = court.ban([start, start + 1, start + apart], line);
        assert_eq!(ban.offence, offence);
        let length = i64::try_from(ban.length.as_secs()).unwrap();
        let longest = weeks * WEEK + if jitter == 0 { 0 } else { weeks * WEEK / jitter };
        assert!((weeks * WEEK..=longest).contains(&length), "ban {offence} lasts {length} s");
        // It comes back right away.
        start = second_of(ban.expires_at);
    }
    // The first of a source that was free for longer than the memory.
    start += 2160 * HOUR + 1;
    assert_eq!(court.ban([start, start, start], line).offence, 1);
}

#[test]
fn three_403_in_two_hours_are_a_week_and_then_twice_that_up_to_four() {
    let draft = PolicyDraft {
        threshold: 3,
        window: Duration::from_hours(2),
        ban_duration: Duration::from_hours(168),
        escalation: Some(doubling()),
        ..any_path(&["403"])
    };
    let [forbidden, found] = [nginx("/", 403), nginx("/", 200)];
    let lines = |last: i64| {
        [(0, &forbidden), (1, &found), (60, &forbidden), (last, &forbidden)]
            .map(|(at, line)| (at, line.as_str()))
    };
    assert_eq!(Court::first_ban(&draft, lines(2 * HOUR)), Some(4));
    assert_eq!(Court::first_ban(&draft, lines(2 * HOUR + 1)), None);
    assert_doubles(&draft, 2 * HOUR, &forbidden);
}

#[test]
fn five_429_in_two_minutes_are_a_day() {
    let draft = PolicyDraft {
        threshold: 5,
        window: Duration::from_mins(2),
        ban_duration: Duration::from_hours(24),
        ..any_path(&["429"])
    };
    let [limited, found] = [nginx("/api", 429), nginx("/api", 404)];
    let lines = |last: i64| {
        [(0, &limited), (30, &limited), (31, &found), (60, &limited), (90, &limited), (last, &limited)]
            .map(|(at, line)| (at, line.as_str()))
    };
    assert_eq!(Court::first_ban(&draft, lines(120)), Some(6));
    assert_eq!(Court::first_ban(&draft, lines(121)), None);
    let mut court = Court::of(&draft);
    let decision = lines(120).into_iter().find_map(|(second, line)| court.hears(second, line)).unwrap();
    assert_eq!(decision.reason, "5 hits: any path, status 429");
    assert_eq!(decision.expires_at(1), at(120 + 24 * HOUR));
    assert_eq!(decision.length(9), Duration::from_hours(24), "no escalation");
}

#[test]
fn fifteen_different_paths_that_are_not_there_in_two_minutes_are_two_hours() {
    let draft = PolicyDraft {
        unique_path_threshold: 15,
        window: Duration::from_mins(2),
        ban_duration: Duration::from_hours(2),
        ..any_path(&["404"])
    };
    let paths: Vec<String> = (1..=15).map(|number| nginx(&format!("/{number}"), 404)).collect();
    let lines = |last: i64| {
        let seconds = (0..14).chain([last]);
        seconds.zip(paths.iter().map(String::as_str)).collect::<Vec<_>>()
    };
    assert_eq!(Court::first_ban(&draft, lines(120)), Some(15));
    assert_eq!(Court::first_ban(&draft, lines(121)), None);
    // A missing picture on every page, however it is asked for, is one path; what is there counts for nothing.
    let same = ["/1", "//1", "/%31", "/x/../1", "/1?2", "/1;3", "/1#4"].map(|path| nginx(path, 404));
    let there: Vec<String> = (100..200).map(|number| nginx(&format!("/{number}"), 200)).collect();
    let benign = same.iter().chain(&there).cycle().take(5_000).map(|line| (60, line.as_str()));
    let fourteen: Vec<_> = lines(120).into_iter().take(14).collect();
    assert_eq!(Court::first_ban(&draft, fourteen.iter().copied().chain(benign.clone())), None);
    let then_another = fourteen.iter().copied().chain(benign).chain([(120, paths[14].as_str())]);
    assert_eq!(Court::first_ban(&draft, then_another), Some(5_015));
    let mut court = Court::of(&draft);
    let decision = lines(120).into_iter().find_map(|(second, line)| court.hears(second, line)).unwrap();
    assert_eq!(decision.reason, "15 different paths, status 404");
    assert_eq!(decision.length(1), Duration::from_hours(2));
}

#[test]
fn three_failed_logins_in_an_hour_are_a_week_and_then_twice_that_up_to_four() {
    let regex = r"^\S+ \S+ sshd(?:-session)?\[\d+\]: Failed password for .* from (?<ip>\S+) port \d+ ssh2$";
    let draft = PolicyDraft {
        format: FormatDraft::Regex(regex.to_owned()),
        threshold: 3,
        window: Duration::from_hours(1),
        ban_duration: Duration::from_hours(168),
        escalation: Some(doubling()),
        ..any_path(&[])
    };
    let failed = |user: &str| {
        format!(
            "2026-11-22T00:00:00+00:00 gw sshd[7]: Failed password for {user} from 203.0.113.7 port 4022 ssh2"
        )
    };
    // A user's name is the attacker's to choose, and must not speak for another address.
    let users = ["root", "invalid user x", "invalid user y from 198.51.100.9 port 22 ssh2"].map(failed);
    let lines =
        |last: i64| [0, 1, last].into_iter().zip(users.iter().map(String::as_str)).collect::<Vec<_>>();
    assert_eq!(Court::first_ban(&draft, lines(HOUR)), Some(3));
    assert_eq!(Court::first_ban(&draft, lines(HOUR + 1)), None);
    let mut court = Court::of(&draft);
    let decision = lines(9).into_iter().find_map(|(second, line)| court.hears(second, line)).unwrap();
    assert_eq!(decision.source.to_string(), "203.0.113.7/32");
    assert_eq!(decision.reason, "3 hits: any path");
    assert_doubles(&draft, HOUR, &users[0]);
}
