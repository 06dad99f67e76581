//! The sync against a kernel that forgets, refuses and fails, beside a naive idea of what must come out.

use ip_sentry_core::{
    enforce::view::{BanKey, Bans, Partial, Until},
    net::Source,
};
use proptest::prelude::*;

use super::*;
use crate::kernel::netlink::NetlinkError;

/// The entries of a set with the second that each ends in.
type Ends = BTreeMap<Network, Option<i64>>;

/// Sets as the kernel keeps them, with faults to order.
#[derive(Default)]
struct Fake {
    sets: BTreeMap<String, (Set, u32, Ends)>,
    now: i64,
    /// Which call from now on fails, if any.
    fails_at: Option<u32>,
    /// How many entries an allow set takes.
    allow_room: usize,
    /// Every change in order: set and whether it put something in.
    log: Vec<(String, bool)>,
}

impl Fake {
    fn fault(&mut self) -> Result<(), IpsetError> {
        match self.fails_at.as_mut() {
            Some(0) => {
                self.fails_at = None;
                Err(IpsetError::Netlink { set: String::new(), source: NetlinkError::Malformed })
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn set(&mut self, name: &str) -> Result<&mut Ends, IpsetError> {
        self.sets
            .get_mut(name)
            .map(|(_, _, entries)| entries)
            .ok_or_else(|| IpsetError::NoSet(name.to_owned()))
    }

    fn room(&self, name: &str) -> usize {
        let (set, capacity, _) = &self.sets[name];
        if set.is_allow() { self.allow_room } else { *capacity as usize }
    }

    fn expire(&mut self, now: i64) {
        self.now = now;
        for (_, _, entries) in self.sets.values_mut() {
            entries.retain(|_, end| end.is_none_or(|end| end > now));
        }
    }

    fn held(&self, set: Set) -> BTreeSet<Network> {
        self.sets.get(set.name()).map(|(_, _, entries)| entries.keys().copied().collect()).unwrap_or_default()
    }

    /// Whether a packet from this address would be dropped.
    fn drops(&self, address: std::net::IpAddr) -> bool {
        let hit = |set: Set| self.held(set).iter().any(|network| network.contains(address));
        (hit(Set::Hosts4) || hit(Set::Nets4)) && !hit(Set::Allow4)
    }
}

impl Kernel for Fake {
    fn state(&mut self, set: Set, capacity: u32) -> Result<State, IpsetError> {
        self.fault()?;
        Ok(match self.sets.get(set.name()) {
            None => State::Missing,
            Some((_, has, entries)) if *has == capacity => State::Fit(u32::try_from(entries.len()).unwrap()),
            Some(_) => State::Unfit,
        })
    }

    fn create(&mut self, name: &str, set: Set, capacity: u32, _: usize) -> Result<(), IpsetError> {
        self.fault()?;
        assert!(!self.sets.contains_key(name));
        self.sets.insert(name.to_owned(), (set, capacity, BTreeMap::new()));
        Ok(())
    }

    fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        self.fault()?;
        self.sets.remove(name);
        Ok(())
    }

    fn swap(&mut self, one: &str, other: &str) -> Result<(), IpsetError> {
        self.fault()?;
        let taken = self.sets.remove(one).unwrap();
        let given = self.sets.insert(other.to_owned(), taken).unwrap();
        self.sets.insert(one.to_owned(), given);
        Ok(())
    }

    fn observe(&mut self, name: &str) -> Result<Observed, IpsetError> {
        self.fault()?;
        let now = self.now;
        let left = |end: Option<i64>| end.map(|end| u32::try_from(end - now).unwrap());
        Ok(self.set(name)?.iter().map(|(&network, &end)| (network, left(end))).collect())
    }

    fn load(&mut self, name: &str, entries: &[Entry]) -> Result<Loaded, IpsetError> {
        let mut loaded = Loaded::default();
        for (done, entry) in entries.iter().enumerate() {
            if !self.add(name, *entry)? {
                loaded.full = entries.len() - done;
                break;
            }
        }
        Ok(loaded)
    }

    fn unload(&mut self, name: &str, networks: &[Network]) -> Result<Loaded, IpsetError> {
        networks.iter().try_for_each(|network| self.remove(name, *network))?;
        Ok(Loaded::default())
    }

    fn add(&mut self, name: &str, (network, timeout): Entry) -> Result<bool, IpsetError> {
        self.fault()?;
        let (room, end) = (
            self.set(name).map(|set| set.len()),
            timeout.map(|timeout| self.now + i64::from(timeout.secs())),
        );
        if room? >= self.room(name) && !self.set(name)?.contains_key(&network) {
            return Ok(false);
        }
        self.log.push((name.to_owned(), true));
        self.set(name)?.insert(network, end);
        Ok(true)
    }

    fn remove(&mut self, name: &str, network: Network) -> Result<(), IpsetError> {
        self.fault()?;
        self.log.push((name.to_owned(), false));
        self.set(name)?.remove(&network);
        Ok(())
    }
}

const CAPACITY: u32 = 8;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn network(text: &str) -> Network {
    text.parse().unwrap()
}

fn key(network: Network) -> BanKey {
    let source = Source::new(network).unwrap();
    BanKey::of(&source.ban_name(), source).unwrap()
}

fn view(bans: &[Network], protected: &[Network]) -> View<Complete> {
    let mut view = View::<Partial>::default();
    let mut listed = Bans::default();
    for ban in bans {
        listed.insert(key(*ban), Until::DELETED);
    }
    view.bans_listed(listed);
    view.protected_listed(protected.to_vec());
    view.own_found(Vec::new());
    view.complete().unwrap()
}

fn kernel() -> Fake {
    Fake { allow_room: 1_000, ..Fake::default() }
}

#[test]
fn protected_networks_go_in_before_any_ban() {
    let mut kernel = kernel();
    let view = view(&[network("203.0.113.7/32"), network("203.0.113.0/24")], &[network("203.0.113.8/32")]);
    let outcome = full(&mut kernel, &view, CAPACITY, at(0)).unwrap();
    assert_eq!((outcome.entries, outcome.is_whole()), (2, true));
    let names: Vec<&str> = kernel.log.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["ipsentry-allow4", "ipsentry-hosts4", "ipsentry-nets4"]);
}

#[test]
fn a_ban_that_touches_a_protected_network_without_room_is_held_back() {
    let mut kernel = kernel();
    let bans = [network("203.0.113.0/24"), network("198.51.100.0/24")];
    let view = view(&bans, &[network("203.0.113.7/32"), network("203.0.113.8/32")]);
    kernel.allow_room = 2;
    assert_eq!(full(&mut kernel, &view, CAPACITY, at(0)).unwrap().entries, 2);
    // Somebody else fills the set's place.
    kernel.set("ipsentry-allow4").unwrap().clear();
    kernel.allow_room = 1;
    let outcome = full(&mut kernel, &view, CAPACITY, at(0)).unwrap();
    assert_eq!((outcome.entries, outcome.withheld, outcome.is_whole()), (1, 1, false));
    assert_eq!(kernel.held(Set::Nets4), [network("198.51.100.0/24")].into());
    let held_back = one(&mut kernel, &view, key(bans[0]).source(), &outcome.unguarded, at(0)).unwrap();
    assert_eq!(held_back, Step::Withheld);
}

#[test]
fn when_the_allow_set_fails_no_ban_goes_in_and_those_in_its_way_go_out() {
    let mut kernel = kernel();
    let ban = network("203.0.113.0/24");
    full(&mut kernel, &view(&[ban], &[]), CAPACITY, at(0)).unwrap();
    assert!(kernel.drops("203.0.113.7".parse().unwrap()));
    let guarded = view(&[ban, network("198.51.100.7/32")], &[network("203.0.113.7/32")]);
    kernel.fails_at = Some(2);
    full(&mut kernel, &guarded, CAPACITY, at(0)).unwrap_err();
    assert!(
        !kernel.drops("203.0.113.7".parse().unwrap()),
        "protected, though the allow set could not be filled"
    );
    assert!(!kernel.drops("198.51.100.7".parse().unwrap()), "no new ban without its exceptions");
    assert_eq!(full(&mut kernel, &guarded, CAPACITY, at(0)).unwrap().entries, 2);
}

#[test]
fn headers_alone_tell_a_flushed_and_a_missing_set() {
    let mut kernel = kernel();
    let view = view(&[network("203.0.113.7/32")], &[network("10.0.0.0/8")]);
    full(&mut kernel, &view, CAPACITY, at(0)).unwrap();
    assert!(looks_right(&mut kernel, &view, CAPACITY, at(0)).unwrap());
    assert!(!looks_right(&mut kernel, &view, CAPACITY + 1, at(0)).unwrap());
    kernel.set("ipsentry-allow4").unwrap().clear();
    assert!(!looks_right(&mut kernel, &view, CAPACITY, at(0)).unwrap());
    full(&mut kernel, &view, CAPACITY, at(0)).unwrap();
    kernel.sets.remove("ipsentry-nets6");
    assert!(!looks_right(&mut kernel, &view, CAPACITY, at(0)).unwrap());
}

/// What may happen to an agent and its kernel.
#[derive(Clone, Debug)]
enum Act {
    Ban(u8, i64),
    Lift(u8),
    Protect(Vec<u8>),
    Pass(i64),
    Flush(u8),
    Destroy(u8),
    StrangerAdds(u8),
    Restart,
    FailNext(u32),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (any::<u8>(), 1i64..100).prop_map(|(ban, secs)| Act::Ban(ban, secs)),
        2 => any::<u8>().prop_map(Act::Lift),
        1 => prop::collection::vec(any::<u8>(), 0..3).prop_map(Act::Protect),
        2 => (1i64..40).prop_map(Act::Pass),
        1 => any::<u8>().prop_map(Act::Flush),
        1 => any::<u8>().prop_map(Act::Destroy),
        1 => any::<u8>().prop_map(Act::StrangerAdds),
        1 => Just(Act::Restart),
        2 => (0u32..12).prop_map(Act::FailNext),
    ]
}

/// One of a few networks that overlap each other: /32, /31, /30.
fn some(number: u8) -> Network {
    let address = std::net::Ipv4Addr::from_bits(0xcb00_7100 | u32::from(number % 8));
    Network::around(address.into(), 32 - number / 8 % 3)
}

proptest! {
    /// Whatever happens, a protected address is never dropped once a sync went through, and after one whole
    /// sync exactly the banned ones are.
    #[test]
    fn the_kernel_follows_whatever_happens(acts in prop::collection::vec(act(), 1..40)) {
        let mut kernel = Fake { allow_room: 1_000, ..Fake::default() };
        let mut bans: BTreeMap<Network, i64> = BTreeMap::new();
        let mut protected: Vec<Network> = Vec::new();
        let mut view = view(&[], &[]);
        let mut unguarded = Networks::default();
        let mut now = 0;
        for act in acts {
            // Like the enforcer: one message where that is enough, and after an error or a bigger change, all.
            let mut dirty = true;
            match act {
                Act::Ban(number, secs) => {
                    let network = some(number);
                    bans.insert(network, now + secs);
                    view.ban(key(network), Until::at(at(now + secs)));
                    dirty = one(&mut kernel, &view, key(network).source(), &unguarded, at(now)).is_err();
                }
                Act::Lift(number) => {
                    bans.remove(&some(number));
                    view.lift(key(some(number)));
                    dirty = one(&mut kernel, &view, key(some(number)).source(), &unguarded, at(now)).is_err();
                }
                Act::Protect(numbers) => {
                    protected = numbers.into_iter().map(some).collect();
                    view.protect(protected.clone());
                }
                Act::Pass(secs) => {
                    now += secs;
                    kernel.expire(now);
                    bans.retain(|_, end| *end > now);
                }
                Act::Flush(number) => {
                    let _ = kernel.set(Set::ALL[usize::from(number) % 5].name()).map(BTreeMap::clear);
                }
                Act::Destroy(number) => {
                    kernel.sets.remove(Set::ALL[usize::from(number) % 5].name());
                }
                Act::StrangerAdds(number) => {
                    let network = some(number);
                    let _ = kernel.set(Set::of_ban(&network).name()).map(|set| set.insert(network, None));
                }
                Act::Restart => {
                    let listed: Vec<Network> = bans.keys().copied().collect();
                    view = self::view(&listed, &protected);
                    for (&network, &end) in &bans {
                        view.ban(key(network), Until::at(at(end)));
                    }
                }
                Act::FailNext(calls) => kernel.fails_at = Some(calls),
            }
            if dirty {
                // After a failure the next one goes through.
                let outcome = full(&mut kernel, &view, 1_000, at(now)).or_else(|_| {
                    kernel.fails_at = None;
                    full(&mut kernel, &view, 1_000, at(now))
                });
                let outcome = outcome.unwrap();
                prop_assert!(outcome.is_whole());
                unguarded = outcome.unguarded;
            }
            for last in 0..8u32 {
                let address = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 | last));
                let is_protected = protected.iter().any(|network| network.contains(address));
                let is_banned = bans.keys().any(|network| network.contains(address));
                // Right after a single step a stranger's entry may still be there; nothing else may differ.
                if is_protected || dirty {
                    prop_assert_eq!(kernel.drops(address), is_banned && !is_protected, "{} at {}", address, now);
                } else if is_banned {
                    prop_assert!(kernel.drops(address), "{} at {}", address, now);
                }
            }
        }
    }
}
