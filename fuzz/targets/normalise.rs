//! Targets of requests: the plain form of a plain form is itself, and no spelling grows.
#![no_main]

use ip_sentry_core::detect::target::{MAX_TARGET_BYTES, Normaliser, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut normaliser = Normaliser::default();
    let plain = normaliser.normalise(data).to_vec();
    assert!(plain.len() <= data.len().min(MAX_TARGET_BYTES) + 1, "{} grew", data.escape_ascii());
    assert!(plain.starts_with(b"/"), "{} became {}", data.escape_ascii(), plain.escape_ascii());

    let (_, query) = split(&data[..data.len().min(MAX_TARGET_BYTES)]);
    // A slash that was put in front may have pushed the last byte over the limit.
    assert!(plain.ends_with(query) || plain.len() == MAX_TARGET_BYTES, "the query is kept as it was");
    let again = normaliser.normalise(&plain);
    assert_eq!(again.escape_ascii().to_string(), plain.escape_ascii().to_string());
});
