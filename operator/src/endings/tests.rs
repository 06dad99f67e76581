use std::collections::BTreeMap;

use ip_sentry_core::net::Network;
use ip_sentry_crd::ip_ban::Origin;
use proptest::prelude::*;

use super::{due::Ended, *};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn networks(cidrs: &[&str]) -> Arc<Networks> {
    Arc::new(cidrs.iter().map(|cidr| cidr.parse::<Network>().unwrap()).collect())
}

/// An API server that does as it is told, and tells of each change.
struct World {
    endings: Endings,
    bans: BTreeMap<String, Arc<Ban>>,
    protected: Arc<Networks>,
    now: Timestamp,
    version: u64,
    /// So many of the next actions fail.
    to_fail: u32,
    leads: bool,
    writes: Vec<usize>,
    acts: Vec<(String, Due)>,
    last_act: Timestamp,
}

impl World {
    fn new() -> Self {
        let mut endings = Endings::default();
        endings.lead(true, at(0));
        Self {
            endings,
            bans: BTreeMap::new(),
            protected: Arc::default(),
            now: at(0),
            version: 0,
            to_fail: 0,
            leads: true,
            writes: Vec::new(),
            acts: Vec::new(),
            last_act: at(0),
        }
    }

    fn ban(number: u32) -> Ban {
        let address = std::net::Ipv4Addr::from_bits(0xcb00_7100 + number);
        Ban {
            name: address.to_string(),
            uid: format!("u{number}"),
            source: format!("{address}/32").parse().unwrap(),
            ..Ban::example()
        }
    }

    fn store(&mut self, mut ban: Ban) {
        self.version += 1;
        ban.resource_version = self.version.to_string();
        let name = ban.name.clone();
        let is_gone = ban.deleting_since.is_some() && !ban.is_held && ban.other_finalizers.is_empty();
        let ban = (!is_gone).then(|| Arc::new(ban));
        match &ban {
            Some(ban) => drop(self.bans.insert(name.clone(), ban.clone())),
            None => drop(self.bans.remove(&name)),
        }
        self.endings.ban(&name, ban, self.now);
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Ban)) {
        if let Some(ban) = self.bans.get(name) {
            let mut ban = Ban::clone(ban);
            change(&mut ban);
            self.store(ban);
        }
    }

    fn delete(&mut self, name: &str) {
        let now = self.now;
        self.change(name, |ban| {
            ban.deleting_since.get_or_insert(now);
        });
    }

    fn protect(&mut self, cidrs: &[&str]) {
        self.protected = networks(cidrs);
        self.endings.protect(self.protected.clone(), self.now);
    }

    /// What a look through all bans finds to be due.
    fn naive(&self) -> BTreeMap<String, Due> {
        let facts = |ban: &Ban| {
            let network = ban.source.network();
            let protection = match (self.protected.covers(&network), self.protected.overlaps(&network)) {
                (true, _) => Protection::Whole,
                (false, true) => Protection::Part,
                (false, false) => Protection::Nothing,
            };
            Facts { now: self.now, protection, is_failing: false, is_mute: false }
        };
        self.bans.values().filter_map(|ban| Some((ban.name.clone(), due(ban, facts(ban))?))).collect()
    }

    fn perform(&mut self, action: Action) {
        let fails = self.to_fail > 0;
        self.to_fail = self.to_fail.saturating_sub(1);
        let (ban, due) = match action {
            Action::Write(shard) => {
                self.writes.push(shard);
                return self.endings.written(shard, !fails, self.now);
            }
            Action::Act { ban, due, .. } => (ban, due),
        };
        self.acts.push((ban.name.clone(), due));
        self.last_act = self.now;
        let is_current =
            self.bans.get(&ban.name).is_some_and(|now| now.resource_version == ban.resource_version);
        if fails {
            return self.endings.acted(&ban, Outcome::Failed("refused".into()), self.now);
        }
        if is_current {
            match due {
                Due::Delete(_) => self.delete(&ban.name),
                Due::Release(_) => self.change(&ban.name, |ban| ban.is_held = false),
                Due::LetGo => self.change(&ban.name, |ban| {
                    (ban.is_held, ban.is_managed, ban.expires_at) = (false, false, None);
                }),
                Due::Tell(why) => {
                    self.change(&ban.name, |ban| ban.unenforced = why.map(|why| why.reason().to_owned()));
                }
            }
        }
        self.endings.acted(&ban, Outcome::Settled, self.now);
    }

    /// Does what is due, and what is within `patience`.
    fn settle(&mut self, patience: SignedDuration) {
        let until = self.now + patience;
        loop {
            while let Some(action) = self.endings.next(self.now) {
                self.perform(action);
            }
            match self.endings.wake() {
                Some(wake) if wake <= until => self.now = wake.max(self.now),
                _ => break,
            }
        }
        self.now = until;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ban { number: u32, seconds: i64, is_own: bool },
    Delete(u32),
    End { number: u32, seconds: i64 },
    TakeOver(u32),
    Evict(u32),
    Pin(u32, bool),
    Strip(u32),
    Protect(Vec<u32>),
    Pass(i64),
    Lead(bool),
    Fail(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0u32..6;
    prop_oneof![
        (number.clone(), 0i64..200, any::<bool>()).prop_map(|(number, seconds, is_own)| Step::Ban {
            number,
            seconds,
            is_own
        }),
        number.clone().prop_map(Step::Delete),
        (number.clone(), 0i64..200).prop_map(|(number, seconds)| Step::End { number, seconds }),
        number.clone().prop_map(Step::TakeOver),
        number.clone().prop_map(Step::Evict),
        (number.clone(), any::<bool>()).prop_map(|(number, pinned)| Step::Pin(number, pinned)),
        number.clone().prop_map(Step::Strip),
        prop::collection::vec(number, 0..3).prop_map(Step::Protect),
        (0i64..150).prop_map(Step::Pass),
        any::<bool>().prop_map(Step::Lead),
        (0u32..4).prop_map(Step::Fail),
    ]
}

impl World {
    fn take(&mut self, step: Step) {
        let now = self.now;
        let name = |number| Self::ban(number).name;
        match step {
            Step::Ban { number, seconds, is_own } => {
                if !self.bans.contains_key(&name(number)) {
                    let origin = if is_own { Origin::Detected } else { Origin::Manual };
                    let expires_at = Some(now + SignedDuration::from_secs(seconds));
                    let uid = self.version.to_string();
                    let (is_held, is_managed) = (is_own, is_own);
                    self.store(Ban { uid, origin, expires_at, is_held, is_managed, ..Self::ban(number) });
                }
            }
            Step::Delete(number) => self.delete(&name(number)),
            Step::End { number, seconds } => self.change(&name(number), |ban| {
                ban.expires_at = Some(now + SignedDuration::from_secs(seconds));
            }),
            Step::TakeOver(number) => self.change(&name(number), |ban| ban.origin = Origin::Manual),
            Step::Evict(number) => self.change(&name(number), |ban| {
                if ban.is_managed {
                    (ban.is_evicted, ban.expires_at) = (true, Some(now));
                }
            }),
            Step::Pin(number, is_pinned) => self.change(&name(number), |ban| {
                ban.other_finalizers = if is_pinned { vec!["example.com/pin".into()] } else { Vec::new() };
            }),
            Step::Strip(number) => self.change(&name(number), |ban| ban.is_held = false),
            Step::Protect(numbers) => {
                let cidrs: Vec<String> =
                    numbers.into_iter().map(|number| format!("{}/32", name(number))).collect();
                self.protect(&cidrs.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Step::Pass(seconds) => self.now = now + SignedDuration::from_secs(seconds),
            Step::Lead(leads) => {
                self.leads = leads;
                self.endings.lead(leads, now);
            }
            Step::Fail(count) => self.to_fail = count,
        }
    }
}

proptest! {
    /// Whatever changes, fails or passes, in the end nothing is due that a look through all bans would find.
    #[test]
    fn it_comes_to_what_a_look_through_all_bans_would(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new();
        for step in steps {
            world.take(step.clone());
            world.settle(SignedDuration::from_millis(700));
            let in_force = world.bans.values()
                .filter(|ban| ban.is_active(world.now) && !world.protected.covers(&ban.source.network()))
                .count();
            // The count follows when an end is acted on, a second after it.
            let grace = world.bans.values().filter(|ban| {
                ban.expires_at.is_some_and(|end| end <= world.now && world.now < end + crate::bans::EXPIRY_GRACE)
            });
            let (counted, most) = (world.endings.in_force(), in_force + grace.count());
            prop_assert!((in_force..=most).contains(&counted), "{counted} of {in_force} after {step:?}");
        }
        world.to_fail = 0;
        if !world.leads {
            world.acts.clear();
            world.settle(SignedDuration::from_mins(3));
            prop_assert!(world.acts.is_empty(), "one that does not lead acted: {:?}", world.acts);
            world.take(Step::Lead(true));
        }
        // Past every end and every pause: bans last up to 200 s here, and what keeps an object is told a while later.
        world.settle(SignedDuration::from_mins(10));
        prop_assert_eq!(world.naive(), BTreeMap::new());
        let is_long = |since: &Timestamp| *since + due::STUCK_AFTER <= world.now;
        let stuck = world.bans.values().filter(|ban| ban.deleting_since.as_ref().is_some_and(is_long)).count();
        prop_assert_eq!(world.endings.stuck(), stuck);
        // And then it rests.
        world.acts.clear();
        world.writes.clear();
        world.settle(SignedDuration::from_mins(10));
        let rests = world.acts.iter().all(|(_, due)| matches!(due, Due::Delete(Ended::Expired) | Due::Release(_) | Due::Tell(_)));
        prop_assert!(rests, "{:?}", world.acts);
    }
}

#[test]
fn a_change_costs_what_it_touches_however_many_bans_there_are() {
    let mut world = World::new();
    for number in 0..20_000 {
        world.store(Ban { expires_at: Some(at(100_000)), ..World::ban(number) });
    }
    world.settle(SignedDuration::ZERO);
    let cost = |world: &mut World, act: &dyn Fn(&mut World)| {
        let before = world.endings.judged;
        act(world);
        world.settle(SignedDuration::from_secs(10));
        world.endings.judged - before
    };
    let one = cost(&mut world, &|world| world.delete("203.0.113.7"));
    let many = cost(&mut world, &|world| {
        (1_000..1_300).for_each(|number| world.delete(&World::ban(number).name));
    });
    let protecting = cost(&mut world, &|world| world.protect(&["203.0.113.8/32", "198.51.100.0/24"]));
    assert!(one <= 8, "a lift looks at bans {one} times");
    assert!(many <= 300 * one, "300 lifts look at bans {many} times, one {one} times");
    // Its neighbours within the widest ban's reach are looked at.
    assert!(protecting <= 256, "a network that becomes protected makes {protecting} looks");
    assert_eq!(world.bans.len(), 20_000 - 302);
}

#[test]
fn lifts_that_come_together_share_the_writes_of_their_ends() {
    let mut world = World::new();
    for number in 0..300 {
        world.store(Ban { expires_at: Some(at(100_000)), ..World::ban(number) });
    }
    (0..300).for_each(|number| world.delete(&World::ban(number).name));
    world.settle(SignedDuration::from_secs(10));
    assert!(world.bans.is_empty());
    assert!(world.writes.len() <= crate::history::SHARDS, "{} writes", world.writes.len());
    assert!(world.last_act <= at(5), "the last went at {}", world.last_act);
}

#[test]
fn a_history_that_can_not_be_written_delays_a_release_by_its_patience_and_is_written_later() {
    let mut world = World::new();
    world.store(World::ban(7));
    world.delete("203.0.113.7");
    world.to_fail = 3; // at 0, 1 and 3 s; then it is to be tried again at 7 s
    world.settle(HISTORY_PATIENCE - SignedDuration::from_millis(1));
    assert_eq!((world.bans.len(), world.writes.len()), (1, 3), "it waits for the history");
    world.settle(SignedDuration::from_millis(1));
    assert!(world.bans.is_empty(), "it waits no longer");
    world.settle(SignedDuration::from_secs(5));
    assert_eq!((world.to_fail, world.writes.len()), (0, 4), "and its end is written down");
    world.settle(SignedDuration::from_mins(5));
    assert_eq!(world.writes.len(), 4);
}

#[test]
fn a_refused_release_is_told_and_tried_again_and_keeps_no_other_ban() {
    let mut world = World::new();
    world.store(World::ban(7));
    world.store(World::ban(8));
    world.delete("203.0.113.7");
    let Some(Action::Write(shard)) = world.endings.next(world.now) else {
        panic!("its end is written first")
    };
    world.endings.written(shard, true, world.now);
    world.to_fail = 4; // releases at 0, 1, 3 and 7 s
    world.settle(SignedDuration::from_secs(9));
    world.delete("203.0.113.8");
    world.settle(SignedDuration::from_secs(20));
    assert!(world.bans.is_empty(), "{:?}", world.bans);
    let lifted = Due::Release(Ended::Lifted);
    let of = |name: &str| {
        world.acts.iter().filter(|(acted, _)| acted == name).map(|&(_, due)| due).collect::<Vec<_>>()
    };
    assert_eq!(of("203.0.113.8"), [lifted]);
    let told = Due::Tell(Some(Unenforced::Deleting));
    assert_eq!(of("203.0.113.7"), [lifted, lifted, lifted, lifted, told, lifted]);
}

#[test]
fn a_network_that_a_policy_excepts_lifts_that_policys_bans_alone() {
    let mut world = World::new();
    let policy = |name: &str| PolicyRef { namespace: "web".into(), name: name.into() };
    world.store(Ban { policy: Some(policy("a")), ..World::ban(7) });
    world.store(Ban { policy: Some(policy("b")), ..World::ban(8) });
    let key = PolicyKey { namespace: "web".into(), name: "a".into() };
    let excepted = networks(&["203.0.113.0/24"]);
    world.endings.except([(&key, &*excepted)], world.now);
    world.settle(SignedDuration::from_secs(1));
    assert_eq!(world.bans.keys().collect::<Vec<_>>(), ["203.0.113.8"]);
}

#[test]
fn a_manual_ban_is_told_as_unenforced_only_while_protected_networks_cover_all_of_it() {
    let mut world = World::new();
    let name = "203.0.113.0-24";
    let source = "203.0.113.0/24".parse().unwrap();
    let (origin, is_managed, is_held) = (Origin::Manual, false, false);
    world.store(Ban { name: name.into(), source, origin, is_managed, is_held, ..World::ban(0) });
    #[rustfmt::skip]
    let table = [
        // what is protected                         told         in force
        (&["203.0.113.7/32"][..],                    None,        1),
        (&["203.0.113.0/25", "203.0.113.7/32"],      None,        1),
        (&["203.0.113.0/25", "203.0.113.128/25"],    Some("Protected"), 0),
        (&["203.0.112.0/23"],                        Some("Protected"), 0),
        (&["203.0.113.7/32"],                        None,        1),
    ];
    for (cidrs, told, in_force) in table {
        world.protect(cidrs);
        world.settle(SignedDuration::from_secs(20));
        let found = (world.bans[name].unenforced.as_deref(), world.endings.in_force());
        assert_eq!(found, (told, in_force), "{cidrs:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_leaves_nothing_waiting_for_the_time_it_had() {
    let mut world = World::new();
    world.now = at(50);
    world.store(World::ban(7));
    world.delete("203.0.113.7");
    world.to_fail = 1;
    world.settle(SignedDuration::ZERO);
    world.now = at(-100_000);
    world.settle(SignedDuration::from_secs(1));
    assert!(world.bans.is_empty());
}
