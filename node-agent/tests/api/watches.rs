//! Lists and watches that break off, lie and come back.

use std::time::Duration;

use ip_sentry_core::{
    enforce::view::{BanKey, Bans, Until},
    net::Source,
};
use ip_sentry_node_agent::{
    heard::Heard,
    metrics::Metrics,
    status::Problem,
    watch::{
        Watch,
        kinds::{IpBans, Kind},
        protected::Protected,
    },
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

struct Watching {
    news: mpsc::Receiver<Heard>,
    trouble: watch::Receiver<Option<Problem>>,
    metrics: Metrics,
    _stop: tokio_util::sync::DropGuard,
}

impl Watching {
    fn start<K: Kind + Send + 'static>(server: &Server, kind: K) -> Self
    where
        K::Item: Send,
    {
        let (sender, news) = mpsc::channel(64);
        let (told, trouble) = watch::channel(None);
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        tokio::spawn(Watch::new(server.client(), kind, sender, told, metrics.clone()).run(stop.clone()));
        Self { news, trouble, metrics, _stop: stop.drop_guard() }
    }

    fn bans(server: &Server) -> Self {
        Self::start(server, IpBans)
    }

    async fn heard(&mut self) -> Heard {
        tokio::time::timeout(Duration::from_secs(100), self.news.recv()).await.unwrap().unwrap()
    }

    async fn bans_heard(&mut self) -> (Bans, String) {
        match self.heard().await {
            Heard::Bans { bans, version } => (bans, version),
            other => panic!("{other:?}"),
        }
    }

    async fn ban_heard(&mut self) -> (BanKey, Option<Until>, String) {
        match self.heard().await {
            Heard::Ban { key, until, version, .. } => (key, until, version),
            other => panic!("{other:?}"),
        }
    }
}

fn source(last: u8) -> Source {
    format!("203.0.113.{last}/32").parse().unwrap()
}

fn key(last: u8) -> BanKey {
    BanKey::of(&source(last).ban_name(), source(last)).unwrap()
}

fn ban(last: u8, version: &str) -> Value {
    json!({
        "metadata": {"name": format!("203.0.113.{last}"), "resourceVersion": version},
        "spec": {"cidr": format!("203.0.113.{last}/32"), "origin": "Manual", "expiresAt": "2099-01-01T00:00:00Z"},
    })
}

fn list(items: &[Value], version: &str) -> Value {
    json!({"apiVersion": "ipsentry.dev/v1alpha1", "items": items, "kind": "IPBanList", "metadata": {"continue": "", "resourceVersion": version}})
}

fn bookmark(version: &str) -> Value {
    json!({"kind": "IPBan", "metadata": {"resourceVersion": version}})
}

fn query(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned)
}

#[tokio::test(start_paused = true)]
async fn the_first_list_asks_for_the_newest_and_the_watch_begins_where_it_ends() {
    let server = Server::default();
    server.answer(200, &list(&[ban(7, "5")], "10"));
    let mut watching = Watching::bans(&server);
    let (bans, version) = watching.bans_heard().await;
    assert_eq!((bans.len(), version.as_str()), (1, "10"));
    assert_eq!(server.request(1).await.target, "/apis/ipsentry.dev/v1alpha1/ipbans");
    let watch = server.request(2).await.target;
    assert_eq!(query(&watch, "resourceVersion").as_deref(), Some("10"));
    assert_eq!(query(&watch, "allowWatchBookmarks").as_deref(), Some("true"));
    let seconds: u64 = query(&watch, "timeoutSeconds").unwrap().parse().unwrap();
    assert!((180..=290).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_or_breaks_goes_on_from_the_last_event() {
    let server = Server::default();
    server.answer(200, &list(&[], "10"));
    let watch = server.stream(200);
    let second = server.stream(200);
    let mut watching = Watching::bans(&server);
    watching.bans_heard().await;
    watch.event("ADDED", &ban(7, "11"));
    let (added, until, version) = watching.ban_heard().await;
    assert_eq!((added, until.is_some(), version.as_str()), (key(7), true, "11"));
    watch.event("BOOKMARK", &bookmark("20"));
    watch.raw("{\"type\":\"ADDED\",\"obj");
    watch.cut();
    let resumed = server.request(3).await.target;
    assert_eq!(query(&resumed, "resourceVersion").as_deref(), Some("20"));
    second.event("DELETED", &ban(7, "21"));
    assert_eq!(watching.ban_heard().await, (key(7), None, "21".to_owned()));
    drop(second);
    assert_eq!(query(&server.request(4).await.target, "resourceVersion").as_deref(), Some("21"));
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_leads_to_a_list_that_is_not_older() {
    for gone_by_event in [true, false] {
        let server = Server::default();
        server.answer(200, &list(&[ban(7, "5"), ban(8, "6")], "10"));
        let status = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
        if gone_by_event {
            server.stream(200).event("ERROR", &status);
        } else {
            server.answer(410, &status);
        }
        server.answer(200, &list(&[ban(8, "6")], "30"));
        let mut watching = Watching::bans(&server);
        assert_eq!(watching.bans_heard().await.0.len(), 2);
        let (bans, version) = watching.bans_heard().await;
        assert_eq!((bans.until(source(7)), version.as_str()), (None, "30"), "lifted while nobody watched");
        let relist = server.request(3).await.target;
        assert_eq!(query(&relist, "resourceVersionMatch").as_deref(), Some("NotOlderThan"));
        assert_eq!(query(&relist, "resourceVersion").as_deref(), Some("10"));
        assert_eq!(query(&relist, "limit"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_short_tells_nothing() {
    let server = Server::default();
    let whole = list(&[ban(7, "5"), ban(8, "6")], "10").to_string();
    for end in [whole.len() - 1, whole.len() / 2, 1, 0] {
        server.stream(200).raw(&whole[..end]);
    }
    let broken = server.stream(200);
    broken.raw(&whole[..whole.len() - 1]);
    broken.cut();
    server.answer(
        200,
        &json!({"items": [ban(7, "5")], "metadata": {"continue": "more", "resourceVersion": "9"}}),
    );
    server.answer(200, &list(&[ban(8, "6")], "11"));
    let mut watching = Watching::bans(&server);
    assert_eq!(watching.bans_heard().await.1, "11", "nothing before the whole one");
    assert_eq!(watching.trouble.borrow().clone(), None);
    assert_eq!(query(&server.request(7).await.target, "watch"), None);
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_costs_only_itself_and_is_counted() {
    let mut wide = ban(1, "1");
    wide["spec"]["cidr"] = "0.0.0.0/0".into();
    let mut misnamed = ban(2, "2");
    misnamed["metadata"]["name"] = "somebody".into();
    let mut timeless = ban(3, "3");
    timeless["spec"]["expiresAt"] = "tomorrow".into();
    let mut spineless = ban(4, "4");
    spineless["spec"] = json!(7);
    let bad = [wide, misnamed, timeless, spineless];

    let server = Server::default();
    server.answer(200, &list(&[&bad[..], &[ban(7, "7")]].concat(), "10"));
    let watch = server.stream(200);
    let mut watching = Watching::bans(&server);
    assert_eq!(watching.bans_heard().await.0.len(), 1);
    for object in &bad {
        watch.event("MODIFIED", object);
    }
    watch.raw("not json at all\n\n");
    watch.event("ADDED", &ban(8, "20"));
    assert_eq!(watching.ban_heard().await.0, key(8), "the next good one");
    let text = watching.metrics.text().unwrap();
    assert!(text.contains("ip_sentry_node_bad_items_total{what=\"ipbans\"} 10"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_being_deleted_is_lifted_at_once() {
    let server = Server::default();
    let mut going = ban(7, "11");
    going["metadata"]["deletionTimestamp"] = "2026-11-22T10:00:00Z".into();
    server.answer(200, &list(&[going.clone(), ban(8, "6")], "10"));
    let watch = server.stream(200);
    let mut watching = Watching::bans(&server);
    assert_eq!(watching.bans_heard().await.0.until(source(7)), None);
    watch.event("MODIFIED", &going);
    assert_eq!(watching.ban_heard().await.1, None);
}

#[tokio::test(start_paused = true)]
async fn a_kind_that_is_gone_changes_nothing_and_is_told() {
    let server = Server::default();
    let missing =
        json!({"kind": "Status", "code": 404, "message": "the server could not find the requested resource"});
    server.answer(200, &list(&[ban(7, "5")], "10"));
    for _ in 0..3 {
        server.answer(404, &missing);
    }
    server.answer(403, &json!({"kind": "Status", "code": 403, "message": "ipbans is forbidden"}));
    server.answer(200, &list(&[ban(7, "5")], "2"));
    let mut watching = Watching::bans(&server);
    watching.bans_heard().await;
    let told = |reason: &'static str| {
        move |trouble: &Option<Problem>| trouble.as_ref().is_some_and(|problem| problem.reason == reason)
    };
    let problem = watching.trouble.wait_for(told("KindMissing")).await.unwrap().clone().unwrap();
    assert_eq!(problem.message, "the server has no ipbans: apply deploy/kustomize/crds");
    watching.trouble.wait_for(told("Forbidden")).await.unwrap();
    assert_eq!(watching.bans_heard().await.1, "2", "nothing was told until the kind was back");
    assert_eq!(watching.trouble.borrow().clone(), None);
    // After the kind went, its versions began anew: the list must not ask for the old one.
    assert_eq!(query(&server.request(4).await.target, "resourceVersion"), None);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_is_not_asked_in_a_hot_loop() {
    let server = Server::default();
    for _ in 0..50 {
        server.answer(503, &json!({"kind": "Status", "code": 503, "message": "no"}));
    }
    let _watching = Watching::bans(&server);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let requests = server.requests();
    assert!((4..=16).contains(&requests), "{requests} requests in a minute");
}

#[tokio::test(start_paused = true)]
async fn protected_networks_are_spec_and_status_and_survive_deletion() {
    let server = Server::default();
    let object = |cidrs: &[&str]| {
        json!({
            "metadata": {"name": "cluster", "resourceVersion": "5"},
            "spec": {"cidrs": cidrs}, "status": {"cidrs": ["10.0.0.0/8"], "observedAt": "2026-11-22T10:00:00Z"},
        })
    };
    let other = json!({"metadata": {"name": "other"}, "spec": {"cidrs": ["192.0.2.0/24"]}});
    server.answer(200, &list(&[other, object(&["198.51.100.9/24", "nonsense", "2001:DB8::1"])], "10"));
    let watch = server.stream(200);
    let (sign, _) = watch::channel(None);
    let mut watching = Watching::start(&server, Protected::new(sign));
    let networks = |heard: Heard| match heard {
        Heard::Protected(told) => told.networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    // A slip in the spelling does not end a protection.
    assert_eq!(networks(watching.heard().await), ["198.51.100.0/24", "2001:db8::1/128", "10.0.0.0/8"]);
    watch.event("DELETED", &object(&[]));
    watch.event("ADDED", &object(&["192.0.2.0/24"]));
    assert_eq!(
        networks(watching.heard().await),
        ["192.0.2.0/24", "10.0.0.0/8"],
        "nothing was told of the deletion"
    );
}
