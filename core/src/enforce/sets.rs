//! The kernel's sets, and which of them a network belongs in.
//!
//! A set of single addresses costs a packet one look-up, a set of networks one look-up for each prefix length
//! in it. Nearly all IPv4 bans are single addresses and nearly all IPv6 bans a /64, hence three sets of bans.

use crate::net::Network;

/// What the name of every set of ours begins with.
pub const SET_PREFIX: &str = "ipsentry-";

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of a network.
    #[must_use]
    pub fn of(network: &Network) -> Self {
        if network.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A kernel set of ours.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Set {
    /// Protected IPv4 networks.
    Allow4,
    /// Protected IPv6 networks.
    Allow6,
    /// Banned IPv4 addresses.
    Hosts4,
    /// Banned IPv4 networks of more than one address.
    Nets4,
    /// Banned IPv6 networks, single addresses too.
    Nets6,
}

impl Set {
    /// Every set, in the order in which they must be filled: the protected ones first.
    pub const ALL: [Self; 5] = [Self::Allow4, Self::Allow6, Self::Hosts4, Self::Nets4, Self::Nets6];

    /// The set that a banned network belongs in.
    #[must_use]
    pub fn of_ban(network: &Network) -> Self {
        match (network.is_ipv4(), network.prefix()) {
            (true, 32) => Self::Hosts4,
            (true, _) => Self::Nets4,
            (false, _) => Self::Nets6,
        }
    }

    /// The set of protected networks of that family.
    #[must_use]
    pub fn allow(family: Family) -> Self {
        match family {
            Family::V4 => Self::Allow4,
            Family::V6 => Self::Allow6,
        }
    }

    /// The name in the kernel, at most 31 characters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow4 => "ipsentry-allow4",
            Self::Allow6 => "ipsentry-allow6",
            Self::Hosts4 => "ipsentry-hosts4",
            Self::Nets4 => "ipsentry-nets4",
            Self::Nets6 => "ipsentry-nets6",
        }
    }

    /// IPv4 or IPv6.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::Allow4 | Self::Hosts4 | Self::Nets4 => Family::V4,
            Self::Allow6 | Self::Nets6 => Family::V6,
        }
    }

    /// Whether it holds single addresses only.
    #[must_use]
    pub fn is_hosts(self) -> bool {
        self == Self::Hosts4
    }

    /// Whether it holds what must pass, not what is dropped.
    #[must_use]
    pub fn is_allow(self) -> bool {
        matches!(self, Self::Allow4 | Self::Allow6)
    }
}

/// The network itself, or its two halves where it is a /0, which a set of networks does not take.
pub fn without_slash_zero(network: Network) -> impl Iterator<Item = Network> {
    let last = network.last_address();
    let (first, second) = if network.prefix() == 0 {
        (Network::around(network.address(), 1), Some(Network::around(last, 1)))
    } else {
        (network, None)
    };
    std::iter::once(first).chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_has_its_set() {
        #[rustfmt::skip]
        let table = [
            ("203.0.113.7/32",   Set::Hosts4),
            ("203.0.113.0/31",   Set::Nets4),
            ("2001:db8::/64",    Set::Nets6),
            ("2001:db8::1/128",  Set::Nets6),
        ];
        for (network, expect) in table {
            assert_eq!(Set::of_ban(&network.parse().unwrap()), expect, "network {network}");
        }
        for set in Set::ALL {
            assert!(set.name().starts_with(SET_PREFIX) && set.name().len() <= 31, "{set:?}");
        }
        assert!(Set::ALL[..2].iter().all(|set| set.is_allow()), "protected networks come first");
    }

    #[test]
    fn a_slash_zero_becomes_its_halves() {
        let halves = |text: &str| -> Vec<String> {
            without_slash_zero(text.parse().unwrap()).map(|network| network.to_string()).collect()
        };
        assert_eq!(halves("0.0.0.0/0"), ["0.0.0.0/1", "128.0.0.0/1"]);
        assert_eq!(halves("::/0"), ["::/1", "8000::/1"]);
        assert_eq!(halves("10.0.0.0/8"), ["10.0.0.0/8"]);
    }
}
