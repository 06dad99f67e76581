//! Bans as a real API server takes them: names that are taken, two leaders, a second write of the same.

use std::time::Duration;

use ip_sentry_core::detect::{
    decision::{Decision, Evidence, Threshold},
    escalation::{self, BanTime, PastBans},
};
use ip_sentry_crd::{IPBan, ip_ban::Origin, manifest};
use ip_sentry_operator::{
    events::PolicyKey,
    publish::{Published, Publisher},
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
    _control_plane: std::sync::Arc<ControlPlane>,
    bans: Api<IPBan>,
    pub(crate) client: Client,
}

/// An API server that knows our kinds.
pub(crate) async fn server() -> Option<Server> {
    let control_plane = ControlPlane::start()?;
    let client = Client::try_from(config(&control_plane.kubeconfig()).await).unwrap();
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
    Some(Server { _control_plane: control_plane, bans, client })
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

fn policy() -> PolicyKey {
    PolicyKey { namespace: "web".into(), name: "gw".into() }
}

/// The ban of a source that had none.
fn first(decision: &Decision) -> escalation::Ban {
    PastBans::default().ban_for(decision)
}

async fn publish(server: &Server, decision: &Decision) -> Published {
    let publisher = Publisher::new(server.client.clone());
    publisher.publish(&policy(), decision, first(decision), Timestamp::now()).await.unwrap()
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
    assert_eq!(publish(&server, &decision).await, Published::Created);
    let first = server.bans.get("203.0.113.1").await.unwrap();
    assert_eq!(publish(&server, &decision).await, Published::AlreadyEnforced);
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
        let one = async {
            Publisher::new(server.client.clone())
                .publish(&policy(), &short, first(&short), Timestamp::now())
                .await
        };
        let other = async {
            Publisher::new(server.client.clone())
                .publish(&policy(), &long, first(&long), Timestamp::now())
                .await
        };
        let (one, other) = tokio::join!(one, other);
        let created = [&one, &other].iter().filter(|done| matches!(done, Ok(Published::Created))).count();
        assert_eq!(created, 1, "{one:?} {other:?}");
        // A lost race is tried again, as the docket does.
        publish(&server, &long).await;
        let end = server.bans.get(&address).await.unwrap().spec.expires_at.unwrap().0;
        assert_eq!(end, long.expires_at(1));
    }
}

#[tokio::test]
async fn a_ban_is_made_longer_and_never_shorter() {
    let Some(server) = server().await else { return };
    let (short, long) = (decision("203.0.113.2", second(600)), decision("203.0.113.2", second(900)));
    assert_eq!(publish(&server, &short).await, Published::Created);
    assert_eq!(publish(&server, &long).await, Published::Extended);
    assert_eq!(publish(&server, &short).await, Published::AlreadyEnforced);
    assert_eq!(server.bans.get("203.0.113.2").await.unwrap().spec.expires_at.unwrap().0, long.expires_at(1));
}

#[tokio::test]
async fn a_ban_that_is_being_deleted_is_made_again_once_it_is_gone() {
    let Some(server) = server().await else { return };
    let first = decision("203.0.113.3", second(600));
    assert_eq!(publish(&server, &first).await, Published::Created);
    server.bans.delete("203.0.113.3", &DeleteParams::default()).await.unwrap();
    let later = decision("203.0.113.3", second(900));
    assert_eq!(publish(&server, &later).await, Published::NameTaken);
    let release = json!({"metadata": {"finalizers": null}});
    server.bans.patch("203.0.113.3", &PatchParams::default(), &Patch::Merge(&release)).await.unwrap();
    assert_eq!(publish(&server, &later).await, Published::Created);
}

#[tokio::test]
async fn somebody_elses_ban_counts_while_it_lasts_and_gets_a_neighbour_when_it_has_run_out() {
    let Some(server) = server().await else { return };
    manual(&server, "203.0.113.4", None).await;
    assert_eq!(publish(&server, &decision("203.0.113.4", second(600))).await, Published::AlreadyEnforced);

    manual(&server, "203.0.113.5", Some(second(-60))).await;
    let decision = decision("203.0.113.5", second(600));
    assert_eq!(publish(&server, &decision).await, Published::Created);
    assert_eq!(publish(&server, &decision).await, Published::AlreadyEnforced);
    assert_eq!(server.bans.get("203.0.113.5").await.unwrap().spec.origin, Origin::Manual);
    let beside = server.bans.get("203.0.113.5.detected").await.unwrap();
    assert_eq!((beside.spec.origin, beside.spec.cidr.as_str()), (Origin::Detected, "203.0.113.5/32"));
}
