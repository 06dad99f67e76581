//! The policies in force, each with its jail.
//!
//! Owns what was last accepted of every `ProbePolicy`: one that becomes unusable goes on as it was, and its
//! `Accepted` condition says so. In come the objects; out go the jails that streams feed and that the status
//! is told from.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ip_sentry_core::{
    detect::{
        decision::{Decision, Verdict},
        forgiven::Pardons,
        jail::{Jail, Limits},
        trail::Trail,
    },
    net::{Network, Source},
    networks::Networks,
};
use ip_sentry_crd::{
    ProbePolicy,
    condition::Finding,
    convert,
    probe_policy::{LastBan, Mode, ProbePolicySpec},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use crate::{
    bans::Ban,
    logging, memory,
    recent::{Recent, Tally},
};

pub use crate::events::PolicyKey;

/// What a jail may take until [`Policies::share`] says more, which is before it sees its first line.
const FIRST: Limits = Limits { source_bytes: 64 << 10, samples: 64, forgiven: FORGIVEN };
/// How many bans lifted by hand are remembered for all policies together: more than there may be bans.
const FORGIVEN: usize = 1 << 16;
/// What a table may grow by until the next round without asking.
const GROWTH: usize = 64 << 10;

/// How long it is told that a banned source was seen.
const TOLD_FOR: SignedDuration = SignedDuration::from_mins(10);

/// A policy that counts.
pub struct PolicyJail {
    /// Whose it is.
    pub key: PolicyKey,
    /// The object's identity.
    pub uid: Option<String>,
    /// Since when it counts.
    pub since: Timestamp,
    enforces: AtomicBool,
    jail: Mutex<Jail>,
    recent: Mutex<Recent>,
    last_ban: Mutex<Option<LastBan>>,
    seen_banned: Mutex<Option<SeenBanned>>,
    /// Sources that were evicted when memory was last shared.
    evicted: AtomicU64,
}

impl fmt::Debug for PolicyJail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.key.namespace, self.key.name)
    }
}

/// A banned source that still got through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeenBanned {
    /// Whom its ban should have stopped.
    pub source: Source,
    /// Since when it is banned.
    pub since: Timestamp,
    /// When it was seen.
    pub at: Timestamp,
}

/// What a line led to, beyond being counted.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A source has earned a ban.
    Earned(Decision),
    /// It has, but its ban would drop a protected network too.
    Shielded(Decision),
}

impl PolicyJail {
    /// Takes in one line of the log that `trail` is of.
    pub fn observe(
        &self,
        trail: &mut Trail,
        stamp: Timestamp,
        line: &[u8],
        protected: &Networks,
    ) -> Option<Outcome> {
        let mut jail = self.jail();
        let outcome = match jail.observe_in(trail, Some(stamp), line, protected, &|_, _| false) {
            Verdict::Earned(decision) => Outcome::Earned(decision),
            Verdict::Shielded(decision) => Outcome::Shielded(decision),
            Verdict::Unparsed(reason) => {
                tracing::debug!(
                    target: logging::UNREAD_LINES,
                    namespace = self.key.namespace, policy = self.key.name, reason = reason.label(), line = jail.unparsed_sample(),
                    "a line was not read"
                );
                return None;
            }
            _ => return None,
        };
        drop(jail);
        if let Outcome::Earned(decision) = &outcome {
            *lock(&self.last_ban) = Some(LastBan {
                cidr: decision.source.to_string(),
                at: Time(decision.evidence.last_seen),
                reason: decision.reason.clone(),
                enforced: self.enforces(),
            });
        }
        Some(outcome)
    }

    /// A source was seen at `at`, long after it was banned. One of them is told for a while, lest the status change
    /// with every request.
    pub fn saw_banned(&self, ban: &Ban, at: Timestamp) {
        let Some(since) = ban.created_at else { return };
        let mut seen = lock(&self.seen_banned);
        if seen.is_none_or(|seen| at.duration_since(seen.at) > TOLD_FOR) {
            *seen = Some(SeenBanned { source: ban.source, since, at });
        }
    }

    /// A source that got through in the last minutes although it is banned.
    #[must_use]
    pub fn seen_banned(&self, now: Timestamp) -> Option<SeenBanned> {
        lock(&self.seen_banned).filter(|seen| now.duration_since(seen.at) <= TOLD_FOR)
    }

    /// Whether it bans; in mode Shadow it does not.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.enforces.load(Ordering::Relaxed)
    }

    /// The counts.
    pub fn jail(&self) -> MutexGuard<'_, Jail> {
        lock(&self.jail)
    }

    /// How much memory it wants for its tables: half as much again as it has, or all there is when it had to evict.
    fn wants(&self) -> usize {
        let (taken, evicted) = {
            let jail = self.jail();
            (jail.tracked_bytes(), jail.counters().evicted)
        };
        let is_full = self.evicted.swap(evicted, Ordering::Relaxed) != evicted;
        if is_full { usize::MAX } else { taken + taken / 2 + GROWTH }
    }

    /// What came lately, for conditions that speak of now.
    #[must_use]
    pub fn recent(&self) -> Tally {
        let all = Tally::of(self.jail().counters());
        lock(&self.recent).tally(all, Instant::now())
    }

    /// The last source that earned a ban.
    #[must_use]
    pub fn last_ban(&self) -> Option<LastBan> {
        lock(&self.last_ban).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One policy and what became of its latest version.
pub struct Entry {
    /// The jail, once some version was accepted.
    pub jail: Option<Arc<PolicyJail>>,
    /// The accepted version.
    pub spec: Option<ProbePolicySpec>,
    /// The networks that it exempts.
    pub exempt: Networks,
    /// How long its hits count.
    pub window: Duration,
    /// Hits from before this were forgotten when the window was shorter.
    pub kept_since: Option<Timestamp>,
    /// `Accepted`.
    pub accepted: Finding,
    /// The generation that was judged.
    pub generation: Option<i64>,
    /// The object's identity.
    pub uid: Option<String>,
    /// What the compiled patterns of the accepted version take, in bytes.
    pattern_bytes: usize,
    /// Why it is judged again though it has not changed.
    pending: Option<Pending>,
}

/// Why a policy is judged again until there is room for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Pending {
    /// There are too many policies.
    TooMany,
    /// Its patterns need so many bytes, and there is not enough left.
    Room(usize),
}

/// Every policy.
#[derive(Default)]
pub struct Policies {
    entries: BTreeMap<PolicyKey, Entry>,
    pardons: Pardons,
}

impl Policies {
    /// Takes in the policies as they are now, of which all together may take `most_bytes` with compiled patterns.
    /// `lifted` are the sources whose lines up to a time count no more, for jails that are new.
    pub fn update(
        &mut self,
        objects: &[&ProbePolicy],
        most_bytes: usize,
        lifted: &[(Source, Timestamp)],
        now: Timestamp,
    ) {
        let keys: BTreeMap<PolicyKey, &ProbePolicy> =
            objects.iter().map(|&object| (PolicyKey::of(object), object)).collect();
        self.entries.retain(|key, entry| keys.get(key).is_some_and(|object| object.uid() == entry.uid));
        for object in objects {
            let key = PolicyKey::of(object);
            let before = self.entries.get(&key);
            let others = self.pattern_bytes() - before.map_or(0, |entry| entry.pattern_bytes);
            let room = most_bytes.saturating_sub(others);
            let is_judged = before.is_some_and(|entry| {
                let is_settled = match entry.pending {
                    None => true,
                    Some(Pending::TooMany) => false,
                    Some(Pending::Room(needed)) => needed > room,
                };
                is_settled && entry.generation == object.metadata.generation
            });
            if !is_judged {
                let before = self.entries.remove(&key);
                let entry = judge(&key, object, before, room, (lifted, &self.pardons), now);
                self.entries.insert(key, entry);
            }
        }
    }

    /// Takes in policies that are too many: they don't count.
    pub fn refuse(&mut self, objects: &[&ProbePolicy]) {
        for object in objects {
            let message = "nothing is counted and nobody is banned: there are more policies than the operator may \
                           have; remove some, or raise the operator's memory limit";
            let accepted = Finding::no("Accepted", "TooManyPolicies", message);
            let entry = Entry { pending: Some(Pending::TooMany), ..Entry::refused(object, accepted) };
            self.entries.insert(PolicyKey::of(object), entry);
        }
    }

    /// Shares `total` bytes for tables among the policies by what they need at present; a table that gets less than it
    /// takes gives the rest back at once.
    pub fn share(&self, total: usize) {
        let jails: Vec<&Arc<PolicyJail>> =
            self.entries.values().filter_map(|entry| entry.jail.as_ref()).collect();
        let wants: Vec<usize> = jails.iter().map(|jail| jail.wants()).collect();
        let within = |bytes| Limits { forgiven: FORGIVEN, ..Limits::within(bytes) };
        let mut shares: Vec<(&Arc<PolicyJail>, Limits)> =
            jails.into_iter().zip(memory::divide(total, &wants).into_iter().map(within)).collect();
        // Those that give back first, so that all together never have more.
        shares.sort_by_key(|(jail, limits)| limits.source_bytes > jail.jail().limits().source_bytes);
        for (jail, limits) in shares {
            jail.jail().limit(limits);
        }
    }

    fn pattern_bytes(&self) -> usize {
        self.entries.values().map(|entry| entry.pattern_bytes).sum()
    }

    /// The policy of that name.
    #[must_use]
    pub fn get(&self, key: &PolicyKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Whether there is a policy of that name.
    #[must_use]
    pub fn contains(&self, key: &PolicyKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Every policy, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&PolicyKey, &Entry)> {
        self.entries.iter()
    }

    /// The identity of the policy's object.
    #[must_use]
    pub fn uid(&self, key: &PolicyKey) -> Option<String> {
        self.entries.get(key).and_then(|entry| entry.uid.clone())
    }

    /// Whether the policy exists and bans.
    #[must_use]
    pub fn enforces(&self, key: &PolicyKey) -> bool {
        self.entries.get(key).and_then(|entry| entry.jail.as_ref()).is_some_and(|jail| jail.enforces())
    }

    /// Whether the policy of that name exempts the network now.
    #[must_use]
    pub fn exempts(&self, key: &PolicyKey, network: &Network) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.exempt.overlaps(network))
    }

    /// The prefix length that densely banned IPv4 networks of this policy are joined to; `None`: never.
    #[must_use]
    pub fn aggregate_ipv4(&self, key: &PolicyKey) -> Option<u8> {
        let spec = self.entries.get(key)?.spec.as_ref()?;
        spec.aggregate.as_ref()?.ipv4.and_then(|prefix| u8::try_from(prefix).ok())
    }

    /// The longest time that any policy looks back.
    #[must_use]
    pub fn longest_window(&self) -> Duration {
        self.entries.values().map(|entry| entry.window).max().unwrap_or_default()
    }

    /// A ban of `source` was lifted by hand: its lines stamped up to `until` count nowhere any more.
    pub fn forgive(&self, source: Source, until: Timestamp) {
        for jail in self.entries.values().filter_map(|entry| entry.jail.as_ref()) {
            jail.jail().forgive(source, until);
        }
    }
}

impl PolicyKey {
    /// The key of an object.
    #[must_use]
    pub fn of(object: &ProbePolicy) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

impl Entry {
    /// A policy of which no version was accepted.
    fn refused(object: &ProbePolicy, accepted: Finding) -> Self {
        Self {
            jail: None,
            spec: None,
            exempt: Networks::default(),
            window: Duration::ZERO,
            kept_since: None,
            accepted,
            generation: object.metadata.generation,
            uid: object.uid(),
            pattern_bytes: 0,
            pending: None,
        }
    }
}

fn judge(
    key: &PolicyKey,
    object: &ProbePolicy,
    before: Option<Entry>,
    room: usize,
    (lifted, pardons): (&[(Source, Timestamp)], &Pardons),
    now: Timestamp,
) -> Entry {
    let spec = &object.spec;
    let judged =
        convert::policy(spec).and_then(|policy| Ok((policy, convert::window(spec)?, convert::exempt(spec)?)));
    let (policy, window, exempt) = match judged {
        Ok(judged) => judged,
        Err(error) => return refuse(object, before, "Invalid", &error),
    };
    let pattern_bytes = policy.compiled_bytes();
    if pattern_bytes > room {
        let message = format!(
            "the compiled patterns take {pattern_bytes} bytes, and all policies together have {room} left for them: use \
             fewer or simpler ones, or raise the operator's memory limit"
        );
        return Entry {
            pending: Some(Pending::Room(pattern_bytes)),
            ..refuse(object, before, "TooManyPatterns", &message)
        };
    }
    let enforces = spec.mode == Mode::Enforce;
    let kept_since = before.as_ref().filter(|entry| entry.jail.is_some()).and_then(|entry| {
        let forgotten = now.saturating_sub(entry.window).unwrap_or(Timestamp::MIN);
        if window > entry.window { Some(forgotten) } else { entry.kept_since }
    });
    let jail = if let Some(jail) = before.and_then(|entry| entry.jail) {
        jail.jail().reconfigure(policy);
        jail.enforces.store(enforces, Ordering::Relaxed);
        jail
    } else {
        let mut jail = Jail::sharing(policy, FIRST, pardons.clone());
        for &(source, until) in lifted {
            jail.forgive(source, until);
        }
        Arc::new(PolicyJail {
            key: key.clone(),
            uid: object.uid(),
            since: now,
            enforces: AtomicBool::new(enforces),
            jail: Mutex::new(jail),
            recent: Recent::new(Instant::now()).into(),
            last_ban: Mutex::default(),
            seen_banned: Mutex::default(),
            evicted: AtomicU64::default(),
        })
    };
    let message = if enforces { "in force" } else { "in force; mode Shadow: nobody is banned" };
    Entry {
        jail: Some(jail),
        spec: Some(spec.clone()),
        exempt: exempt.into_iter().collect(),
        window,
        kept_since,
        accepted: Finding::yes("Accepted", "Accepted", message),
        generation: object.metadata.generation,
        uid: object.uid(),
        pattern_bytes,
        pending: None,
    }
}

/// The policy as it stands can't be used; what was accepted before goes on.
fn refuse(object: &ProbePolicy, before: Option<Entry>, reason: &'static str, error: &impl Display) -> Entry {
    let in_force = match before.as_ref().filter(|entry| entry.jail.is_some()) {
        Some(_) => "; the version that was accepted before stays in force until the operator restarts",
        None => "; nothing is counted and nobody is banned",
    };
    let accepted = Finding::no("Accepted", reason, format!("{error}{in_force}"));
    let generation = object.metadata.generation;
    match before {
        Some(entry) => Entry { accepted, generation, pending: None, ..entry },
        None => Entry::refused(object, accepted),
    }
}

#[cfg(test)]
impl PolicyJail {
    /// The jail of a policy of that name that counts by the default patterns.
    pub(crate) fn example(namespace: &str, name: &str) -> Arc<Self> {
        let object: ProbePolicy = serde_json::from_value(serde_json::json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"podSelector": {}},
        }))
        .unwrap();
        let mut policies = Policies::default();
        policies.update(&[&object], usize::MAX, &[], Timestamp::UNIX_EPOCH);
        let key = PolicyKey { namespace: namespace.into(), name: name.into() };
        policies.entries[&key].jail.clone().unwrap()
    }
}

#[cfg(test)]
mod tests;
