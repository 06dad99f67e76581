//! The task around the ban queue: it hands in what happens, and does what the queue wants done.
//!
//! Owns nothing but the queue and the writes that are under way. Decisions come in from the streams in batches;
//! changes of bans, policies and protected networks come in as they are noticed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ip_sentry_core::{
    detect::{decision::Decision, escalation},
    duration::GatewayDuration,
    networks::Networks,
};
use ip_sentry_crd::IPBan;
use jiff::{SignedDuration, Timestamp};
use kube::Api;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    ban_queue::{Action, BanQueue, Dropped, Eviction, Now, Obsolete, Outcome, Snapshot, Write},
    bans::{Ban, Bans},
    events::What,
    evict::{EvictError, Evicted, evict},
    metrics::{self, Metrics},
    policies::{Outcome as Earned, PolicyJail},
    refusal::Refusal,
    state::State,
    streams::Decided,
};

/// The most decisions that are taken in at a time, while the tables are locked.
const BATCH: usize = 1024;
/// The longest time between two looks at the queue.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Minimum age of a ban before new hits count as evidence that it is ineffective: nodes take well under a second, log
/// lines of before may come late.
const TAKES_EFFECT: SignedDuration = SignedDuration::from_mins(1);

/// What a task that talks to the API server came back with.
enum Done {
    Written(Box<Write>, bool, Outcome),
    Evicted(String, Result<Evicted, EvictError>),
}

/// Keeps and works off the ban queue.
pub struct Banning {
    state: Arc<State>,
    queue: BanQueue,
    api: Api<IPBan>,
    under_way: JoinSet<Done>,
    /// What was protected when the queue was last told.
    protected: Arc<Networks>,
    /// Told when policies or protected networks may have changed.
    changed: Arc<Notify>,
}

impl Banning {
    /// An empty queue.
    #[must_use]
    pub fn new(state: Arc<State>, changed: Arc<Notify>) -> Self {
        Self {
            queue: BanQueue::new(Instant::now()),
            api: Api::all(state.writer.clone()),
            under_way: JoinSet::new(),
            protected: Arc::default(),
            state,
            changed,
        }
    }

    /// Works until `shutdown`; what is being written then is finished.
    pub async fn run(mut self, mut decided: mpsc::Receiver<Decided>, shutdown: CancellationToken) {
        let state = self.state.clone();
        let mut leadership = state.leadership.clone();
        let mut batch = Vec::new();
        let mut wait_until = None;
        loop {
            let wake = wait_until.unwrap_or_else(|| Instant::now() + LONGEST_WAIT);
            let mut done = None;
            tokio::select! {
                _ = decided.recv_many(&mut batch, BATCH), if !decided.is_closed() || !decided.is_empty() => {}
                Some(one) = self.under_way.join_next() => done = one.ok(),
                () = state.bans_for_queue.arrived() => {}
                () = self.changed.notified() => {}
                _ = leadership.changed() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = shutdown.cancelled() => break,
            }
            wait_until = self.advance(batch.drain(..), done);
        }
        while let Some(done) = self.under_way.join_next().await {
            self.advance(std::iter::empty(), done.ok());
        }
    }

    /// Brings the queue up to date and starts what it wants done. Returns when it wants to be asked again.
    fn advance(&mut self, decided: impl Iterator<Item = Decided>, done: Option<Done>) -> Option<Instant> {
        let state = self.state.clone();
        let now = Now { instant: Instant::now(), time: state.clock.now() };
        let earned: Vec<_> = decided.filter_map(|decided| self.take_in(decided, now.time)).collect();
        let is_leading = state.leadership.is_leading();
        let protected = state.protected();
        let done = done.into_iter().chain(std::iter::from_fn(|| self.under_way.try_join_next()?.ok()));
        let done: Vec<Done> = done.collect();
        let step = {
            let (policies, bans) = (state.policies(), state.bans());
            state.history.with(|history| {
                let snapshot =
                    Snapshot { bans: &bans, history, protected: &protected, policies: &policies, is_leading };
                for name in state.bans_for_queue.take() {
                    self.queue.ban_changed(&name, &snapshot, now);
                }
                if !Arc::ptr_eq(&self.protected, &protected) {
                    self.queue.protected_changed(&self.protected, &snapshot, now);
                }
                for (policy, decision) in earned {
                    self.queue.earned(policy, decision, &snapshot, now);
                }
                for done in done {
                    self.finish(done, &snapshot, now);
                }
                self.queue.step(&snapshot, now)
            })
        };
        self.protected = protected;
        for action in step.actions {
            self.perform(action, now.time);
        }
        self.tell();
        step.wait_until
    }

    /// What a decision means besides a ban. Returns it where it asks for one.
    fn take_in(&self, decided: Decided, now: Timestamp) -> Option<(Arc<PolicyJail>, Decision)> {
        let (state, Decided { policy, outcome }) = (&self.state, decided);
        match outcome {
            Earned::Shielded(decision) => {
                Metrics::count(&state.metrics.decisions_dropped, "shielded");
                state.tell_if_leading(&policy, What::BanSkippedProtected, None, || {
                    format!(
                        "{} would be banned, but the ban would drop a protected network too",
                        decision.source
                    )
                });
                None
            }
            Earned::Earned(decision) if !policy.enforces() => {
                state.tell_if_leading(&policy, What::WouldBan, None, || {
                    let escalation::Ban { offence, length, expires_at: end } =
                        state.history.with(|history| history.ban_for(&decision));
                    let (source, reason) = (decision.source, &decision.reason);
                    let length = GatewayDuration::from(length);
                    format!(
                        "Shadow: {source} would be banned for {length} until {end}: {reason}; offence {offence}"
                    )
                });
                None
            }
            Earned::Earned(decision) => {
                // Whatever becomes of the decision: mostly it makes that ban longer.
                if let Some(ban) = without_effect(&decision, &state.bans(), now) {
                    policy.saw_banned(ban, decision.evidence.last_seen);
                }
                Some((policy, decision))
            }
        }
    }

    fn finish(&mut self, done: Done, snapshot: &Snapshot<'_>, now: Now) {
        match done {
            Done::Written(write, is_new, outcome) => {
                let (state, source) = (&self.state, write.decision.source);
                let label = match &outcome {
                    Outcome::Stored if is_new => "created",
                    Outcome::Stored => "extended",
                    Outcome::Taken(_) | Outcome::Vanished => "name_taken",
                    Outcome::Deposed => "deposed",
                    Outcome::Refused(refusal) => refusal.label(),
                };
                Metrics::count(&state.metrics.published, label);
                if matches!(outcome, Outcome::Stored) && is_new {
                    let delay = now.time.duration_since(write.decision.evidence.last_seen);
                    state.metrics.ban_delay.observe(delay.as_secs_f64());
                    state.begun(&write.policy, &write.decision, write.ban);
                }
                if let Outcome::Refused(Refusal::Passing(cause, message)) = &outcome {
                    tracing::debug!(cause = cause.reason(), message, "a ban was not stored yet");
                }
                self.queue.written(source, outcome, snapshot, now);
            }
            Done::Evicted(_, Ok(Evicted::Done)) => {}
            Done::Evicted(name, result) => {
                if let Err(error @ EvictError::Write { .. }) = result {
                    Metrics::count(&self.state.metrics.write_errors, "IPBan");
                    tracing::warn!(error = &error as &dyn std::error::Error, "a ban did not give way yet");
                }
                self.queue.not_evicted(&name, snapshot, now);
            }
        }
    }

    fn perform(&mut self, action: Action, now: Timestamp) {
        let publisher = self.state.publisher.clone();
        match action {
            Action::Create(write) => {
                self.under_way.spawn(async move {
                    let outcome = publisher.create(&write).await;
                    Done::Written(Box::new(write), true, outcome)
                });
            }
            Action::Extend(write, version) => {
                self.under_way.spawn(async move {
                    let outcome = publisher.extend(&write, &version).await;
                    Done::Written(Box::new(write), false, outcome)
                });
            }
            Action::Evict(name, why) => {
                let Some(ban) = self.state.bans().get(&name).cloned() else { return };
                let why = match why {
                    Eviction::Superseded => "superseded",
                    Eviction::Weakest => "weakest",
                };
                tracing::info!(ban = %ban.source, why, "a ban gives way");
                let api = self.api.clone();
                self.under_way.spawn(async move {
                    let evicted = evict(&api, &ban, now).await;
                    Done::Evicted(name, evicted)
                });
            }
            Action::Drop(policy, decision, dropped) => self.report_dropped(&policy, &decision, &dropped),
            Action::Refused(policy, source, message) => {
                tracing::warn!(%source, message, "a ban is refused and tried again");
                self.state.tell_if_leading(&policy, What::BanRefused, None, || {
                    format!("{source} earned a ban that is refused, it is tried again: {message}")
                });
            }
        }
    }

    fn report_dropped(&self, policy: &PolicyJail, decision: &Decision, dropped: &Dropped) {
        let (state, source) = (&self.state, decision.source);
        let label = match dropped {
            Dropped::Obsolete(obsolete) => obsolete.label(),
            Dropped::QueueFull => "queue_full",
            Dropped::Invalid(_) => "invalid",
        };
        Metrics::count(&state.metrics.decisions_dropped, label);
        match dropped {
            Dropped::Obsolete(Obsolete::Protected) => {
                state.tell_if_leading(policy, What::BanSkippedProtected, None, || {
                    format!("{source} earned a ban and is protected")
                });
            }
            Dropped::Invalid(message) => {
                tracing::error!(%source, message, "a ban was refused as invalid");
                state.tell_if_leading(policy, What::BanRefused, None, || {
                    format!("the API server refuses the ban of {source} as invalid: {message}")
                });
            }
            Dropped::Obsolete(_) | Dropped::QueueFull => {}
        }
    }

    /// Tells conditions and metrics how the queue stands.
    fn tell(&self) {
        let report = self.queue.report();
        metrics::level(&self.state.metrics.decisions_held_back, report.held_back);
        metrics::level(&self.state.metrics.decisions_waiting, report.waiting);
        self.state.set_queue_report(report);
    }
}

/// The ban that is enforced on a decision's source and has stopped none of its hits, if that is so.
fn without_effect<'a>(decision: &Decision, bans: &'a Bans, now: Timestamp) -> Option<&'a Ban> {
    let ban = bans.active(decision.source, now)?;
    (decision.evidence.first_seen > ban.created_at? + TAKES_EFFECT).then_some(ban)
}

#[cfg(test)]
mod tests {
    use ip_sentry_core::detect::{
        decision::{Evidence, Threshold},
        escalation::BanTime,
    };

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_ban_is_without_effect_when_all_hits_of_another_decision_came_long_after_it() {
        let decision = Decision {
            source: "203.0.113.7/32".parse().unwrap(),
            reason: String::new(),
            evidence: Evidence {
                hits: 3,
                threshold: Threshold::Hits,
                first_seen: at(90),
                last_seen: at(100),
                samples: Vec::new(),
            },
            ban_time: BanTime { first: Duration::from_secs(100), escalation: None },
        };
        for (created, deleted, expect) in [(29, false, true), (30, false, false), (29, true, false)] {
            let mut bans = Bans::default();
            bans.applied(Ban {
                created_at: Some(at(created)),
                deleting_since: deleted.then(|| at(95)),
                expires_at: Some(at(200)),
                ..Ban::example()
            });
            let found = without_effect(&decision, &bans, at(110));
            assert_eq!(found.is_some(), expect, "stored at {created}, deleted: {deleted}");
        }
    }
}
