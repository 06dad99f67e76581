//! How long the kernel takes to put a ban into a set and to take it out: one message each, from call to
//! confirmation, into sets of several sizes, and a cold load in bulk.
//!
//! `unshare --net cargo bench --bench netlink_add`, as root: the sets are made in a network namespace of its own.
//! Prints one line a figure; `netlink_add_p50_ns` and `netlink_add_p99_ns` are those of the largest set.

use std::{net::Ipv4Addr, time::Instant};

use ip_sentry_core::{
    enforce::{desired::Timeout, plan::Entry, sets::Set, view::Until},
    net::Network,
};
use ip_sentry_node_agent::kernel::ipset::{Ipset, IpsetError};
use jiff::{SignedDuration, Timestamp};

/// Entries in the set while single changes are measured.
const SIZES: [u32; 3] = [0, 10_000, 100_000];
/// Changes that are measured for each size.
const CHANGES: u32 = 5_000;
/// A name that no agent uses.
const NAME: &str = "ipsentry-bench";

fn entry(number: u32) -> Entry {
    // Spread over all of 16.0.0.0/4, each number once.
    let bits = 0x1000_0000 | number.wrapping_mul(0x9e37_79b1) & 0x0fff_ffff;
    let until = Until::at(Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24));
    (Network::host(Ipv4Addr::from_bits(bits).into()), Timeout::between(Timestamp::UNIX_EPOCH, until))
}

fn main() -> Result<(), IpsetError> {
    let mut ipset = Ipset::open()?;
    for size in SIZES {
        ipset.destroy(NAME)?;
        ipset.create(NAME, Set::Hosts4, 1_048_576, (size + CHANGES) as usize)?;
        let entries: Vec<Entry> = (0..size).map(entry).collect();
        let started = Instant::now();
        ipset.load(NAME, &entries)?;
        if size > 0 {
            println!("netlink_load_{size}_us {}", started.elapsed().as_micros());
            let started = Instant::now();
            let held = ipset.observe(NAME)?.len();
            println!("netlink_dump_{held}_us {}", started.elapsed().as_micros());
        }
        let fresh: Vec<Entry> = (size..size + CHANGES).map(entry).collect();
        let add = times(&fresh, |entry| ipset.add(NAME, entry).map(drop))?;
        let remove = times(&fresh, |entry| ipset.remove(NAME, entry.0))?;
        for (what, times) in [("add", &add), ("remove", &remove)] {
            println!(
                "netlink_{what}_at_{size}_ns p50 {} p99 {} max {}",
                at(times, 50),
                at(times, 99),
                at(times, 100)
            );
        }
        if size == SIZES[SIZES.len() - 1] {
            println!("netlink_add_p50_ns {}\nnetlink_add_p99_ns {}", at(&add, 50), at(&add, 99));
        }
    }
    ipset.destroy(NAME)
}

/// Sorted times, in nanoseconds.
fn times(
    entries: &[Entry],
    mut change: impl FnMut(Entry) -> Result<(), IpsetError>,
) -> Result<Vec<u128>, IpsetError> {
    let mut times = Vec::with_capacity(entries.len());
    for &entry in entries {
        let started = Instant::now();
        change(entry)?;
        times.push(started.elapsed().as_nanos());
    }
    times.sort_unstable();
    Ok(times)
}

fn at(times: &[u128], percent: usize) -> u128 {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}
