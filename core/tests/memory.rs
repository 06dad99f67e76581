//! What a jail takes of the machine's memory, as the machine sees it, while a million addresses probe once each.
//!
//! One test alone in its process, so that all that the process grows by is the jail's.

#![expect(clippy::unwrap_used, reason = "what a test sets up must be there, or the test fails")]

use std::{io::Write, net::Ipv4Addr};

use ip_sentry_core::{
    detect::{
        decision::Verdict,
        jail::{Jail, Limits},
        policy::{Policy, PolicyDraft},
    },
    networks::Networks,
};
use jiff::Timestamp;

const SOURCES: u32 = 1_000_000;

/// What the kernel says that the process holds, in bytes; `None` where it doesn't say so.
#[expect(clippy::disallowed_methods, reason = "only the kernel knows, and tests may ask it")]
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}

/// One hit of each of a million addresses; the most that was resident at any time.
fn spray(jail: &mut Jail) -> Option<usize> {
    let none = Networks::default();
    let at = Some(Timestamp::UNIX_EPOCH);
    let (mut line, mut most) = (Vec::new(), resident()?);
    for number in 0..SOURCES {
        let client = Ipv4Addr::from_bits(0x0b00_0000 + number * 7);
        line.clear();
        write!(line, r#"{client} - - [-] "GET /.env HTTP/1.1" 404 1"#).unwrap();
        assert_eq!(jail.observe(at, &line, &none), Verdict::Counted);
        if number % 4096 == 0 {
            most = most.max(resident()?);
        }
    }
    Some(most.max(resident()?))
}

#[test]
fn a_million_sources_take_128_bytes_each_or_what_the_limit_allows() {
    let policy = Policy::compile(&PolicyDraft::default()).unwrap();
    let jail = |source_bytes| Jail::new(policy.clone(), Limits { source_bytes, ..Limits::default() });
    // What is given back meanwhile may be taken again: all is held against what there was at first.
    let Some(before) = resident() else { return };
    // The samples of the last hits, and what the test itself takes.
    let other = 2 << 20;

    let limit = 16 << 20;
    let mut limited = jail(limit);
    let taken = spray(&mut limited).unwrap() - before;
    assert!(taken <= limit + other, "{taken} bytes, {limit} allowed");
    assert!(limited.tracked_bytes() <= limit);
    assert!(limited.tracked() > 150_000);
    assert_eq!(limited.counters().evicted, u64::from(SOURCES) - limited.tracked() as u64);
    drop(limited);

    let mut unlimited = jail(usize::MAX);
    let taken = spray(&mut unlimited).unwrap() - before;
    assert_eq!((unlimited.tracked(), unlimited.counters().evicted), (SOURCES as usize, 0));
    assert!(taken <= 128 * SOURCES as usize, "{taken} bytes");
}
