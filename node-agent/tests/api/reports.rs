//! What is written into the NodeFirewall, and when.

use std::time::Duration;

use ip_sentry_crd::node_firewall::Backend;
use ip_sentry_node_agent::{
    identity::Node,
    kernel::proxy_mode::ProxyMode,
    metrics::Metrics,
    report::Reporter,
    status::{ChainStatus, SetsStatus, Standing},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::server::Server;

const OBJECT: &str = "/apis/ipsentry.dev/v1alpha1/nodefirewalls";

struct Reporting {
    sets: watch::Sender<SetsStatus>,
    chain: watch::Sender<ChainStatus>,
    synced: watch::Receiver<bool>,
    _others: [Box<dyn std::any::Any>; 3],
    _stop: tokio_util::sync::DropGuard,
}

fn start(server: &Server) -> Reporting {
    let (sets, sets_state) = watch::channel(SetsStatus::default());
    let (chain, chain_state) = watch::channel(ChainStatus::default());
    let (bans, bans_state) = watch::channel(None);
    let (protected, protected_state) = watch::channel(None);
    let (mode, mode_state) = watch::channel(ProxyMode::Legacy);
    let (synced_out, synced) = watch::channel(false);
    let stop = CancellationToken::new();
    let reporter = Reporter::new(
        server.client(),
        Node { name: "node-1".to_owned(), uid: Some("u-1".to_owned()) },
        sets_state,
        chain_state,
        [bans_state, protected_state],
        mode_state,
        synced_out,
        Metrics::default(),
    );
    tokio::spawn(reporter.run(stop.clone()));
    Reporting {
        sets,
        chain,
        synced,
        _others: [Box::new(bans), Box::new(protected), Box::new(mode)],
        _stop: stop.drop_guard(),
    }
}

fn answer_object(server: &Server) {
    server.answer(
        200,
        &json!({"apiVersion": "ipsentry.dev/v1alpha1", "kind": "NodeFirewall", "metadata": {"name": "node-1"}, "spec": {}}),
    );
}

fn condition<'a>(body: &'a Value, kind: &str) -> &'a Value {
    body["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|condition| condition["type"] == kind)
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_object_is_made_when_it_is_not_there_and_belongs_to_the_node() {
    let server = Server::default();
    server.answer(404, &json!({"kind": "Status", "status": "Failure", "code": 404, "message": "not found", "reason": "NotFound"}));
    answer_object(&server);
    answer_object(&server);
    let _reporting = start(&server);
    let first = server.request(1).await;
    assert_eq!(
        (first.method.as_str(), first.target.as_str()),
        ("PATCH", format!("{OBJECT}/node-1/status?&force=true&fieldManager=ip-sentry").as_str())
    );
    let create = server.request(2).await;
    assert_eq!(create.method, "POST");
    assert!(create.target.starts_with(OBJECT), "{}", create.target);
    let owner = &create.body["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["name"], &owner["uid"]),
        (&json!("Node"), &json!("node-1"), &json!("u-1"))
    );
    let status = server.request(3).await;
    let ready = condition(&status.body, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("Starting")));
    assert_eq!(status.body["status"]["kubeProxy"], "legacy");
}

#[tokio::test(start_paused = true)]
async fn conditions_are_told_at_once_and_figures_with_the_heartbeat() {
    let server = Server::default();
    (0..10).for_each(|_| answer_object(&server));
    let reporting = start(&server);
    server.request(1).await;
    assert!(!*reporting.synced.borrow());

    let began = tokio::time::Instant::now();
    reporting.sets.send_modify(|sets| (sets.backend, sets.entries) = (Some(Backend::Ipset), 3));
    reporting.chain.send_modify(|chain| {
        (chain.verified, chain.standing) = (Some(Backend::Ipset), Some(Standing::First));
        chain.dropped.packets = 5;
    });
    let ready = server.request(2).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(condition(&ready.body, "Ready")["status"], "True");
    assert_eq!(
        (&ready.body["status"]["entries"], &ready.body["status"]["packetsDropped"]),
        (&json!(3), &json!(5))
    );
    assert!(*reporting.synced.borrow());

    let began = tokio::time::Instant::now();
    reporting.sets.send_modify(|sets| sets.entries = 4);
    let heartbeat = server.request(3).await;
    assert!(began.elapsed() > Duration::from_secs(50), "figures wait: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(70), "{:?}", began.elapsed());
    assert_eq!(heartbeat.body["status"]["entries"], 4);
    let transition = |body: &Value| condition(body, "Ready")["lastTransitionTime"].clone();
    assert_eq!(transition(&heartbeat.body), transition(&ready.body));

    reporting.chain.send_modify(|chain| chain.standing = Some(Standing::Contended));
    let lost = server.request(4).await;
    assert_eq!(condition(&lost.body, "Ready")["reason"], "ChainNotFirst");
    assert_eq!(condition(&lost.body, "ChainFirst")["reason"], "Contended");
    assert!(*reporting.synced.borrow(), "was in step once");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_repeated_with_what_holds_by_then() {
    let server = Server::default();
    for _ in 0..3 {
        server.answer(500, &json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no", "reason": "InternalError"}));
    }
    answer_object(&server);
    let reporting = start(&server);
    server.request(1).await;
    reporting.sets.send_modify(|sets| (sets.backend, sets.entries) = (Some(Backend::Ipset), 9));
    assert_eq!(server.request(4).await.body["status"]["entries"], 9);
}
