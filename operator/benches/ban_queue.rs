//! What the ban queue costs: a burst of new sources beside many that wait, and a second in which only the budget works.
//!
//! `cargo bench -p ip-sentry-operator --bench ban_queue` prints processor time, of one core, as the kernel counts it.

#![expect(clippy::unwrap_used, reason = "a benchmark without its input has nothing to measure")]

use std::{
    fs,
    net::Ipv4Addr,
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
use ip_sentry_crd::{IPBan, ProbePolicy};
use ip_sentry_operator::{
    ban_queue::{Action, BanQueue, Now, Outcome, Snapshot, Write},
    bans::{Ban, Bans},
    history::History,
    policies::Policies,
};
use jiff::Timestamp;
use serde_json::json;

const WAITING: u32 = 10_000;
const BURST: u32 = 12_000;

struct World {
    queue: BanQueue,
    bans: Bans,
    policies: Policies,
    history: History,
    protected: Networks,
    now: Now,
}

impl World {
    fn ask<T>(&mut self, f: impl FnOnce(&mut BanQueue, &Snapshot<'_>, Now) -> T) -> T {
        let snapshot = Snapshot {
            bans: &self.bans,
            history: &self.history,
            protected: &self.protected,
            policies: &self.policies,
            is_leading: true,
        };
        f(&mut self.queue, &snapshot, self.now)
    }

    fn earn(&mut self, number: u32) {
        let decision = Decision {
            // No two are neighbours.
            source: Source::of(Ipv4Addr::from_bits(0x2d00_0000 + number * 257).into(), 64).unwrap(),
            reason: "2 different patterns: /wp-admin, /.env".into(),
            evidence: Evidence {
                hits: 3,
                threshold: Threshold::Hits,
                first_seen: self.now.time,
                last_seen: self.now.time,
                samples: vec!["GET /wp-admin/ 404".into(); 3],
            },
            ban_time: BanTime { first: Duration::from_hours(24), escalation: None },
        };
        let jail = self.policies.iter().next().unwrap().1.jail.clone().unwrap();
        self.ask(|queue, snapshot, now| queue.earned(jail, decision, snapshot, now));
    }

    /// Stores at once what the queue wants stored, and shows it the ban. Returns how many.
    fn store(&mut self) -> usize {
        let mut stored = 0;
        loop {
            let actions = self.ask(BanQueue::step).actions;
            if actions.is_empty() {
                return stored;
            }
            for action in actions {
                if let Action::Create(write) = action {
                    self.show(&write);
                    stored += 1;
                }
            }
        }
    }

    fn show(&mut self, write: &Write) {
        let source = write.decision.source;
        self.ask(|queue, snapshot, now| queue.written(source, Outcome::Stored, snapshot, now));
        let object: IPBan = serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "IPBan",
            "metadata": {"name": write.name, "labels": {"app.kubernetes.io/managed-by": "ip-sentry"}},
            "spec": {
                "cidr": source.to_string(), "origin": "Detected",
                "expiresAt": write.ban.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "policyRef": {"namespace": "web", "name": "gw"},
            },
        }))
        .unwrap();
        self.bans.applied(Ban::read(&object).unwrap());
        self.ask(|queue, snapshot, now| queue.ban_changed(&write.name, snapshot, now));
    }
}

fn main() {
    let policy: ProbePolicy = serde_json::from_value(json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
        "metadata": {"namespace": "web", "name": "gw"}, "spec": {"podSelector": {}},
    }))
    .unwrap();
    let mut policies = Policies::default();
    policies.update(&[&policy], usize::MAX, &[], Timestamp::now());
    let now = Now { instant: Instant::now(), time: Timestamp::now() };
    let mut world = World {
        queue: BanQueue::new(now.instant),
        bans: Bans::default(),
        policies,
        history: History::default(),
        protected: Networks::default(),
        now,
    };
    for number in 0..WAITING {
        world.earn(number);
    }
    let at_once = world.store();
    let waited = world.queue.report().waiting;

    let began = processor_time();
    for number in WAITING..WAITING + BURST {
        world.earn(number);
    }
    let burst = processor_time().saturating_sub(began);
    let lost = waited + BURST as usize - world.queue.report().waiting;

    let began = processor_time();
    let mut written = 0;
    // The task asks when a token is there, and for each answer of the API server.
    for _ in 0..100 {
        world.now.instant += Duration::from_millis(10);
        world.now.time += Duration::from_millis(10);
        written += world.store();
    }
    let rest = processor_time().saturating_sub(began);

    println!("{at_once} of the first {WAITING} sources are stored at once, {waited} wait");
    println!(
        "{BURST} new sources: {:.1} ms, {:.1} µs each, {lost} lost",
        burst.as_secs_f64() * 1e3,
        burst.as_secs_f64() * 1e6 / f64::from(BURST)
    );
    println!(
        "a second at rest, {} waiting, {written} stored: {:.2} ms, {:.2} % of a core (limit 10 %)",
        world.queue.report().waiting,
        rest.as_secs_f64() * 1e3,
        rest.as_secs_f64() * 1e2
    );
}

/// What this thread has run so far.
fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}
