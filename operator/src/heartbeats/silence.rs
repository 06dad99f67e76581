//! Which agents have fallen silent, by the leader's own clock: a heartbeat says when it was written, but by the clock
//! of a node, or of whoever has stolen an agent's token.

use std::{
    collections::HashMap,
    mem,
    time::{Duration, Instant},
};

use ip_sentry_crd::{
    NodeFirewall,
    condition::{self, Finding},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;

use super::READY;

/// What holds of a node only as long as its agent says so.
const CLAIMS: [&str; 3] = [READY, "Enforcing", "OperatorActive"];
/// Three heartbeats of 60 s and their jitter.
const SILENCE: Duration = Duration::from_secs(225);

/// The last heartbeat of each `NodeFirewall` that there is.
#[derive(Default)]
pub(super) struct Heard {
    beats: HashMap<String, Beat>,
    looked: Option<Instant>,
}

/// A heartbeat.
struct Beat {
    /// The time that it says.
    said: Timestamp,
    /// When this replica first saw it.
    seen: Instant,
    /// How old it was then.
    age: Duration,
}

impl Heard {
    /// Takes in all `NodeFirewalls` as they are at `now`, which is `at` by the clock on the wall.
    pub(super) fn hear(&mut self, firewalls: &[NodeFirewall], now: Instant, at: Timestamp) {
        let mut before = mem::take(&mut self.beats);
        let looked = self.looked.replace(now);
        self.beats = firewalls
            .iter()
            .filter_map(|firewall| {
                let (name, said) = (firewall.name_any(), last_heartbeat(firewall)?);
                let known = before.remove(&name).filter(|beat| beat.said == said);
                let beat = known.unwrap_or_else(|| Beat { said, seen: now, age: age(said, at, now, looked) });
                Some((name, beat))
            })
            .collect();
    }

    /// For how long the agent of a `NodeFirewall` that was taken in has been silent.
    fn silence(&self, firewall: &NodeFirewall, now: Instant) -> Option<Duration> {
        let beat = self.beats.get(&firewall.name_any())?;
        Some(beat.age + now.saturating_duration_since(beat.seen))
    }

    /// The conditions to write of a node that has fallen silent, unless they say so already.
    pub(super) fn silenced(
        &self,
        firewall: &NodeFirewall,
        now: Instant,
        at: Timestamp,
    ) -> Option<Vec<Condition>> {
        let silence = self.silence(firewall, now).filter(|silence| *silence >= SILENCE)?;
        let status = firewall.status.as_ref()?;
        let last = last_heartbeat(firewall)?;
        let is_claimed = |kind: &str| {
            status.conditions.iter().any(|condition| condition.type_ == kind && condition.status != "Unknown")
        };
        let claims: Vec<&'static str> = CLAIMS.into_iter().filter(|kind| is_claimed(kind)).collect();
        if claims.is_empty() {
            return None;
        }
        let spoke = if last > at {
            format!(
                "has been silent for {} s, and its last heartbeat says {last}, which is in the future",
                silence.as_secs()
            )
        } else {
            format!("last spoke at {last}")
        };
        let message = format!(
            "the agent of this node {spoke}: look at its pod in namespace ip-sentry-node; \
             bans that the node had heard of are still enforced and still expire"
        );
        let findings = claims.iter().map(|kind| Finding::unknown(kind, "AgentSilent", message.clone()));
        let findings: Vec<Finding> = findings.collect();
        let mut conditions = condition::merge(&status.conditions, &findings, None, at);
        let others = status.conditions.iter().filter(|condition| !claims.contains(&condition.type_.as_str()));
        conditions.extend(others.cloned());
        Some(conditions)
    }
}

fn last_heartbeat(firewall: &NodeFirewall) -> Option<Timestamp> {
    Some(firewall.status.as_ref()?.last_heartbeat.as_ref()?.0)
}

/// The age of a heartbeat that the leader sees for the first time: by its own time stamp, but no more than the time since
/// the last round, in which it was not there. A time stamp in the future makes the age zero. A leader that has just
/// started has nothing but the time stamp.
fn age(said: Timestamp, at: Timestamp, now: Instant, looked: Option<Instant>) -> Duration {
    let stated = at.duration_since(said).max(SignedDuration::ZERO).unsigned_abs();
    looked.map_or(stated, |looked| stated.min(now.saturating_duration_since(looked)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::heartbeats::tests::firewall;

    /// The clock on the wall when the leader starts.
    const START: i64 = 10_000;
    const FUTURE: i64 = 4_070_908_800; // in 2099

    #[test]
    fn an_agent_is_silent_when_its_heartbeat_stays_the_same_whatever_it_says() {
        #[rustfmt::skip]
        let table = [
            // case                                   when a heartbeat was seen, and what it said      asked  silent
            ("of now",                                &[(0, START)][..],                                 0,   false),
            ("the same for as long as may be",        &[(0, START)],                                   224,   false),
            ("the same for longer",                   &[(0, START)],                                   225,   true),
            ("a little old when the leader starts",   &[(0, START - 200)],                               0,   false),
            ("and no newer later",                    &[(0, START - 200)],                              25,   true),
            ("too old when the leader starts",        &[(0, START - 225)],                               0,   true),
            ("in the future, and still the same",     &[(0, FUTURE), (100, FUTURE)],                   225,   true),
            ("in the future, and moving",             &[(0, FUTURE), (100, FUTURE + 60)],              225,   false),
            ("of a clock behind, and moving",         &[(0, START - 900), (20, START - 840)],           60,   false),
            ("newer, while nobody looked for an hour", &[(0, START), (3600, START + 60)],             3600,   true),
        ];
        let start = Instant::now();
        for (case, seen, asked, is_silent) in table {
            let mut heard = Heard::default();
            let at = |second: u64| {
                let wall = Timestamp::from_second(START).unwrap() + Duration::from_secs(second);
                (start + Duration::from_secs(second), wall)
            };
            let mut last = firewall("True", START);
            for &(second, said) in seen {
                last = firewall("True", said);
                let (now, wall) = at(second);
                heard.hear(std::slice::from_ref(&last), now, wall);
            }
            let (now, wall) = at(asked);
            assert_eq!(heard.silenced(&last, now, wall).is_some(), is_silent, "{case}");
        }
    }

    #[test]
    fn a_node_that_is_silent_is_unknown_and_keeps_the_rest() {
        let (now, at) = (Instant::now(), Timestamp::from_second(START).unwrap());
        let mut heard = Heard::default();
        let silent = firewall("True", START - 225);
        heard.hear(std::slice::from_ref(&silent), now, at);
        let conditions = heard.silenced(&silent, now, at).unwrap();
        let told: Vec<_> = conditions.iter().map(|one| (one.type_.as_str(), one.status.as_str())).collect();
        assert_eq!(told, [("Ready", "Unknown"), ("Enforcing", "Unknown"), ("ChainFirst", "True")]);
        assert_eq!(heard.silenced(&firewall("Unknown", START - 225), now, at), None, "they say so already");
    }

    #[test]
    fn a_heartbeat_from_the_future_is_named() {
        let (now, at) = (Instant::now(), Timestamp::from_second(START).unwrap());
        let mut heard = Heard::default();
        let stolen = firewall("True", FUTURE);
        heard.hear(std::slice::from_ref(&stolen), now, at);
        let conditions = heard.silenced(&stolen, now + SILENCE, at).unwrap();
        let message = "the agent of this node has been silent for 225 s, and its last heartbeat says 2099-";
        assert!(conditions[0].message.starts_with(message), "{}", conditions[0].message);
    }

    #[test]
    fn only_what_there_is_is_remembered() {
        let named = |name: &str| {
            let mut firewall = firewall("True", START);
            firewall.metadata.name = Some(name.to_owned());
            firewall
        };
        let (now, at) = (Instant::now(), Timestamp::from_second(START).unwrap());
        let mut heard = Heard::default();
        for firewalls in [&["a", "b"][..], &["b", "c"], &[]] {
            heard.hear(&firewalls.iter().copied().map(named).collect::<Vec<_>>(), now, at);
            let known: BTreeSet<&str> = heard.beats.keys().map(String::as_str).collect();
            assert_eq!(known, firewalls.iter().copied().collect());
        }
    }
}
