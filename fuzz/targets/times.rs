//! Dates of log lines and durations of policies: refused, or what they say.
#![no_main]

use std::time::Duration;

use ip_sentry_core::{
    detect::date::{self, Dates},
    duration::GatewayDuration,
};
use jiff::Zoned;
use libfuzzer_sys::fuzz_target;

const LONGEST_SHOWN: Duration = Duration::from_hours(100_000);

fuzz_target!(|data: &[u8]| {
    let at = date::timestamp(data);
    let mut dates = Dates::default();
    for _ in 0..2 {
        assert_eq!(dates.timestamp(data), at, "{}", data.escape_ascii());
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(at) = at
        && text.contains('/')
        && text.len() == 26
        && !text.contains(":60 ")
    {
        let known = Zoned::strptime("%d/%b/%Y:%H:%M:%S %z", text).expect("jiff reads it too");
        assert_eq!(at, known.timestamp(), "{text}");
    }
    if let Ok(duration) = text.parse::<GatewayDuration>() {
        let shown = duration.to_string();
        // More hours than five digits hold are shown all the same; no policy may be so long.
        if duration.get() >= LONGEST_SHOWN {
            return;
        }
        assert_eq!(shown.parse(), Ok(duration), "{text} shown as {shown}");
    }
});
