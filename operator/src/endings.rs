//! The ends of bans, decided: what is to be deleted, released, told or written down, and when to look again.
//!
//! [`Endings`] takes in changes of single bans, protected networks, policies and leadership, what became of its
//! actions, and the time; out come actions. It does no I/O and reads no clock. A change costs what it touches: one ban,
//! or those that a range of addresses meets. Only a replica that begins to lead looks through all of them.

pub mod due;

mod by_network;
mod shards;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use ip_sentry_core::networks::Networks;
use ip_sentry_crd::ip_ban::PolicyRef;
use jiff::{SignedDuration, Timestamp};

use self::{
    by_network::ByNetwork,
    due::{Due, Facts, Protection, Unenforced, due},
    shards::Shards,
};
use crate::{bans::Ban, events::PolicyKey, history::shard_of};

/// How long the release of a ban waits for the write that says how it ended. Every replica knows that already, and the
/// leader writes it when it can; only what no replica has lived to write is forgotten.
pub const HISTORY_PATIENCE: SignedDuration = SignedDuration::from_secs(5);
/// How long after an action the watch must have shown its effect; then the ban is looked at again.
const WATCH_LAG: SignedDuration = SignedDuration::from_secs(10);
/// The longest time between two tries.
const LONGEST_RETRY: SignedDuration = SignedDuration::from_secs(60);

/// How long after the failure that follows `failures` others the next try comes: 1 s, doubled up to a minute.
fn backoff(failures: u32) -> SignedDuration {
    SignedDuration::from_secs(1 << failures.min(6)).min(LONGEST_RETRY)
}

/// Something to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Do what is due to exactly this version of the ban; [`Endings::acted`] must follow.
    Act {
        /// The ban as it was judged.
        ban: Arc<Ban>,
        /// What is due.
        due: Due,
        /// Why the last deletion or release of it failed.
        failure: Option<Arc<str>>,
    },
    /// Write this shard of the history, if it has changed; [`Endings::written`] must follow.
    Write(usize),
}

/// What became of an action.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is done, or the ban has changed or gone meanwhile: the watch shows what is there now.
    Settled,
    /// It failed, for this reason, and is tried again.
    Failed(Arc<str>),
    /// Another replica leads.
    Deposed,
}

/// One ban and where its ending stands.
#[derive(Debug)]
struct Tracked {
    ban: Arc<Ban>,
    /// What is being done.
    acting: Option<Due>,
    /// Whether its name is in the queue.
    is_ready: bool,
    /// Not before this: a try failed, or its effect has yet to be seen.
    not_before: Option<Timestamp>,
    /// Its status is not written before this.
    mute_until: Option<Timestamp>,
    failures: u32,
    failure: Option<Arc<str>>,
    /// Whether its end is written down.
    is_recorded: bool,
    /// When it is released although its end is not written down.
    patience: Option<Timestamp>,
    timer: Option<Timestamp>,
    standing: Standing,
}

/// What a ban counts as.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Standing {
    InForce,
    /// Something keeps an object that should be gone.
    Stuck,
    #[default]
    Over,
}

impl Tracked {
    fn new(ban: Arc<Ban>) -> Self {
        Self {
            ban,
            acting: None,
            is_ready: false,
            not_before: None,
            mute_until: None,
            failures: 0,
            failure: None,
            is_recorded: false,
            patience: None,
            timer: None,
            standing: Standing::default(),
        }
    }
}

/// Every ban's ending.
#[derive(Debug, Default)]
pub struct Endings {
    leads: bool,
    bans: HashMap<Arc<str>, Tracked>,
    by_network: ByNetwork,
    protected: Arc<Networks>,
    excepted: HashMap<PolicyKey, Networks>,
    ready: VecDeque<Arc<str>>,
    timers: BTreeSet<(Timestamp, Arc<str>)>,
    shards: Shards,
    in_force: usize,
    stuck: usize,
    /// How often a ban was judged.
    judged: u64,
    latest: Timestamp,
}

impl Endings {
    /// This replica leads or does not. One that does not gives no actions, and keeps up.
    pub fn lead(&mut self, leads: bool, now: Timestamp) {
        if leads != self.leads {
            self.leads = leads;
            self.judge_all(now);
        }
    }

    /// The ban of that name came or changed; `None`: it is gone.
    pub fn ban(&mut self, name: &str, ban: Option<Arc<Ban>>, now: Timestamp) {
        let Some(ban) = ban else { return self.forget(name) };
        let name = match self.bans.get_key_value(name) {
            Some((_, tracked)) if tracked.ban == ban => return,
            Some((_, tracked)) if tracked.ban.uid != ban.uid || tracked.ban.source != ban.source => {
                self.forget(name);
                Arc::from(name)
            }
            Some((name, _)) => name.clone(),
            None => Arc::from(name),
        };
        self.by_network.insert(ban.source, name.clone());
        let tracked = self.bans.entry(name.clone()).or_insert_with(|| Tracked::new(ban.clone()));
        if tracked.ban != ban {
            tracked.ban = ban;
            // What kept the last try from working may be gone.
            (tracked.not_before, tracked.mute_until) = (None, None);
        }
        self.judge(&name, now);
    }

    fn forget(&mut self, name: &str) {
        let Some((name, tracked)) = self.bans.remove_entry(name) else { return };
        self.recount(tracked.standing, Standing::Over);
        if let Some(at) = tracked.timer {
            self.timers.remove(&(at, name.clone()));
        }
        self.by_network.remove(tracked.ban.source, name);
    }

    /// These networks are protected from now on.
    pub fn protect(&mut self, networks: Arc<Networks>, now: Timestamp) {
        let before = std::mem::replace(&mut self.protected, networks);
        let after = self.protected.clone();
        self.judge_between(&before, &after, now);
    }

    /// These are the networks that each policy excepts from now on.
    pub fn except<'a>(
        &mut self,
        policies: impl IntoIterator<Item = (&'a PolicyKey, &'a Networks)>,
        now: Timestamp,
    ) {
        let mut gone = std::mem::take(&mut self.excepted);
        let mut changed = Vec::new();
        for (key, networks) in policies {
            let before = gone.remove(key).unwrap_or_default();
            if before != *networks {
                changed.push((before, networks.clone()));
            }
            self.excepted.insert(key.clone(), networks.clone());
        }
        changed.extend(gone.into_values().map(|before| (before, Networks::default())));
        for (before, after) in changed {
            self.judge_between(&before, &after, now);
        }
    }

    /// These shards of the history hold what is not written down.
    pub fn unwritten(&mut self, shards: impl IntoIterator<Item = usize>) {
        for index in shards {
            self.shards.queue(index);
        }
    }

    /// The next thing to do, if anything is due at `now`.
    pub fn next(&mut self, now: Timestamp) -> Option<Action> {
        if now < self.latest {
            self.set_back(now);
        }
        self.latest = now;
        while let Some((_, name)) = self.timers.first().filter(|(at, _)| *at <= now).cloned() {
            self.judge(&name, now);
        }
        if !self.leads {
            return None;
        }
        while let Some(name) = self.ready.pop_front() {
            let Some(tracked) = self.bans.get_mut(&name) else { continue };
            tracked.is_ready = false;
            if let Some(due) = self.due(&name, now) {
                let tracked = self.bans.get_mut(&name)?;
                tracked.acting = Some(due);
                return Some(Action::Act { ban: tracked.ban.clone(), due, failure: tracked.failure.clone() });
            }
            self.judge(&name, now);
        }
        self.shards.next(now).map(Action::Write)
    }

    /// What became of the action on `ban`.
    pub fn acted(&mut self, ban: &Ban, outcome: Outcome, now: Timestamp) {
        let Some((name, tracked)) = self.bans.get_key_value(ban.name.as_str()) else { return };
        if tracked.ban.uid != ban.uid {
            return;
        }
        let name = name.clone();
        let Some(tracked) = self.bans.get_mut(&name) else { return };
        let is_telling = matches!(tracked.acting.take(), Some(Due::Tell(_)));
        match outcome {
            Outcome::Settled => {
                // Until the watch shows it.
                let wait = (tracked.ban.resource_version == ban.resource_version).then(|| now + WATCH_LAG);
                if is_telling {
                    tracked.mute_until = wait;
                } else {
                    (tracked.not_before, tracked.failures, tracked.failure) = (wait, 0, None);
                }
            }
            Outcome::Failed(_) if is_telling => tracked.mute_until = Some(now + LONGEST_RETRY),
            Outcome::Failed(why) => {
                tracked.not_before = Some(now + backoff(tracked.failures));
                tracked.failures = tracked.failures.saturating_add(1);
                tracked.failure = Some(why);
            }
            // It is about to be heard that another replica leads.
            Outcome::Deposed => tracked.not_before = Some(now + backoff(0)),
        }
        self.judge(&name, now);
    }

    /// What became of the writing of a shard.
    pub fn written(&mut self, shard: usize, is_stored: bool, now: Timestamp) {
        for name in self.shards.written(shard, is_stored, now) {
            if let Some(tracked) = self.bans.get_mut(&name) {
                tracked.is_recorded = tracked.ban.deleting_since.is_some();
                self.judge(&name, now);
            }
        }
    }

    /// When [`next`](Self::next) may have something again, if nothing changes.
    #[must_use]
    pub fn wake(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|&(at, _)| at);
        let shard = self.shards.wake().filter(|_| self.leads);
        timer.into_iter().chain(shard).min()
    }

    /// How many bans nodes enforce, as far as the operator can tell.
    #[must_use]
    pub fn in_force(&self) -> usize {
        self.in_force
    }

    /// How many objects something keeps that should be gone.
    #[must_use]
    pub fn stuck(&self) -> usize {
        self.stuck
    }

    /// The clock was set back, by which every wait was measured.
    fn set_back(&mut self, now: Timestamp) {
        self.shards.hurry();
        for tracked in self.bans.values_mut() {
            (tracked.not_before, tracked.mute_until, tracked.patience) = (None, None, None);
        }
        self.judge_all(now);
    }

    fn judge_between(&mut self, before: &Networks, after: &Networks, now: Timestamp) {
        let mut touched = BTreeSet::new();
        for (first, last) in before.differing(after) {
            touched.extend(self.by_network.near(first, last).cloned());
        }
        for name in touched {
            self.judge(&name, now);
        }
    }

    fn judge_all(&mut self, now: Timestamp) {
        let names: Vec<Arc<str>> = self.bans.keys().cloned().collect();
        for name in names {
            self.judge(&name, now);
        }
    }

    fn protection(&self, ban: &Ban) -> Protection {
        let network = ban.source.network();
        let is_excepted = |policy: &PolicyRef| {
            let key = PolicyKey { namespace: policy.namespace.clone(), name: policy.name.clone() };
            self.excepted.get(&key).is_some_and(|networks| networks.overlaps(&network))
        };
        if self.protected.covers(&network) {
            Protection::Whole
        } else if self.protected.overlaps(&network) || ban.policy.as_ref().is_some_and(is_excepted) {
            Protection::Part
        } else {
            Protection::Nothing
        }
    }

    /// What is to be done about a ban at once.
    fn due(&self, name: &str, now: Timestamp) -> Option<Due> {
        let tracked = self.bans.get(name).filter(|tracked| tracked.acting.is_none())?;
        let due = self.due_in_time(tracked, now)?;
        let must_wait = tracked.not_before.is_some_and(|at| at > now);
        let is_recorded = tracked.is_recorded || tracked.patience.is_some_and(|at| at <= now);
        match due {
            Due::Tell(_) => Some(due),
            _ if must_wait => None,
            Due::Release(_) => is_recorded.then_some(due),
            _ => Some(due),
        }
    }

    /// What is to be done about a ban when it need not wait for anything.
    fn due_in_time(&self, tracked: &Tracked, now: Timestamp) -> Option<Due> {
        let facts = Facts {
            now,
            protection: self.protection(&tracked.ban),
            is_failing: tracked.failure.is_some(),
            is_mute: tracked.mute_until.is_some_and(|at| at > now),
        };
        due(&tracked.ban, facts)
    }

    fn recount(&mut self, before: Standing, after: Standing) {
        self.in_force -= usize::from(before == Standing::InForce);
        self.stuck -= usize::from(before == Standing::Stuck);
        self.in_force += usize::from(after == Standing::InForce);
        self.stuck += usize::from(after == Standing::Stuck);
    }

    /// Sees what is due about a ban now: queues it, or sets the time of the next look.
    fn judge(&mut self, name: &Arc<str>, now: Timestamp) {
        self.judged += 1;
        let Some(tracked) = self.bans.get(name) else { return };
        let ban = tracked.ban.clone();
        let is_due = matches!(self.due_in_time(tracked, now), Some(Due::Release(_)));
        let must_record = is_due && self.leads && !tracked.is_recorded;
        let standing = if ban.is_active(now) && self.protection(&ban) != Protection::Whole {
            Standing::InForce
        } else if ban.deleting_since.is_some() && Unenforced::Deleting.is_told(&ban) {
            Standing::Stuck
        } else {
            Standing::Over
        };
        let before = tracked.standing;
        self.recount(before, standing);
        let Some(tracked) = self.bans.get_mut(name) else { return };
        tracked.standing = standing;
        if must_record {
            tracked.patience.get_or_insert(now + HISTORY_PATIENCE);
            self.shards.want(shard_of(ban.source), name);
        }
        let waits = [tracked.not_before, tracked.mute_until, tracked.patience];
        let waits = waits.into_iter().flatten().filter(|&at| at > now && self.leads);
        let next = waits.chain(due::next(&ban, now)).min();
        if let Some(old) = std::mem::replace(&mut tracked.timer, next) {
            self.timers.remove(&(old, name.clone()));
        }
        if let Some(at) = next {
            self.timers.insert((at, name.clone()));
        }
        if self.leads
            && self.due(name, now).is_some()
            && let Some(tracked) = self.bans.get_mut(name)
            && !std::mem::replace(&mut tracked.is_ready, true)
        {
            self.ready.push_back(name.clone());
        }
    }
}

#[cfg(test)]
mod tests;
