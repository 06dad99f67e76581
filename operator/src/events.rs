//! Events on policies: what `kubectl describe probepolicy` shows.
//!
//! A policy may say a few things at once and one every few seconds; what is more is summed up in one event
//! that counts, and counted in a metric. So a flood of bans never becomes a flood of events.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use ip_sentry_crd::{IPBan, ProbePolicy};

use crate::metrics::Metrics;

/// Who an event is about.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PolicyKey {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum What {
    /// A source was banned.
    IPBanned,
    /// In mode Shadow a source would have been banned.
    WouldBan,
    /// A ban ran out.
    BanExpired,
    /// Somebody lifted a ban before its time.
    BanLifted,
    /// A source earned a ban and is protected.
    BanSkippedProtected,
    /// The API server refused a ban.
    BanRefused,
}

impl What {
    const fn reason(self) -> &'static str {
        match self {
            Self::IPBanned => "IPBanned",
            Self::WouldBan => "WouldBan",
            Self::BanExpired => "BanExpired",
            Self::BanLifted => "BanLifted",
            Self::BanSkippedProtected => "BanSkippedProtected",
            Self::BanRefused => "BanRefused",
        }
    }

    const fn is_warning(self) -> bool {
        matches!(self, Self::BanSkippedProtected | Self::BanRefused)
    }
}

/// Events that a policy may send at once.
const BURST: f64 = 10.0;
/// How long it takes to earn another.
const REFILL: Duration = Duration::from_secs(5);
/// The most policies that are kept apart; their buckets are small, but names come from outside.
const MOST_POLICIES: usize = 1_000;

/// A budget of events.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
    summed_up: Option<Instant>,
}

/// What to do with one more event.
#[derive(Debug, Eq, PartialEq)]
enum Share {
    Tell,
    SumUp,
    Drop,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> Share {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() / REFILL.as_secs_f64();
        self.tokens = (self.tokens + earned).min(BURST);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Share::Tell;
        }
        let due = self.summed_up.is_none_or(|last| now.saturating_duration_since(last) >= REFILL);
        if due {
            self.summed_up = Some(now);
            Share::SumUp
        } else {
            Share::Drop
        }
    }
}

/// Sends events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
    buckets: Arc<Mutex<HashMap<PolicyKey, Bucket>>>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// `client` lets writes through only while this replica leads; `instance` is this pod's name.
    #[must_use]
    pub fn new(client: Client, instance: &str, metrics: Arc<Metrics>) -> Self {
        let reporter =
            Reporter { controller: "ipsentry.dev/operator".into(), instance: Some(instance.into()) };
        Self { recorder: Recorder::new(client, reporter), buckets: Arc::default(), metrics }
    }

    /// Says on `policy` what happened to the ban of that name. Sent in the background; a lost one is counted.
    pub fn tell(&self, policy: &PolicyKey, uid: Option<String>, what: What, ban: Option<&str>, note: String) {
        let share = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            if buckets.len() >= MOST_POLICIES {
                buckets.clear();
            }
            let now = Instant::now();
            let fresh = || Bucket { tokens: BURST, at: now, summed_up: None };
            buckets.entry(policy.clone()).or_insert_with(fresh).take(now)
        };
        let (note, ban) = match share {
            Share::Tell => (note, ban),
            Share::SumUp => {
                let hint = format!(
                    "more of the same: kubectl get ipbans --field-selector spec.policyRef.name={}",
                    policy.name
                );
                (hint, None)
            }
            Share::Drop => {
                self.metrics.events_suppressed.inc();
                return;
            }
        };
        let event = Event {
            type_: if what.is_warning() { EventType::Warning } else { EventType::Normal },
            reason: what.reason().to_owned(),
            note: Some(note),
            action: what.reason().to_owned(),
            secondary: ban.map(|name| ObjectReference {
                api_version: Some(IPBan::api_version(&()).into_owned()),
                kind: Some("IPBan".into()),
                name: Some(name.to_owned()),
                ..ObjectReference::default()
            }),
        };
        let regarding = ObjectReference {
            api_version: Some(ProbePolicy::api_version(&()).into_owned()),
            kind: Some("ProbePolicy".into()),
            name: Some(policy.name.clone()),
            namespace: Some(policy.namespace.clone()),
            uid,
            ..ObjectReference::default()
        };
        let (recorder, metrics) = (self.recorder.clone(), self.metrics.clone());
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &regarding).await {
                Metrics::count(&metrics.write_errors, "Event");
                tracing::debug!(%error, reason = event.reason, "an event was not stored");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_ten_times_then_summed_up_now_and_then() {
        let start = Instant::now();
        let mut bucket = Bucket { tokens: BURST, at: start, summed_up: None };
        let flood: Vec<Share> = (0..100).map(|_| bucket.take(start)).collect();
        assert_eq!(flood.iter().filter(|share| **share == Share::Tell).count(), 10);
        assert_eq!(flood.iter().filter(|share| **share == Share::SumUp).count(), 1);
        assert_eq!(bucket.take(start + REFILL), Share::Tell);
        assert_eq!(bucket.take(start + REFILL), Share::SumUp);
        assert_eq!(bucket.take(start + REFILL), Share::Drop);
    }
}
