//! Addresses and networks as types that prove what they promise.
//!
//! [`Network`] is any network in its one canonical form. [`Source`] is a network that may be banned.
//! Text from outside becomes one of the two at the edge; nothing behind the edge parses again.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv6Net};

/// The widest IPv4 network that may be banned.
pub const WIDEST_V4_PREFIX: u8 = 16;
/// The widest IPv6 network that may be banned.
pub const WIDEST_V6_PREFIX: u8 = 32;

/// A network in canonical form: no host bits, never IPv4 written as IPv6.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Network(IpNet);

/// Why a text is no [`Network`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Bits are set beyond the prefix; the author most likely meant another network.
    #[error("not canonical, write {meant}")]
    HostBits {
        /// The network that contains what was given.
        meant: IpNet,
    },
    /// An IPv4 address in IPv6 clothing (`::ffff:192.0.2.1`), which no packet would ever match.
    #[error("an IPv4-mapped network: write it as IPv4")]
    Mapped,
    /// An address with no prefix length.
    #[error("write the prefix length too: {0}/{len}", len = if .0.is_ipv4() { 32 } else { 128 })]
    NoPrefix(IpAddr),
    /// Another spelling than the canonical one, such as upper-case IPv6.
    #[error("not canonical, write {meant}")]
    Spelling {
        /// The same network as it must be written.
        meant: IpNet,
    },
    /// Not a network at all.
    #[error("not a CIDR such as 203.0.113.7/32 or 2001:db8::/64")]
    Syntax,
}

impl Network {
    /// The network of this one address; IPv4-mapped IPv6 becomes IPv4.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self(IpNet::from(address.to_canonical()))
    }

    /// The network that `address` lies in with that prefix length, cut to the family's longest.
    #[must_use]
    pub fn around(address: IpAddr, prefix: u8) -> Self {
        let address = address.to_canonical();
        let longest = if address.is_ipv4() { 32 } else { 128 };
        match IpNet::new(address, prefix.min(longest)) {
            Ok(net) => Self(net.trunc()),
            Err(_) => Self::host(address),
        }
    }

    /// The first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.0.addr()
    }

    /// The last address.
    #[must_use]
    pub fn last_address(&self) -> IpAddr {
        self.0.broadcast()
    }

    /// The prefix length in bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.0.prefix_len()
    }

    pub(crate) fn as_ip_net(&self) -> IpNet {
        self.0
    }

    /// Whether this is an IPv4 network.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.address().is_ipv4()
    }

    /// Whether the address lies in this network; IPv4-mapped IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether the two share any address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.contains(&other.address()) || other.0.contains(&self.address())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Err(NetworkError::NoPrefix(address));
        }
        // The crate that reads networks takes 010.0.0.1, which some read as octal; the standard library does not.
        let address = text.split_once('/').and_then(|(address, _)| address.parse::<IpAddr>().ok());
        let net: IpNet = match (address, text.parse()) {
            (Some(_), Ok(net)) => net,
            _ => return Err(NetworkError::Syntax),
        };
        if matches!(net, IpNet::V6(v6) if is_mapped(v6)) {
            return Err(NetworkError::Mapped);
        }
        if net.trunc() != net {
            return Err(NetworkError::HostBits { meant: net.trunc() });
        }
        // One network, one text: names and field selectors are made from it.
        if net.to_string() != text {
            return Err(NetworkError::Spelling { meant: net });
        }
        Ok(Self(net))
    }
}

fn is_mapped(net: Ipv6Net) -> bool {
    net.addr().to_ipv4_mapped().is_some()
}

/// What an address is for, as far as banning it goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// Somebody on the internet.
    Public,
    /// RFC 1918, RFC 4193 and RFC 6598: a network behind somebody's router, or the cluster itself.
    Private,
    /// Loopback, link-local, multicast, broadcast, unspecified: never anybody's source.
    Special,
}

/// The scope of one address.
#[must_use]
#[inline]
pub fn scope(address: IpAddr) -> Scope {
    match address {
        IpAddr::V4(v4) if !RULED[usize::from(v4.octets()[0])] => Scope::Public,
        address => ruled_scope(address),
    }
}

/// Which first octets of IPv4 addresses some rule of [`scope_v4`] is about: each line asks, and nearly all have others.
const RULED: [bool; 256] = {
    let mut ruled = [false; 256];
    let mut first = 0;
    while first < 256 {
        ruled[first] = matches!(first, 0 | 10 | 100 | 127 | 169 | 172 | 192 | 224..=239 | 255);
        first += 1;
    }
    ruled
};

fn ruled_scope(address: IpAddr) -> Scope {
    match address {
        IpAddr::V4(v4) => scope_v4(v4),
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or_else(|| scope_v6(v6), scope_v4),
    }
}

fn scope_v4(address: Ipv4Addr) -> Scope {
    match address.octets() {
        [0 | 127 | 224..=239, ..] | [169, 254, ..] | [255, 255, 255, 255] => Scope::Special,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Scope::Private,
        _ => Scope::Public,
    }
}

fn scope_v6(address: Ipv6Addr) -> Scope {
    let first = address.segments()[0];
    // ::/8 holds the unspecified, loopback, mapped and compatible addresses; RFC 4291 reserves the rest.
    if first >> 8 == 0 || address.is_multicast() || address.is_unicast_link_local() {
        Scope::Special
    } else if address.is_unique_local() {
        Scope::Private
    } else {
        Scope::Public
    }
}

/// A network that may be banned: unicast and no wider than a /16 (IPv4) or /32 (IPv6).
///
/// Private networks are allowed here: whether they are banned is the policy's choice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Source(Network);

/// Why a [`Network`] is no [`Source`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// Not a network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Loopback, link-local, multicast, broadcast or unspecified.
    #[error("loopback, link-local, multicast, broadcast and unspecified addresses are never banned")]
    Special,
    /// So wide that the ban would hit bystanders.
    #[error("not wider than /{WIDEST_V4_PREFIX} (IPv4) or /{WIDEST_V6_PREFIX} (IPv6)")]
    TooWide,
}

impl Source {
    /// The network, if it may be banned.
    pub fn new(network: Network) -> Result<Self, SourceError> {
        let widest = if network.is_ipv4() { WIDEST_V4_PREFIX } else { WIDEST_V6_PREFIX };
        if network.prefix() < widest {
            return Err(SourceError::TooWide);
        }
        if scope(network.address()) == Scope::Special {
            return Err(SourceError::Special);
        }
        Ok(Self(network))
    }

    /// The source that a client counts as: the address itself, or its IPv6 network of that prefix length.
    pub fn of(client: IpAddr, ipv6_prefix: u8) -> Result<Self, SourceError> {
        let client = client.to_canonical();
        let prefix = if client.is_ipv4() { 32 } else { ipv6_prefix };
        Self::new(Network::around(client, prefix))
    }

    /// The network.
    #[must_use]
    pub fn network(&self) -> Network {
        self.0
    }

    /// The name of this source's IPBan, so that whoever bans it writes the same object.
    ///
    /// `203.0.113.7/32` → `203.0.113.7`, `203.0.113.0/24` → `203.0.113.0-24`,
    /// `2001:db8::/64` → `2001-db8---64`. At most 43 characters; the CRD holds objects to it.
    #[must_use]
    pub fn ban_name(&self) -> String {
        let text = self.0.to_string();
        match text.strip_suffix("/32") {
            Some(address) if self.0.is_ipv4() => address.to_owned(),
            _ => text.replace([':', '/'], "-"),
        }
    }

    /// The source that has this name, see [`ban_name`](Self::ban_name).
    #[must_use]
    pub fn of_ban_name(name: &str) -> Option<Self> {
        let text = match name.rsplit_once('-') {
            Some((address, prefix)) => format!("{}/{prefix}", address.replace('-', ":")),
            None => format!("{name}/32"),
        };
        text.parse().ok().filter(|source: &Self| source.ban_name() == name)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Self, SourceError> {
        Self::new(text.parse()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_has_one_spelling_and_the_refusal_says_which() {
        #[rustfmt::skip]
        let table = [
            // given                  expect
            ("203.0.113.7/32",        Ok("203.0.113.7")),
            ("203.0.113.0/24",        Ok("203.0.113.0-24")),
            ("2001:db8::/64",         Ok("2001-db8---64")),
            ("2001:db8::1/128",       Ok("2001-db8--1-128")),
            ("10.1.2.3/32",           Ok("10.1.2.3")),
            ("203.0.113.7",           Err("write the prefix length too: 203.0.113.7/32")),
            ("2001:db8::7",           Err("write the prefix length too: 2001:db8::7/128")),
            ("203.0.113.7/24",        Err("not canonical, write 203.0.113.0/24")),
            ("2001:DB8::/64",         Err("not canonical, write 2001:db8::/64")),
            ("2001:0db8::/64",        Err("not canonical, write 2001:db8::/64")),
            ("::ffff:192.0.2.1/128",  Err("an IPv4-mapped network: write it as IPv4")),
            ("010.0.0.1/32",          Err("not a CIDR such as 203.0.113.7/32 or 2001:db8::/64")),
            ("0.0.0.0/0",             Err("not wider than /16 (IPv4) or /32 (IPv6)")),
            ("2001::/16",             Err("not wider than /16 (IPv4) or /32 (IPv6)")),
            ("127.0.0.1/32",          Err("loopback, link-local, multicast, broadcast and unspecified addresses are never banned")),
            ("239.1.2.3/32",          Err("loopback, link-local, multicast, broadcast and unspecified addresses are never banned")),
            ("ff05::1/128",           Err("loopback, link-local, multicast, broadcast and unspecified addresses are never banned")),
            ("::1/128",               Err("loopback, link-local, multicast, broadcast and unspecified addresses are never banned")),
        ];
        for (given, expect) in table {
            let got =
                given.parse::<Source>().map(|source| source.ban_name()).map_err(|error| error.to_string());
            assert_eq!(got.as_deref().map_err(String::as_str), expect, "given {given}");
        }
    }

    #[test]
    fn a_client_counts_by_its_address_or_its_ipv6_network() {
        #[rustfmt::skip]
        let table = [
            ("203.0.113.7",          64,  "203.0.113.7/32"),
            ("::ffff:203.0.113.7",   64,  "203.0.113.7/32"),
            ("2001:db8:1:2:3::4",    64,  "2001:db8:1:2::/64"),
            ("2001:db8:1:2:3::4",    128, "2001:db8:1:2:3::4/128"),
        ];
        for (client, prefix, expect) in table {
            let source = Source::of(client.parse().unwrap(), prefix).unwrap();
            assert_eq!(source.to_string(), expect, "client {client}");
        }
    }

    #[test]
    fn scopes_follow_the_registries() {
        #[rustfmt::skip]
        let table = [
            ("203.0.113.7", Scope::Public),  ("100.64.0.1", Scope::Private), ("100.128.0.1", Scope::Public),
            ("172.31.0.1", Scope::Private),  ("172.32.0.1", Scope::Public),  ("169.254.1.1", Scope::Special),
            ("0.1.2.3", Scope::Special),     ("fd00::1", Scope::Private),    ("fe80::1", Scope::Special),
            ("2001:db8::1", Scope::Public),  ("::ffff:10.0.0.1", Scope::Private), ("::", Scope::Special),
        ];
        for (address, expect) in table {
            assert_eq!(scope(address.parse().unwrap()), expect, "address {address}");
        }
    }

    #[test]
    fn no_rule_is_about_an_address_that_is_taken_for_public_by_its_first_octet() {
        for first_two in 0..=u16::MAX {
            let [first, second] = first_two.to_be_bytes();
            for rest in [[0, 0], [255, 255]] {
                let address = Ipv4Addr::new(first, second, rest[0], rest[1]);
                assert_eq!(scope(address.into()), scope_v4(address), "address {address}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(bits: u128, prefix in 32u8..=128, bits4: u32, prefix4 in 16u8..=32) {
            for network in [
                Network::around(Ipv6Addr::from_bits(bits).into(), prefix),
                Network::around(Ipv4Addr::from_bits(bits4).into(), prefix4),
            ] {
                prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
                if let Ok(source) = Source::new(network) {
                    prop_assert_eq!(Source::of_ban_name(&source.ban_name()), Some(source));
                }
            }
        }

        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,60}") {
            let _unused = text.parse::<Source>();
            let _unused = Source::of_ban_name(&text);
        }

        #[test]
        fn overlap_is_symmetric_and_means_a_shared_address(a: u32, b: u32, p in 0u8..=32, q in 0u8..=32) {
            let one = Network::around(Ipv4Addr::from_bits(a).into(), p);
            let two = Network::around(Ipv4Addr::from_bits(b).into(), q);
            let shared = one.address() <= two.last_address() && two.address() <= one.last_address();
            prop_assert_eq!(one.overlaps(&two), shared);
            prop_assert_eq!(two.overlaps(&one), shared);
        }
    }
}
