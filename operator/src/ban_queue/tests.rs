//! The queue's promises, one by one; [`model`] holds it to a naive one over random histories.

mod model;
mod world;

use std::time::Duration;

use ip_sentry_core::net::Source;
use ip_sentry_crd::ip_ban::Origin;

use self::world::{World, at};
use super::*;
use crate::bans::Ban;

/// What happens to the world besides.
type Prepare = fn(&mut World);

/// The sources of the bans that these actions create, in order.
fn created(actions: &[Action]) -> Vec<String> {
    let name = |action: &Action| match action {
        Action::Create(write) => Some(write.name.clone()),
        _ => None,
    };
    actions.iter().filter_map(name).collect()
}

fn dropped(actions: &[Action]) -> Vec<(Source, Dropped)> {
    let drop = |action: &Action| match action {
        Action::Drop(_, decision, why) => Some((decision.source, why.clone())),
        _ => None,
    };
    actions.iter().filter_map(drop).collect()
}

fn evicted(actions: &[Action]) -> Vec<(String, Eviction)> {
    let evict = |action: &Action| match action {
        Action::Evict(name, why) => Some((name.clone(), *why)),
        _ => None,
    };
    actions.iter().filter_map(evict).collect()
}

#[test]
fn the_source_with_the_most_hits_goes_first_and_of_equals_the_one_that_waits_longest() {
    let mut world = World::default();
    world.follow();
    for (address, hits) in [("203.0.113.1", 3), ("203.0.113.2", 9), ("203.0.113.3", 3), ("203.0.113.4", 5)] {
        world.earn(address, hits);
    }
    world.lead();
    let step = world.step();
    assert_eq!(created(&step.actions), ["203.0.113.2", "203.0.113.4", "203.0.113.1", "203.0.113.3"]);
}

#[test]
fn a_standby_keeps_decisions_and_writes_them_once_it_leads() {
    let mut world = World::default();
    world.follow();
    world.earn("203.0.113.1", 3);
    let step = world.step();
    assert!(step.actions.is_empty());
    world.lead();
    assert_eq!(created(&world.step().actions), ["203.0.113.1"]);
}

#[test]
fn a_decision_is_dropped_only_when_it_can_do_no_good_or_would_do_harm() {
    let ends = |second| Ban { expires_at: Some(at(second)), ..Ban::example() };
    let manual = Ban { origin: Origin::Manual, is_managed: false, is_held: false, ..ends(150) };
    let lifted = Ban { deleting_since: Some(at(95)), ..ends(400) };
    #[rustfmt::skip]
    let table: [(Option<Ban>, Prepare, Option<Obsolete>); 11] = [
        // ban                   and                                          then. The decision ends at 200, its first hit was at 90.
        (None,                   |_| {},                                      None),
        (Some(ends(200)),        |_| {},                                      Some(Obsolete::Enforced)),
        (Some(ends(150)),        |_| {},                                      None),
        (Some(manual),           |_| {},                                      Some(Obsolete::Enforced)),
        (Some(lifted),           |_| {},                                      Some(Obsolete::Lifted)),
        (None,                   |world| world.lifted("203.0.113.7/32", 88),  Some(Obsolete::Lifted)),
        (None,                   |world| world.lifted("203.0.113.7/32", 87),  None),
        (None,                   |world| world.lifted("203.0.113.0/24", 95),  Some(Obsolete::Lifted)),
        (None,                   |world| world.protect(&["203.0.113.0/28"]),  Some(Obsolete::Protected)),
        (None,                   |world| world.exempt("203.0.113.0/28"),      Some(Obsolete::Protected)),
        (None,                   |world| world.shadow(),                      Some(Obsolete::PolicyGone)),
    ];
    for (index, (ban, prepare, expect)) in table.into_iter().enumerate() {
        // Whether it is so before the decision comes, or becomes so while it waits.
        for is_before in [true, false] {
            let mut world = World::default();
            world.follow();
            let change = |world: &mut World| {
                prepare(world);
                if let Some(ban) = &ban {
                    world.applied(ban.clone());
                }
            };
            if is_before {
                change(&mut world);
                world.earn("203.0.113.7", 3);
            } else {
                world.earn("203.0.113.7", 3);
                change(&mut world);
            }
            let found = dropped(&world.step().actions);
            let expect: Vec<_> = expect
                .map(|why| ("203.0.113.7/32".parse().unwrap(), Dropped::Obsolete(why)))
                .into_iter()
                .collect();
            assert_eq!(found, expect, "row {index}, before: {is_before}");
        }
    }
}

#[test]
fn a_decision_that_waits_until_its_ban_would_be_over_is_dropped() {
    let mut world = World::default();
    world.follow();
    world.earn("203.0.113.7", 3);
    let step = world.step();
    let until = step.wait_until.expect("the end of the ban");
    assert_eq!(until - world.now.instant, Duration::from_secs(90));
    world.pass(Duration::from_secs(90));
    let over = ("203.0.113.7/32".parse().unwrap(), Dropped::Obsolete(Obsolete::Over));
    assert_eq!(dropped(&world.step().actions), [over]);
}

#[test]
fn a_ban_that_ends_too_early_is_extended_at_the_version_that_was_read() {
    let mut world = World::default();
    world.applied(Ban { expires_at: Some(at(150)), resource_version: "7".into(), ..Ban::example() });
    world.earn("203.0.113.7", 3);
    let [Action::Extend(write, version)] = &world.step().actions[..] else { panic!("one extension") };
    assert_eq!((write.name.as_str(), version.as_str()), ("203.0.113.7", "7"));
    // Somebody else changed it meanwhile: the version that was read then counts.
    let newer = Ban { expires_at: Some(at(150)), resource_version: "8".into(), ..Ban::example() };
    world.written("203.0.113.7", Outcome::Taken(Box::new(newer)));
    let [Action::Extend(_, version)] = &world.step().actions[..] else { panic!("one more") };
    assert_eq!(version, "8");
    world.written("203.0.113.7", Outcome::Stored);
    assert_eq!(world.queue.report().waiting, 0);
}

#[test]
fn a_source_whose_name_is_held_is_banned_beside_it_after_two_seconds() {
    let going = Ban { deleting_since: Some(at(80)), expires_at: Some(at(400)), ..Ban::example() };
    let going = Ban { is_evicted: true, ..going };
    let over = Ban { expires_at: Some(at(95)), ..Ban::example() };
    for held in [going, over] {
        let mut world = World::default();
        world.applied(held);
        world.earn("203.0.113.7", 3);
        assert!(world.step().actions.is_empty());
        world.pass(Duration::from_millis(1_900));
        assert!(world.step().actions.is_empty());
        world.pass(Duration::from_millis(100));
        assert_eq!(created(&world.step().actions), ["203.0.113.7.detected"]);
    }
}

#[test]
fn a_name_that_becomes_free_is_taken_at_once() {
    let mut world = World::default();
    world.applied(Ban { is_evicted: true, deleting_since: Some(at(80)), ..Ban::example() });
    world.earn("203.0.113.7", 3);
    assert!(world.step().actions.is_empty());
    world.deleted("203.0.113.7");
    assert_eq!(created(&world.step().actions), ["203.0.113.7"]);
}

#[test]
fn somebody_elses_ban_that_has_ended_is_left_alone_and_gets_a_neighbour_at_once() {
    let mut world = World::default();
    let manual = Ban { origin: Origin::Manual, is_managed: false, is_held: false, ..Ban::example() };
    world.applied(Ban { expires_at: Some(at(95)), ..manual });
    world.earn("203.0.113.7", 3);
    assert_eq!(created(&world.step().actions), ["203.0.113.7.detected"]);
}

#[test]
fn a_name_taken_by_a_ban_that_the_table_does_not_know_yet_is_judged_by_what_was_read() {
    let mut world = World::default();
    world.earn("203.0.113.7", 3);
    assert_eq!(created(&world.step().actions), ["203.0.113.7"]);
    world.written(
        "203.0.113.7",
        Outcome::Taken(Box::new(Ban { expires_at: Some(at(200)), ..Ban::example() })),
    );
    let actions = world.step().actions;
    assert_eq!(
        dropped(&actions),
        [("203.0.113.7/32".parse().unwrap(), Dropped::Obsolete(Obsolete::Enforced))]
    );
}

#[test]
fn no_refusal_but_one_of_the_object_itself_loses_a_decision() {
    let causes = [
        Cause::ProtectedNetworksUnknown,
        Cause::AdmissionStarting,
        Cause::KindMissing,
        Cause::MissingRights,
        Cause::QuotaExceeded,
        Cause::AdmissionDenied,
        Cause::NameUnreadable,
        Cause::Unreachable,
    ];
    for cause in causes {
        let mut world = World::default();
        world.earn("203.0.113.7", 3);
        for _ in 0..5 {
            assert_eq!(created(&world.until_something().actions), ["203.0.113.7"], "{cause:?}");
            world.written("203.0.113.7", Outcome::Refused(Refusal::Passing(cause, "no".into())));
            let hold = world.queue.report().hold.map(|(cause, ..)| cause);
            assert_eq!(hold, cause.is_shared().then_some(cause));
        }
        world.until_something();
        world.written("203.0.113.7", Outcome::Stored);
        assert_eq!(world.queue.report(), Report::default(), "{cause:?}");
    }
    let mut world = World::default();
    world.earn("203.0.113.7", 3);
    world.step();
    world.written("203.0.113.7", Outcome::Refused(Refusal::Invalid("spec.cidr".into())));
    let actions = world.step().actions;
    assert_eq!(
        dropped(&actions),
        [("203.0.113.7/32".parse().unwrap(), Dropped::Invalid("spec.cidr".into()))]
    );
}

#[test]
fn while_nothing_can_be_stored_one_decision_asks_for_all_and_success_frees_them() {
    let mut world = World::default();
    for host in 1..=100 {
        world.earn(&format!("203.0.113.{host}"), 3);
    }
    let first = created(&world.step().actions);
    assert_eq!(first.len(), MOST_WRITES);
    for name in &first {
        world.written(name, Outcome::Refused(Refusal::Passing(Cause::MissingRights, "no".into())));
    }
    let mut tries = 0;
    let began = world.now.instant;
    while world.now.instant - began < Duration::from_mins(1) {
        let probe = created(&world.until_something().actions);
        assert_eq!(probe.len(), 1);
        world.written(&probe[0], Outcome::Refused(Refusal::Passing(Cause::MissingRights, "no".into())));
        tries += 1;
    }
    assert!((15..=30).contains(&tries), "{tries} tries in a minute");
    let probe = created(&world.until_something().actions);
    world.written(&probe[0], Outcome::Stored);
    assert_eq!(created(&world.step().actions).len(), MOST_WRITES);
}

#[test]
fn a_refusal_for_missing_protected_networks_is_tried_again_the_moment_they_are_there() {
    let mut world = World::default();
    world.earn("203.0.113.7", 3);
    for _ in 0..8 {
        world.until_something();
        let refusal = Refusal::Passing(Cause::ProtectedNetworksUnknown, "no".into());
        world.written("203.0.113.7", Outcome::Refused(refusal));
    }
    assert!(world.step().actions.is_empty());
    world.protect(&["10.0.0.0/8"]);
    assert_eq!(created(&world.step().actions), ["203.0.113.7"]);
}

#[test]
fn bans_are_written_at_most_300_at_once_and_20_a_second() {
    let mut world = World::default();
    for number in 0..1_000 {
        world.earn(&address(number), 3);
    }
    let mut written = 0;
    let began = world.now.instant;
    while world.now.instant - began < Duration::from_secs(10) {
        written += world.store_all();
        world.pass(Duration::from_millis(10));
    }
    assert!((490..=501).contains(&written), "{written} in 10 s");
    let report = world.queue.report();
    assert_eq!((report.limit, report.held_back), (Some(Limit::Rate), report.waiting));
}

#[test]
fn while_the_api_server_takes_its_time_or_refuses_all_the_queue_rests() {
    for refuses in [false, true] {
        let mut world = World::default();
        for number in 0..1_000 {
            world.earn(&address(number), 3);
        }
        world.store_all();
        assert_eq!(world.queue.report().limit, Some(Limit::Rate));
        world.pass(Duration::from_mins(1));
        let names = created(&world.step().actions);
        assert_eq!(names.len(), MOST_WRITES);
        if refuses {
            for name in &names {
                world.written(name, Outcome::Refused(Refusal::Passing(Cause::Unreachable, "no".into())));
            }
        }
        world.pass(Duration::from_millis(100));
        let step = world.step();
        assert!(step.actions.is_empty(), "{:?}", step.actions);
        let until = step.wait_until.expect("the end of a ban, or of the pause");
        assert!(until > world.now.instant, "refuses: {refuses}");
    }
}

#[test]
fn a_pause_ends_when_nothing_waits_that_could_try() {
    let mut world = World::default();
    world.earn("203.0.113.7", 3);
    world.step();
    world.written("203.0.113.7", Outcome::Refused(Refusal::Passing(Cause::Unreachable, "no".into())));
    world.protect(&["203.0.113.0/24"]);
    world.pass(Duration::from_secs(1));
    world.step();
    assert_eq!(world.queue.report(), Report::default());
}

#[test]
fn what_is_no_longer_covered_is_not_evicted() {
    let mut world = World::default();
    world.applied(world::ban_of("2001:db8:0:1::/64", 3, 200));
    world.applied(world::ban_of("2001:db8::/56", 200, 300));
    // Somebody deletes the wider one before the queue is asked.
    world.deleted("2001-db8---56");
    assert!(world.step().actions.is_empty());
}

/// Addresses that are no neighbours.
fn address(number: u32) -> String {
    std::net::Ipv4Addr::from(0x2d00_0000 + number * 257).to_string()
}

#[test]
fn at_the_limit_the_weakest_detected_ban_gives_way_to_more_hits_and_to_nothing_less() {
    let mut world = World::with_limit(3);
    world.applied(world::detected("203.0.113.1", 5, 500));
    world.applied(world::detected("203.0.113.2", 3, 400));
    world.applied(world::detected("203.0.113.3", 3, 300));
    // Neither counts, nor gives way.
    world.applied(Ban {
        origin: Origin::Manual,
        is_managed: false,
        ..world::detected("203.0.113.4", 0, 250)
    });
    world.earn("203.0.113.10", 3);
    let step = world.step();
    assert!(step.actions.is_empty(), "{:?}", step.actions);
    assert_eq!(world.queue.report().limit, Some(Limit::Capacity));
    world.earn("203.0.113.11", 4);
    let actions = world.step().actions;
    assert_eq!(evicted(&actions), [("203.0.113.3".to_owned(), Eviction::Weakest)]);
    assert_eq!(created(&actions), ["203.0.113.11"]);
    // More hits while it waits make a source stronger.
    world.earn("203.0.113.10", 3);
    let actions = world.step().actions;
    assert_eq!(evicted(&actions), [("203.0.113.2".to_owned(), Eviction::Weakest)]);
    assert_eq!(created(&actions), ["203.0.113.10"]);
}

#[test]
fn an_extension_needs_no_place_at_the_limit() {
    let mut world = World::with_limit(1);
    world.applied(Ban { hits: 9, expires_at: Some(at(150)), ..Ban::example() });
    world.earn("203.0.113.9", 5);
    world.earn("203.0.113.7", 3);
    assert!(matches!(&world.step().actions[..], [Action::Extend(write, _)] if write.name == "203.0.113.7"));
}

#[test]
fn a_quarter_of_the_neighbours_becomes_one_ban_level_by_level() {
    let mut world = World::default();
    // Sources of a /48: 64 of each of 64 /56.
    for outer in 0..64 {
        for inner in 0..64 {
            world.earn(&format!("2001:db8:0:{outer:02x}{inner:02x}::"), 3);
        }
    }
    let actions = world.step().actions;
    assert_eq!(created(&actions)[0], "2001-db8---48");
    world.written_source("2001:db8::/48", Outcome::Stored);
    world.applied(world::ban_of("2001:db8::/48", 12_288, 200));
    let dropped = dropped(&world.step().actions);
    let covered = dropped.iter().filter(|(_, why)| *why == Dropped::Obsolete(Obsolete::Covered)).count();
    // All but those that were being written already.
    assert!(covered >= 64 * 64 + 64 - MOST_WRITES, "{covered}");
}

#[test]
fn a_network_is_not_joined_over_what_is_protected_nor_ipv4_without_leave() {
    let mut world = World::default();
    world.protect(&["2001:db8:0:ff::/64"]);
    for inner in 0..100 {
        world.earn(&format!("2001:db8:0:{inner:02x}::"), 3);
        world.earn(&format!("203.0.113.{inner}"), 3);
    }
    let waiting = world.queue.report().waiting;
    assert_eq!(waiting, 200);
    world.allow_ipv4();
    world.earn("203.0.113.200", 3);
    assert_eq!(world.queue.report().waiting, 201, "those that came before did not count");
    for inner in 0..64 {
        world.earn(&format!("198.51.100.{inner}"), 3);
    }
    world.step();
    assert!(world.queue.waiting.get("198.51.100.0/24".parse().unwrap()).is_some());
}

#[test]
fn what_a_wider_ban_covers_goes_and_what_outlasts_it_stays() {
    let mut world = World::default();
    world.applied(world::ban_of("2001:db8:0:1::/64", 3, 200));
    world.applied(world::ban_of("2001:db8:0:2::/64", 3, 90_000));
    world.applied(Ban { is_managed: false, ..world::ban_of("2001:db8:0:3::/64", 3, 200) });
    world.applied(world::ban_of("2001:db8::/56", 200, 300));
    let actions = world.step().actions;
    assert_eq!(evicted(&actions), [("2001-db8-0-1---64".to_owned(), Eviction::Superseded)]);
}

#[test]
fn when_the_queue_is_full_the_weakest_is_dropped_and_counted() {
    let mut world = World::default();
    world.follow();
    for number in 0..u32::try_from(MOST_WAITING).unwrap() {
        world.earn(&address(number), 3);
    }
    assert!(dropped(&world.step().actions).is_empty());
    world.earn("203.0.113.1", 3);
    world.earn("203.0.113.2", 4);
    let dropped = dropped(&world.step().actions);
    let newest_of_the_weakest = address(u32::try_from(MOST_WAITING).unwrap() - 1);
    let expect = ["203.0.113.1", &newest_of_the_weakest]
        .map(|address| (format!("{address}/32").parse::<Source>().unwrap(), Dropped::QueueFull));
    assert_eq!(dropped, expect);
    assert_eq!(world.queue.report().waiting, MOST_WAITING);
}

#[test]
fn a_canary_is_banned_within_a_second_while_100_000_sources_spray() {
    let unrelated: fn(u32) -> String = address;
    let few_networks: fn(u32) -> String = |number| format!("2001:db8:{:x}:{:x}::", number % 4, number / 4);
    for (name, spray) in [("unrelated", unrelated), ("few networks", few_networks)] {
        let mut world = World::with_limit(2_000);
        let mut worst = Duration::ZERO;
        let mut canary = None;
        for number in 0..100_000 {
            world.earn(&spray(number), 3);
            if number % 10_000 == 5_000 {
                canary = Some((format!("198.51.100.{}", number / 10_000), world.now.instant));
                world.earn(&canary.as_ref().unwrap().0, 5);
            }
            if number % 100 == 0 {
                world.pass(Duration::from_millis(10));
                world.store_all();
            }
            if let Some((address, since)) = &canary
                && world.bans.get(address).is_some()
            {
                worst = worst.max(world.now.instant - *since);
                canary = None;
            }
        }
        assert!(canary.is_none() && worst <= Duration::from_secs(1), "{name}: {worst:?}");
        let detected = world.queue.stored.detected();
        assert!(detected <= 2_000, "{name}: {detected} bans");
        if name == "few networks" {
            for network in 0..4 {
                let source = Source::of(format!("2001:db8:{network:x}::").parse().unwrap(), 48).unwrap();
                assert!(world.bans.get(&source.ban_name()).is_some(), "{source} is not banned as one");
            }
        }
    }
}
