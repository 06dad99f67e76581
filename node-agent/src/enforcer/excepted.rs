//! What banned sources reach all the same on this node, from all who say so.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ip_sentry_core::enforce::rules::{Exceptions, Matches, Port};
use jiff::{SignedDuration, Timestamp};

use crate::heard::Told;

/// How many addresses of API servers are remembered.
const MOST_PEERS: usize = 64;
/// The longest that nothing is dropped, whatever the object says and whoever wrote it past admission.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_hours(1);

/// Who says what.
#[derive(Clone, Debug, Default)]
pub(super) struct Excepted {
    /// What the kernel can match, as far as is known.
    pub(super) matches: Matches,
    /// The API servers by `ProtectedNetworks`.
    api_servers: Vec<SocketAddr>,
    /// The ports by `ProtectedNetworks`.
    failsafe: BTreeSet<Port>,
    pause: Option<Pause>,
    /// The API servers that this agent has talked to.
    peers: BTreeSet<SocketAddr>,
    /// The node's own addresses.
    own: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    asked: Timestamp,
    until: Timestamp,
}

impl Excepted {
    /// `ProtectedNetworks` was read.
    pub(super) fn told(&mut self, told: &Told, now: Timestamp) {
        self.api_servers.clone_from(&told.api_servers);
        self.failsafe.clone_from(&told.failsafe);
        self.pause = told.paused_until.map(|asked| match self.pause {
            // The object is read again and again: that makes no pause longer.
            Some(pause) if pause.asked == asked => pause,
            _ => Pause { asked, until: asked.min(now.saturating_add(LONGEST_PAUSE).unwrap_or(now)) },
        });
    }

    /// The kernel can match this; says whether that is news.
    pub(super) fn kernel_can(&mut self, matches: Matches) -> bool {
        std::mem::replace(&mut self.matches, matches) != matches
    }

    /// An API server has answered.
    pub(super) fn met(&mut self, peers: BTreeSet<SocketAddr>) {
        if self.peers.len() + peers.len() > MOST_PEERS {
            self.peers.clear();
        }
        self.peers.extend(peers);
    }

    /// The node's own addresses are these; returns them with those of the API servers that it talks to.
    pub(super) fn found(&mut self, own: BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
        self.own = own;
        self.own.iter().copied().chain(self.peers.iter().map(SocketAddr::ip)).collect()
    }

    /// What banned sources reach at `now`.
    pub(super) fn at(&self, now: Timestamp) -> Exceptions {
        let servers = self.api_servers.iter().chain(&self.peers).copied();
        Exceptions::new(servers, &self.failsafe, &self.own, self.paused_until(now))
    }

    /// How much of a pause is left.
    pub(super) fn pause_left(&self, now: Timestamp) -> Option<Duration> {
        Duration::try_from(now.duration_until(self.paused_until(now)?)).ok()
    }

    fn paused_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.pause.map(|pause| pause.until).filter(|until| now < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn until(second: i64) -> Told {
        Told { paused_until: Some(at(second)), ..Told::default() }
    }

    #[test]
    fn a_pause_ends_by_itself_and_lasts_an_hour_at_most() {
        #[rustfmt::skip]
        let table = [
            // told at, until, asked at, expect
            (0, 100,       99,    Some(100)),
            (0, 100,       100,   None),
            (0, 1_000_000, 3_599, Some(3_600)),
            (0, 1_000_000, 3_600, None),
            (200, 100,     200,   None),
        ];
        for (told, end, now, expect) in table {
            let mut excepted = Excepted::default();
            excepted.told(&until(end), at(told));
            let got = excepted.at(at(now)).paused_until;
            assert_eq!(got, expect.map(at), "told at {told} until {end}, at {now}");
            assert_eq!(excepted.pause_left(at(now)).is_some(), expect.is_some());
        }
    }

    #[test]
    fn what_is_read_again_makes_no_pause_longer_and_what_is_taken_back_ends_it() {
        let mut excepted = Excepted::default();
        excepted.told(&until(1_000_000), at(0));
        excepted.told(&until(1_000_000), at(3_000));
        assert_eq!(excepted.at(at(3_000)).paused_until, Some(at(3_600)));
        excepted.told(&Told::default(), at(3_001));
        assert_eq!(excepted.at(at(3_001)).paused_until, None);
    }

    #[test]
    fn an_api_server_on_this_node_is_a_port_of_it_and_another_an_address() {
        let mut excepted = Excepted::default();
        let servers = ["10.0.0.5:6443", "10.0.0.6:6443"].map(|text| text.parse().unwrap());
        excepted.told(&Told { api_servers: servers.to_vec(), ..Told::default() }, at(0));
        excepted.met(["10.0.0.7:443".parse().unwrap()].into());
        let own = excepted.found(["10.0.0.6".parse().unwrap()].into());
        assert!(own.contains(&"10.0.0.7".parse().unwrap()), "the peer is protected like the node");
        let exceptions = excepted.at(at(0));
        let servers: Vec<String> = exceptions.api_servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.5:6443", "10.0.0.7:443"]);
        let ports: Vec<String> = exceptions.node_ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["TCP/6443"]);
    }
}
