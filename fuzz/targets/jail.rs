//! A log, line by line, through a whole policy: nothing panics, memory stays within its limit, and nobody is banned whose
//! address no line begins with.
#![no_main]

use std::sync::LazyLock;

use ip_sentry_core::{
    detect::{
        decision::Verdict,
        jail::{Jail, Limits},
        policy::{Policy, PolicyDraft},
    },
    networks::Networks,
};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits = Limits { source_bytes: 1_000, samples: 16, forgiven: 4 };

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    Policy::compile(&PolicyDraft { threshold: 2, ..PolicyDraft::default() })
        .expect("the default policy compiles")
});

fuzz_target!(|data: &[u8]| {
    let protected: Networks = ["198.51.100.0/24".parse().unwrap()].into_iter().collect();
    let mut jail = Jail::new(POLICY.clone(), LIMITS);
    let mut lines = 0;
    for line in data.split(|&byte| byte == b'\n') {
        lines += 1;
        if let Verdict::Earned(decision) = jail.observe(None, line, &protected) {
            let source = decision.source.network();
            assert!(!protected.overlaps(&source), "{source} is protected");
            let client = line.split(|&byte| byte == b' ').next().unwrap_or_default();
            let client =
                ip_sentry_core::detect::record::client(client).expect("the line begins with the client");
            assert!(source.contains(client), "{source} for {}", line.escape_ascii());
            jail.forgive(decision.source, decision.evidence.first_seen);
        }
        assert!(jail.tracked_bytes() <= LIMITS.source_bytes);
    }
    assert_eq!(jail.counters().lines, lines);
    let _ = jail.unparsed_sample();
});
