//! The guard alone, then whole elections in simulated time.

use super::*;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use proptest::prelude::*;

fn held_by(holder: &str, renewal: i64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.into()),
        lease_duration_seconds: Some(10),
        renew_time: Some(MicroTime(Timestamp::from_second(renewal).unwrap())),
        ..LeaseSpec::default()
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_free_lease_may_be_tried_for_at_once() {
    let now = Instant::now();
    for spec in [None, Some(LeaseSpec::default()), Some(held_by("", 0)), Some(held_by("me", 0))] {
        assert_eq!(Guard::new("me", Timing::default()).observe(spec.clone(), now), Verdict::Try, "{spec:?}");
    }
}

#[test]
fn a_foreign_lease_may_be_tried_for_once_it_has_stood_still_for_its_duration() {
    let start = Instant::now();
    let mut guard = Guard::new("me", Timing::default());
    // Its renewal time lies in the far past: another machine's clock says nothing.
    let wait = Verdict::Wait { until: start + secs(10) };
    assert_eq!(guard.observe(Some(held_by("other", 0)), start), wait);
    assert_eq!(guard.observe(Some(held_by("other", 0)), start + Duration::from_millis(9_999)), wait);
    assert_eq!(guard.observe(Some(held_by("other", 0)), start + secs(10)), Verdict::Try);
}

#[test]
fn a_renewal_starts_the_wait_anew() {
    let start = Instant::now();
    let mut guard = Guard::new("me", Timing::default());
    guard.observe(Some(held_by("other", 0)), start);
    let renewed = guard.observe(Some(held_by("other", 1)), start + secs(9));
    assert_eq!(renewed, Verdict::Wait { until: start + secs(19) });
}

#[test]
fn a_holder_that_says_it_needs_longer_is_given_longer_within_reason() {
    let start = Instant::now();
    for (declared, expect) in [(1, 10), (30, 30), (100_000, 60), (-5, 10)] {
        let spec = LeaseSpec { lease_duration_seconds: Some(declared), ..held_by("other", 0) };
        let verdict = Guard::new("me", Timing::default()).observe(Some(spec), start);
        assert_eq!(verdict, Verdict::Wait { until: start + secs(expect) }, "declared {declared} s");
    }
}

#[test]
fn a_foreign_lease_that_vanishes_is_waited_for_since_its_holder_may_not_know_yet() {
    let start = Instant::now();
    let mut guard = Guard::new("me", Timing::default());
    guard.observe(Some(held_by("other", 0)), start);
    assert_eq!(guard.observe(None, start + secs(1)), Verdict::Wait { until: start + secs(11) });
    assert_eq!(guard.observe(None, start + secs(11)), Verdict::Try);
}

#[test]
fn a_reply_that_names_another_holder_is_a_defeat() {
    let guard = Guard::new("me", Timing::default());
    #[rustfmt::skip]
    let table = [
        (Attempt::Acquired { holder: "me".into() },    Standing::Leading),
        (Attempt::Acquired { holder: "other".into() }, Standing::Standby),
        (Attempt::Refused,                             Standing::Standby),
    ];
    for (attempt, expect) in table {
        assert_eq!(guard.judge(&attempt), expect, "{attempt:?}");
    }
}

/// What may go wrong with one round of one candidate, in milliseconds of simulated time.
#[derive(Clone, Debug)]
struct Round {
    read: u64,
    write: u64,
    reply: u64,
    pause: u64,
    /// 0: all is well; 1: the read fails; 2: the write is lost; 3: its reply is lost; 4: suspended between the two.
    fault: u8,
}

fn round() -> impl Strategy<Value = Round> {
    let fault = prop_oneof![6 => Just(0_u8), 1 => 1_u8..5];
    (1_u64..1_500, 1_u64..1_000, 1_u64..1_000, 1_600_u64..2_400, fault)
        .prop_map(|(read, write, reply, pause, fault)| Round { read, write, reply, pause, fault })
}

/// The stored lease: its version and who holds it.
#[derive(Clone, Default)]
struct Store {
    version: i64,
    spec: Option<LeaseSpec>,
}

enum Step {
    Read { asked: Instant },
    Write { asked: Instant, seen: i64 },
    Reply { asked: Instant, won: bool },
}

/// Runs `rounds` of each candidate against one store; returns each one's terms.
fn simulate(rounds: &[Vec<Round>]) -> Vec<(usize, Instant, Instant)> {
    let timing = Timing::default();
    let start = Instant::now();
    let mut store = Store::default();
    let mut guards: Vec<Guard> = (0..rounds.len()).map(|who| Guard::new(&who.to_string(), timing)).collect();
    let mut terms = Vec::new();
    // What happens next, at what time, to whom, in which of its rounds.
    let mut agenda: Vec<(Instant, usize, usize, Step)> =
        (0..rounds.len()).map(|who| (start, who, 0, Step::Read { asked: start })).collect();
    while let Some(next) = (0..agenda.len()).min_by_key(|index| agenda[*index].0) {
        let (now, who, turn, step) = agenda.swap_remove(next);
        let Some(plan) = rounds[who].get(turn) else { continue };
        let after = |milli: u64| now + Duration::from_millis(milli);
        let again = |at: Instant| (at, who, turn + 1, Step::Read { asked: at });
        agenda.push(match step {
            Step::Read { .. } if plan.fault == 1 => again(after(2_000 + plan.pause)),
            Step::Read { asked } => {
                // The reply is there `read` after the store was looked at, which is the worst case.
                let received = after(plan.read);
                match guards[who].observe(store.spec.clone(), received) {
                    Verdict::Try => {
                        let suspended = if plan.fault == 4 { 30_000 } else { 0 };
                        let write = after(plan.read + plan.write + suspended);
                        (write, who, turn, Step::Write { asked, seen: store.version })
                    }
                    Verdict::Wait { until } => {
                        again(until.max(received).min(received + Duration::from_millis(plan.pause)))
                    }
                }
            }
            Step::Write { .. } if plan.fault == 2 => again(after(2_000 + plan.pause)),
            Step::Write { asked, seen } => {
                let won = store.version == seen;
                if won {
                    store.version += 1;
                    store.spec = Some(held_by(&who.to_string(), store.version));
                }
                (after(plan.reply), who, turn, Step::Reply { asked, won })
            }
            Step::Reply { asked, won } => {
                if won && plan.fault != 3 {
                    terms.push((who, now, asked + timing.deadline));
                }
                again(after(plan.pause))
            }
        });
    }
    terms
}

proptest! {
    /// Slow, lost and late requests, suspended candidates: no two may ever write at the same time.
    #[test]
    fn no_two_lead_at_once(rounds in proptest::collection::vec(proptest::collection::vec(round(), 1..40), 2..5)) {
        let terms = simulate(&rounds);
        for (who, begin, end) in &terms {
            for (other, begins, ends) in &terms {
                let overlap = who != other && begin < end && begins < ends && begin < ends && begins < end;
                prop_assert!(!overlap, "{who} and {other} both lead");
            }
        }
    }
}

#[test]
fn one_of_several_leads_when_nothing_fails() {
    let calm = Round { read: 5, write: 5, reply: 5, pause: 2_000, fault: 0 };
    let terms = simulate(&vec![vec![calm; 20]; 3]);
    assert!(terms.len() >= 19, "{} terms", terms.len());
    assert!(terms.iter().all(|(who, ..)| *who == terms[0].0));
}
