//! What a jail says: of every line a [`Verdict`], and of a source that has earned a ban a [`Decision`].

use std::{net::IpAddr, time::Duration};

use jiff::{SignedDuration, Timestamp};

use super::{client_ip::NoClient, escalation::BanTime, record::RecordError};
use crate::net::Source;

/// The most samples that evidence holds.
pub const MAX_SAMPLES: usize = 3;

/// The longest sample or reason, in characters.
pub const MAX_TEXT_CHARS: usize = 256;

/// What one line came to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// No request could be read from it.
    Unparsed(RecordError),
    /// A request of which nobody knows whose it was: not even the peer's, which is a proxy.
    NoClient(NoClient),
    /// A request that is none of those that the policy looks for.
    Miss,
    /// A request that matches, but that the policy exempts.
    Excepted,
    /// A request of an address that is never counted: protected, private (unless the policy bans those) or special.
    Infrastructure(IpAddr),
    /// A hit that is too old to count: older than two windows before the source's newest, or from before its ban was
    /// lifted by hand.
    Stale,
    /// A hit of a source that was banned at the time, and so would not have come.
    Dropped,
    /// A hit.
    Counted,
    /// A hit that was one too many.
    Earned(Decision),
    /// A hit that was one too many, but the ban would also drop a protected network that lies in the same source.
    Shielded(Decision),
}

/// A source has earned a ban.
///
/// A function of the hits alone: two leaders that read the same lines decide the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Decision {
    /// Whom to ban.
    pub source: Source,
    /// Which threshold was met, by hits on what, in at most [`MAX_TEXT_CHARS`]: `2 different patterns: /wp-admin,
    /// /.env`, `3 hits: any path, status 404`, `15 different paths`.
    pub reason: String,
    /// What speaks against the source.
    pub evidence: Evidence,
    /// How long the ban is to last, which depends on how many there were before.
    pub ban_time: BanTime,
}

impl Decision {
    /// How long the ban lasts if it is the source's `offence`-th, counted from 1.
    #[must_use]
    pub fn length(&self, offence: u32) -> Duration {
        self.ban_time.length(self.source, offence)
    }

    /// When the ban ends if it is the source's `offence`-th, counted from 1: its length after the newest hit, rounded
    /// up to a whole second.
    #[must_use]
    pub fn expires_at(&self, offence: u32) -> Timestamp {
        expiry(self.evidence.last_seen, self.length(offence))
    }
}

/// What a policy counts to, each within its window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Threshold {
    /// Hits, `threshold`.
    Hits,
    /// Different patterns, `uniquePatternThreshold`.
    UniquePatterns,
    /// Different paths, `uniquePathThreshold`.
    UniquePaths,
}

/// The hits of one window.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// How many.
    pub hits: u32,
    /// The threshold that they met, the first in the order of [`Threshold`] where they met several at once.
    pub threshold: Threshold,
    /// When the oldest was logged, to the microsecond.
    pub first_seen: Timestamp,
    /// When the newest was logged, to the microsecond.
    pub last_seen: Timestamp,
    /// Up to [`MAX_SAMPLES`] of the requests, oldest first, such as `GET /wp-admin/ 404`.
    ///
    /// Without query strings; control characters, quotes and bytes that are not ASCII are written as `\xHH`.
    pub samples: Vec<String>,
}

/// The end of a ban that starts at `last_seen`, in whole seconds and never early.
fn expiry(last_seen: Timestamp, length: Duration) -> Timestamp {
    let length = SignedDuration::try_from(length).unwrap_or(SignedDuration::MAX);
    let end = last_seen.checked_add(length).unwrap_or(Timestamp::MAX);
    let second =
        if end.subsec_nanosecond() > 0 { end.as_second().saturating_add(1) } else { end.as_second() };
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_ends_on_the_whole_second_and_never_early() {
        #[rustfmt::skip]
        let table = [
            ("2026-11-22T10:00:00Z",        86_400_000, "2026-11-23T10:00:00Z"),
            ("2026-11-22T10:00:00.000001Z", 86_400_000, "2026-11-23T10:00:01Z"),
            ("2026-11-22T10:00:00.9Z",      60_100,     "2026-11-22T10:01:01Z"),
            ("9999-12-30T22:00:00Z",        u64::MAX,   "9999-12-30T22:00:00Z"),
        ];
        for (last_seen, millis, expect) in table {
            let end = expiry(last_seen.parse().unwrap(), Duration::from_millis(millis));
            assert_eq!(
                end.as_second(),
                expect.parse::<Timestamp>().unwrap().as_second(),
                "last seen {last_seen}"
            );
        }
    }
}
