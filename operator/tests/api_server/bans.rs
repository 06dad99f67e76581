//! Bans as a real API server takes them: names that are taken, two leaders, a second write of the same.

use std::time::{Duration, Instant};

use ip_sentry_core::{
    detect::{
        decision::{Decision, Evidence, Threshold},
        escalation::BanTime,
    },
    networks::Networks,
};
use ip_sentry_crd::{IPBan, ProbePolicy, ip_ban::Origin, manifest};
use ip_sentry_operator::{
    ban_queue::{Action, BanQueue, Dropped, Now, Obsolete, Outcome, Snapshot},
    bans::{Ban, Bans},
    history::History,
    policies::Policies,
    publish::Publisher,
};
use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{conditions::is_crd_established, wait::await_condition},
};
use serde_json::{Value, json};

use crate::control_plane::{ControlPlane, config, until};

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    pub(crate) control_plane: std::sync::Arc<ControlPlane>,
    bans: Api<IPBan>,
    pub(crate) client: Client,
}

/// An API server that knows our kinds, shared.
pub(crate) async fn server() -> Option<Server> {
    Some(server_on(ControlPlane::start()?).await)
}

/// Makes our kinds known to an API server.
pub(crate) async fn server_on(control_plane: std::sync::Arc<ControlPlane>) -> Server {
    let client = Client::try_from(config(&control_plane.kubeconfig()).await).unwrap();
    install(&client).await;
    let bans: Api<IPBan> = Api::all(client.clone());
    Server { control_plane, bans, client }
}

/// Installs our kinds.
pub(crate) async fn install(client: &Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in manifest::crds() {
        let name = crd["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("test").force();
        crds.patch(name, &params, &Patch::Apply(&crd)).await.unwrap();
        let established = await_condition(crds.clone(), name, is_crd_established());
        tokio::time::timeout(SOON, established).await.expect("the CRD is established").unwrap();
    }
    let bans: Api<IPBan> = Api::all(client.clone());
    until("bans are served", SOON, async || bans.get_opt("none").await.is_ok()).await;
}

fn second(from_now: i64) -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + from_now).unwrap()
}

fn decision(address: &str, expires_at: Timestamp) -> Decision {
    let last_seen = second(-5);
    Decision {
        source: format!("{address}/32").parse().unwrap(),
        reason: "^/wp-admin".into(),
        evidence: Evidence {
            hits: 3,
            threshold: Threshold::Hits,
            first_seen: second(-10),
            last_seen,
            samples: vec!["GET /wp-admin/ 404".into()],
        },
        ban_time: BanTime { first: expires_at.duration_since(last_seen).unsigned_abs(), escalation: None },
    }
}

/// A leader that works one decision off.
struct Leader {
    queue: BanQueue,
    publisher: Publisher,
    policies: Policies,
    /// What its watch has told it. Nothing at first: a leader may be behind by as much.
    bans: Bans,
    now: Now,
}

impl Leader {
    fn new(server: &Server) -> Self {
        let policy: ProbePolicy = serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
            "metadata": {"namespace": "web", "name": "gw"}, "spec": {"podSelector": {}},
        }))
        .unwrap();
        let mut policies = Policies::default();
        policies.update(&[&policy], usize::MAX, &[], Timestamp::now());
        let now = Now { instant: Instant::now(), time: Timestamp::now() };
        let publisher = Publisher::new(server.client.clone());
        Self { queue: BanQueue::new(now.instant), publisher, policies, bans: Bans::default(), now }
    }

    /// Hands the decision in, and does what the queue wants until it wants nothing now. Returns what was done.
    async fn work_off(&mut self, decision: &Decision) -> Vec<String> {
        let jail = self.policies.iter().next().unwrap().1.jail.clone().unwrap();
        self.ask(|queue, snapshot, now| queue.earned(jail, decision.clone(), snapshot, now));
        self.go_on().await
    }

    async fn go_on(&mut self) -> Vec<String> {
        let mut done = Vec::new();
        loop {
            let actions = self.ask(BanQueue::step).actions;
            if actions.is_empty() {
                return done;
            }
            for action in actions {
                let (write, outcome, what) = match action {
                    Action::Create(write) => {
                        let outcome = self.publisher.create(&write).await;
                        (write, outcome, "create")
                    }
                    Action::Extend(write, version) => {
                        let outcome = self.publisher.extend(&write, &version).await;
                        (write, outcome, "extend")
                    }
                    Action::Drop(_, _, Dropped::Obsolete(Obsolete::Enforced)) => {
                        done.push("enforced".into());
                        continue;
                    }
                    other => panic!("{other:?}"),
                };
                let became = match &outcome {
                    Outcome::Stored => "stored",
                    Outcome::Taken(_) => "taken",
                    Outcome::Vanished => "vanished",
                    other => panic!("{other:?}"),
                };
                done.push(format!("{what} {}: {became}", write.name));
                self.ask(|queue, snapshot, now| {
                    queue.written(write.decision.source, outcome, snapshot, now);
                });
            }
        }
    }

    fn ask<T>(&mut self, f: impl FnOnce(&mut BanQueue, &Snapshot<'_>, Now) -> T) -> T {
        let snapshot = Snapshot {
            bans: &self.bans,
            history: &History::default(),
            protected: &Networks::default(),
            policies: &self.policies,
            is_leading: true,
        };
        f(&mut self.queue, &snapshot, self.now)
    }
}

/// What a leader that has heard of nothing does about a decision.
async fn work_off(server: &Server, decision: &Decision) -> Vec<String> {
    Leader::new(server).work_off(decision).await
}

/// A ban that somebody made by hand.
async fn manual(server: &Server, address: &str, expires_at: Option<Timestamp>) {
    let mut object: Value = json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "IPBan", "metadata": {"name": address},
        "spec": {"cidr": format!("{address}/32"), "origin": "Manual"},
    });
    if let Some(end) = expires_at {
        object["spec"]["expiresAt"] = json!(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    let object: IPBan = serde_json::from_value(object).unwrap();
    server.bans.create(&PostParams::default(), &object).await.unwrap();
}

#[tokio::test]
async fn the_same_decision_twice_is_one_ban_and_no_second_write() {
    let Some(server) = server().await else { return };
    let decision = decision("203.0.113.1", second(600));
    assert_eq!(work_off(&server, &decision).await, ["create 203.0.113.1: stored"]);
    let first = server.bans.get("203.0.113.1").await.unwrap();
    assert_eq!(work_off(&server, &decision).await, ["create 203.0.113.1: taken", "enforced"]);
    let again = server.bans.get("203.0.113.1").await.unwrap();
    assert_eq!(first.metadata.resource_version, again.metadata.resource_version);
    assert_eq!(first.metadata.finalizers.unwrap(), ["ipsentry.dev/ttl"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_leaders_at_once_make_one_ban_that_ends_at_the_later_time() {
    let Some(server) = server().await else { return };
    for trial in 0..20 {
        let address = format!("203.0.113.{}", 100 + trial);
        let (short, long) = (decision(&address, second(600)), decision(&address, second(900)));
        let (one, other) = tokio::join!(work_off(&server, &short), work_off(&server, &long));
        let created = format!("create {address}: stored");
        let creations = one.iter().chain(&other).filter(|done| **done == created).count();
        assert_eq!(creations, 1, "{one:?} {other:?}");
        let end = server.bans.get(&address).await.unwrap().spec.expires_at.unwrap().0;
        assert_eq!(end, long.expires_at(1));
    }
}

#[tokio::test]
async fn a_ban_is_made_longer_and_never_shorter() {
    let Some(server) = server().await else { return };
    let (short, long) = (decision("203.0.113.2", second(600)), decision("203.0.113.2", second(900)));
    work_off(&server, &short).await;
    let made_longer = ["create 203.0.113.2: taken", "extend 203.0.113.2: stored"];
    assert_eq!(work_off(&server, &long).await, made_longer);
    assert_eq!(work_off(&server, &short).await, ["create 203.0.113.2: taken", "enforced"]);
    assert_eq!(server.bans.get("203.0.113.2").await.unwrap().spec.expires_at.unwrap().0, long.expires_at(1));
}

#[tokio::test]
async fn a_ban_that_changed_since_it_was_read_is_read_again_and_made_longer() {
    let Some(server) = server().await else { return };
    let (short, long) = (decision("203.0.113.6", second(600)), decision("203.0.113.6", second(900)));
    work_off(&server, &short).await;
    let mut leader = Leader::new(&server);
    leader.bans.applied(Ban::read(&server.bans.get("203.0.113.6").await.unwrap()).unwrap());
    let label = json!({"metadata": {"labels": {"example.com/mine": "yes"}}});
    server.bans.patch("203.0.113.6", &PatchParams::default(), &Patch::Merge(&label)).await.unwrap();
    assert_eq!(leader.work_off(&long).await, ["extend 203.0.113.6: taken", "extend 203.0.113.6: stored"]);
}

#[tokio::test]
async fn a_ban_that_has_gone_when_it_is_to_be_made_longer_is_made_again_and_stops_no_other() {
    let Some(server) = server().await else { return };
    let (short, long) = (decision("203.0.113.9", second(600)), decision("203.0.113.9", second(900)));
    work_off(&server, &short).await;
    let mut leader = Leader::new(&server);
    leader.bans.applied(Ban::read(&server.bans.get("203.0.113.9").await.unwrap()).unwrap());
    let release = json!({"metadata": {"finalizers": null}});
    server.bans.patch("203.0.113.9", &PatchParams::default(), &Patch::Merge(&release)).await.unwrap();
    server.bans.delete("203.0.113.9", &DeleteParams::default()).await.unwrap();
    let jail = leader.policies.iter().next().unwrap().1.jail.clone().unwrap();
    leader.ask(|queue, snapshot, now| queue.earned(jail, long.clone(), snapshot, now));
    let [Action::Extend(write, version)] = &leader.ask(BanQueue::step).actions[..] else {
        panic!("an extension")
    };
    let outcome = leader.publisher.extend(write, version).await;
    assert!(matches!(outcome, Outcome::Vanished), "{outcome:?}");
    let source = long.source;
    leader.bans.deleted("203.0.113.9");
    leader.ask(|queue, snapshot, now| queue.written(source, outcome, snapshot, now));
    assert_eq!(leader.queue.report().hold, None);
    assert_eq!(leader.go_on().await, ["create 203.0.113.9: stored"]);
}

#[tokio::test]
async fn a_ban_that_is_being_deleted_is_made_again_once_it_is_gone_or_beside_it_after_two_seconds() {
    let Some(server) = server().await else { return };
    for (address, goes) in [("203.0.113.3", true), ("203.0.113.8", false)] {
        work_off(&server, &decision(address, second(600))).await;
        server.bans.delete(address, &DeleteParams::default()).await.unwrap();
        let later = Decision {
            evidence: Evidence {
                first_seen: second(5),
                last_seen: second(6),
                ..decision(address, second(900)).evidence
            },
            ..decision(address, second(900))
        };
        let mut leader = Leader::new(&server);
        assert_eq!(leader.work_off(&later).await, [format!("create {address}: taken")]);
        if goes {
            let release = json!({"metadata": {"finalizers": null}});
            server.bans.patch(address, &PatchParams::default(), &Patch::Merge(&release)).await.unwrap();
            leader.ask(|queue, snapshot, now| queue.ban_changed(address, snapshot, now));
            assert_eq!(leader.go_on().await, [format!("create {address}: stored")]);
        } else {
            leader.bans.applied(Ban::read(&server.bans.get(address).await.unwrap()).unwrap());
            leader.now.instant += Duration::from_secs(2);
            assert_eq!(leader.go_on().await, [format!("create {address}.detected: stored")]);
        }
    }
}

#[tokio::test]
async fn somebody_elses_ban_counts_while_it_lasts_and_gets_a_neighbour_when_it_has_run_out() {
    let Some(server) = server().await else { return };
    manual(&server, "203.0.113.4", None).await;
    let enforced = work_off(&server, &decision("203.0.113.4", second(600))).await;
    assert_eq!(enforced, ["create 203.0.113.4: taken", "enforced"]);

    manual(&server, "203.0.113.5", Some(second(-60))).await;
    let decision = decision("203.0.113.5", second(600));
    let beside = ["create 203.0.113.5: taken", "create 203.0.113.5.detected: stored"];
    assert_eq!(work_off(&server, &decision).await, beside);
    let both = ["create 203.0.113.5: taken", "create 203.0.113.5.detected: taken", "enforced"];
    assert_eq!(work_off(&server, &decision).await, both);
    assert_eq!(server.bans.get("203.0.113.5").await.unwrap().spec.origin, Origin::Manual);
    let beside = server.bans.get("203.0.113.5.detected").await.unwrap();
    assert_eq!((beside.spec.origin, beside.spec.cidr.as_str()), (Origin::Detected, "203.0.113.5/32"));
}
