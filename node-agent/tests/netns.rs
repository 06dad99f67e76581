//! The agent against the real kernel: sets, rules and packets in network namespaces of its own.
//!
//! Each test runs in a process with its own network and mount namespace, so tests share nothing, not even the
//! xtables lock, and leave nothing behind. Needs root, iproute2 and iptables.

#![expect(unreachable_pub, reason = "the modules of a test are nobody else's")]
#![expect(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not what they share")]

#[path = "netns/lab.rs"]
mod lab;

#[path = "netns/peers.rs"]
mod peers;

#[path = "netns/packets.rs"]
mod packets;

#[path = "netns/directions.rs"]
mod directions;

#[path = "netns/pickups.rs"]
mod pickups;

#[path = "netns/paths.rs"]
mod paths;

#[path = "netns/exceptions.rs"]
mod exceptions;

#[path = "netns/drift.rs"]
mod drift;

#[path = "netns/limits.rs"]
mod limits;

#[path = "netns/lock.rs"]
mod lock;
