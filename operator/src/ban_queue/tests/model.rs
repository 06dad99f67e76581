//! The queue beside a naive one that keeps a list and looks through all of it for each question.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    super::{Action, MOST_WRITES, Outcome},
    world::{World, at, detected},
};
use crate::{
    bans::Ban,
    refusal::{Cause, Refusal},
};

/// What may happen; addresses are numbers of a small pool.
#[derive(Clone, Debug)]
enum Event {
    Earn(u8, u32),
    Stored,
    Refused(bool),
    Lift(u8),
    Pass(u64),
    Follow,
    Lead,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0_u8..40, 1_u32..9).prop_map(|(host, hits)| Event::Earn(host, hits)),
        4 => Just(Event::Stored),
        1 => any::<bool>().prop_map(Event::Refused),
        1 => (0_u8..40).prop_map(Event::Lift),
        3 => (0_u64..400).prop_map(Event::Pass),
        1 => Just(Event::Follow),
        2 => Just(Event::Lead),
    ]
}

/// One source as the naive queue knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Naive {
    host: u8,
    hits: u32,
    waits_since: usize,
}

fn address(host: u8) -> String {
    format!("203.0.113.{host}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, what is written next is the strongest of what waits, nothing that waits is forgotten, and
    /// nothing is written twice.
    #[test]
    fn the_queue_writes_what_a_naive_one_would(events in prop::collection::vec(event(), 1..120)) {
        let mut world = World::default();
        let mut waiting: Vec<Naive> = Vec::new();
        let mut in_flight: Vec<Naive> = Vec::new();
        let mut is_leading = true;
        for (index, event) in events.into_iter().enumerate() {
            match event {
                Event::Earn(host, hits) => {
                    let is_banned = world.bans.get(&address(host)).is_some();
                    world.earn(&address(host), hits);
                    if let Some(known) = waiting.iter_mut().find(|naive| naive.host == host) {
                        known.hits += hits;
                    } else if let Some(known) = in_flight.iter_mut().find(|naive| naive.host == host) {
                        known.hits += hits;
                    } else if !is_banned {
                        waiting.push(Naive { host, hits, waits_since: index });
                    }
                }
                Event::Stored => {
                    for naive in in_flight.drain(..) {
                        world.written(&address(naive.host), Outcome::Stored);
                        world.applied(detected(&address(naive.host), naive.hits, 1_000_000));
                    }
                }
                Event::Refused(is_shared) => {
                    let cause = if is_shared { Cause::QuotaExceeded } else { Cause::AdmissionDenied };
                    for naive in in_flight.drain(..) {
                        let refusal = Refusal::Passing(cause, "no".into());
                        world.written(&address(naive.host), Outcome::Refused(refusal));
                        waiting.push(naive);
                    }
                    // Past every pause, which the naive queue does not have.
                    world.pass(Duration::from_mins(1));
                }
                Event::Lift(host) => {
                    let name = address(host);
                    if let Some(ban) = world.bans.get(&name).cloned() {
                        world.applied(Ban { deleting_since: Some(at(1)), ..ban });
                        world.deleted(&name);
                    }
                }
                Event::Pass(millis) => world.pass(Duration::from_millis(millis)),
                Event::Follow => { is_leading = false; world.follow(); }
                Event::Lead => { is_leading = true; world.lead(); }
            }
            let is_held = world.queue.report().hold.is_some();
            let step = world.step();
            let asks_at_once = step.wait_until.is_some_and(|until| until <= world.now.instant);
            prop_assert!(!asks_at_once, "it would spin");
            for action in step.actions {
                match action {
                    Action::Create(write) | Action::Extend(write, _) => {
                        prop_assert!(is_leading);
                        let strongest = waiting
                            .iter()
                            .max_by_key(|naive| (naive.hits, std::cmp::Reverse(naive.waits_since)))
                            .map(|naive| address(naive.host));
                        prop_assert_eq!(Some(&write.name), strongest.as_ref());
                        let place = waiting.iter().position(|naive| address(naive.host) == write.name).unwrap();
                        in_flight.push(waiting.remove(place));
                    }
                    // A decision whose ban would be over is dropped: bans last a hundred seconds here.
                    Action::Drop(_, decision, _) => {
                        waiting.retain(|naive| format!("{}/32", address(naive.host)) != decision.source.to_string());
                    }
                    Action::Evict(..) | Action::Refused(..) => {}
                }
            }
            prop_assert_eq!(world.queue.report().waiting, waiting.len() + in_flight.len());
            if is_leading && !is_held {
                prop_assert!(waiting.is_empty() || in_flight.len() == MOST_WRITES || world.queue.report().limit.is_some());
            }
        }
    }
}
