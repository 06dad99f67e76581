//! The ends of bans on a real API server, with a leader and a standby that both watch.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use ip_sentry_core::{net::Source, networks::Networks};
use ip_sentry_crd::{EVICTED_ANNOTATION, IPBan, ip_ban::Origin};
use ip_sentry_operator::{
    ban_watch, client,
    clock::Clock,
    evict::{Evicted, evict},
    expire::Expiry,
    history::store::HistoryStore,
    lease::Timing,
    metrics::Metrics,
    state::State,
};
use jiff::Timestamp;
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    events::v1::Event,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    bans::{SOON, Server, server_on},
    candidates::{Candidate, lease_client},
    control_plane::{ControlPlane, config, until},
};

/// One replica, as far as bans' ends go.
struct Replica {
    state: Arc<State>,
    protect: watch::Sender<Arc<Networks>>,
    candidate: Candidate,
    _stop: DropGuard,
}

async fn replica(server: &Server, holder: &str) -> Replica {
    let config = config(&server.control_plane.kubeconfig()).await;
    let lease = lease_client(&server.control_plane).await;
    let candidate = Candidate::enter(lease, "endings", holder, Timing::default());
    let clock = Clock::default();
    let reader = client::connect(&config, &clock).unwrap();
    let writer = client::connect_writer(&config, &clock, reader.clone(), &candidate.leadership).unwrap();
    let (cancel, metrics) = (CancellationToken::new(), Arc::<Metrics>::default());
    let history = HistoryStore::start(writer.clone(), Arc::default(), metrics.clone(), cancel.clone());
    let (protect, protected) = watch::channel(Arc::default());
    let leadership = candidate.leadership.clone();
    let state = Arc::new(State::new(clock, leadership, writer, holder, metrics, history, protected));
    tokio::spawn(ban_watch::run(reader, state.clone(), Arc::default(), cancel.clone()));
    tokio::spawn(Expiry::new(state.clone(), Arc::default()).run(cancel.clone()));
    until("all is read", SOON, async || state.bans().is_synced() && state.history.is_synced()).await;
    Replica { state, protect, candidate, _stop: cancel.drop_guard() }
}

struct World {
    server: Server,
    bans: Api<IPBan>,
    leader: Replica,
    standby: Replica,
}

fn second(from_now: i64) -> String {
    Timestamp::from_second(Timestamp::now().as_second() + from_now).unwrap().to_string()
}

fn source(name: &str) -> Source {
    format!("{name}/32").parse().unwrap()
}

impl World {
    /// A ban as the operator makes it.
    async fn detected(&self, name: &str) {
        let ban = json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "IPBan",
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/managed-by": "ip-sentry"},
                "finalizers": ["ipsentry.dev/ttl"],
            },
            "spec": {
                "cidr": format!("{name}/32"), "origin": "Detected", "expiresAt": second(3600),
                "reason": "3 hits: /wp-admin", "offence": 1,
                "policyRef": {"namespace": "default", "name": "gw"},
                "evidence": {"hits": 3, "firstSeen": second(-5), "lastSeen": second(-1), "samples": []},
            },
        });
        self.create(ban, "ip-sentry").await;
    }

    async fn create(&self, ban: Value, manager: &str) {
        let ban: IPBan = serde_json::from_value(ban).unwrap();
        let params = PostParams { field_manager: Some(manager.into()), ..PostParams::default() };
        self.bans.create(&params, &ban).await.unwrap();
    }

    /// Makes a Detected ban Manual, while all else goes on.
    async fn make_manual(&self, ban: &mut IPBan, way: Way, end: Option<String>) {
        let name = ban.name_any();
        let (words, manifest) = match way {
            Way::Edit => (&["edit", "ipban", &name][..], None),
            Way::Manifest(words) => {
                let mut spec = json!({"cidr": ban.spec.cidr, "origin": "Manual"});
                if let Some(end) = end {
                    spec["expiresAt"] = json!(end);
                }
                let (api, kind) = ("ipsentry.dev/v1alpha1", "IPBan");
                let manifest =
                    json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
                (words, Some(manifest))
            }
            Way::ReplaceAsShown => {
                ban.spec.origin = Origin::Manual;
                (&["replace"][..], Some(serde_json::to_value(ban).unwrap()))
            }
        };
        let mut arguments: Vec<String> = words.iter().map(ToString::to_string).collect();
        let control_plane = self.server.control_plane.clone();
        if let Some(manifest) = manifest {
            let file = control_plane.folder.path().join(format!("{name}.json"));
            std::fs::write(&file, manifest.to_string()).unwrap();
            arguments.extend(["--filename".to_owned(), file.to_str().unwrap().to_owned()]);
        }
        let kubectl = move || {
            control_plane.kubectl(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        };
        tokio::task::spawn_blocking(kubectl).await.unwrap();
    }

    async fn patch(&self, name: &str, patch: Value) {
        self.bans.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    async fn delete(&self, name: &str) {
        self.bans.delete(name, &DeleteParams::default()).await.unwrap();
    }

    async fn gone(&self, name: &str) {
        until(&format!("{name} is gone"), SOON, async || self.bans.get_opt(name).await.unwrap().is_none())
            .await;
    }

    async fn becomes(&self, name: &str, what: &str, holds: impl Fn(&IPBan) -> bool) -> IPBan {
        let within = SOON * 2;
        let mut last = None;
        let get = async || {
            last = self.bans.get_opt(name).await.unwrap();
            last.as_ref().is_some_and(&holds)
        };
        until(&format!("{name} is {what}"), within, get).await;
        last.unwrap()
    }

    /// The reasons and texts of the events about an object of that name.
    async fn events(&self, namespace: &str, name: &str) -> Vec<(String, String)> {
        let api: Api<Event> = Api::namespaced(self.server.client.clone(), namespace);
        let events = api.list(&ListParams::default()).await.unwrap();
        let about = events
            .into_iter()
            .filter(|event| event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name));
        about.map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect()
    }

    async fn told(&self, namespace: &str, name: &str, reason: &str) {
        until(&format!("{reason} is told on {name}"), SOON, async || {
            self.events(namespace, name).await.iter().any(|(told, _)| told == reason)
        })
        .await;
    }
}

fn enforced(ban: &IPBan) -> (String, Option<String>) {
    let status = ban.status.as_ref().unwrap();
    (status.enforced.clone(), status.conditions.first().map(|condition| condition.reason.clone()))
}

async fn an_evicted_ban_is_an_offence_and_never_a_lift(world: &World) {
    let name = "203.0.113.1";
    world.detected(name).await;
    until("the leader sees it", SOON, async || world.leader.state.bans().get(name).is_some()).await;
    let ban = world.leader.state.bans().share(name).unwrap();
    assert_eq!(evict(&world.bans, &ban, Timestamp::now()).await.unwrap(), Evicted::Done);
    world.gone(name).await;
    assert_eq!(evict(&world.bans, &ban, Timestamp::now()).await.unwrap(), Evicted::Changed);
    for replica in [&world.leader, &world.standby] {
        let memory = || replica.state.history.with(|history| history.get(source(name)));
        until("both count it", SOON, async || memory().past.ends().count() == 1).await;
        assert_eq!(memory().lifted_at, None);
    }
    world.told("default", name, "IPBanned").await;
    world.told("default", "gw", "BanEvicted").await;
}

async fn a_lifted_ban_is_no_offence(world: &World) {
    let name = "203.0.113.2";
    world.detected(name).await;
    world.delete(name).await;
    world.gone(name).await;
    for replica in [&world.leader, &world.standby] {
        let memory = || replica.state.history.with(|history| history.get(source(name)));
        until("both know that it was lifted", SOON, async || memory().lifted_at.is_some()).await;
        assert_eq!(memory().past.ends().count(), 0);
    }
    // It is also written down.
    let stored = replica(&world.server, "later").await;
    assert!(stored.state.history.with(|history| history.get(source(name))).lifted_at.is_some());
    // A network that becomes protected lifts its ban: no offence either.
    let name = "198.18.0.1";
    world.detected(name).await;
    let protected: Networks = [source(name).network()].into_iter().collect();
    for replica in [&world.leader, &world.standby] {
        replica.protect.send_replace(Arc::new(protected.clone()));
    }
    world.gone(name).await;
    let memory = world.leader.state.history.with(|history| history.get(source(name)));
    assert!(memory.lifted_at.is_some() && memory.past.ends().count() == 0, "{memory:?}");
}

/// How somebody makes a ban Manual.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// `kubectl edit`, of the origin alone.
    Edit,
    /// A manifest, with these words of kubectl.
    Manifest(&'static [&'static str]),
    /// What `kubectl get` shows, with another origin.
    ReplaceAsShown,
}

async fn a_ban_made_manual_is_its_authors(world: &World) {
    const APPLY: Way = Way::Manifest(&["apply"]);
    const SERVER_SIDE: Way = Way::Manifest(&["apply", "--server-side", "--force-conflicts"]);
    const REPLACE: Way = Way::Manifest(&["replace"]);
    let stripped = "203.0.113.39";
    let operators = |ban: &IPBan| ban.spec.expires_at.as_ref().unwrap().0.to_string();
    let ended = "203.0.113.35";
    let own = second(7200);
    // What the manifest has for an end: its own, the operator's, or none; and which end the ban has then.
    #[rustfmt::skip]
    let table: [(&str, Way, Option<&str>, Option<&str>); 10] = [
        ("203.0.113.30", Way::Edit,            None,         None),
        ("203.0.113.31", APPLY,                None,         None),
        ("203.0.113.32", APPLY,                Some("same"), Some("same")),
        ("203.0.113.33", SERVER_SIDE,          None,         None),
        ("203.0.113.34", SERVER_SIDE,          Some("same"), Some("same")),
        (ended,          SERVER_SIDE,          Some(&own),   Some(&own)),
        ("203.0.113.36", REPLACE,              None,         None),
        ("203.0.113.37", REPLACE,              Some("same"), Some("same")),
        ("203.0.113.38", Way::ReplaceAsShown,  Some("same"), Some("same")),
        (stripped,       APPLY,                None,         None),
    ];
    for (name, way, stated, expect) in table {
        world.detected(name).await;
        if name == stripped {
            world.patch(name, json!({"metadata": {"finalizers": null}})).await;
        }
        let mut ban = world.bans.get(name).await.unwrap();
        let same = operators(&ban);
        let end =
            |end: Option<&str>| end.map(|end| if end == "same" { same.clone() } else { end.to_owned() });
        world.make_manual(&mut ban, way, end(stated)).await;
        let is_free = |ban: &IPBan| ban.finalizers().is_empty() && ban.labels().is_empty();
        let ban = world.becomes(name, "let go", is_free).await;
        assert!(!ban.annotations().contains_key(EVICTED_ANNOTATION), "{ban:?}");
        let spec = ban.spec;
        assert_eq!(
            (spec.origin, spec.policy_ref, spec.evidence, spec.offence),
            (Origin::Manual, None, None, None)
        );
        let left = spec.expires_at.map(|end| end.0.to_string());
        assert_eq!(left, end(expect), "{way:?} with an end of {stated:?}");
    }
    // Its end is its author's to see to: the operator only says so.
    world.patch(ended, json!({"spec": {"expiresAt": second(-2)}})).await;
    let told = ("False".to_owned(), Some("Expired".to_owned()));
    world.becomes(ended, "told", |ban| enforced(ban) == told).await;
    world.told("default", ended, "BanTakenOver").await;
}

async fn enforced_is_false_while_a_ban_is_not_enforced_and_true_again_after(world: &World) {
    let name = "203.0.113.6";
    let ban = |end: &str| {
        json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "IPBan", "metadata": {"name": name},
            "spec": {"cidr": format!("{name}/32"), "origin": "Manual", "expiresAt": end},
        })
    };
    world.create(ban(&second(3600)), "somebody").await;
    let yes = ("True".to_owned(), None);
    assert_eq!(enforced(&world.bans.get(name).await.unwrap()), yes, "nobody has written a status");
    world.patch(name, json!({"spec": {"expiresAt": second(-2)}})).await;
    let no = ("False".to_owned(), Some("Expired".to_owned()));
    world.becomes(name, "not enforced", |ban| enforced(ban) == no).await;
    world.patch(name, json!({"spec": {"expiresAt": second(3600)}})).await;
    world.becomes(name, "enforced again", |ban| enforced(ban) == yes).await;
    let table = http::Request::get(format!("/apis/ipsentry.dev/v1alpha1/ipbans/{name}"))
        .header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap();
    let table: Value = world.server.client.request(table).await.unwrap();
    let columns = table["columnDefinitions"].as_array().unwrap();
    let place = columns.iter().position(|column| column["name"] == "Enforced").unwrap();
    assert_eq!(table["rows"][0]["cells"][place], "True");
}

async fn what_keeps_an_object_is_told_and_keeps_no_other(world: &World) {
    let (refused, pinned, free) = ("203.0.113.7", "203.0.113.8", "203.0.113.9");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "keep"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["ipsentry.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["ipbans"],
            }]},
            "validations": [{
                "expression": format!("object.metadata.name != '{refused}' || has(object.metadata.finalizers)"),
                "message": "this one stays",
            }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "keep"}, "spec": {"policyName": "keep", "validationActions": ["Deny"]},
    });
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.server.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.server.client.clone());
    let params = PatchParams::apply("test");
    policies.patch("keep", &params, &Patch::Apply(policy)).await.unwrap();
    bindings.patch("keep", &params, &Patch::Apply(binding)).await.unwrap();
    for name in [refused, pinned, free] {
        world.detected(name).await;
    }
    let strip = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    until("the policy is in force", SOON, async || {
        let dry = PatchParams { dry_run: true, ..PatchParams::default() };
        world.bans.patch(refused, &dry, &strip).await.is_err()
    })
    .await;
    world.patch(pinned, json!({"metadata": {"finalizers": ["ipsentry.dev/ttl", "example.com/pin"]}})).await;
    for name in [refused, pinned] {
        world.delete(name).await;
    }
    world.delete(free).await;
    world.gone(free).await;
    let told = ("False".to_owned(), Some("Deleting".to_owned()));
    for (name, expect) in [(refused, "this one stays"), (pinned, "example.com/pin")] {
        let ban = world.becomes(name, "told", |ban| enforced(ban) == told).await;
        let message = &ban.status.unwrap().conditions[0].message;
        assert!(message.contains(expect), "{name}: {message}");
        world.told("default", name, "BanStuck").await;
    }
    let stuck = || world.leader.state.metrics.bans_stuck.get();
    until("both are counted", SOON, async || stuck() == 2).await;
    bindings.delete("keep", &DeleteParams::default()).await.unwrap();
    world.patch(pinned, json!({"metadata": {"finalizers": null}})).await;
    let within = Duration::from_secs(70); // the longest wait between two tries
    until("the refused one goes", within, async || world.bans.get_opt(refused).await.unwrap().is_none())
        .await;
    until("none is counted", SOON, async || stuck() == 0).await;
}

/// 300 lifts in one go: how many requests they take, and how much of this process' time. Only the former is held: the
/// time is of both replicas, of what asks whether the bans are gone, and of an unoptimised build.
async fn three_hundred_lifts_take_a_request_each_and_share_the_writes_of_the_history(world: &World) {
    let names: Vec<String> =
        (0..300).map(|bits| format!("198.51.{}.{}", 100 + bits / 100, bits % 100)).collect();
    for name in &names {
        world.detected(name).await;
    }
    until("both see them", SOON, async || {
        [&world.leader, &world.standby].iter().all(|replica| replica.state.bans().len() >= names.len())
    })
    .await;
    let written = || world.server.control_plane.patches(&["shard-"]);
    let (before, written_before) = (cpu(), written());
    let began = tokio::time::Instant::now();
    for some in names.chunks(50) {
        join_all(some.iter().map(|name| world.delete(name))).await;
    }
    // How quickly the API server deletes says nothing of the operator.
    until("all are gone", SOON * 12, async || {
        names.iter().all(|name| world.leader.state.bans().get(name).is_none())
    })
    .await;
    let (took, time) = (began.elapsed(), cpu().saturating_sub(before));
    let releases = world.server.control_plane.patches(&["198.51.100.", "198.51.101.", "198.51.102."]);
    let written = written() - written_before;
    println!("300 lifts in {took:?}: {releases} releases, {written} writes of the history, {time:?} of CPU");
    assert!(releases <= names.len() * 11 / 10, "{releases} requests to release {} bans", names.len());
    // The first of each shard at once, and then ten a second.
    let most = 64 + 10 * usize::try_from(took.as_secs() + 1).unwrap();
    assert!(written <= most.min(names.len()), "{written} writes of the history in {took:?}");
}

/// The processor time that this process has had.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bans_end_once_and_every_replica_comes_to_the_same() {
    let Some(control_plane) = ControlPlane::alone() else { return };
    let server = server_on(Arc::new(control_plane)).await;
    let leader = replica(&server, "leader").await;
    until("it leads", SOON, async || leader.candidate.leadership.is_leading()).await;
    let standby = replica(&server, "standby").await;
    let bans = Api::all(server.client.clone());
    let world = World { server, bans, leader, standby };
    tokio::join!(
        an_evicted_ban_is_an_offence_and_never_a_lift(&world),
        a_lifted_ban_is_no_offence(&world),
        a_ban_made_manual_is_its_authors(&world),
        enforced_is_false_while_a_ban_is_not_enforced_and_true_again_after(&world),
        what_keeps_an_object_is_told_and_keeps_no_other(&world),
    );
    three_hundred_lifts_take_a_request_each_and_share_the_writes_of_the_history(&world).await;
}
