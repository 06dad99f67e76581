//! What every part of the operator shares: what is known, and the way to write.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool};

use ip_sentry_core::{
    detect::{decision::Decision, escalation},
    net::Source,
    networks::Networks,
};
use ip_sentry_crd::ip_ban::PolicyRef;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::watch;

use crate::{
    ban_queue::Report,
    bans::{Ban, Bans, DELETION_SLACK},
    changes::Changes,
    clock::Clock,
    events::{Events, What},
    heartbeats::Gaps,
    history::store::HistoryStore,
    lease::Leadership,
    metrics::Metrics,
    policies::{Policies, PolicyJail, PolicyKey},
    publish::Publisher,
};

/// The operator's knowledge and its tools.
pub struct State {
    /// The time by which everything is judged.
    pub clock: Clock,
    /// Whether this replica writes.
    pub leadership: Leadership,
    /// Lets writes through only while it does.
    pub writer: Client,
    /// Every figure.
    pub metrics: Arc<Metrics>,
    /// What is remembered of sources.
    pub history: HistoryStore,
    /// Writes bans.
    pub publisher: Publisher,
    /// Sends events.
    pub events: Events,
    /// What is never banned; empty until it has been read once, and nothing is counted until then.
    pub protected: watch::Receiver<Arc<Networks>>,
    /// Every policy. Locked for moments, never across an await.
    pub policies: Mutex<Policies>,
    /// Every ban. Locked for moments, never across an await.
    pub bans: Mutex<Bans>,
    /// Bans that changed, for the ban queue.
    pub bans_for_queue: Changes,
    /// Bans that changed, for the task that ends them.
    pub bans_for_expiry: Changes,
    /// How the ban queue stands.
    pub queue: Mutex<Arc<Report>>,
    /// Nodes that may let the banned through, as the leader last saw them.
    pub gaps: Mutex<Option<Gaps>>,
    /// Whether everything that must be listed once has been.
    pub ready: AtomicBool,
}

impl State {
    /// Nothing is known yet; `instance` is this pod's name, `writer` lets writes through only while `leadership` lasts.
    #[must_use]
    pub fn new(
        clock: Clock,
        leadership: Leadership,
        writer: Client,
        instance: &str,
        metrics: Arc<Metrics>,
        history: HistoryStore,
        protected: watch::Receiver<Arc<Networks>>,
    ) -> Self {
        Self {
            clock,
            leadership,
            publisher: Publisher::new(writer.clone()),
            events: Events::new(writer.clone(), instance, metrics.clone()),
            writer,
            metrics,
            history,
            protected,
            policies: Policies::default().into(),
            bans: Bans::default().into(),
            bans_for_queue: Changes::default(),
            bans_for_expiry: Changes::default(),
            queue: Mutex::default(),
            gaps: None.into(),
            ready: false.into(),
        }
    }

    /// The policies.
    pub fn policies(&self) -> MutexGuard<'_, Policies> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bans.
    pub fn bans(&self) -> MutexGuard<'_, Bans> {
        self.bans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who follows bans that these came, changed or went.
    pub fn bans_changed(&self, names: Vec<String>) {
        self.bans_for_queue.extend(names.iter().cloned());
        self.bans_for_expiry.extend(names);
    }

    /// How the ban queue stands.
    #[must_use]
    pub fn queue_report(&self) -> Arc<Report> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ban queue stands like this now.
    pub fn set_queue_report(&self, report: Report) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }

    /// What is never banned.
    #[must_use]
    pub fn protected(&self) -> Arc<Networks> {
        self.protected.borrow().clone()
    }

    /// An event on a policy, if this replica is the one to send it.
    pub fn tell_if_leading(
        &self,
        policy: &PolicyJail,
        what: What,
        ban: Option<&str>,
        note: impl FnOnce() -> String,
    ) {
        if self.leadership.is_leading() {
            self.events.tell(&policy.key, policy.uid.clone(), what, ban, note());
        }
    }

    /// The ban of a decision was stored by this replica.
    pub fn begun(&self, policy: &PolicyJail, decision: &Decision, ban: escalation::Ban) {
        let (source, evidence) = (decision.source, &decision.evidence);
        let escalation::Ban { offence, expires_at: end, .. } = ban;
        tracing::info!(
            ban = %source, policy = policy.key.name, namespace = policy.key.namespace, reason = decision.reason,
            hits = evidence.hits, offence, until = %end, "banned"
        );
        self.tell_if_leading(policy, What::IPBanned, Some(&source.ban_name()), || {
            format!("{source} is banned until {end}: {}; offence {offence}", decision.reason)
        });
    }

    /// A ban is being deleted or is gone. If that was before its time, its lines so far count no more, anywhere, and
    /// it is no offence.
    pub fn ended(&self, ban: &Ban, now: Timestamp) {
        // An object that somebody has taken the finalizer off goes before its end could be written down.
        let is_gone_early = ban.deleting_since.is_none() && ban.is_active(now);
        let gone_at = is_gone_early.then(|| Timestamp::from_second(now.as_second()).unwrap_or(now));
        if let Some(lifted) = ban.lifted_at().or(gone_at) {
            self.lift(ban.source, lifted);
        } else if let Some(ended) = ban.offence_ended_at(now) {
            self.history.with(|history| history.end(ban.source, ended));
        }
    }

    fn lift(&self, source: Source, at: Timestamp) {
        if self.history.with(|history| history.lift(source, at)) {
            self.policies().forgive(source, at + DELETION_SLACK);
        }
    }

    /// An event on the policy that a ban is of, if this replica is the one to send it.
    pub fn tell_on_policy_of(&self, ban: &Ban, what: What, note: String) {
        if let Some(PolicyRef { namespace, name }) = ban.policy.clone()
            && self.leadership.is_leading()
        {
            let key = PolicyKey { namespace, name };
            let uid = self.policies().uid(&key);
            self.events.tell(&key, uid, what, Some(&ban.name), note);
        }
    }

    /// An event on a ban itself, if this replica is the one to send it.
    pub fn tell_on_ban(&self, ban: &Ban, what: What, note: String) {
        if self.leadership.is_leading() {
            self.events.tell_on_ban(&ban.name, &ban.uid, what, note);
        }
    }
}
