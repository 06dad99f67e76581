//! The pause after a refusal that every other write would meet as well.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::refusal::Cause;

/// How long the first pause lasts; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(250);
/// The longest pause: an attempt now and then is no load, and a pause outlives its cause by as much.
const LONGEST: Duration = Duration::from_secs(3);

/// The time until try number `tries`, counted from 0.
pub(super) fn backoff(tries: u32, longest: Duration) -> Duration {
    FIRST.saturating_mul(1 << tries.min(16)).min(longest)
}

/// Nothing is written until a time; then one decision is, to see whether the cause has gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hold {
    pub(super) cause: Cause,
    pub(super) message: String,
    pub(super) since: Timestamp,
    pub(super) until: Instant,
    tries: u32,
}

impl Hold {
    /// A write was refused at `now`, with `before` in force. Writes that were under way when it began say nothing new.
    pub(super) fn after(before: Option<Self>, cause: Cause, message: String, now: super::Now) -> Self {
        match before {
            Some(before) if now.instant < before.until => Self { cause, message, ..before },
            before => {
                let tries = before.as_ref().map_or(0, |before| before.tries + 1);
                let since = before.map_or(now.time, |before| before.since);
                Self { cause, message, since, until: now.instant + backoff(tries, LONGEST), tries }
            }
        }
    }
}
