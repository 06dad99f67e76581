//! Events on policies, bans and protected networks: what `kubectl describe` shows.
//!
//! A policy may say a few things at once and one every few seconds; what is more is summed up in one event
//! that counts, and counted in a metric. So a flood of bans never becomes a flood of events.
//! What is said again word for word within a few minutes becomes a series of one event.

mod series;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ip_sentry_crd::{IPBan, PROTECTED_NETWORKS, ProbePolicy, ProtectedNetworks, ip_ban::PolicyRef};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Client, Resource as _};

use self::series::{Message, Recorder};
use crate::{budget::Budget, metrics::Metrics};

/// Who an event is about.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PolicyKey {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
}

impl From<&PolicyRef> for PolicyKey {
    fn from(policy: &PolicyRef) -> Self {
        Self { namespace: policy.namespace.clone(), name: policy.name.clone() }
    }
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
    /// A ban gave way to stronger evidence.
    BanEvicted,
    /// A source earned a ban and is protected.
    BanSkippedProtected,
    /// The API server refused a ban.
    BanRefused,
    /// The policy doesn't work, or only by its last good version.
    NotReady,
    /// Somebody made the operator's ban a Manual one.
    BanTakenOver,
    /// A ban that the operator did not make is not enforced.
    BanNotEnforced,
    /// A ban was deleted, and something keeps its object.
    BanStuck,
    /// Bans ended because their networks have become protected.
    BansLifted,
    /// A part of a Manual ban's network has become protected; the rest is dropped.
    BanNarrowed,
    /// `ProtectedNetworks/cluster` was missing and has been created.
    NetworksRestored,
}

impl What {
    const fn reason(self) -> &'static str {
        match self {
            Self::IPBanned => "IPBanned",
            Self::WouldBan => "WouldBan",
            Self::BanExpired => "BanExpired",
            Self::BanLifted => "BanLifted",
            Self::BanEvicted => "BanEvicted",
            Self::BanSkippedProtected => "BanSkippedProtected",
            Self::BanRefused => "BanRefused",
            Self::NotReady => "NotReady",
            Self::BanTakenOver => "BanTakenOver",
            Self::BanNotEnforced => "BanNotEnforced",
            Self::BanStuck => "BanStuck",
            Self::BansLifted => "BansLifted",
            Self::BanNarrowed => "BanNarrowed",
            Self::NetworksRestored => "NetworksRestored",
        }
    }

    const fn is_warning(self) -> bool {
        matches!(
            self,
            Self::BanSkippedProtected
                | Self::BanRefused
                | Self::NotReady
                | Self::BanNotEnforced
                | Self::BanStuck
                | Self::BansLifted
                | Self::BanNarrowed
                | Self::NetworksRestored
        )
    }
}

/// Events that a policy may send at once.
const BURST: f64 = 10.0;
/// How long it takes to earn another.
const REFILL: Duration = Duration::from_secs(5);
/// The most policies that are kept apart; their budgets are small, but names come from outside.
const MOST_POLICIES: usize = 1_000;
/// Events on bans, of all policies: so many at once, and then a second.
const BANS_BURST: f64 = 50.0;
const BANS_PER_SECOND: f64 = 1.0;

/// What a policy may still say.
#[derive(Debug)]
struct Voice {
    budget: Budget,
    summed_up: Option<Instant>,
}

/// What to do with one more event.
#[derive(Debug, Eq, PartialEq)]
enum Share {
    Tell,
    SumUp,
    Drop,
}

impl Voice {
    fn new(now: Instant) -> Self {
        Self { budget: Budget::new(BURST, 1.0 / REFILL.as_secs_f64(), now), summed_up: None }
    }

    fn share(&mut self, now: Instant) -> Share {
        if self.budget.spend(now) {
            return Share::Tell;
        }
        if self.summed_up.is_some_and(|last| now.saturating_duration_since(last) < REFILL) {
            return Share::Drop;
        }
        self.summed_up = Some(now);
        Share::SumUp
    }
}

/// Sends events.
#[derive(Clone)]
pub struct Events {
    recorder: Arc<Recorder>,
    voices: Arc<Mutex<HashMap<PolicyKey, Voice>>>,
    bans: Arc<Mutex<Budget>>,
    metrics: Arc<Metrics>,
}

impl Events {
    /// `client` lets writes through only while this replica leads; `instance` is this pod's name.
    #[must_use]
    pub fn new(client: Client, instance: &str, metrics: Arc<Metrics>) -> Self {
        let bans = Budget::new(BANS_BURST, BANS_PER_SECOND, Instant::now());
        let recorder = Recorder::new(client, instance).into();
        Self { recorder, voices: Arc::default(), bans: Arc::new(bans.into()), metrics }
    }

    /// Says on `policy` what happened to the ban of that name. Sent in the background; a lost one is counted.
    pub fn tell(&self, policy: &PolicyKey, uid: Option<String>, what: What, ban: Option<&str>, note: String) {
        let (note, ban) = match self.share(policy) {
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
        let regarding = ObjectReference {
            api_version: Some(ProbePolicy::api_version(&()).into_owned()),
            kind: Some("ProbePolicy".into()),
            name: Some(policy.name.clone()),
            namespace: Some(policy.namespace.clone()),
            uid,
            ..ObjectReference::default()
        };
        let related = ban.map(|name| ban_reference(name, None));
        self.send(Message { what, note, regarding, related });
    }

    /// Says on a ban what happened to it. Sent in the background; one too many or lost is counted.
    pub fn tell_on_ban(&self, name: &str, uid: &str, what: What, note: String) {
        if !self.bans.lock().unwrap_or_else(PoisonError::into_inner).spend(Instant::now()) {
            self.metrics.events_suppressed.inc();
            return;
        }
        let regarding = ban_reference(name, Some(uid.to_owned()));
        self.send(Message { what, note, regarding, related: None });
    }

    /// Says on `ProtectedNetworks/cluster` what happened to it, and which object brought that about.
    pub fn tell_on_networks(
        &self,
        uid: Option<String>,
        what: What,
        related: Option<ObjectReference>,
        note: String,
    ) {
        // No policy is without a namespace, so this voice is its own.
        let voice = PolicyKey { namespace: String::new(), name: PROTECTED_NETWORKS.into() };
        if self.share(&voice) == Share::Drop {
            self.metrics.events_suppressed.inc();
            return;
        }
        let regarding = ObjectReference {
            api_version: Some(ProtectedNetworks::api_version(&()).into_owned()),
            kind: Some("ProtectedNetworks".into()),
            name: Some(PROTECTED_NETWORKS.into()),
            uid,
            ..ObjectReference::default()
        };
        self.send(Message { what, note, regarding, related });
    }

    /// What one more event of this voice becomes.
    fn share(&self, voice: &PolicyKey) -> Share {
        let mut voices = self.voices.lock().unwrap_or_else(PoisonError::into_inner);
        if voices.len() >= MOST_POLICIES {
            voices.clear();
        }
        let now = Instant::now();
        voices.entry(voice.clone()).or_insert_with(|| Voice::new(now)).share(now)
    }

    fn send(&self, message: Message) {
        let (recorder, metrics) = (self.recorder.clone(), self.metrics.clone());
        tokio::spawn(async move {
            let reason = message.what.reason();
            if let Err(error) = recorder.record(message).await {
                Metrics::count(&metrics.write_errors, "Event");
                tracing::debug!(%error, reason, "an event was not stored");
            }
        });
    }
}

fn ban_reference(name: &str, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some(IPBan::api_version(&()).into_owned()),
        kind: Some("IPBan".into()),
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_ten_times_then_summed_up_now_and_then() {
        let start = Instant::now();
        let mut voice = Voice::new(start);
        let flood: Vec<Share> = (0..100).map(|_| voice.share(start)).collect();
        assert_eq!(flood.iter().filter(|share| **share == Share::Tell).count(), 10);
        assert_eq!(flood.iter().filter(|share| **share == Share::SumUp).count(), 1);
        assert_eq!(voice.share(start + REFILL), Share::Tell);
        assert_eq!(voice.share(start + REFILL), Share::SumUp);
        assert_eq!(voice.share(start + REFILL), Share::Drop);
    }
}
