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
    let path = plain.strip_suffix(query).expect("the query is kept as it was");
    // A path that holds an encoded `?` or `#` is another one when it is read again, as for every server.
    if !path.contains(&b'?') && !path.contains(&b'#') {
        let again = normaliser.normalise(path);
        assert_eq!(again.escape_ascii().to_string(), path.escape_ascii().to_string());
    }
});
