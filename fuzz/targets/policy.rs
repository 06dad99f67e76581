//! A policy as a person writes it: YAML to a ProbePolicy to something that runs, or an error that can be read.
#![no_main]

use ip_sentry_core::{
    detect::jail::{Jail, Limits},
    networks::Networks,
};
use ip_sentry_crd::{ProbePolicy, convert};
use libfuzzer_sys::fuzz_target;

const LINE: &[u8] =
    br#"203.0.113.7 - - [20/Mar/2026:10:00:00 +0000] "GET /.env HTTP/1.1" 404 612 "-" "curl/8""#;

fuzz_target!(|data: &[u8]| {
    let policy: ProbePolicy = match serde_yaml_ng::from_slice(data) {
        Ok(policy) => policy,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    match convert::policy(&policy.spec) {
        Ok(policy) => drop(Jail::new(policy, Limits::default()).observe(None, LINE, &Networks::default())),
        Err(error) => assert!(error.to_string().starts_with("spec."), "{error}"),
    }
});
