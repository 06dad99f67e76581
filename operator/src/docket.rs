//! Decisions on their way to becoming bans.
//!
//! Owns what waits: decisions come in from the streams, and go when their ban is seen, when they have become
//! pointless, or when the API server refuses them. The leader works them off; a standby only keeps them, so
//! that it can go on when it becomes the leader.

use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use ip_sentry_core::{
    detect::{decision::Decision, escalation},
    duration::GatewayDuration,
    net::Source,
};
use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bans::{Ban, Bans, DELETION_SLACK},
    budget::Budget,
    events::What,
    history::Memory,
    metrics::{self, Metrics},
    policies::{Outcome, PolicyJail},
    publish::{PublishError, Published},
    state::State,
    streams::Decided,
};

/// The most decisions that wait; one more is refused, and counted.
const MOST_WAITING: usize = 10_000;
/// The most that are written at a time.
const MOST_WRITES: usize = 16;
/// The most bans that may exist: each is an object that every node watches. Larger lists are no IPBans.
const MOST_BANS: usize = 20_000;
/// Bans that may be made at once, and then a second: each goes to every node.
const BURST: f64 = 300.0;
const BANS_PER_SECOND: f64 = 20.0;
/// How long after a ban was stored the first hit of another decision must lie for it to say that the ban does nothing:
/// nodes take well under a second, log lines of before may come late.
const TAKES_EFFECT: SignedDuration = SignedDuration::from_mins(1);
/// How long after a failed or postponed write the next try comes.
const RETRY: Duration = Duration::from_millis(250);
/// The longest wait between two tries.
const LONGEST_RETRY: Duration = Duration::from_secs(10);

struct Waiting {
    policy: Arc<PolicyJail>,
    decision: Decision,
    not_before: Instant,
    tries: u32,
    in_flight: bool,
    /// Bans are limited, and this one has to wait for its turn.
    held_back: bool,
}

/// Why a decision becomes no ban.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moot {
    /// A ban that lasts at least as long is enforced.
    Enforced,
    /// The source was lifted by hand after its lines were written.
    Lifted,
    /// The network is protected, or the policy exempts it by now.
    Protected,
    /// Its ban would be over.
    Over,
    /// The policy is gone or bans nobody any more.
    PolicyGone,
}

impl Moot {
    const fn label(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Lifted => "lifted",
            Self::Protected => "protected",
            Self::Over => "over",
            Self::PolicyGone => "policy_gone",
        }
    }
}

/// Whether a decision has become pointless, from what is known right now.
fn moot(
    decision: &Decision,
    expires_at: Timestamp,
    bans: &Bans,
    memory: &Memory,
    is_protected: bool,
    policy_enforces: bool,
    now: Timestamp,
) -> Option<Moot> {
    let source = decision.source;
    let lifting = bans.get(&source.ban_name()).and_then(crate::bans::Ban::lifted_at).max(memory.lifted_at);
    let enforced = bans.active(source, now);
    if is_protected {
        Some(Moot::Protected)
    } else if enforced.is_some_and(|ban| ban.expires_at.is_none_or(|end| end >= expires_at)) {
        Some(Moot::Enforced)
    } else if lifting.is_some_and(|lifted| decision.evidence.first_seen <= lifted + DELETION_SLACK) {
        Some(Moot::Lifted)
    } else if expires_at <= now {
        Some(Moot::Over)
    } else if !policy_enforces {
        Some(Moot::PolicyGone)
    } else {
        None
    }
}

/// The ban that is enforced on a decision's source and has stopped none of its hits, if that is so.
fn without_effect<'a>(decision: &Decision, bans: &'a Bans, now: Timestamp) -> Option<&'a Ban> {
    let ban = bans.active(decision.source, now)?;
    (decision.evidence.first_seen > ban.created_at? + TAKES_EFFECT).then_some(ban)
}

/// The ban that a decision asks for, after those that its source had.
fn sentence(state: &State, decision: &Decision) -> escalation::Ban {
    state.history.with(|history| history.ban_for(decision))
}

/// The decisions that wait, one a source.
pub struct Docket {
    state: Arc<State>,
    waiting: HashMap<Source, Waiting>,
    budget: Budget,
    writes: JoinSet<(Source, escalation::Ban, Result<Published, PublishError>)>,
    /// Told when bans, protected networks or policies change, and when this replica begins to lead.
    changed: Arc<Notify>,
}

impl Docket {
    /// An empty docket.
    #[must_use]
    pub fn new(state: Arc<State>, changed: Arc<Notify>) -> Self {
        Self {
            state,
            waiting: HashMap::new(),
            budget: Budget::new(BURST, BANS_PER_SECOND, Instant::now()),
            writes: JoinSet::new(),
            changed,
        }
    }

    /// Works until `shutdown`; what is being written then is finished.
    pub async fn run(mut self, mut decided: mpsc::Receiver<Decided>, shutdown: CancellationToken) {
        let changed = self.changed.clone();
        loop {
            let wake = self.next_try().unwrap_or_else(|| Instant::now() + LONGEST_RETRY);
            tokio::select! {
                Some(one) = decided.recv() => self.take_in(one),
                Some(done) = self.writes.join_next() => {
                    if let Ok((source, sentence, result)) = done {
                        self.written(source, sentence, result);
                    }
                }
                () = changed.notified() => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                () = shutdown.cancelled() => break,
            }
            self.clear_moot();
            self.write();
        }
        while let Some(done) = self.writes.join_next().await {
            if let Ok((source, sentence, result)) = done {
                self.written(source, sentence, result);
            }
        }
    }

    fn next_try(&self) -> Option<Instant> {
        if !self.state.leadership.is_leading() {
            return None;
        }
        self.waiting.values().filter(|waiting| !waiting.in_flight).map(|waiting| waiting.not_before).min()
    }

    fn take_in(&mut self, Decided { policy, outcome }: Decided) {
        let state = &self.state;
        match outcome {
            Outcome::Shielded(decision) => {
                Metrics::count(&state.metrics.decisions_dropped, "shielded");
                state.tell_if_leading(&policy, What::BanSkippedProtected, None, || {
                    format!(
                        "{} would be banned, but the ban would drop a protected network too",
                        decision.source
                    )
                });
            }
            Outcome::Earned(decision) if !policy.enforces() => {
                state.tell_if_leading(&policy, What::WouldBan, None, || {
                    let escalation::Ban { offence, length, expires_at: end } = sentence(state, &decision);
                    let (source, reason) = (decision.source, &decision.reason);
                    let length = GatewayDuration::from(length);
                    format!(
                        "Shadow: {source} would be banned for {length} until {end}: {reason}; offence {offence}"
                    )
                });
            }
            Outcome::Earned(decision) => {
                // Whatever becomes of the decision: mostly it makes that ban longer.
                if let Some(ban) = without_effect(&decision, &state.bans(), Timestamp::now()) {
                    policy.saw_banned(ban, decision.evidence.last_seen);
                }
                let is_known = self.waiting.contains_key(&decision.source);
                if !is_known && self.waiting.len() >= MOST_WAITING {
                    Metrics::count(&state.metrics.decisions_dropped, "docket_full");
                    return;
                }
                let waiting = self.waiting.entry(decision.source).or_insert_with(|| Waiting {
                    policy: policy.clone(),
                    decision: decision.clone(),
                    not_before: Instant::now(),
                    tries: 0,
                    in_flight: false,
                    held_back: false,
                });
                // Of two decisions about one source the one that lasts longer counts.
                let end = |decision| sentence(state, decision).expires_at;
                if end(&decision) > end(&waiting.decision) {
                    waiting.policy = policy;
                    waiting.decision = decision;
                }
            }
        }
    }

    fn clear_moot(&mut self) {
        let state = self.state.clone();
        let now = Timestamp::now();
        self.waiting.retain(|_, waiting| {
            if waiting.in_flight {
                return true;
            }
            let (decision, policy) = (&waiting.decision, &waiting.policy);
            let network = decision.source.network();
            let (exempts, enforces) = {
                let policies = state.policies();
                (policies.exempts(&policy.key, &network), policies.enforces(&policy.key))
            };
            let is_protected = exempts || state.protected().overlaps(&network);
            let memory = state.history.with(|history| history.get(decision.source));
            let end = sentence(&state, decision).expires_at;
            let moot = moot(decision, end, &state.bans(), &memory, is_protected, enforces, now);
            if let Some(moot) = moot {
                Metrics::count(&state.metrics.decisions_dropped, moot.label());
                if moot == Moot::Protected {
                    state.tell_if_leading(policy, What::BanSkippedProtected, None, || {
                        format!("{} earned a ban and is protected", decision.source)
                    });
                }
            }
            moot.is_none()
        });
    }

    fn write(&mut self) {
        if !self.state.leadership.is_leading() {
            return;
        }
        let now = Instant::now();
        // The most active sources first: they are the ones to stop when not all can be.
        let mut due: Vec<(&Source, &mut Waiting)> = self
            .waiting
            .iter_mut()
            .filter(|(_, waiting)| !waiting.in_flight && waiting.not_before <= now)
            .collect();
        due.sort_by_key(|(_, waiting)| Reverse(waiting.decision.evidence.hits));
        let bans = self.state.bans().len();
        for (&source, waiting) in due {
            if self.writes.len() >= MOST_WRITES {
                break;
            }
            if bans >= MOST_BANS || !self.budget.spend(now) {
                waiting.not_before = now + RETRY;
                waiting.held_back = true;
                continue;
            }
            waiting.in_flight = true;
            waiting.held_back = false;
            let (publisher, policy) = (self.state.publisher.clone(), waiting.policy.key.clone());
            let decision = waiting.decision.clone();
            let sentence = sentence(&self.state, &decision);
            self.writes.spawn(async move {
                let result = publisher.publish(&policy, &decision, sentence, Timestamp::now()).await;
                (source, sentence, result)
            });
        }
        // Those whose next turn has not come wait too: counting only the due ones would say in between that none does.
        let held_back = self.waiting.values().filter(|waiting| waiting.held_back).count();
        self.state.held_back.store(held_back, Ordering::Relaxed);
        metrics::level(&self.state.metrics.decisions_held_back, held_back);
    }

    fn written(
        &mut self,
        source: Source,
        sentence: escalation::Ban,
        result: Result<Published, PublishError>,
    ) {
        let Some(waiting) = self.waiting.get_mut(&source) else { return };
        waiting.in_flight = false;
        let (metrics, decision) = (&self.state.metrics, &waiting.decision);
        let label = match &result {
            Ok(Published::Created) => "created",
            Ok(Published::Extended) => "extended",
            Ok(Published::AlreadyEnforced) => "already_enforced",
            Ok(Published::NameTaken) => "name_taken",
            Err(error) => error.label(),
        };
        Metrics::count(&metrics.published, label);
        match result {
            Ok(Published::Created) => {
                let delay = Timestamp::now().duration_since(decision.evidence.last_seen);
                metrics.ban_delay.observe(delay.as_secs_f64());
                self.state.begun(&waiting.policy, decision, sentence);
                self.waiting.remove(&source);
            }
            Ok(Published::Extended | Published::AlreadyEnforced) => {
                self.waiting.remove(&source);
            }
            Ok(Published::NameTaken) => waiting.postpone(),
            Err(error) if error.is_passing() => {
                if !matches!(error, PublishError::Deposed) {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a ban was not stored yet");
                }
                waiting.postpone();
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a ban was refused");
                let note = error.to_string();
                self.state.tell_if_leading(&waiting.policy, What::BanRefused, None, || note);
                self.waiting.remove(&source);
            }
        }
    }
}

impl Waiting {
    fn postpone(&mut self) {
        let wait = RETRY.saturating_mul(1 << self.tries.min(6)).min(LONGEST_RETRY);
        self.tries = self.tries.saturating_add(1);
        self.not_before = Instant::now() + wait;
    }
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

    fn decision() -> Decision {
        Decision {
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
        }
    }

    fn ban() -> Ban {
        Ban { expires_at: Some(at(200)), ..Ban::example() }
    }

    #[test]
    fn a_ban_is_without_effect_when_all_hits_of_another_decision_came_long_after_it() {
        for (created, deleted, expect) in [(29, false, true), (30, false, false), (29, true, false)] {
            let mut bans = Bans::default();
            bans.applied(Ban {
                created_at: Some(at(created)),
                deleting_since: deleted.then(|| at(95)),
                ..ban()
            });
            // Its first hit was at 90.
            let found = without_effect(&decision(), &bans, at(110));
            assert_eq!(found.is_some(), expect, "stored at {created}, deleted: {deleted}");
        }
    }

    #[test]
    fn a_decision_is_dropped_only_when_it_can_do_no_good_or_would_do_harm() {
        let lifted = |second| Memory { lifted_at: Some(at(second)), ..Memory::default() };
        let none = Memory::default;
        let earlier = Ban { expires_at: Some(at(150)), ..ban() };
        let going = Ban { deleting_since: Some(at(95)), ..ban() };
        #[rustfmt::skip]
        let table = [
            // ban             memory      protected  enforces  now  expect
            (None,             none(),       false,     true,     110, None),
            (None,             none(),       true,      true,     110, Some(Moot::Protected)),
            (None,             none(),       false,     false,    110, Some(Moot::PolicyGone)),
            (None,             none(),       false,     true,     200, Some(Moot::Over)),
            (Some(ban()),      none(),       false,     true,     110, Some(Moot::Enforced)),
            (Some(earlier),    none(),       false,     true,     110, None),
            (Some(going),      none(),       false,     true,     110, Some(Moot::Lifted)),
            (None,             lifted(95), false,     true,     110, Some(Moot::Lifted)),
            (None,             lifted(88), false,     true,     110, Some(Moot::Lifted)),
            (None,             lifted(87), false,     true,     110, None),
        ];
        for (index, (ban, memory, protected, enforces, now, expect)) in table.into_iter().enumerate() {
            let mut bans = Bans::default();
            bans.list_begins();
            if let Some(ban) = ban {
                bans.listed(ban);
            }
            bans.list_done();
            assert_eq!(
                moot(&decision(), at(200), &bans, &memory, protected, enforces, at(now)),
                expect,
                "row {index}"
            );
        }
    }
}
