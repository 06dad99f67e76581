//! What our chains must hold.
//!
//! Packets of banned sources go from `IP-BLOCKER` to `IP-BLOCKER-HIT`, where what passes all the same returns and
//! the rest is dropped. So a packet of a clean source pays for one look-up, that of its source, however many
//! exceptions there are.
//!
//! Replies to connections that this side opened pass. Connection tracking takes whoever sent the first packet that
//! it saw for the side that opened a connection, and a client can have it forget one: with an RST that tracking
//! believes and the server doesn't get. The server's next segment is then the first. So a connection that tracking
//! picks up from a TCP segment in its middle is labelled, where this side sends: in FORWARD and OUTPUT. What is
//! labelled was opened by nobody we know, and its packets are no replies.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;

use super::sets::{Family, Set};

/// The chain that every packet for the node or its pods passes, in the table `filter` of both families.
pub const CHAIN: &str = "IP-BLOCKER";
/// The chain that packets of banned sources pass.
pub const HIT_CHAIN: &str = "IP-BLOCKER-HIT";
/// The chain that every packet of the node itself passes.
pub const OUT_CHAIN: &str = "IP-BLOCKER-OUT";

/// The label of connections that were picked up in their middle. Labels are bits; any that nobody else uses will do.
const PICKED_UP: u8 = 115;

/// How many API servers a banned source still reaches; a cluster has three or five.
pub const MOST_API_SERVERS: usize = 32;

/// The last second that the time match knows: its dates end in 2038.
const LAST_DATE: i64 = i32::MAX as i64;

/// TCP or UDP.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of a transport protocol, `TCP/22` to people.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Port {
    /// The protocol.
    pub protocol: Protocol,
    /// The port, at least 1.
    pub number: u16,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        write!(f, "{protocol}/{}", self.number)
    }
}

/// What a banned source still reaches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Exceptions {
    /// Until then, everything. The kernel counts the time down by itself where it can.
    pub paused_until: Option<Timestamp>,
    /// These API servers, so that whom a ban has locked out can lift it.
    pub api_servers: BTreeSet<SocketAddr>,
    /// These ports of the node itself, whichever of its addresses they are asked at.
    pub node_ports: BTreeSet<Port>,
}

impl Exceptions {
    /// The exceptions of a node with the addresses `own`. An API server on this very node answers on each of them:
    /// on a virtual one too, and on that of the other family.
    #[must_use]
    pub fn new(
        api_servers: impl IntoIterator<Item = SocketAddr>,
        failsafe: &BTreeSet<Port>,
        own: &BTreeSet<IpAddr>,
        paused_until: Option<Timestamp>,
    ) -> Self {
        let mut node_ports = failsafe.clone();
        let mut elsewhere = BTreeSet::new();
        for server in api_servers.into_iter().take(MOST_API_SERVERS) {
            if own.contains(&server.ip()) {
                node_ports.insert(Port { protocol: Protocol::Tcp, number: server.port() });
            } else {
                elsewhere.insert(server);
            }
        }
        Self { paused_until, api_servers: elsewhere, node_ports }
    }

    fn rules(&self, family: Family) -> impl Iterator<Item = String> {
        let of_family = move |server: &&SocketAddr| server.is_ipv4() == (family == Family::V4);
        let servers = self.api_servers.iter().filter(of_family).map(|server| {
            let prefix = if server.is_ipv4() { 32 } else { 128 };
            format!("-d {}/{prefix} -p tcp -m tcp --dport {} -j RETURN", server.ip(), server.port())
        });
        let ports = self.node_ports.iter().map(|Port { protocol, number }| {
            let protocol = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            };
            format!("-p {protocol} -m {protocol} --dport {number} -m addrtype --dst-type LOCAL -j RETURN")
        });
        servers.chain(ports)
    }
}

/// What the kernel can match beside addresses and connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Matches {
    /// The time: the kernel itself ends a pause and a plain rule.
    pub dates: bool,
    /// Labels of connections: without them, one that was picked up in its middle counts as opened by who sent then.
    pub labels: bool,
}

impl Default for Matches {
    fn default() -> Self {
        Self { dates: true, labels: true }
    }
}

/// What must be in the chains: rules as `iptables-save` prints them, without `-A CHAIN`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// In [`CHAIN`]: what labels connections, and what sends packets of banned sources to [`HIT_CHAIN`].
    pub chain: Vec<String>,
    /// In [`HIT_CHAIN`]: what returns, and last the drop.
    pub hit: Vec<String>,
    /// In [`OUT_CHAIN`]: what labels connections.
    pub out: Vec<String>,
}

impl Rules {
    /// The rules that use the sets: one for each set of bans, however many bans there are.
    ///
    /// A packet that is in no set of bans costs one look-up a rule; only one that is, is looked up among the
    /// protected networks, which always pass.
    #[must_use]
    pub fn of_sets(family: Family, exceptions: &Exceptions, matches: Matches) -> Self {
        let bans = Set::ALL.into_iter().filter(|set| set.family() == family && !set.is_allow());
        let hits = bans.map(|set| format!("-m set --match-set {} src -j {HIT_CHAIN}", set.name()));
        let allow = format!("-m set --match-set {} src -j RETURN", Set::allow(family).name());
        Self::of(family, exceptions, matches, hits, Some(allow))
    }

    /// The rules of all chains, with what leads to [`HIT_CHAIN`] and what returns from there to begin with.
    pub(super) fn of(
        family: Family,
        exceptions: &Exceptions,
        matches: Matches,
        hits: impl Iterator<Item = String>,
        allow: Option<String>,
    ) -> Self {
        let label = matches.labels.then(label);
        Self {
            // Before what may return: this side's own packets may come from a protected network.
            chain: label.iter().cloned().chain(hits).collect(),
            hit: hit(family, exceptions, matches, allow),
            out: label.into_iter().collect(),
        }
    }
}

/// Labels a connection that tracking picks up in its middle. Most packets belong to one that is established, and are
/// done with at the first match.
fn label() -> String {
    format!(
        "-p tcp -m conntrack --ctstate NEW -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m connlabel \
         --label \"{PICKED_UP}\" --set"
    )
}

fn hit(family: Family, exceptions: &Exceptions, matches: Matches, allow: Option<String>) -> Vec<String> {
    let pause = exceptions.paused_until.map(|until| match date(until.as_second()) {
        Some(date) if matches.dates => format!("-m time --datestop {date} -j RETURN"),
        _ => "-j RETURN".to_owned(),
    });
    // The answers to connections that this side opened. What connection tracking doesn't know (untracked or
    // invalid) has no direction, is matched by no such rule, and is dropped.
    let opened =
        if matches.labels { format!(" -m connlabel ! --label \"{PICKED_UP}\"") } else { String::new() };
    let replies = format!("-m conntrack --ctdir REPLY{opened} -j RETURN");
    let before = pause.into_iter().chain(allow).chain([replies]);
    before.chain(exceptions.rules(family)).chain(["-j DROP".to_owned()]).collect()
}

/// The last second before `end` as the time match takes it: UTC, and that second included.
pub(super) fn date(end: i64) -> Option<String> {
    if end > LAST_DATE {
        return None;
    }
    let last = Timestamp::from_second(end.checked_sub(1)?).ok()?;
    Some(last.strftime("%Y-%m-%dT%H:%M:%S").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn own(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_clean_packet_is_looked_up_once_a_set_whatever_is_excepted() {
        let many: Vec<String> = (1..=250).map(|n| format!("10.0.0.{n}:6443")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let exceptions = Exceptions::new(servers(&many), &BTreeSet::new(), &BTreeSet::new(), None);
        assert_eq!(exceptions.api_servers.len(), MOST_API_SERVERS);
        for (family, sets) in [(Family::V4, 2), (Family::V6, 1)] {
            let rules = Rules::of_sets(family, &exceptions, Matches::default());
            let lookups = rules.chain.iter().filter(|rule| rule.contains("--match-set"));
            assert_eq!((lookups.count(), rules.chain.len()), (sets, sets + 1));
            assert!(!rules.out[0].contains("--match-set"), "what the node sends is looked up nowhere");
        }
    }

    #[test]
    fn what_a_banned_source_reaches_stands_before_the_drop() {
        let failsafe = BTreeSet::from([Port { protocol: Protocol::Udp, number: 500 }]);
        let exceptions = Exceptions::new(
            servers(&["10.0.0.5:6443", "10.0.0.6:6443", "[fd00::5]:6443"]),
            &failsafe,
            &own(&["10.0.0.6", "192.0.2.6"]),
            Some("2026-11-22T10:00:00.5Z".parse().unwrap()),
        );
        let expect = |server: &str, allow: &str, pause: &str, opened: &str| {
            [
                pause.to_owned(),
                format!("-m set --match-set {allow} src -j RETURN"),
                format!("-m conntrack --ctdir REPLY{opened} -j RETURN"),
                format!("-d {server} -p tcp -m tcp --dport 6443 -j RETURN"),
                "-p tcp -m tcp --dport 6443 -m addrtype --dst-type LOCAL -j RETURN".to_owned(),
                "-p udp -m udp --dport 500 -m addrtype --dst-type LOCAL -j RETURN".to_owned(),
                "-j DROP".to_owned(),
            ]
        };
        assert_eq!(
            Rules::of_sets(Family::V4, &exceptions, Matches::default()).hit,
            expect(
                "10.0.0.5/32",
                "ipsentry-allow4",
                "-m time --datestop 2026-11-22T09:59:59 -j RETURN",
                " -m connlabel ! --label \"115\"",
            )
        );
        let rules = Rules::of_sets(Family::V6, &exceptions, Matches { dates: false, labels: false });
        assert_eq!(rules.hit, expect("fd00::5/128", "ipsentry-allow6", "-j RETURN", ""));
        assert_eq!((rules.chain.len(), rules.out.len()), (1, 0), "labels are neither set nor matched");
    }

    #[test]
    fn ports_are_told_with_their_protocol() {
        assert_eq!(Port { protocol: Protocol::Tcp, number: 22 }.to_string(), "TCP/22");
    }
}
