//! The kernel's sets, over ipset's netlink protocol 7.
//!
//! Each call is one message (a bulk load one per 1,000 entries) and returns when the kernel has said yes. A new
//! ban takes about 2 µs. Nothing here flushes a set, ever: a flush opens the node until it is filled again.
//!
//! Numbers are those of `linux/netfilter/ipset/ip_set.h`.

use std::net::IpAddr;

use ip_sentry_core::{
    enforce::{
        chain::Counters,
        plan::{Entry, Observed},
        sets::{Family, Set},
    },
    net::Network,
};

use super::netlink::{self, Message, NETLINK_NETFILTER, NLM_F_EXCL, Netlink, NetlinkError};

/// How many banned networks a set takes unless told otherwise.
pub const DEFAULT_CAPACITY: u32 = 1_048_576;
/// How many protected networks a set takes: `ProtectedNetworks` holds 2,048 at most, the rest is the node's own.
pub const ALLOW_CAPACITY: u32 = 16_384;

/// The subsystem's number in a netlink message's type.
const SUBSYSTEM: u16 = 6 << 8;
const PROTOCOL: u8 = 7;
/// Entries in one bulk message: an entry is at most 56 bytes and a nested attribute at most 64 KiB.
const BULK: usize = 1_000;

const CMD_PROTOCOL: u16 = 1;
const CMD_CREATE: u16 = 2;
const CMD_DESTROY: u16 = 3;
const CMD_SWAP: u16 = 6;
const CMD_LIST: u16 = 7;
const CMD_ADD: u16 = 9;
const CMD_DEL: u16 = 10;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;

const ATTR_IP: u16 = 1;
const ATTR_CIDR: u16 = 3;
const ATTR_TIMEOUT: u16 = 6;
const ATTR_CADT_FLAGS: u16 = 8;
const ATTR_HASHSIZE: u16 = 18;
const ATTR_MAXELEM: u16 = 19;
const ATTR_ELEMENTS: u16 = 24;
const ATTR_BYTES: u16 = 24;
const ATTR_PACKETS: u16 = 25;
const ATTR_IPV4: u16 = 1;
const ATTR_IPV6: u16 = 2;

const FLAG_LIST_SETNAME: u32 = 1 << 1;
const FLAG_LIST_HEADER: u32 = 1 << 2;
const FLAG_COUNTERS: u32 = 1 << 3;

const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const EOPNOTSUPP: i32 = 95;
const EPROTONOSUPPORT: i32 = 93;
const ERR_PROTOCOL: i32 = 4097;
const ERR_FIND_TYPE: i32 = 4098;
const ERR_BUSY: i32 = 4100;
const ERR_HASH_FULL: i32 = 4352;

/// Why the kernel's sets did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IpsetError {
    /// The kernel has no sets, or not the types or the protocol that are needed.
    #[error(
        "this kernel has no ip_set with hash:ip and hash:net (protocol 7): load the modules ip_set, ip_set_hash_ip and ip_set_hash_net"
    )]
    Missing,
    /// The capability is missing.
    #[error("not permitted: the container needs the capability NET_ADMIN and the host's network")]
    NotPermitted,
    /// The set is not there.
    #[error("the set {0} is gone")]
    NoSet(String),
    /// The set is used by a rule or by the kernel.
    #[error("the set {0} is in use")]
    InUse(String),
    /// Anything else.
    #[error("the set {set} could not be changed or read")]
    Netlink {
        /// The set.
        set: String,
        /// Why.
        source: NetlinkError,
    },
}

impl IpsetError {
    fn of(set: &str, error: NetlinkError) -> Self {
        match error.code() {
            Some(EPERM) => Self::NotPermitted,
            Some(ENOENT) => Self::NoSet(set.to_owned()),
            Some(ERR_BUSY) => Self::InUse(set.to_owned()),
            Some(ERR_PROTOCOL | ERR_FIND_TYPE | EOPNOTSUPP | EPROTONOSUPPORT) => Self::Missing,
            _ => Self::Netlink { set: set.to_owned(), source: error },
        }
    }
}

/// How a set was made and how full it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    kind: String,
    family: u8,
    timeouts: bool,
    counters: bool,
    capacity: u32,
    /// How many entries it holds; ended ones count until the kernel sweeps them.
    pub elements: u32,
}

impl Header {
    /// Whether the set is as [`Ipset::create`] would make it.
    #[must_use]
    pub fn fits(&self, set: Set, capacity: u32) -> bool {
        self.kind == type_name(set)
            && self.family == family_number(set.family())
            && self.timeouts != set.is_allow()
            && self.counters != set.is_allow()
            && self.capacity == capacity
    }
}

/// An entry as the kernel holds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// The network.
    pub network: Network,
    /// Seconds left, `None` for an entry without an end.
    pub left: Option<u32>,
    /// What it matched.
    pub matched: Counters,
}

/// What became of a bulk load.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Loaded {
    /// Entries that the kernel did not take, with its error number.
    pub refused: Vec<(Network, i32)>,
    /// Entries that were not tried any more because the set is full.
    pub full: usize,
}

/// A connection to the kernel's sets.
pub struct Ipset {
    netlink: Netlink,
}

impl Ipset {
    /// Connects, and asks whether the kernel has sets and lets this process use them.
    pub fn open() -> Result<Self, IpsetError> {
        let netlink = Netlink::open(NETLINK_NETFILTER).map_err(|error| IpsetError::of("", error))?;
        let mut ipset = Self { netlink };
        let probe = message(CMD_PROTOCOL, Family::V4, 0);
        match ipset.netlink.get(probe, |_, _| {}) {
            Ok(()) => Ok(ipset),
            // With no such subsystem, nfnetlink itself answers.
            Err(error) if error.code() == Some(EINVAL) => Err(IpsetError::Missing),
            Err(error) => Err(IpsetError::of("", error)),
        }
    }

    /// Makes a set under `name` with the options that `set` has to have. `expected` entries presize it.
    pub fn create(&mut self, name: &str, set: Set, capacity: u32, expected: usize) -> Result<(), IpsetError> {
        let mut message = message(CMD_CREATE, set.family(), NLM_F_EXCL);
        message.text(ATTR_SETNAME, name);
        message.text(ATTR_TYPENAME, type_name(set));
        // The first revisions that have every option used here; kernels take these and later ones.
        message.attribute(ATTR_REVISION, &[if set.is_hosts() { 4 } else { 6 }]);
        message.attribute(ATTR_FAMILY, &[family_number(set.family())]);
        let data = message.open(ATTR_DATA);
        message.number(ATTR_HASHSIZE, hash_size(expected));
        message.number(ATTR_MAXELEM, capacity);
        if !set.is_allow() {
            message.number(ATTR_TIMEOUT, 0);
            message.number(ATTR_CADT_FLAGS, FLAG_COUNTERS);
        }
        message.close(data);
        self.netlink.request(message).map_err(|error| IpsetError::of(name, error))
    }

    /// Destroys a set that no rule uses. That it is gone already is no error.
    pub fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        let mut message = message(CMD_DESTROY, Family::V4, 0);
        message.text(ATTR_SETNAME, name);
        match self.netlink.request(message) {
            Err(error) if error.code() == Some(ENOENT) => Ok(()),
            other => other.map_err(|error| IpsetError::of(name, error)),
        }
    }

    /// Exchanges the contents of two sets in one step that no packet sees half of.
    pub fn swap(&mut self, one: &str, other: &str) -> Result<(), IpsetError> {
        let mut message = message(CMD_SWAP, Family::V4, 0);
        message.text(ATTR_SETNAME, one);
        message.text(ATTR_TYPENAME, other);
        self.netlink.request(message).map_err(|error| IpsetError::of(one, error))
    }

    /// Puts one entry in or gives it a new life; its counters stay.
    ///
    /// Says whether there was room.
    pub fn add(&mut self, name: &str, entry: Entry) -> Result<bool, IpsetError> {
        let mut message = message(CMD_ADD, Family::of(&entry.0), 0);
        message.text(ATTR_SETNAME, name);
        write_entry(&mut message, entry, None);
        match self.netlink.request(message) {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some(ERR_HASH_FULL) => Ok(false),
            Err(error) => Err(IpsetError::of(name, error)),
        }
    }

    /// Takes one entry out. That it is gone already is no error.
    pub fn remove(&mut self, name: &str, network: Network) -> Result<(), IpsetError> {
        let mut message = message(CMD_DEL, Family::of(&network), 0);
        message.text(ATTR_SETNAME, name);
        write_entry(&mut message, (network, None), None);
        self.netlink.request(message).map_err(|error| IpsetError::of(name, error))
    }

    /// Puts entries in. One that the kernel refuses keeps no other out.
    pub fn load(&mut self, name: &str, entries: &[Entry]) -> Result<Loaded, IpsetError> {
        self.bulk(CMD_ADD, name, entries)
    }

    /// Takes entries out.
    pub fn unload(&mut self, name: &str, networks: &[Network]) -> Result<Loaded, IpsetError> {
        let entries: Vec<Entry> = networks.iter().map(|&network| (network, None)).collect();
        self.bulk(CMD_DEL, name, &entries)
    }

    fn bulk(&mut self, command: u16, name: &str, entries: &[Entry]) -> Result<Loaded, IpsetError> {
        let mut loaded = Loaded::default();
        let mut rest = entries;
        while let Some((first, _)) = rest.first() {
            let (batch, _) = rest.split_at(rest.len().min(BULK));
            let mut message = message(command, Family::of(first), 0);
            message.text(ATTR_SETNAME, name);
            message.number(ATTR_LINENO, 0);
            let nest = message.open(ATTR_ADT);
            for (number, entry) in (0u32..).zip(batch) {
                write_entry(&mut message, *entry, Some(number));
            }
            message.close(nest);
            let Err(error) = self.netlink.request(message) else {
                rest = &rest[batch.len()..];
                continue;
            };
            let NetlinkError::Refused { code, quoted } = &error else {
                return Err(IpsetError::of(name, error));
            };
            // The kernel takes the entries in order and quotes the number of the one that it stopped at.
            let stopped = netlink::attribute(quoted.get(4..).unwrap_or_default(), ATTR_LINENO)
                .and_then(netlink::number)
                .and_then(|number| usize::try_from(number).ok())
                .filter(|&number| number < batch.len() && !matches!(*code, EPERM | ENOENT));
            let Some(stopped) = stopped else { return Err(IpsetError::of(name, error)) };
            if *code == ERR_HASH_FULL {
                loaded.full = rest.len() - stopped;
                return Ok(loaded);
            }
            loaded.refused.push((rest[stopped].0, *code));
            rest = &rest[stopped + 1..];
        }
        Ok(loaded)
    }

    /// How the set was made, `None` where there is none.
    pub fn header(&mut self, name: &str) -> Result<Option<Header>, IpsetError> {
        let mut message = message(CMD_LIST, Family::V4, 0);
        message.text(ATTR_SETNAME, name);
        message.number(ATTR_FLAGS, FLAG_LIST_HEADER);
        let mut header = None;
        let dumped = self.netlink.dump(message, |_, payload| {
            header = header.take().or_else(|| read_header(payload.get(4..).unwrap_or_default()));
        });
        match dumped {
            Ok(()) => Ok(header),
            Err(error) if error.code() == Some(ENOENT) => Ok(None),
            Err(error) => Err(IpsetError::of(name, error)),
        }
    }

    /// Hands every entry of a set to `each`.
    pub fn entries(&mut self, name: &str, mut each: impl FnMut(Held)) -> Result<(), IpsetError> {
        let mut message = message(CMD_LIST, Family::V4, 0);
        message.text(ATTR_SETNAME, name);
        let dumped = self.netlink.dump(message, |_, payload| {
            let data = payload.get(4..).unwrap_or_default();
            let entries = netlink::attribute(data, ATTR_ADT).unwrap_or_default();
            netlink::attributes(entries).filter_map(|(_, entry)| read_entry(entry)).for_each(&mut each);
        });
        dumped.map_err(|error| IpsetError::of(name, error))
    }

    /// What a set holds.
    pub fn observe(&mut self, name: &str) -> Result<Observed, IpsetError> {
        let mut observed = Observed::new();
        self.entries(name, |held| {
            observed.insert(held.network, held.left);
        })?;
        Ok(observed)
    }

    /// The names of all sets of this network namespace.
    pub fn names(&mut self) -> Result<Vec<String>, IpsetError> {
        let mut message = message(CMD_LIST, Family::V4, 0);
        message.number(ATTR_FLAGS, FLAG_LIST_SETNAME);
        let mut names = Vec::new();
        let dumped = self.netlink.dump(message, |_, payload| {
            let name = netlink::attribute(payload.get(4..).unwrap_or_default(), ATTR_SETNAME);
            names.extend(name.and_then(netlink::text).map(str::to_owned));
        });
        dumped.map_err(|error| IpsetError::of("", error))?;
        Ok(names)
    }
}

fn message(command: u16, family: Family, flags: u16) -> Message {
    // nfgenmsg: family, version 0, no resource.
    let mut message = Message::new(SUBSYSTEM | command, flags, &[family_number(family), 0, 0, 0]);
    message.attribute(ATTR_PROTOCOL, &[PROTOCOL]);
    message
}

/// `AF_INET` or `AF_INET6`.
fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

fn type_name(set: Set) -> &'static str {
    if set.is_hosts() { "hash:ip" } else { "hash:net" }
}

/// Buckets for that many entries: half as many, so that filling the set never makes the kernel grow it.
fn hash_size(expected: usize) -> u32 {
    let buckets = expected.div_ceil(2).next_power_of_two();
    u32::try_from(buckets).unwrap_or(u32::MAX).clamp(1 << 10, 1 << 19)
}

fn write_entry(message: &mut Message, (network, timeout): Entry, number: Option<u32>) {
    let data = message.open(ATTR_DATA);
    let ip = message.open(ATTR_IP);
    match network.address() {
        IpAddr::V4(address) => message.network_order(ATTR_IPV4, &address.octets()),
        IpAddr::V6(address) => message.network_order(ATTR_IPV6, &address.octets()),
    }
    message.close(ip);
    // A set of single addresses takes a prefix too, as long as it is the longest.
    message.attribute(ATTR_CIDR, &[network.prefix()]);
    if let Some(timeout) = timeout {
        message.number(ATTR_TIMEOUT, timeout.secs());
    }
    if let Some(number) = number {
        message.number(ATTR_LINENO, number);
    }
    message.close(data);
}

fn read_header(attributes: &[u8]) -> Option<Header> {
    let kind = netlink::text(netlink::attribute(attributes, ATTR_TYPENAME)?)?.to_owned();
    let family = *netlink::attribute(attributes, ATTR_FAMILY)?.first()?;
    let data = netlink::attribute(attributes, ATTR_DATA)?;
    let number = |kind| netlink::attribute(data, kind).and_then(netlink::number);
    Some(Header {
        kind,
        family,
        timeouts: netlink::attribute(data, ATTR_TIMEOUT).is_some(),
        counters: number(ATTR_CADT_FLAGS).is_some_and(|flags| flags & FLAG_COUNTERS != 0),
        capacity: number(ATTR_MAXELEM)?,
        elements: number(ATTR_ELEMENTS)?,
    })
}

fn read_entry(entry: &[u8]) -> Option<Held> {
    let ip = netlink::attribute(entry, ATTR_IP)?;
    let (address, longest) = match netlink::attributes(ip).next()? {
        (ATTR_IPV4, octets) => (IpAddr::from(<[u8; 4]>::try_from(octets).ok()?), 32),
        (ATTR_IPV6, octets) => (IpAddr::from(<[u8; 16]>::try_from(octets).ok()?), 128),
        _ => return None,
    };
    let prefix =
        netlink::attribute(entry, ATTR_CIDR).and_then(|value| value.first().copied()).unwrap_or(longest);
    let left = netlink::attribute(entry, ATTR_TIMEOUT).and_then(netlink::number).filter(|&left| left > 0);
    let counter = |kind| netlink::attribute(entry, kind).and_then(netlink::long_number).unwrap_or_default();
    let matched = Counters { packets: counter(ATTR_PACKETS), bytes: counter(ATTR_BYTES) };
    Some(Held { network: Network::around(address, prefix), left, matched })
}
