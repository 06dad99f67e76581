//! What is written into the NodeFirewall, and when.

use std::time::Duration;

use ip_sentry_core::enforce::rules::{Port, Protocol};
use ip_sentry_crd::node_firewall::Backend;
use ip_sentry_node_agent::{
    identity::Node,
    kernel::proxy_mode::ProxyMode,
    leader::Sign,
    metrics::Metrics,
    report::{Reporter, Sources},
    status::{ChainStatus, SetsStatus, Standing},
};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::server::Server;

const OBJECT: &str = "/apis/ipsentry.dev/v1alpha1/nodefirewalls";

/// A reporter that runs, and what it looks at.
pub struct Reporting {
    pub sets: watch::Sender<SetsStatus>,
    chain: watch::Sender<ChainStatus>,
    synced: watch::Receiver<bool>,
    sign: watch::Sender<Option<Sign>>,
    _others: [Box<dyn std::any::Any>; 3],
    _stop: tokio_util::sync::DropGuard,
}

pub fn start(client: Client) -> Reporting {
    let (sets, sets_state) = watch::channel(SetsStatus::default());
    let (chain, chain_state) = watch::channel(ChainStatus::default());
    let (bans, bans_state) = watch::channel(None);
    let (protected, protected_state) = watch::channel(None);
    let (mode, mode_state) = watch::channel(ProxyMode::Legacy);
    let (synced_out, synced) = watch::channel(false);
    let stop = CancellationToken::new();
    let (sign, sign_state) = watch::channel(None);
    let sources = Sources {
        sets: sets_state,
        chain: chain_state,
        lists: [bans_state, protected_state],
        sign: sign_state,
        proxy_mode: mode_state,
    };
    let node = Node { name: "node-1".to_owned(), uid: Some("u-1".to_owned()) };
    let reporter = Reporter::new(client, node, sources, synced_out, Metrics::default());
    tokio::spawn(reporter.run(stop.clone()));
    Reporting {
        sets,
        chain,
        synced,
        sign,
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
    let _reporting = start(server.client());
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
    let reporting = start(server.client());
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
    reporting.chain.send_modify(|chain| chain.dropped.packets = 6);
    let heartbeat = server.request(3).await;
    assert!(began.elapsed() > Duration::from_secs(50), "figures wait: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(70), "{:?}", began.elapsed());
    assert_eq!(heartbeat.body["status"]["packetsDropped"], 6);
    let transition = |body: &Value| condition(body, "Ready")["lastTransitionTime"].clone();
    assert_eq!(transition(&heartbeat.body), transition(&ready.body));

    reporting.chain.send_modify(|chain| chain.standing = Some(Standing::Contended));
    let lost = server.request(4).await;
    assert_eq!(condition(&lost.body, "Ready")["reason"], "ChainNotFirst");
    assert_eq!(condition(&lost.body, "ChainFirst")["reason"], "Contended");
    assert!(*reporting.synced.borrow(), "was in step once");
}

#[tokio::test(start_paused = true)]
async fn entries_are_told_soon_and_at_a_bounded_rate() {
    let server = Server::default();
    (0..20).for_each(|_| answer_object(&server));
    let reporting = start(server.client());
    server.request(1).await;
    tokio::time::sleep(Duration::from_secs(30)).await;

    let began = tokio::time::Instant::now();
    reporting.sets.send_modify(|sets| sets.entries = 1);
    assert_eq!(server.request(2).await.body["status"]["entries"], 1);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    // A ban a second for two minutes.
    for entries in 2..120 {
        reporting.sets.send_modify(|sets| sets.entries = entries);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let written = server.requests() - 2;
    assert!((5..=6).contains(&written), "{written} writes in two minutes");
}

#[tokio::test(start_paused = true)]
async fn that_nobody_detects_is_told_within_a_minute_of_the_last_sign() {
    let server = Server::default();
    (0..20).for_each(|_| answer_object(&server));
    let reporting = start(server.client());
    let hear = |text: &str| {
        let now = tokio::time::Instant::now();
        reporting.sign.send_if_modified(|sign| Sign::hear(sign, Some(text.to_owned()), now))
    };
    for second in (0..200).step_by(20) {
        hear(&format!("2026-11-22T10:{second}Z"));
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    let last = tokio::time::Instant::now() - Duration::from_secs(20);
    let active = |seen: &crate::server::Seen| condition(&seen.body, "OperatorActive")["status"].clone();
    let told = server.requests();
    assert_eq!(active(&server.request(told).await), "True");
    let mut next = told + 1;
    while active(&server.request(next).await) == "True" {
        next += 1;
    }
    let silent = server.request(next).await;
    assert!(last.elapsed() < Duration::from_mins(1), "{:?}", last.elapsed());
    assert_eq!(condition(&silent.body, "OperatorActive")["reason"], "NobodyDetects");
    hear("2026-11-22T10:30Z");
    assert_eq!(active(&server.request(next + 1).await), "True");
}

#[tokio::test(start_paused = true)]
async fn what_banned_sources_still_reach_is_told() {
    let server = Server::default();
    (0..5).for_each(|_| answer_object(&server));
    let reporting = start(server.client());
    server.request(1).await;
    reporting.sets.send_modify(|sets| sets.backend = Some(Backend::Ipset));
    reporting.chain.send_modify(|chain| {
        (chain.verified, chain.standing) = (Some(Backend::Ipset), Some(Standing::First));
        chain.exceptions.paused_until = Some("2026-11-22T10:00:00Z".parse().unwrap());
        chain.exceptions.node_ports = [Port { protocol: Protocol::Tcp, number: 22 }].into();
        chain.exceptions.api_servers = ["[fd00::5]:6443".parse().unwrap()].into();
    });
    let told = server.request(2).await;
    assert_eq!(condition(&told.body, "Ready")["reason"], "Paused");
    let status = &told.body["status"];
    assert_eq!(status["pausedUntil"], "2026-11-22T10:00:00Z");
    assert_eq!(
        (&status["failsafePorts"], &status["apiServers"]),
        (&json!(["TCP/22"]), &json!(["[fd00::5]:6443"]))
    );
    assert!(*reporting.synced.borrow(), "a pause keeps no agent from being ready to its kubelet");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_repeated_with_what_holds_by_then() {
    let server = Server::default();
    for _ in 0..3 {
        server.answer(500, &json!({"kind": "Status", "status": "Failure", "code": 500, "message": "no", "reason": "InternalError"}));
    }
    answer_object(&server);
    let reporting = start(server.client());
    server.request(1).await;
    reporting.sets.send_modify(|sets| (sets.backend, sets.entries) = (Some(Backend::Ipset), 9));
    assert_eq!(server.request(4).await.body["status"]["entries"], 9);
}
