//! Which of the cluster's own networks are protected, when not all of them can be.
//!
//! Admission looks through the list at every create, so it has a cap. What is the cluster's itself comes first and
//! stays as exact as there is room for; load balancers' addresses share the rest, each namespace as much as the next,
//! so that nobody's Services crowd out somebody else's. Nothing is ever widened on account of those.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use ip_sentry_core::{
    net::Network,
    networks::{Networks, aggregate},
};

use super::facts::{Basis, Fact};

/// The most networks that are protected by status: admission takes 15 ms for 1,000.
pub const MOST: usize = 1024;
/// The most addresses of load balancers and Gateways that somebody asked for, of one namespace.
const MOST_ASKED: usize = 16;
/// A range of pods or services that is wider is a mistake or a forgery, and would protect a good part of the internet.
const WIDEST_RANGE: Prefix = Prefix { v4: 8, v6: 16 };
/// How wide a range of pods becomes at most when there is no room.
const WIDEST_POD_RANGE: Prefix = Prefix { v4: 16, v6: 32 };
/// How wide the network around a node or API server becomes at most so that ranges have room, too.
const WIDEST_HOST: Prefix = Prefix { v4: 24, v6: 64 };
/// How wide it becomes at most so that every node and API server has room: there are 256 such networks.
const WIDEST: u8 = 8;

/// A prefix length in each family.
#[derive(Clone, Copy)]
struct Prefix {
    v4: u8,
    v6: u8,
}

impl Prefix {
    fn of(self, network: &Network) -> u8 {
        if network.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// Why a network is not protected though an object states it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Why {
    /// There is no room.
    NoRoom,
    /// Its node or namespace has had its share.
    Share,
    /// A range is too wide to be believed.
    TooWide,
    /// A Gateway's status repeats an address that somebody asked for, and no load balancer has it.
    Unconfirmed,
}

impl Why {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::NoRoom, Self::Share, Self::TooWide, Self::Unconfirmed];

    /// The fixed word for metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoRoom => "no_room",
            Self::Share => "share",
            Self::TooWide => "too_wide",
            Self::Unconfirmed => "unconfirmed",
        }
    }
}

/// What is protected, and what is not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selection<'a> {
    /// The networks, aggregated; at most [`MOST`].
    pub networks: Vec<Network>,
    /// The API servers, which banned sources reach too.
    pub api_servers: Vec<SocketAddr>,
    /// Whether networks around nodes or pods are wider than what the cluster states, for want of room.
    pub is_widened: bool,
    /// The facts that protect nothing. What another fact protects is not left out.
    pub left_out: Vec<(Why, Fact<'a>)>,
}

/// Selects what is protected; the order of `facts` means nothing.
#[must_use]
pub fn select<'a>(facts: &[Fact<'a>]) -> Selection<'a> {
    let mut left_out = Vec::new();
    let (balancers, own): (Vec<Fact<'a>>, Vec<Fact<'a>>) =
        facts.iter().copied().partition(|fact| fact.basis >= Basis::Given);
    let own = believable(own, &mut left_out);
    let (mut networks, is_widened) = fit(&own, &mut left_out);

    let covered: Networks = networks.iter().copied().collect();
    let mut balanced = BTreeSet::new();
    for fact in in_turn(balancers, &mut left_out) {
        if is_covered(&covered, &fact.network) || balanced.contains(&fact.network) {
            continue;
        }
        if networks.len() + balanced.len() < MOST {
            balanced.insert(fact.network);
        } else {
            left_out.push((Why::NoRoom, fact));
        }
    }
    networks.extend(balanced);
    let covered: Networks = networks.iter().copied().collect();
    left_out.retain(|(_, fact)| !is_covered(&covered, &fact.network));
    Selection { networks: aggregate(networks), api_servers: Vec::new(), is_widened, left_out }
}

/// Whether a single address lies in the set. A range that is only partly in it is not covered.
fn is_covered(covered: &Networks, network: &Network) -> bool {
    network.address() == network.last_address() && covered.contains(network.address())
}

/// The cluster's own networks without those that are too wide to be true, the firmest first.
fn believable<'a>(mut own: Vec<Fact<'a>>, left_out: &mut Vec<(Why, Fact<'a>)>) -> Vec<Fact<'a>> {
    own.sort_unstable_by_key(|fact| (fact.basis, fact.by, fact.network));
    own.dedup_by_key(|fact| (fact.basis, fact.by, fact.network));
    own.retain(|&fact| {
        let is_believable = fact.network.prefix() >= WIDEST_RANGE.of(&fact.network);
        if !is_believable {
            left_out.push((Why::TooWide, fact));
        }
        is_believable
    });
    own
}

/// Makes the cluster's own networks fit, each family apart: one that overflows leaves the other half of the room, and
/// never makes the other's networks wider. Says whether any became wider.
fn fit<'a>(own: &[Fact<'a>], left_out: &mut Vec<(Why, Fact<'a>)>) -> (Vec<Network>, bool) {
    let families = [true, false].map(|is_ipv4| -> Vec<Fact<'a>> {
        own.iter().copied().filter(|fact| fact.network.is_ipv4() == is_ipv4).collect()
    });
    let exact = families.each_ref().map(|facts| aggregate(facts.iter().map(|fact| fact.network)));
    let rooms = [exact[1].len(), exact[0].len()].map(|other| MOST - other.min(MOST / 2));
    let (mut networks, mut is_widened) = (Vec::new(), false);
    for ((facts, exact), room) in families.iter().zip(exact).zip(rooms) {
        if exact.len() <= room {
            networks.extend(exact);
        } else {
            networks.extend(widen(facts, room, left_out));
            is_widened = true;
        }
    }
    (networks, is_widened)
}

/// Covers the facts of one family with at most `room` networks, as narrow as that goes. Where even the widest that are
/// allowed are too many, every node and API server has room before any range: admission refuses a list that a node
/// has been taken off.
fn widen<'a>(facts: &[Fact<'a>], room: usize, left_out: &mut Vec<(Why, Fact<'a>)>) -> Vec<Network> {
    for prefix in (WIDEST_POD_RANGE.v4..=124).rev().step_by(4) {
        let networks = aggregate(facts.iter().map(|fact| wider(fact, prefix)));
        if networks.len() <= room {
            return networks;
        }
    }
    let (hosts, ranges): (Vec<&Fact<'a>>, Vec<&Fact<'a>>) =
        facts.iter().partition(|fact| fact.basis == Basis::Host);
    let mut networks: BTreeSet<Network> = around_hosts(&hosts, room).into_iter().collect();
    for fact in ranges {
        let network = wider(fact, 0);
        if networks.len() < room {
            networks.insert(network);
        } else if !networks.contains(&network) {
            left_out.push((Why::NoRoom, *fact));
        }
    }
    aggregate(networks)
}

/// Covers nodes and API servers of one family with at most `room` networks, however wide these become.
fn around_hosts(hosts: &[&Fact<'_>], room: usize) -> Vec<Network> {
    let mut prefix = hosts.first().map_or(WIDEST, |host| WIDEST_HOST.of(&host.network));
    loop {
        let networks = aggregate(hosts.iter().map(|host| Network::around(host.network.address(), prefix)));
        if networks.len() <= room || prefix <= WIDEST {
            return networks;
        }
        prefix -= 4;
    }
}

/// The network around what a fact states with that prefix length, if it may become that wide.
fn wider(fact: &Fact<'_>, prefix: u8) -> Network {
    let stated = fact.network;
    let widest = match fact.basis {
        Basis::Host => WIDEST_HOST.of(&stated),
        Basis::PodRange => WIDEST_POD_RANGE.of(&stated),
        Basis::ServiceRange | Basis::Given | Basis::Asked | Basis::Unconfirmed | Basis::Surplus => {
            return stated;
        }
    };
    Network::around(stated.address(), stated.prefix().min(prefix.max(widest)))
}

/// Load balancers' addresses in the order in which they are given room: the first of each namespace, then the second
/// of each, and so on. What somebody asked for comes last in its namespace, and only some of it.
fn in_turn<'a>(mut facts: Vec<Fact<'a>>, left_out: &mut Vec<(Why, Fact<'a>)>) -> Vec<Fact<'a>> {
    facts.sort_unstable_by_key(|fact| (fact.by.namespace, fact.basis, fact.network, fact.by));
    facts.dedup_by_key(|fact| (fact.by.namespace, fact.network));
    let mut shares: BTreeMap<&str, Share> = BTreeMap::new();
    let mut turns = Vec::new();
    for fact in facts {
        let share = shares.entry(fact.by.namespace).or_default();
        match fact.basis {
            Basis::Unconfirmed => left_out.push((Why::Unconfirmed, fact)),
            Basis::Surplus => left_out.push((Why::Share, fact)),
            Basis::Asked if share.asked >= MOST_ASKED => left_out.push((Why::Share, fact)),
            basis => {
                share.asked += usize::from(basis == Basis::Asked);
                share.all += 1;
                turns.push((share.all, fact));
            }
        }
    }
    turns.sort_by_key(|&(turn, _)| turn);
    turns.into_iter().map(|(_, fact)| fact).collect()
}

/// What one namespace has had.
#[derive(Default)]
struct Share {
    asked: usize,
    all: usize,
}

#[cfg(test)]
mod tests;
