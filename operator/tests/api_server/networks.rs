//! `ProtectedNetworks/cluster` as the operator keeps it on a real API server: the operator's program runs beside it.

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use ip_sentry_core::{net::Network, networks::Networks};
use ip_sentry_crd::{IPBan, ProtectedNetworks};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        core::v1::{Namespace, Node, Service},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

use crate::{
    bans::{SOON, install},
    control_plane::{ControlPlane, config, until},
};

/// What refuses a list without every node.
const NODES_POLICY: &str = "deploy/kustomize/base/admission/protectednetworks-nodes.yaml";

/// One test at a time has the one `ProtectedNetworks/cluster`.
static TURN: AsyncMutex<()> = AsyncMutex::const_new(());

/// An API server with our kinds, one node, and one operator that leads.
struct Operated {
    control_plane: Arc<ControlPlane>,
    client: Client,
    networks: Api<ProtectedNetworks>,
    operator: Child,
    _turn: MutexGuard<'static, ()>,
}

impl Drop for Operated {
    fn drop(&mut self) {
        let _ = self.operator.kill();
        let _ = self.operator.wait();
    }
}

impl Operated {
    /// Starts the operator in this namespace, which is new.
    async fn start(namespace: &str) -> Option<Self> {
        // Apart from the other tests' bans, which this operator would end.
        static RUNNING: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
        let control_plane = ControlPlane::join(&RUNNING)?;
        let turn = TURN.lock().await;
        let kubeconfig = control_plane.kubeconfig();
        let client = Client::try_from(config(&kubeconfig).await).unwrap();
        install(&client).await;
        // The operator writes nothing that this refuses.
        control_plane.kubectl(&["apply", "--filename", NODES_POLICY]);
        let networks: Api<ProtectedNetworks> = Api::all(client.clone());
        create(&Api::<Namespace>::all(client.clone()), json!({"metadata": {"name": namespace}})).await;
        let nodes: Api<Node> = Api::all(client.clone());
        if nodes.get_opt("node-1").await.unwrap().is_none() {
            let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDRs": ["10.97.0.0/24"]}});
            create(&nodes, node).await;
            let addresses =
                json!({"status": {"addresses": [{"type": "InternalIP", "address": "10.99.0.11"}]}});
            nodes.patch_status("node-1", &PatchParams::default(), &Patch::Merge(addresses)).await.unwrap();
        }
        // An operator before this one has left its own findings behind.
        let left = networks.get_opt("cluster").await.unwrap();
        if left.is_some_and(|left| left.status.is_some_and(|status| status.observed_at.is_some())) {
            let stale = json!({"status": {"observedAt": "2000-01-01T00:00:00Z"}});
            networks.patch_status("cluster", &PatchParams::default(), &Patch::Merge(stale)).await.unwrap();
        }
        let started = Timestamp::now() - SignedDuration::from_secs(1);
        let operator = Command::new(env!("CARGO_BIN_EXE_ip-sentry-operator"))
            .args(["--namespace", namespace, "--listen", "127.0.0.1:0", "--log-format", "text"])
            .env("KUBECONFIG", &kubeconfig)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let operated = Self { control_plane, client, networks, operator, _turn: turn };
        until("the operator has looked", 3 * SOON, async || operated.observed_at().await > Some(started))
            .await;
        Some(operated)
    }

    async fn observed_at(&self) -> Option<Timestamp> {
        let status = self.networks.get_opt("cluster").await.unwrap()?.status?;
        status.observed_at.map(|time| time.0)
    }

    async fn found(&self) -> Vec<String> {
        let object = self.networks.get_opt("cluster").await.unwrap();
        object.and_then(|object| object.status).map(|status| status.cidrs).unwrap_or_default()
    }

    async fn has(&self, network: &str) -> bool {
        self.found().await.iter().any(|cidr| cidr == network)
    }

    /// Changes what people protect.
    async fn protect(&self, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.networks.patch("cluster", &PatchParams::default(), &patch).await.unwrap();
    }

    /// Bans by hand.
    async fn ban(&self, address: &str) {
        let ban = json!({"metadata": {"name": address}, "spec": {"cidr": format!("{address}/32"), "origin": "Manual"}});
        create(&Api::<IPBan>::all(self.client.clone()), ban).await;
    }

    /// What the ban's condition says, for one that is not enforced.
    async fn unenforced(&self, address: &str) -> Option<String> {
        let bans: Api<IPBan> = Api::all(self.client.clone());
        let conditions = bans.get(address).await.unwrap().status?.conditions;
        let condition =
            conditions.into_iter().find(|one| one.type_ == "Enforced" && one.status == "False")?;
        Some(condition.reason)
    }

    /// Creates a node with these addresses in its status.
    async fn node(&self, name: &str, addresses: &[String]) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        create(&nodes, json!({"metadata": {"name": name}})).await;
        let addresses: Vec<Value> =
            addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
        let status = json!({"status": {"addresses": addresses}});
        nodes.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    /// What `Complete` says.
    async fn complete(&self) -> Option<Condition> {
        let status = self.networks.get_opt("cluster").await.unwrap()?.status?;
        status.conditions.into_iter().find(|condition| condition.type_ == "Complete")
    }

    /// Waits until admission refuses a list of networks that lacks this one.
    async fn until_demanded(&self, network: &str) {
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        until(&format!("admission asks for {network}"), SOON, async || {
            let without: Vec<String> =
                self.found().await.into_iter().filter(|cidr| cidr != network).collect();
            let patch = Patch::Merge(json!({"status": {"cidrs": without}}));
            self.networks.patch_status("cluster", &params, &patch).await.is_err()
        })
        .await;
    }

    /// A Service, and what a controller says of it.
    async fn service(&self, name: &str, mut spec: Value, ingress: &Value) {
        let services: Api<Service> = Api::namespaced(self.client.clone(), "default");
        spec["ports"] = json!([{"port": 80}]);
        create(&services, json!({"metadata": {"name": name}, "spec": spec})).await;
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        services.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }
}

async fn create<K>(api: &Api<K>, object: Value)
where
    K: Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let object = serde_json::from_value(object).unwrap();
    api.create(&PostParams::default(), &object).await.unwrap();
}

#[tokio::test]
async fn whoever_may_write_services_lifts_no_ban_and_widens_nothing() {
    let Some(operated) = Operated::start("attacked").await else { return };
    operated.ban("203.0.113.7").await;
    // Neighbours that are no neighbours, all over the address space.
    let mut wishes: Vec<String> = (0..1100u32)
        .map(|n| std::net::Ipv4Addr::from_bits(0x1700_0000 + n * 0x0001_2345).to_string())
        .collect();
    wishes.push("203.0.113.7".into());
    operated.service("wish", json!({"externalIPs": wishes}), &json!([])).await;
    let spec = json!({"type": "LoadBalancer", "loadBalancerIP": "203.0.113.7"});
    operated.service("another-wish", spec, &json!([])).await;
    // What a controller gave to a Service that is younger than the wishes: so the wishes were seen.
    let given = json!([{"ip": "198.51.100.9"}]);
    operated.service("given", json!({"type": "LoadBalancer"}), &given).await;
    until("it was seen", SOON, async || operated.has("198.51.100.9/32").await).await;

    let found = operated.found().await;
    assert!(found.len() < 10, "{found:?}");
    for exact in ["10.99.0.11/32", "10.97.0.0/24"] {
        assert!(found.iter().any(|cidr| cidr == exact), "{exact} in {found:?}");
    }
    let protected: Networks = found.iter().map(|cidr| cidr.parse::<Network>().unwrap()).collect();
    for wish in &wishes {
        assert!(!protected.contains(wish.parse().unwrap()), "{wish} is protected by {found:?}");
    }
    assert_eq!(operated.unenforced("203.0.113.7").await, None);
}

#[tokio::test]
async fn a_node_with_twenty_addresses_keeps_no_other_node_off_the_list() {
    let Some(operated) = Operated::start("crowded").await else { return };
    operated.until_demanded("10.99.0.11/32").await;
    // The later one has the lower number, and none has a neighbour to be joined with.
    let addresses: Vec<String> = (0..20).map(|n| format!("198.51.100.{}", 200 - 2 * n)).collect();
    let mut stated: Vec<&str> = addresses.iter().map(String::as_str).collect();
    // Of this, the API server says that a packet may have it, and the operator that nobody can be banned for it.
    stated.insert(3, "64:ff9b::c633:6401");
    let stated: Vec<String> = stated.into_iter().map(str::to_owned).collect();
    operated.node("crowded", &stated).await;
    let listed = |n: usize| format!("{}/32", addresses[n]);
    until("its first ones are listed", SOON, async || operated.has(&listed(14)).await).await;
    assert!(!operated.has(&listed(15)).await, "16 places count, and one of them holds no address");
    operated.until_demanded(&listed(14)).await;
    let says_so = async || operated.complete().await.is_some_and(|told| told.reason == "ShareUsedUp");
    until("the rest is told", SOON, says_so).await;

    operated.node("later", &["10.99.0.77".to_owned()]).await;
    until("a later node is listed", SOON, async || operated.has("10.99.0.77/32").await).await;
    // Nor is a first list refused.
    operated.networks.delete("cluster", &DeleteParams::default()).await.unwrap();
    until("all are listed again", SOON, async || {
        operated.has("10.99.0.77/32").await && operated.has(&listed(14)).await
    })
    .await;
    let nodes: Api<Node> = Api::all(operated.client.clone());
    for name in ["crowded", "later"] {
        nodes.delete(name, &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn no_ban_is_admitted_on_a_list_without_the_nodes_however_it_is_written() {
    let Some(mut operated) = Operated::start("stolen").await else { return };
    operated.until_demanded("10.99.0.11/32").await;
    // Somebody has the operator's token.
    operated.operator.kill().unwrap();
    operated.operator.wait().unwrap();
    operated.networks.delete("cluster", &DeleteParams::default()).await.unwrap();
    create(&operated.networks, json!({"metadata": {"name": "cluster"}, "spec": {}})).await;
    let write = async |status: Value| {
        let patch = Patch::Merge(json!({"status": status}));
        operated.networks.patch_status("cluster", &PatchParams::default(), &patch).await
    };
    let now = "2026-11-22T10:00:00Z";
    for status in [
        json!({"observedAt": now}),
        json!({"cidrs": ["10.97.0.0/24"]}),
        json!({"observedAt": now, "cidrs": ["10.97.0.0/24"]}),
    ] {
        let refused = write(status.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("10.99.0.11 of node-1 is missing"), "{status}: {refused}");
    }
    // What the operator writes where its first list is refused, and what it writes else.
    write(json!({"apiServers": ["10.99.0.1:6443"]})).await.unwrap();
    write(json!({"observedAt": now, "cidrs": ["10.97.0.0/24", "10.99.0.0/24"]})).await.unwrap();

    // The longest list, and as many addresses as count of a node, are not too much for the API server to look through.
    let addresses: Vec<String> = (0..16).map(|n| format!("198.18.7.{n}")).collect();
    operated.node("far", &addresses).await;
    let mut list: Vec<String> = (0..1022u32)
        .map(|n| format!("{}/32", std::net::Ipv4Addr::from_bits(0x1700_0000 + n * 0x0001_2345)))
        .collect();
    list.extend(["10.99.0.0/24".to_owned(), "198.18.7.0/24".to_owned()]);
    write(json!({"cidrs": list})).await.unwrap();
    operated.until_demanded("198.18.7.0/24").await;
    list.pop();
    let refused = write(json!({"cidrs": list})).await.unwrap_err().to_string();
    assert!(refused.contains("198.18.7.0 of far is missing"), "{refused}");
    let nodes: Api<Node> = Api::all(operated.client.clone());
    nodes.delete("far", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_refused_list_is_told_in_the_object_and_the_last_one_stays() {
    let Some(operated) = Operated::start("refused").await else { return };
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(operated.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(operated.client.clone());
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "frozen"},
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["ipsentry.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
                "resources": ["protectednetworks/status"],
            }]},
            "validations": [{
                "expression": "object.?status.?cidrs == oldObject.?status.?cidrs",
                "message": "the list is frozen",
            }],
        },
    });
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "frozen"}, "spec": {"policyName": "frozen", "validationActions": ["Deny"]},
    });
    let params = PatchParams::apply("test");
    policies.patch("frozen", &params, &Patch::Apply(policy)).await.unwrap();
    bindings.patch("frozen", &params, &Patch::Apply(binding)).await.unwrap();
    operated.until_demanded("10.97.0.0/24").await;
    let before = operated.found().await;
    operated.node("late", &["10.99.0.78".to_owned()]).await;
    let reason = async || operated.complete().await.map(|told| told.reason);
    until("the refusal is told", SOON, async || reason().await.as_deref() == Some("Refused")).await;
    let told = operated.complete().await.unwrap();
    assert!(told.status == "False" && told.message.contains("the list is frozen"), "{told:?}");
    assert_eq!(operated.found().await, before);
    // The leader is at work all the same.
    let seen = operated.observed_at().await;
    until("it is renewed", Duration::from_secs(25), async || operated.observed_at().await > seen).await;

    bindings.delete("frozen", &DeleteParams::default()).await.unwrap();
    // The longest time between two tries.
    let within = Duration::from_secs(25);
    until("the node is listed", within, async || operated.has("10.99.0.78/32").await).await;
    until("that is told, too", SOON, async || reason().await.as_deref() != Some("Refused")).await;
    let nodes: Api<Node> = Api::all(operated.client.clone());
    nodes.delete("late", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_ban_that_a_load_balancers_address_lifts_is_told_with_the_service() {
    let Some(operated) = Operated::start("lifting").await else { return };
    operated.ban("203.0.113.8").await;
    operated.service("balanced", json!({"type": "LoadBalancer"}), &json!([{"ip": "203.0.113.8"}])).await;
    let events: Api<Event> = Api::namespaced(operated.client.clone(), "default");
    until("it is told", SOON, async || {
        let events = events.list(&kube::api::ListParams::default()).await.unwrap();
        events.iter().any(|event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.kind.as_deref());
            let related = event.related.as_ref().and_then(|object| object.name.as_deref());
            let note =
                "Service default/balanced protects 203.0.113.8/32 now: the ban of 203.0.113.8/32 is lifted";
            regarding == Some("ProtectedNetworks")
                && related == Some("balanced")
                && event.note.as_deref() == Some(note)
        })
    })
    .await;
    until("the ban says so", SOON, async || operated.unenforced("203.0.113.8").await.is_some()).await;
}

#[tokio::test]
async fn a_manual_ban_of_which_a_load_balancer_gets_an_address_goes_on_with_the_rest_and_says_so() {
    let Some(operated) = Operated::start("narrowing").await else { return };
    let name = "192.0.2.0-24";
    let ban = json!({"metadata": {"name": name}, "spec": {"cidr": "192.0.2.0/24", "origin": "Manual"}});
    create(&Api::<IPBan>::all(operated.client.clone()), ban).await;
    operated.service("within", json!({"type": "LoadBalancer"}), &json!([{"ip": "192.0.2.8"}])).await;
    let events: Api<Event> = Api::namespaced(operated.client.clone(), "default");
    let of_service = "Service default/within protects 192.0.2.8/32 now";
    for (kind, told) in [
        ("ProtectedNetworks", "of 192.0.2.0/24 only the rest is still dropped"),
        ("IPBan", "packets from there are let in, the rest of 192.0.2.0/24 is dropped"),
    ] {
        let note = format!("{of_service}: {told}");
        until(&note, SOON, async || {
            let events = events.list(&kube::api::ListParams::default()).await.unwrap();
            events.iter().any(|event| {
                let regarding = event.regarding.as_ref().and_then(|object| object.kind.as_deref());
                regarding == Some(kind) && event.note.as_deref() == Some(&note)
            })
        })
        .await;
    }
    assert_eq!(operated.unenforced(name).await, None);
    operated.protect(json!({"cidrs": ["192.0.2.0/24"]})).await;
    until("all of it is let in", SOON, async || {
        operated.unenforced(name).await.as_deref() == Some("Protected")
    })
    .await;
    operated.protect(json!({"cidrs": []})).await;
    until("the rest is dropped again", SOON, async || operated.unenforced(name).await.is_none()).await;
}

#[tokio::test]
async fn a_leader_says_every_twenty_seconds_that_it_is_at_work() {
    let Some(operated) = Operated::start("renewing").await else { return };
    let first = operated.observed_at().await.unwrap();
    until("it is renewed", Duration::from_secs(25), async || operated.observed_at().await > Some(first))
        .await;
    let age = operated.observed_at().await.unwrap().duration_since(first);
    assert!(age.as_secs() <= 21, "renewed after {age:?}");
}

#[tokio::test]
async fn a_deleted_object_is_back_at_once_with_what_people_wrote() {
    let Some(operated) = Operated::start("restoring").await else { return };
    operated.protect(json!({"cidrs": ["203.0.113.128/25"], "failsafePorts": [{"port": 22}]})).await;
    let before = operated.networks.get("cluster").await.unwrap();
    // The operator must have seen it: it judges each generation.
    until("the change was seen", SOON, async || {
        let object = operated.networks.get("cluster").await.unwrap();
        let conditions = object.status.map(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|one| one.observed_generation == before.metadata.generation)
    })
    .await;
    operated.networks.delete("cluster", &DeleteParams::default()).await.unwrap();
    let took = until("it is back", SOON, async || operated.has("10.99.0.11/32").await).await;
    let after = operated.networks.get("cluster").await.unwrap();
    assert_ne!(after.uid(), before.uid());
    assert_eq!(after.spec, before.spec);
    assert_eq!(after.owner_references()[0].name, "restoring");
    assert!(took < Duration::from_secs(3), "it was back after {took:?}");
}

#[tokio::test]
async fn an_uninstall_that_deletes_the_namespace_gets_nothing_back() {
    let Some(operated) = Operated::start("leaving").await else { return };
    let namespaces: Api<Namespace> = Api::all(operated.client.clone());
    // Nothing here empties namespaces, so it stays one that is being deleted.
    namespaces.delete("leaving", &DeleteParams::default()).await.unwrap();
    operated.networks.delete("cluster", &DeleteParams::default()).await.unwrap();
    let asked = async || {
        let requests = operated.control_plane.audit("leaving");
        requests.iter().filter(|request| request.verb == "get" && request.code == 200).count()
    };
    // Twice: so the first answer has led to nothing.
    until("the operator has asked what becomes of its namespace", 2 * SOON, async || asked().await >= 2)
        .await;
    assert!(operated.networks.get_opt("cluster").await.unwrap().is_none());
    // For the tests that follow.
    create(&operated.networks, json!({"metadata": {"name": "cluster"}, "spec": {}})).await;
}
