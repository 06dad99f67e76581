//! Who of the replicas writes.
//!
//! Owns the Lease and nothing else: in come the replies of the API server and the time, out goes one fact,
//! [`Leadership`], that every write is checked against.
//!
//! The election is `kube-leader-election`'s, made safe where it is not (each of these let two candidates of
//! version 0.44 lead at once on a real API server):
//!
//! * its writes carry the resource version that was read, so that of two candidates one is refused (`lock`);
//! * a lease counts as expired when this process has watched it stand still for its whole duration, on the
//!   monotonic clock: no two machines' clocks are compared (`guard`);
//! * a term is counted from before the request that won it, and ends by itself (`gate`), down to the connection
//!   that a write is sent on (`wire`);
//! * a thread of its own ends it on time, and aborts the process rather than let a write go out late (`watchdog`).
//!
//! A leader stops at the latest [`Timing::deadline`] after its last renewal began, and nobody else starts before
//! [`Timing::ttl`] after it was stored; the time between them is the slack for clocks that run at different speeds.
//! Two cases are outside of that: somebody who deletes or empties a Lease by hand may let a second replica start
//! while the first has not looked yet, for one [`Timing::retry`] at most. What the operator writes is safe to be
//! written by two.

mod gate;
mod guard;
mod lock;
mod watchdog;
mod wire;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{Api, Client};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

pub use gate::{Deposed, Leadership, LeaseStatus, Permit, WriteError};
pub use wire::GatedStream;

use crate::backoff::jittered;
use guard::{Guard, Standing, Verdict};
use lock::{Attempt, Lock};
use watchdog::Watchdog;

/// The clockwork of an election.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a lease is valid after a renewal that others saw. Whole seconds, at least one.
    pub ttl: Duration,
    /// How long after the start of its last renewal a leader may write. Well below `ttl`.
    pub deadline: Duration,
    /// How often a replica looks, ±20 %.
    pub retry: Duration,
    /// How long one request may take.
    pub request: Duration,
}

impl Default for Timing {
    /// A failover takes at most 15 s after a crash and 4 s after a clean stop.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            deadline: Duration::from_secs(6),
            retry: Duration::from_secs(2),
            request: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// How long after the deadline a write may still hang before the process is aborted: half the way to the
    /// moment when another replica may start.
    fn grace(&self) -> Duration {
        self.ttl.saturating_sub(self.deadline) / 2
    }
}

/// A replica's name in the Lease: `<pod name>_<pod uid>`, at most 128 characters as a field manager may have.
///
/// It stays the same when the container restarts, so that a crashed leader resumes at once, and differs between
/// pods, whatever their names. A pod name that is too long loses its front.
#[must_use]
pub fn holder_id(pod_name: &str, pod_uid: &str) -> String {
    const MAX_CHARS: usize = 128;
    let full = format!("{pod_name}_{pod_uid}");
    let surplus = full.chars().count().saturating_sub(MAX_CHARS);
    full.chars().skip(surplus).collect()
}

/// A point in time on both clocks.
///
/// The monotonic clock stands still while a virtual machine is suspended, the wall clock may be set; what lies
/// between two of these is the longer of the two spans.
#[derive(Clone, Copy, Debug)]
struct Moment {
    instant: Instant,
    wall: Timestamp,
}

impl Moment {
    fn now() -> Self {
        Self { instant: Instant::now(), wall: Timestamp::now() }
    }
}

/// One replica's candidacy.
pub struct Election {
    leases: Api<Lease>,
    name: String,
    holder: String,
    timing: Timing,
    guard: Guard,
    lock: Lock,
    leadership: Leadership,
}

impl Election {
    /// A candidate for the Lease `namespace/name`; `holder` is its [`holder_id`].
    ///
    /// `client` is [`crate::client::connect_lease`]'s, which sends nothing twice.
    /// The Lease is made when it is missing, and needs get, create and patch.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, holder: &str, timing: Timing) -> Self {
        Self {
            leases: Api::namespaced(client.clone(), namespace),
            name: name.into(),
            holder: holder.into(),
            timing,
            guard: Guard::new(holder, timing),
            lock: Lock::new(client, namespace, name, holder, timing.ttl),
            leadership: Leadership::new(timing.deadline),
        }
    }

    /// What the rest of the operator asks before it writes.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Stands for election until `shutdown`, then lets writes in flight finish and releases the lease.
    ///
    /// Cancel `shutdown` once the last write worth making has been made: from then on none is let through.
    /// The only error is that the watchdog's thread could not be started.
    pub async fn run(mut self, shutdown: CancellationToken) -> std::io::Result<()> {
        let _watchdog = Watchdog::start(&self.leadership, self.timing.grace(), watchdog::abort)?;
        let mut was_leading = false;
        loop {
            let pause = tokio::select! {
                pause = self.round() => pause,
                () = shutdown.cancelled() => break,
            };
            let is_leading = self.leadership.is_leading();
            if is_leading != was_leading {
                info!(holder = self.holder, lease = self.name, is_leading, "leadership changed");
                was_leading = is_leading;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
        }
        self.leadership.close();
        self.leadership.drained(self.timing.deadline).await;
        self.leadership.lose();
        self.release().await;
        Ok(())
    }

    /// Looks at the lease and acquires or renews it if it may. Returns how long to wait before the next look.
    async fn round(&mut self) -> Duration {
        let asked = Moment::now();
        let lease = match timeout(self.timing.request, self.leases.get_opt(&self.name)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(error)) => return self.failed("read", &error),
            Err(error) => return self.failed("read", &error),
        };
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        self.leadership.saw(spec);
        // From after the reply: what was read may have been stored at any moment until then.
        match self.guard.observe(lease.is_some().then(|| spec.cloned().unwrap_or_default()), Instant::now()) {
            Verdict::Wait { until } => {
                self.leadership.lose();
                until.saturating_duration_since(Instant::now()).min(jittered(self.timing.retry))
            }
            Verdict::Try => self.try_for(lease, asked).await,
        }
    }

    async fn try_for(&mut self, lease: Option<Lease>, asked: Moment) -> Duration {
        let attempt = match timeout(self.timing.request, self.lock.try_acquire(lease)).await {
            Ok(Attempt::Unknown(error)) => return self.failed("write", &*error),
            Ok(attempt) => attempt,
            Err(error) => return self.failed("write", &error),
        };
        match self.guard.judge(&attempt) {
            Standing::Leading => self.leadership.lead(asked),
            Standing::Standby => self.leadership.lose(),
        }
        jittered(self.timing.retry)
    }

    /// Trouble says nothing about who leads: the term goes on until its deadline.
    fn failed(&self, what: &'static str, error: &dyn std::error::Error) -> Duration {
        warn!(lease = self.name, what, error = describe(error), "lease request failed");
        jittered(self.timing.retry)
    }

    /// Empties the lease if it is ours, so that a successor need not wait for it to expire.
    async fn release(&self) {
        // A renewal that was cut off by the shutdown may still arrive and change the version: then once more.
        for _ in 0..3 {
            match timeout(self.timing.request, self.try_release()).await {
                Ok(Attempt::Acquired { .. }) => return info!(lease = self.name, "lease released"),
                Ok(Attempt::Refused) => debug!(lease = self.name, "lease is not ours, or has just changed"),
                Ok(Attempt::Unknown(error)) => _ = self.failed("release", &*error),
                Err(error) => _ = self.failed("release", &error),
            }
        }
    }

    async fn try_release(&self) -> Attempt {
        match self.leases.get_opt(&self.name).await {
            Ok(Some(lease)) if holder_of(lease.spec.as_ref()) == Some(&self.holder) => {
                self.lock.release(lease).await
            }
            Ok(_) => Attempt::Refused,
            Err(error) => Attempt::Unknown(error.into()),
        }
    }
}

/// Who holds the lease, if anybody does: a released one has an empty holder.
fn holder_of(spec: Option<&LeaseSpec>) -> Option<&str> {
    spec?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// An error with its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries put the cause into their own text.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_id_fits_a_field_manager_and_keeps_the_uid() {
        let uid = "0c1f8a4e-6d1b-4b8e-9a55-1f1f1f1f1f1f";
        assert_eq!(
            holder_id("ip-sentry-operator-5d8f9c-abcde", uid),
            format!("ip-sentry-operator-5d8f9c-abcde_{uid}")
        );
        let long = holder_id(&"p".repeat(253), uid);
        assert_eq!(long.len(), 128);
        assert!(long.ends_with(uid));
    }
}
