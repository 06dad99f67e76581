//! A cluster as the queue sees it: the real tables, and clocks that tests move.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ip_sentry_core::{
    detect::{
        decision::{Decision, Evidence, Threshold},
        escalation::BanTime,
    },
    net::Source,
    networks::Networks,
};
use ip_sentry_crd::ProbePolicy;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    ban_queue::{Action, BanQueue, MOST_BANS, Now, Outcome, Snapshot, Step},
    bans::{Ban, Bans},
    history::History,
    policies::{Policies, PolicyJail},
};

/// A second of the tests' day; it is 110 when a test begins, and decisions are of hits from 90 to 100.
pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// The operator's ban of one address.
pub(super) fn detected(address: &str, hits: u32, ends: i64) -> Ban {
    ban_of(&format!("{address}/32"), hits, ends)
}

/// The operator's ban of a network.
pub(super) fn ban_of(network: &str, hits: u32, ends: i64) -> Ban {
    let source: Source = network.parse().unwrap();
    Ban { name: source.ban_name(), source, hits, expires_at: Some(at(ends)), ..Ban::example() }
}

/// How long bans last here.
const BAN: Duration = Duration::from_secs(100);

pub(super) struct World {
    pub(super) queue: BanQueue,
    pub(super) bans: Bans,
    pub(super) now: Now,
    history: History,
    protected: Networks,
    policies: Policies,
    is_leading: bool,
    spec: Value,
    generation: i64,
    /// Writes that were asked for and not answered.
    under_way: BTreeMap<String, (Source, Ban)>,
}

impl Default for World {
    fn default() -> Self {
        Self::with_limit(MOST_BANS)
    }
}

impl World {
    pub(super) fn with_limit(most_bans: usize) -> Self {
        let instant = Instant::now();
        let mut world = Self {
            queue: BanQueue::with_limit(most_bans, instant),
            bans: Bans::default(),
            now: Now { instant, time: at(110) },
            history: History::default(),
            protected: Networks::default(),
            policies: Policies::default(),
            is_leading: true,
            spec: json!({"podSelector": {}}),
            generation: 0,
            under_way: BTreeMap::new(),
        };
        world.change_policy(|_| {});
        world.step();
        world
    }

    pub(super) fn lead(&mut self) {
        self.is_leading = true;
    }

    pub(super) fn follow(&mut self) {
        self.is_leading = false;
    }

    fn ask<T>(&mut self, f: impl FnOnce(&mut BanQueue, &Snapshot<'_>, Now) -> T) -> T {
        let snapshot = Snapshot {
            bans: &self.bans,
            history: &self.history,
            protected: &self.protected,
            policies: &self.policies,
            is_leading: self.is_leading,
        };
        f(&mut self.queue, &snapshot, self.now)
    }

    /// What the queue wants; writes are remembered for [`World::written`].
    pub(super) fn step(&mut self) -> Step {
        let step = self.ask(BanQueue::step);
        for action in &step.actions {
            if let Action::Create(write) | Action::Extend(write, _) = action {
                let source = write.decision.source;
                let ban = Ban {
                    name: write.name.clone(),
                    source,
                    hits: write.decision.evidence.hits,
                    expires_at: Some(write.ban.expires_at),
                    ..Ban::example()
                };
                self.under_way.insert(write.name.clone(), (source, ban));
            }
        }
        step
    }

    /// Lets time pass, as the queue asks for it, until it wants something done.
    pub(super) fn until_something(&mut self) -> Step {
        loop {
            let step = self.step();
            if step.actions.iter().any(|action| !matches!(action, Action::Drop(..) | Action::Refused(..))) {
                return step;
            }
            let until = step.wait_until.expect("it waits for something");
            assert!(until > self.now.instant, "it asks to be asked at once, and does nothing then");
            self.pass(until - self.now.instant);
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.time += time;
    }

    fn jail(&self) -> Arc<PolicyJail> {
        self.policies.iter().next().unwrap().1.jail.clone().unwrap()
    }

    /// A source earns a ban: of a hundred seconds, for hits from 20 to 10 seconds ago.
    pub(super) fn earn(&mut self, address: &str, hits: u32) {
        let second = self.now.time.as_second();
        let decision = Decision {
            source: Source::of(address.parse().unwrap(), 64).unwrap(),
            reason: "^/wp-admin".into(),
            evidence: Evidence {
                hits,
                threshold: Threshold::Hits,
                first_seen: at(second - 20),
                last_seen: at(second - 10),
                samples: Vec::new(),
            },
            ban_time: BanTime { first: BAN, escalation: None },
        };
        let jail = self.jail();
        self.ask(|queue, snapshot, now| queue.earned(jail, decision, snapshot, now));
    }

    pub(super) fn applied(&mut self, ban: Ban) {
        let name = ban.name.clone();
        self.bans.applied(ban);
        self.ask(|queue, snapshot, now| queue.ban_changed(&name, snapshot, now));
    }

    pub(super) fn deleted(&mut self, name: &str) {
        self.bans.deleted(name);
        self.ask(|queue, snapshot, now| queue.ban_changed(name, snapshot, now));
    }

    /// What became of the write of that name.
    pub(super) fn written(&mut self, name: &str, outcome: Outcome) {
        let (source, _) = self.under_way.remove(name).expect("it is under way");
        self.ask(|queue, snapshot, now| queue.written(source, outcome, snapshot, now));
    }

    pub(super) fn written_source(&mut self, source: &str, outcome: Outcome) {
        let name = source.parse::<Source>().unwrap().ban_name();
        self.written(&name, outcome);
    }

    /// Stores and evicts at once whatever the queue wants, until it wants nothing more now. Returns how many were stored.
    pub(super) fn store_all(&mut self) -> usize {
        let mut stored = 0;
        loop {
            let actions = self.step().actions;
            let mut is_idle = true;
            for action in actions {
                match action {
                    Action::Create(write) | Action::Extend(write, _) => {
                        let (source, ban) = self.under_way.remove(&write.name).unwrap();
                        self.ask(|queue, snapshot, now| {
                            queue.written(source, Outcome::Stored, snapshot, now);
                        });
                        self.applied(ban);
                        stored += 1;
                    }
                    Action::Evict(name, _) => self.deleted(&name),
                    Action::Drop(..) | Action::Refused(..) => continue,
                }
                is_idle = false;
            }
            if is_idle {
                return stored;
            }
        }
    }

    pub(super) fn lifted(&mut self, network: &str, second: i64) {
        // Nodes and replicas hear of it by the deletion of the ban.
        let source: Source = network.parse().unwrap();
        self.history.lift(source, at(second));
        let name = source.ban_name();
        self.ask(|queue, snapshot, now| queue.ban_changed(&name, snapshot, now));
    }

    pub(super) fn protect(&mut self, networks: &[&str]) {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let before = std::mem::replace(&mut self.protected, networks);
        self.ask(|queue, snapshot, now| queue.protected_changed(&before, snapshot, now));
    }

    fn change_policy(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.spec);
        self.generation += 1;
        let object: ProbePolicy = serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
            "metadata": {"name": "gw", "namespace": "web", "generation": self.generation},
            "spec": self.spec,
        }))
        .unwrap();
        self.policies.update(&[&object], usize::MAX, &[], self.now.time);
    }

    pub(super) fn exempt(&mut self, network: &str) {
        self.change_policy(|spec| spec["except"] = json!({"cidrs": [network]}));
    }

    pub(super) fn shadow(&mut self) {
        self.change_policy(|spec| spec["mode"] = json!("Shadow"));
    }

    pub(super) fn allow_ipv4(&mut self) {
        self.change_policy(|spec| spec["aggregate"] = json!({"ipv4": 24}));
    }
}
