//! Which ban next: decisions, outcomes and changes come in, actions go out.
//!
//! Pure: it does no I/O and reads no clock, so each of its promises has a test. [`crate::banning`] is the task that
//! performs the actions and brings back what became of them. Every replica keeps the decisions that are not yet seen
//! as bans, and the leader alone writes them, so a new leader goes on where the old one stopped.
//!
//! - The source with the most hits goes first, however many wait.
//! - A refusal loses no decision, unless the object itself breaks the schema.
//! - At the limit the weakest detected ban gives way to a stronger decision.
//! - Where most neighbours are banned, one ban of the network around them takes their place.
//! - A change of one ban, network or policy judges again only the decisions that it concerns.

mod action;
mod density;
mod evictions;
mod hold;
mod judge;
mod stored;
#[cfg(test)]
mod tests;
mod waitlist;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use ip_sentry_core::{
    detect::decision::{Decision, MAX_TEXT_CHARS},
    net::Source,
    networks::Networks,
};
use jiff::Timestamp;

pub use self::{
    action::{Action, Dropped, Eviction, Limit, Now, Outcome, Report, Step, Write},
    judge::{Obsolete, Snapshot},
};
use self::{
    density::{Density, Member},
    hold::{Hold, backoff},
    judge::{Judgement, NAME_HELD, judge},
    stored::Stored,
    waitlist::{Phase, Waiting, Waitlist},
};
use crate::{
    bans::source_of,
    budget::Budget,
    policies::{PolicyJail, PolicyKey},
    refusal::{Cause, Refusal},
};

/// The most decisions that wait. When one more comes the weakest is dropped, and counted.
pub const MOST_WAITING: usize = 50_000;
/// The most that are written at a time.
pub const MOST_WRITES: usize = 16;
/// The most detected bans that are enforced: each is an object that every node watches.
pub const MOST_BANS: usize = 20_000;
/// Writes that may be made at once, and then a second: each goes to every node.
const BURST: f64 = 300.0;
/// See [`BURST`].
const PER_SECOND: f64 = 20.0;
/// The longest pause between two tries of a decision that is refused for a reason of its own.
const LONGEST_BACKOFF: Duration = Duration::from_mins(1);
/// How long a ban that was stored may take to be seen in the table.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// The version of a policy that decisions were judged by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Judged {
    generation: Option<i64>,
    enforces: bool,
}

/// The decisions that wait, and what is known of the bans that exist.
pub struct BanQueue {
    waiting: Waitlist,
    stored: Stored,
    density: Density,
    budget: Budget,
    evictions: Budget,
    limit: Option<Limit>,
    hold: Option<Hold>,
    /// Sources whose new ban is being stored, or is not seen in the table yet.
    creating: HashMap<Source, Instant>,
    evicting: BTreeSet<String>,
    superseded: BTreeSet<String>,
    policies: BTreeMap<PolicyKey, Judged>,
    actions: Vec<Action>,
    most_bans: usize,
}

impl BanQueue {
    /// An empty queue.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self::with_limit(MOST_BANS, now)
    }

    fn with_limit(most_bans: usize, now: Instant) -> Self {
        Self {
            waiting: Waitlist::default(),
            stored: Stored::default(),
            density: Density::default(),
            budget: Budget::new(BURST, PER_SECOND, now),
            evictions: Budget::new(BURST, PER_SECOND, now),
            limit: None,
            hold: None,
            creating: HashMap::new(),
            evicting: BTreeSet::new(),
            superseded: BTreeSet::new(),
            policies: BTreeMap::new(),
            actions: Vec::new(),
            most_bans,
        }
    }

    /// A source has earned a ban of `policy`.
    pub fn earned(&mut self, policy: Arc<PolicyJail>, decision: Decision, snapshot: &Snapshot<'_>, now: Now) {
        let (source, hits) = (decision.source, decision.evidence.hits);
        let end = snapshot.ban_for(&decision).expires_at;
        if let Some(waiting) = self.waiting.get(source) {
            let is_longer = end > waiting.expires_at;
            self.waiting.strengthen(source, hits);
            // Of two decisions about one source the one that lasts longer counts.
            if is_longer {
                self.waiting.change(source, |waiting| {
                    (waiting.policy, waiting.decision, waiting.expires_at) = (policy, decision, end);
                });
            }
        } else {
            if self.waiting.len() >= MOST_WAITING && !self.make_room(&decision) {
                self.actions.push(Action::Drop(policy, decision, Dropped::QueueFull));
                return;
            }
            let ipv4_prefix = snapshot.policies.aggregate_ipv4(&policy.key);
            self.waiting.insert(policy, decision, end, now.instant);
            self.density.set(source, Member::Waiting, true, ipv4_prefix);
        }
        self.look_again(source, snapshot, now);
        self.join_neighbours(source, snapshot, now);
    }

    /// Drops the weakest decision if it has fewer hits than this one.
    fn make_room(&mut self, decision: &Decision) -> bool {
        match self.waiting.weakest() {
            Some((hits, weakest)) if hits < decision.evidence.hits => {
                self.drop_waiting(weakest, Dropped::QueueFull);
                true
            }
            _ => false,
        }
    }

    /// Where enough neighbours of `source` are banned or wait, the network around them earns a ban.
    fn join_neighbours(&mut self, source: Source, snapshot: &Snapshot<'_>, now: Now) {
        let Some(waiting) = self.waiting.get(source) else { return };
        let Some((network, neighbours)) = self.density.dense_around(source) else { return };
        let (policy, member) = (waiting.policy.clone(), &waiting.decision);
        // One that is being stored is about to make this decision unnecessary.
        if self.creating.contains_key(&network) || snapshot.is_protected(&policy.key, &network.network()) {
            return;
        }
        let mut evidence = member.evidence.clone();
        // When the network waits already, this is one more of its members.
        if self.waiting.get(network).is_none() {
            for other in self.waiting.within(network.network()).filter(|other| other.source() != source) {
                let other = &other.decision.evidence;
                evidence.hits = evidence.hits.saturating_add(other.hits);
                evidence.first_seen = evidence.first_seen.min(other.first_seen);
                evidence.last_seen = evidence.last_seen.max(other.last_seen);
            }
            let stored = self.stored.detected_within(network).map(|(_, hits)| hits);
            evidence.hits = stored.fold(evidence.hits, u32::saturating_add);
        }
        let reason = format!("{neighbours} neighbours earned a ban: {}", member.reason);
        let reason = reason.chars().take(MAX_TEXT_CHARS).collect();
        let decision = Decision { source: network, reason, evidence, ..member.clone() };
        self.earned(policy, decision, snapshot, now);
    }

    /// The object of that name came, changed or went.
    pub fn ban_changed(&mut self, name: &str, snapshot: &Snapshot<'_>, now: Now) {
        let object = snapshot.bans.get(name);
        let enforced = object.filter(|ban| ban.is_active(now.time));
        if enforced.is_none() {
            self.evicting.remove(name);
            self.superseded.remove(name);
        }
        let before = self.stored.update(name, enforced);
        let source = object.map(|ban| ban.source).or(before).or_else(|| source_of(name));
        let Some(source) = source else { return };
        self.creating.remove(&source);
        let policy = enforced.and_then(|ban| ban.policy.as_ref());
        let ipv4_prefix = policy.and_then(|policy| snapshot.policies.aggregate_ipv4(&policy.into()));
        self.density.set(source, Member::Banned, self.stored.is_detected(source), ipv4_prefix);
        self.find_superseded(source, snapshot, now);
        let touched: Vec<Source> = self.waiting.within(source.network()).map(Waiting::source).collect();
        for source in touched {
            self.waiting.change(source, |waiting| waiting.seen.clear());
            self.look_again(source, snapshot, now);
        }
    }

    /// The protected networks are now the snapshot's and were `before`.
    pub fn protected_changed(&mut self, before: &Networks, snapshot: &Snapshot<'_>, now: Now) {
        if let Some(hold) = &mut self.hold
            && hold.cause == Cause::ProtectedNetworksUnknown
        {
            hold.until = now.instant;
        }
        let touched: Vec<Source> = snapshot
            .protected
            .differing(before)
            .flat_map(|range| self.waiting.meeting(range))
            .map(Waiting::source)
            .collect();
        for source in touched {
            self.look_again(source, snapshot, now);
        }
    }

    /// Judges again the decisions of policies that have changed since the last call.
    fn policies_changed(&mut self, snapshot: &Snapshot<'_>, now: Now) {
        let current: BTreeMap<PolicyKey, Judged> = snapshot
            .policies
            .iter()
            .map(|(key, entry)| {
                let enforces = snapshot.policies.enforces(key);
                (key.clone(), Judged { generation: entry.generation, enforces })
            })
            .collect();
        let before = mem::replace(&mut self.policies, current);
        let gone = before.iter().filter(|&(key, judged)| self.policies.get(key) != Some(judged));
        let touched: Vec<Source> = gone.flat_map(|(key, _)| self.waiting.of_policy(key)).collect();
        for source in touched {
            self.look_again(source, snapshot, now);
        }
    }

    /// Judges one decision: it is dropped, can be written, or waits.
    fn look_again(&mut self, source: Source, snapshot: &Snapshot<'_>, now: Now) {
        let Some(waiting) = self.waiting.get(source) else { return };
        if waiting.phase() == Phase::InFlight {
            return;
        }
        let ban = snapshot.ban_for(&waiting.decision);
        let phase = match judge(waiting, ban, snapshot, &self.stored, now) {
            Judgement::Obsolete(obsolete) => return self.drop_waiting(source, Dropped::Obsolete(obsolete)),
            Judgement::Create { .. } => Phase::NeedsPlace,
            Judgement::Extend { .. } => Phase::HasPlace,
            Judgement::NameHeld => {
                let since = waiting.held_since.unwrap_or(now.instant);
                let is_long = now.instant.saturating_duration_since(since) >= NAME_HELD;
                // Both names are held: whoever frees one of them wakes this decision.
                let until = if is_long { now.instant + LONGEST_BACKOFF } else { since + NAME_HELD };
                self.waiting.change(source, |waiting| waiting.held_since = Some(since));
                Phase::Until(until)
            }
        };
        self.waiting.set_phase(source, phase);
    }

    fn drop_waiting(&mut self, source: Source, dropped: Dropped) {
        self.density.set(source, Member::Waiting, false, None);
        if let Some(waiting) = self.waiting.remove(source) {
            self.actions.push(Action::Drop(waiting.policy, waiting.decision, dropped));
        }
    }

    /// What became of writing the ban of `source`.
    pub fn written(&mut self, source: Source, outcome: Outcome, snapshot: &Snapshot<'_>, now: Now) {
        let Some(waiting) = self.waiting.get(source) else { return };
        let (policy, refusals) = (waiting.policy.clone(), waiting.refusals);
        if !matches!(outcome, Outcome::Stored) {
            self.creating.remove(&source);
        }
        self.waiting.set_phase(source, Phase::Until(now.instant));
        match outcome {
            Outcome::Stored => {
                self.hold = None;
                self.waiting.remove(source);
                self.density.set(source, Member::Waiting, false, None);
                return;
            }
            Outcome::Taken(ban) => self.waiting.change(source, |waiting| {
                waiting.seen.retain(|seen| seen.name != ban.name);
                waiting.seen.push(*ban);
            }),
            Outcome::Vanished | Outcome::Deposed => {}
            Outcome::Refused(Refusal::Invalid(message)) => {
                return self.drop_waiting(source, Dropped::Invalid(message));
            }
            Outcome::Refused(Refusal::Passing(cause, message)) if cause.is_shared() => {
                self.hold = Some(Hold::after(self.hold.take(), cause, message, now));
            }
            Outcome::Refused(Refusal::Passing(_, message)) => {
                self.waiting.change(source, |waiting| waiting.refusals += 1);
                let until = now.instant + backoff(refusals, LONGEST_BACKOFF);
                self.waiting.set_phase(source, Phase::Until(until));
                if refusals == 0 {
                    self.actions.push(Action::Refused(policy, source, message));
                }
                return;
            }
        }
        self.look_again(source, snapshot, now);
    }

    /// A ban that was to be evicted is still there; whether it is still to go is judged by what it is now.
    pub fn not_evicted(&mut self, name: &str, snapshot: &Snapshot<'_>, now: Now) {
        self.evicting.remove(name);
        if let Some(ban) = snapshot.bans.get(name) {
            self.find_superseded(ban.source, snapshot, now);
        }
    }

    /// What is to be done now.
    pub fn step(&mut self, snapshot: &Snapshot<'_>, now: Now) -> Step {
        self.policies_changed(snapshot, now);
        self.wake(snapshot, now);
        if self.waiting.len() == 0 && self.hold.as_ref().is_some_and(|hold| hold.until <= now.instant) {
            // Nothing is left that could find out whether the cause has gone.
            self.hold = None;
        }
        if snapshot.is_leading {
            self.dispatch(snapshot, now);
            self.evict_superseded(snapshot, now);
        } else {
            (self.limit, self.hold) = (None, None);
        }
        Step { actions: mem::take(&mut self.actions), wait_until: self.wait_until(snapshot.is_leading, now) }
    }

    /// Sees to everything whose time has come.
    fn wake(&mut self, snapshot: &Snapshot<'_>, now: Now) {
        self.creating.retain(|_, since| now.instant.saturating_duration_since(*since) < SEEN_WITHIN);
        while let Some((end, name)) = self.stored.next_end()
            && end <= now.time
        {
            let name = name.to_owned();
            self.ban_changed(&name, snapshot, now);
        }
        while let Some((end, source)) = self.waiting.next_end()
            && end <= now.time
        {
            self.drop_waiting(source, Dropped::Obsolete(Obsolete::Over));
        }
        while let Some((time, source)) = self.waiting.next_timer()
            && time <= now.instant
        {
            // The table has had time to catch up.
            self.waiting.change(source, |waiting| waiting.seen.clear());
            self.look_again(source, snapshot, now);
        }
    }

    /// Starts writes, the strongest first, as far as the limits allow.
    fn dispatch(&mut self, snapshot: &Snapshot<'_>, now: Now) {
        let most = self.most_writes(now);
        let (mut is_full, mut limit) = (false, None);
        while self.waiting.in_flight() < most {
            let Some(source) = self.waiting.strongest(is_full) else { break };
            let Some(waiting) = self.waiting.get(source) else { break };
            let (hits, ban) = (waiting.rank().hits, snapshot.ban_for(&waiting.decision));
            let (name, version) = match judge(waiting, ban, snapshot, &self.stored, now) {
                Judgement::Create { name } => (name, None),
                Judgement::Extend { name, resource_version } => (name, Some(resource_version)),
                Judgement::Obsolete(_) | Judgement::NameHeld => {
                    self.look_again(source, snapshot, now);
                    continue;
                }
            };
            if self.budget.ready_at(now.instant) > now.instant {
                limit = Some(Limit::Rate);
                break;
            }
            let write =
                Write { name, policy: waiting.policy.clone(), decision: waiting.decision.clone(), ban };
            if version.is_none() && !self.make_place(hits, snapshot, now) {
                (is_full, limit) = (true, Some(Limit::Capacity));
                continue;
            }
            self.budget.spend(now.instant);
            self.waiting.set_phase(source, Phase::InFlight);
            self.actions.push(match version {
                None => {
                    self.creating.insert(source, now.instant);
                    Action::Create(write)
                }
                Some(version) => Action::Extend(write, version),
            });
        }
        // While as many as may be are written, nobody knows whether a limit is still met.
        if self.waiting.in_flight() < most || self.waiting.ready() == 0 {
            self.limit = limit;
        }
    }

    /// How many writes may be under way.
    fn most_writes(&self, now: Now) -> usize {
        match &self.hold {
            Some(hold) if now.instant < hold.until => 0,
            Some(_) => 1,
            None => MOST_WRITES,
        }
    }

    fn wait_until(&self, is_leading: bool, now: Now) -> Option<Instant> {
        let at = |time: Timestamp| {
            let wait = Duration::try_from(time.duration_since(now.time)).unwrap_or_default();
            now.instant + wait
        };
        let hold = self.hold.as_ref().map(|hold| hold.until).filter(|&until| until > now.instant);
        let may_write = is_leading && self.waiting.ready() > 0;
        let has_room = self.waiting.in_flight() < self.most_writes(now);
        let write = match self.limit {
            _ if !may_write => None,
            _ if hold.is_some() => hold,
            // The answer to a write that is under way, or a change of bans that frees a place, comes first.
            Some(Limit::Rate) if has_room => Some(self.budget.ready_at(now.instant)),
            _ => None,
        };
        let eviction = (is_leading && !self.superseded.is_empty() && self.evicting.len() < MOST_WRITES)
            .then(|| self.evictions.ready_at(now.instant));
        let timers = [
            self.waiting.next_timer().map(|(time, _)| time),
            self.waiting.next_end().map(|(end, _)| at(end)),
            self.stored.next_end().map(|(end, _)| at(end)),
            write,
            eviction,
        ];
        timers.into_iter().flatten().min()
    }

    /// What conditions and metrics tell.
    #[must_use]
    pub fn report(&self) -> Report {
        let held_back = if self.limit.is_some() { self.waiting.ready() } else { 0 };
        Report {
            waiting: self.waiting.len(),
            held_back,
            limit: self.limit,
            hold: self.hold.as_ref().map(|hold| (hold.cause, hold.message.clone(), hold.since)),
            enforced: self.stored.by_policy().clone(),
        }
    }
}
