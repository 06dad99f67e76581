//! What everything that grows with what others send takes of the machine's memory when all of it is full.
//!
//! One test alone in its process, so that all that the process grows by is what the test puts in.

#![expect(clippy::unwrap_used, reason = "what a test sets up must be there, or the test fails")]

use std::{io::Write as _, net::Ipv4Addr, sync::Arc, time::Duration};

use ip_sentry_core::{
    detect::{
        decision::{Decision, Evidence, MAX_SAMPLES, MAX_TEXT_CHARS, Threshold},
        escalation::{BanTime, REMEMBERED_ENDS},
        trail::Trail,
    },
    net::Source,
    networks::Networks,
};
use ip_sentry_crd::{IPBan, ProbePolicy, offence_history::Offences};
use ip_sentry_operator::{
    ban_queue::{MOST_BANS, MOST_WAITING},
    bans::{Ban, Bans},
    history::{History, SHARD_CAPACITY, SHARDS},
    memory::Budget,
    policies::{Policies, PolicyJail},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

const POLICIES: usize = 200;
/// What is left to the program, its threads and connections and the watched objects of the cluster, which are not here.
/// An idle operator takes 14 MiB (benches/RESULTS.md).
const AT_REST: usize = 32 << 20;

/// What the kernel says that the process holds, in bytes; `None` where it doesn't say so.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<usize>().ok()? * 1024)
}

/// What the manifest lets a replica take, in bytes.
fn limit() -> u64 {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kustomize/base/operator.yaml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    let mib =
        manifest.lines().find_map(|line| line.trim().strip_prefix("limits: {memory: ")?.strip_suffix("Mi}"));
    mib.unwrap().parse::<u64>().unwrap() << 20
}

fn policy(number: usize) -> ProbePolicy {
    serde_json::from_value(json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
        "metadata": {
            "name": format!("p{number}"), "namespace": format!("team-{}", number % 20), "uid": number.to_string(),
            "generation": 1,
        },
        // Half of them look for more than others.
        "spec": if number.is_multiple_of(2) { json!({"podSelector": {}}) } else {
            let patterns: Vec<String> = (0..10).map(|pattern| format!(r"shell{pattern}\.php$")).collect();
            json!({"podSelector": {}, "match": {"catalogues": ["Default"], "patterns": patterns}})
        },
    }))
    .unwrap()
}

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0b00_0000 + number * 3)
}

/// Hits of new sources, of one or two requests each, until the table has had to evict some.
fn fill(jail: &PolicyJail, next: &mut u32) {
    let before = jail.jail().counters().evicted;
    let mut line = Vec::new();
    let path = "a".repeat(200);
    while jail.jail().counters().evicted < before + 100 {
        *next += 1;
        line.clear();
        let client = address(*next);
        write!(line, r#"{client} - - [-] "GET /wp-admin/{path} HTTP/1.1" 404 1"#).unwrap();
        for _ in 0..=(*next % 2) {
            assert!(
                jail.observe(&mut Trail::stamped(), Timestamp::UNIX_EPOCH, &line, &Networks::default())
                    .is_none()
            );
        }
    }
}

/// More sources than are remembered, each with as long a past as is.
fn history() -> History {
    let mut history = History::default();
    let end = |number| Time(Timestamp::UNIX_EPOCH + Duration::from_secs(number));
    let ends: Vec<Time> = (0..).map(end).take(REMEMBERED_ENDS).collect();
    for number in 0..u32::try_from(SHARDS * SHARD_CAPACITY).unwrap() * 9 / 8 {
        let cidr = format!("{}/32", address(number));
        assert_eq!(history.read(&[Offences { cidr, ends: ends.clone(), lifted_at: None }]), 0);
    }
    history
}

/// As many bans as may be enforced.
fn bans() -> Bans {
    let mut bans = Bans::default();
    for number in (0..).take(MOST_BANS) {
        let source = Source::of(address(number).into(), 64).unwrap();
        let object: IPBan = serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "IPBan",
            "metadata": {
                "name": source.ban_name(), "uid": "4f1c7c2e-8a52-4b37-9b0e-0f6f3a1d5b11", "resourceVersion": "123456789",
                "creationTimestamp": "2026-11-22T10:00:00Z", "finalizers": ["ipsentry.dev/ttl"],
            },
            "spec": {
                "cidr": source.to_string(), "origin": "Detected", "expiresAt": "2026-11-22T10:00:00Z", "reason": "r",
                "policyRef": {"namespace": "team-1", "name": "p1"}, "offence": 1,
                "evidence": {"hits": 3, "firstSeen": "2026-11-22T10:00:00Z", "lastSeen": "2026-11-22T10:00:00Z"},
            },
        }))
        .unwrap();
        bans.applied(Ban::read(&object).unwrap());
    }
    bans
}

/// As many decisions as may wait, each with the longest words that a client can put into it.
fn waiting() -> Vec<Decision> {
    let decision = |number: u32| Decision {
        source: Source::of(address(number).into(), 64).unwrap(),
        reason: "r".repeat(MAX_TEXT_CHARS),
        evidence: Evidence {
            hits: 3,
            threshold: Threshold::Hits,
            first_seen: Timestamp::UNIX_EPOCH,
            last_seen: Timestamp::UNIX_EPOCH,
            samples: vec!["s".repeat(MAX_TEXT_CHARS); MAX_SAMPLES],
        },
        ban_time: BanTime { first: Duration::from_hours(24), escalation: None },
    };
    (0..).take(MOST_WAITING).map(decision).collect()
}

#[test]
fn two_hundred_policies_with_full_tables_stay_within_the_manifests_limit() {
    let limit = limit();
    let budget = Budget::of(limit);
    let Some(before) = resident() else { return };
    let taken = |what: &str| {
        let taken = resident().unwrap().saturating_sub(before);
        println!("{what:<12} {:>4} MiB", taken >> 20);
        taken
    };

    let objects: Vec<ProbePolicy> = (0..POLICIES).map(policy).collect();
    let mut policies = Policies::default();
    policies.update(&objects.iter().collect::<Vec<_>>(), budget.patterns, &[], Timestamp::UNIX_EPOCH);
    let jails: Vec<Arc<PolicyJail>> = policies.iter().filter_map(|(_, entry)| entry.jail.clone()).collect();
    assert_eq!(jails.len(), POLICIES, "all of them count");
    policies.share(budget.tables);
    taken("policies");

    // Some come under attack, one after the other, and then all at once.
    let mut next = 0;
    for jail in jails.iter().step_by(10) {
        fill(jail, &mut next);
        policies.share(budget.tables);
    }
    for jail in &jails {
        fill(jail, &mut next);
    }
    let sources: usize = jails.iter().map(|jail| jail.jail().tracked()).sum();
    assert!(sources > budget.tables / 150, "{sources} sources");
    taken("tables");

    // All policies share one table of these.
    for number in 0..1 << 16 {
        jails[0].jail().forgive(Source::of(address(number).into(), 64).unwrap(), Timestamp::UNIX_EPOCH);
    }
    taken("liftings");

    let history = history();
    taken("history");
    let bans = bans();
    taken("bans");
    let waiting = waiting();
    let taken = taken("waiting");
    assert_eq!((waiting.len(), bans.len(), history.forgotten() > 0), (MOST_WAITING, MOST_BANS, true));

    let streams = budget.streams * (192 << 10);
    let all = AT_REST + streams + taken;
    assert!(all as u64 <= limit, "{all} bytes of {limit}, {taken} measured here");
}
