//! Host names that a policy lists, and whether a request's is one of them.

/// The longest name, in bytes: DNS has none that is longer.
const MAX_HOST_BYTES: usize = 253;

/// Host names, exact or with all below one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Hosts(Vec<Host>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Host {
    Exactly(Box<str>),
    /// `*.example.com`, here as `.example.com`.
    Below(Box<str>),
}

impl Hosts {
    /// Reads the names; an error is the place of the one that is none.
    pub(super) fn new(names: &[String]) -> Result<Self, usize> {
        let host = |(index, name): (usize, &String)| Host::new(name).ok_or(index);
        names.iter().enumerate().map(host).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of the first name that the host of a request agrees with: in whatever case, with or without a port
    /// and the final dot.
    pub(super) fn find(&self, host: &[u8]) -> Option<usize> {
        let host = bare(host);
        self.0.iter().position(|listed| listed.is(host))
    }

    /// A name as it is listed; empty when there is none at that place.
    pub(super) fn text(&self, index: usize) -> String {
        self.0.get(index).map_or_else(String::new, |host| match host {
            Host::Exactly(name) => name.to_string(),
            Host::Below(rest) => format!("*{rest}"),
        })
    }

    /// Whether every host that agrees with `other` agrees with these, as far as their texts tell.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|host| self.0.contains(host))
    }
}

impl Host {
    fn new(name: &str) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let below = name.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        let exact = below.map_or(name.as_str(), |rest| &rest[1..]);
        let is_v6 = exact
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .is_some_and(|inner| below.is_none() && inner.parse::<std::net::Ipv6Addr>().is_ok());
        let is_name = exact.len() <= MAX_HOST_BYTES
            && exact.split('.').all(|label| !label.is_empty())
            && exact.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        match below {
            _ if !is_v6 && !is_name => None,
            Some(rest) => Some(Self::Below(rest.into())),
            None => Some(Self::Exactly(exact.into())),
        }
    }

    fn is(&self, host: &[u8]) -> bool {
        match self {
            Self::Exactly(name) => host.eq_ignore_ascii_case(name.as_bytes()),
            Self::Below(rest) => host
                .split_at_checked(host.len().saturating_sub(rest.len()))
                .is_some_and(|(label, end)| !label.is_empty() && end.eq_ignore_ascii_case(rest.as_bytes())),
        }
    }
}

/// Without the port, and without the dot that ends a complete name.
fn bare(host: &[u8]) -> &[u8] {
    let digits = host.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let name = match &host[..host.len() - digits] {
        // Without brackets a second colon is part of an address.
        [name @ .., b':'] if name.ends_with(b"]") || !name.contains(&b':') => name,
        _ => host,
    };
    name.strip_suffix(b".").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Result<Hosts, usize> {
        Hosts::new(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_host_is_itself_in_every_spelling_and_no_other() {
        let listed = hosts(&["Shop.example.com", "*.example.org.", "[2001:db8::1]", "203.0.113.7"]).unwrap();
        #[rustfmt::skip]
        let table = [
            ("shop.example.com",       Some(0)), ("SHOP.EXAMPLE.COM:8443", Some(0)), ("shop.example.com.", Some(0)),
            ("shop.example.com.:443",  Some(0)), ("shop.example.com:",     Some(0)),
            ("a.shop.example.com",     None),    ("example.com",           None),    ("shop.example.com:a", None),
            ("xshop.example.com",      None),    ("",                      None),    ("-",                 None),
            ("a.example.org",          Some(1)), ("a.b.Example.Org:80",    Some(1)), ("a.example.org.",    Some(1)),
            ("example.org",            None),    ("aexample.org",          None),    (".example.org",      None),
            ("[2001:db8::1]:8080",     Some(2)), ("[2001:DB8::1]",         Some(2)), ("2001:db8::1",       None),
            ("203.0.113.7:80",         Some(3)), ("203.0.113.7",           Some(3)), ("203.0.113.70",      None),
        ];
        for (host, expect) in table {
            assert_eq!(listed.find(host.as_bytes()), expect, "host {host:?}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_refused_by_its_place() {
        for name in [
            "", "*", "*.", ".", "a..b", "a:80", "http://a", "a/b", "a*.b", "*.*.b", "a b", "[::1", "*.[::1]",
            "ä.de",
        ] {
            assert_eq!(hosts(&["a", name]), Err(1), "name {name:?}");
        }
        assert_eq!(hosts(&[&"a".repeat(MAX_HOST_BYTES + 1)]), Err(0));
    }
}
