//! When a candidate may reach for the lease: decided from what was read and the monotonic time alone.
//!
//! In come the lease as read, with the time its reply was there, and the outcome of an attempt; out goes what to
//! do. No I/O, no clock.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::LeaseSpec;

use super::lock::Attempt;
use super::{Timing, holder_of};

/// The longest duration that a foreign lease is believed: a mistyped one must not stop the failover for a day.
const MAX_FOREIGN_TTL: Duration = Duration::from_mins(1);

/// What to do about a lease that was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It is ours, free, or has stood still for its whole duration: acquire or renew it.
    Try,
    /// Another holds it. If nothing changes until then, it will have expired.
    Wait {
        /// When it will have expired.
        until: Instant,
    },
}

/// What an attempt has come to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Standing {
    /// The lease is ours.
    Leading,
    /// It is somebody else's.
    Standby,
}

/// Remembers since when the lease has looked as it does.
#[derive(Debug)]
pub(super) struct Guard {
    me: String,
    timing: Timing,
    seen: Option<Seen>,
}

#[derive(Debug)]
struct Seen {
    spec: Option<LeaseSpec>,
    since: Instant,
    /// Held by another, or was so when the object vanished: its holder may not have noticed yet.
    foreign: bool,
}

impl Guard {
    /// A guard for the candidate `me`, that has seen nothing yet.
    pub(super) fn new(me: &str, timing: Timing) -> Self {
        Self { me: me.into(), timing, seen: None }
    }

    /// Takes in the lease as read, `None` when there is no such object. `received` is when the reply was there.
    pub(super) fn observe(&mut self, spec: Option<LeaseSpec>, received: Instant) -> Verdict {
        let was_foreign = self.seen.as_ref().is_some_and(|seen| seen.foreign);
        let foreign = match &spec {
            Some(spec) => holder_of(Some(spec)).is_some_and(|holder| holder != self.me),
            None => was_foreign,
        };
        let since = match &self.seen {
            Some(seen) if seen.spec == spec => seen.since,
            _ => received,
        };
        let ttl = self.ttl(spec.as_ref());
        self.seen = Some(Seen { spec, since, foreign });
        if !foreign || received.saturating_duration_since(since) >= ttl {
            return Verdict::Try;
        }
        Verdict::Wait { until: since + ttl }
    }

    /// What an attempt has come to. A reply that names another holder is a defeat, whatever its status says.
    pub(super) fn judge(&self, attempt: &Attempt) -> Standing {
        match attempt {
            Attempt::Acquired { holder } if *holder == self.me => Standing::Leading,
            _ => Standing::Standby,
        }
    }

    /// How long the lease must stand still: as long as its holder says, but never less than we would.
    fn ttl(&self, spec: Option<&LeaseSpec>) -> Duration {
        let declared = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        let declared = Duration::from_secs(u64::try_from(declared).unwrap_or(0));
        declared.min(MAX_FOREIGN_TTL).max(self.timing.ttl)
    }
}

#[cfg(test)]
mod tests;
