//! The policies in force, each with its jail.
//!
//! Owns what was last accepted of every `ProbePolicy`: one that becomes unusable goes on as it was, and its
//! `Accepted` condition says so. In come the objects; out go the jails that streams feed and that the status
//! is told from.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ip_sentry_core::{
    detect::{
        decision::{Decision, Verdict},
        jail::{Jail, Limits},
        trail::Trail,
    },
    net::{Network, Source},
    networks::Networks,
};
use ip_sentry_crd::{
    ProbePolicy,
    condition::Finding,
    convert::{self, ConvertError},
    probe_policy::{LastBan, Mode, ProbePolicySpec},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;

use crate::{
    bans::Ban,
    logging,
    recent::{Recent, Tally},
};

pub use crate::events::PolicyKey;

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
}

/// Every policy.
#[derive(Default)]
pub struct Policies {
    entries: BTreeMap<PolicyKey, Entry>,
}

impl Policies {
    /// Takes in the policies as they are now. `lifted` are the sources whose lines up to a time count no more,
    /// for jails that are new.
    pub fn update(
        &mut self,
        objects: &[ProbePolicy],
        limits: Limits,
        lifted: &[(Source, Timestamp)],
        now: Timestamp,
    ) {
        let keys: BTreeMap<PolicyKey, &ProbePolicy> =
            objects.iter().map(|object| (key_of(object), object)).collect();
        self.entries.retain(|key, entry| keys.get(key).is_some_and(|object| object.uid() == entry.uid));
        for (key, object) in keys {
            let is_judged =
                self.entries.get(&key).is_some_and(|entry| entry.generation == object.metadata.generation);
            if !is_judged {
                let before = self.entries.remove(&key);
                let entry = judge(&key, object, before, limits, lifted, now);
                self.entries.insert(key, entry);
            }
        }
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

fn key_of(object: &ProbePolicy) -> PolicyKey {
    PolicyKey { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
}

fn judge(
    key: &PolicyKey,
    object: &ProbePolicy,
    before: Option<Entry>,
    limits: Limits,
    lifted: &[(Source, Timestamp)],
    now: Timestamp,
) -> Entry {
    let spec = &object.spec;
    let judged =
        convert::policy(spec).and_then(|policy| Ok((policy, convert::window(spec)?, convert::exempt(spec)?)));
    let (policy, window, exempt) = match judged {
        Ok(judged) => judged,
        Err(error) => return refuse(object, before, &error),
    };
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
        let mut jail = Jail::new(policy, limits);
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
    }
}

/// The policy as it stands can't be used; what was accepted before goes on.
fn refuse(object: &ProbePolicy, before: Option<Entry>, error: &ConvertError) -> Entry {
    let in_force = match before.as_ref().filter(|entry| entry.jail.is_some()) {
        Some(_) => "; the version that was accepted before stays in force until the operator restarts",
        None => "; nothing is counted and nobody is banned",
    };
    let accepted = Finding::no("Accepted", "Invalid", format!("{error}{in_force}"));
    let generation = object.metadata.generation;
    match before {
        Some(entry) => Entry { accepted, generation, ..entry },
        None => Entry {
            jail: None,
            spec: None,
            exempt: Networks::default(),
            window: Duration::ZERO,
            kept_since: None,
            accepted,
            generation,
            uid: object.uid(),
        },
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
        policies.update(&[object], Limits::default(), &[], Timestamp::UNIX_EPOCH);
        let key = PolicyKey { namespace: namespace.into(), name: name.into() };
        policies.entries[&key].jail.clone().unwrap()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(generation: i64, patterns: &[&str]) -> ProbePolicy {
        serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
            "metadata": {"name": "gw", "namespace": "web", "uid": "u", "generation": generation},
            "spec": {"podSelector": {}, "match": {"patterns": patterns}, "threshold": 2, "uniquePatternThreshold": 0},
        }))
        .unwrap()
    }

    fn line(path: &str) -> Vec<u8> {
        format!(r#"203.0.113.7 - - [22/Nov/2026:10:00:00 +0000] "GET {path} HTTP/1.1" 404 0 "-" "-""#)
            .into_bytes()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn update(policies: &mut Policies, object: ProbePolicy) {
        policies.update(&[object], Limits::default(), &[], at(0));
    }

    #[test]
    fn a_bad_change_is_refused_and_the_last_good_version_goes_on() {
        let mut policies = Policies::default();
        update(&mut policies, object(1, &["^/admin"]));
        let jail = policies.iter().next().unwrap().1.jail.clone().unwrap();
        assert!(jail.observe(&mut Trail::stamped(), at(1), &line("/admin"), &Networks::default()).is_none());
        update(&mut policies, object(2, &["("]));
        let (_, entry) = policies.iter().next().unwrap();
        assert_eq!(entry.accepted.status, Some(false));
        assert!(entry.accepted.message.contains("stays in force until the operator restarts"));
        assert_eq!(entry.generation, Some(2));
        assert!(matches!(
            jail.observe(&mut Trail::stamped(), at(2), &line("/admin"), &Networks::default()),
            Some(Outcome::Earned(_))
        ));
    }

    #[test]
    fn a_new_policy_that_is_bad_counts_nothing_and_says_so() {
        let mut policies = Policies::default();
        update(&mut policies, object(1, &["("]));
        let (_, entry) = policies.iter().next().unwrap();
        assert!(entry.jail.is_none());
        assert!(entry.accepted.message.contains("spec.match.patterns[0]"), "{}", entry.accepted.message);
        assert!(entry.accepted.message.contains("nobody is banned"));
    }

    #[test]
    fn a_good_change_keeps_the_counts() {
        let mut policies = Policies::default();
        update(&mut policies, object(1, &["^/admin"]));
        let jail = policies.iter().next().unwrap().1.jail.clone().unwrap();
        assert!(jail.observe(&mut Trail::stamped(), at(1), &line("/admin"), &Networks::default()).is_none());
        update(&mut policies, object(2, &["^/admin", "^/other"]));
        assert!(matches!(
            jail.observe(&mut Trail::stamped(), at(2), &line("/other"), &Networks::default()),
            Some(Outcome::Earned(_))
        ));
    }

    #[test]
    fn a_longer_window_is_known_to_lack_what_was_older_than_the_former() {
        let windowed = |generation, window: &str| {
            let mut object = object(generation, &["^/admin"]);
            object.spec.window = window.to_owned();
            object
        };
        let mut policies = Policies::default();
        for (generation, window, now, expect) in [
            (1, "2m", 0, None),
            (2, "1m", 500, None),
            (3, "1h", 1_000, Some(940)),
            (4, "30m", 1_500, Some(940)),
        ] {
            policies.update(&[windowed(generation, window)], Limits::default(), &[], at(now));
            let kept_since = policies.iter().next().unwrap().1.kept_since;
            assert_eq!(kept_since, expect.map(at), "window {window} at {now}");
        }
    }

    #[test]
    fn a_policy_made_again_under_its_name_starts_anew() {
        let mut policies = Policies::default();
        update(&mut policies, object(1, &["^/admin"]));
        let first = policies.iter().next().unwrap().1.jail.clone().unwrap();
        let mut again = object(1, &["^/admin"]);
        again.metadata.uid = Some("other".into());
        update(&mut policies, again);
        let second = policies.iter().next().unwrap().1.jail.clone().unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn lines_from_before_a_lifting_count_in_no_jail_not_in_a_new_one_either() {
        let source: Source = "203.0.113.7/32".parse().unwrap();
        let mut policies = Policies::default();
        policies.update(&[object(1, &["^/admin"])], Limits::default(), &[(source, at(10))], at(0));
        let jail = policies.iter().next().unwrap().1.jail.clone().unwrap();
        for second in [8, 9, 10, 11] {
            assert!(
                jail.observe(&mut Trail::stamped(), at(second), &line("/admin"), &Networks::default())
                    .is_none(),
                "{second}"
            );
        }
        assert!(jail.observe(&mut Trail::stamped(), at(12), &line("/admin"), &Networks::default()).is_some());
    }
}
