//! What the replicas under test see: an API server with everything of ip-sentry in it, a node, and a gateway's pod.

use std::{sync::Arc, time::Duration};

use ip_sentry_crd::{IPBan, OffenceHistory, ProbePolicy};
use ip_sentry_operator::{client, clock::Clock};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ServiceAccount};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    control_plane::{ControlPlane, config, until},
    front::ACCOUNT,
    gateway_log::GatewayLog,
};

/// Where the gateway is.
pub(crate) const NAMESPACE: &str = "web";
/// How long what should happen at once may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// One at a time: each measures times and has the two cores of a small machine to itself.
static TURN: Mutex<()> = Mutex::const_new(());

pub(crate) struct Cluster {
    pub(crate) control_plane: Arc<ControlPlane>,
    /// A client with all rights.
    pub(crate) kube: Client,
    pub(crate) log: GatewayLog,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// A new one. `None`, and said so, where there is no Kubernetes binary.
    pub(crate) async fn start() -> Option<Self> {
        let turn = TURN.lock().await;
        let control_plane = ControlPlane::start()?;
        control_plane.kubectl(&["apply", "--server-side", "-k", "deploy/kustomize/crds"]);
        let crds = "--selector=app.kubernetes.io/part-of=ip-sentry";
        control_plane.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", crds]);
        control_plane.kubectl(&["apply", "-k", "deploy/kustomize/base"]);
        let kube = client::connect(&config(&control_plane.kubeconfig()).await, &Clock::default()).unwrap();
        let cluster = Self { control_plane, kube, log: GatewayLog::new(), _turn: turn };
        cluster.furnish().await;
        Some(cluster)
    }

    async fn furnish(&self) {
        let node = json!({"metadata": {"name": "node-1"}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}});
        let addresses = json!({"addresses": [{"type": "InternalIP", "address": "10.99.0.11"}]});
        self.make::<Node>(Api::all(self.kube.clone()), node, Some(addresses)).await;
        self.make::<Namespace>(Api::all(self.kube.clone()), json!({"metadata": {"name": NAMESPACE}}), None)
            .await;
        let account = json!({"metadata": {"name": "default"}});
        self.make::<ServiceAccount>(self.inside(), account, None).await;
        let pod = json!({
            "metadata": {"name": "gateway", "labels": {"app": "gateway"}},
            "spec": {
                "nodeName": "node-1", "automountServiceAccountToken": false,
                "containers": [{"name": "nginx", "image": "nginx"}],
            },
        });
        let running = json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIP": "10.244.0.7", "podIPs": [{"ip": "10.244.0.7"}],
            "containerStatuses": [{
                "name": "nginx", "image": "nginx", "imageID": "nginx", "containerID": "test://1", "ready": true,
                "restartCount": 0, "started": true, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }],
        });
        self.make::<Pod>(self.inside(), pod, Some(running)).await;
        self.control_plane.kubectl(&[
            "--namespace=web",
            "apply",
            "-k",
            "deploy/kustomize/components/log-access",
        ]);
    }

    async fn make<K>(&self, api: Api<K>, object: Value, status: Option<Value>)
    where
        K: Resource + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
        if let Some(status) = status {
            let patch = Patch::Merge(json!({"status": status}));
            api.patch_status(&object.name_any(), &PatchParams::default(), &patch).await.unwrap();
        }
    }

    /// Objects of the gateway's namespace.
    pub(crate) fn inside<K>(&self) -> Api<K>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.kube.clone(), NAMESPACE)
    }

    pub(crate) fn bans(&self) -> Api<IPBan> {
        Api::all(self.kube.clone())
    }

    /// Makes a policy about the gateway's pod.
    pub(crate) async fn policy(&self, mut spec: Value) {
        spec["podSelector"] = json!({"matchLabels": {"app": "gateway"}});
        spec["container"] = "nginx".into();
        let policy: ProbePolicy =
            serde_json::from_value(json!({"metadata": {"name": "probes"}, "spec": spec})).unwrap();
        admitted(&self.inside(), &policy).await;
    }

    /// Makes the usual policy, and waits until its replicas read the gateway's log.
    pub(crate) async fn policy_in_force(&self, spec: Value) {
        self.policy(spec).await;
        let policies: Api<ProbePolicy> = self.inside();
        until("the policy's logs are read", SOON * 2, async || {
            let status = policies.get("probes").await.unwrap().status.unwrap_or_default();
            status.conditions.iter().any(|told| told.type_ == "LogsStreaming" && told.status == "True")
        })
        .await;
    }

    /// Waits until admission knows its parameters, so that it refuses no ban for the want of them.
    pub(crate) async fn until_bans_are_admitted(&self) -> Duration {
        let ban = json!({"metadata": {"name": "192.0.2.1"}, "spec": {"cidr": "192.0.2.1/32", "origin": "Manual", "reason": "a test's"}});
        let ban: IPBan = serde_json::from_value(ban).unwrap();
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        until("bans are admitted", SOON * 5, async || self.bans().create(&dry_run, &ban).await.is_ok()).await
    }

    /// Makes a ban as the operator would, that ends so soon.
    pub(crate) async fn detected(&self, address: &str, length: Duration) {
        let mut config = config(&self.control_plane.kubeconfig()).await;
        config.auth_info.impersonate = Some(ACCOUNT.into());
        let operator = Client::try_from(config).unwrap();
        let end = (Timestamp::now() + length).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let ban: IPBan = serde_json::from_value(json!({
            "metadata": {
                "name": address, "finalizers": ["ipsentry.dev/ttl"],
                "labels": {"app.kubernetes.io/managed-by": "ip-sentry"},
            },
            "spec": {
                "cidr": format!("{address}/32"), "origin": "Detected", "expiresAt": end, "reason": "a test's",
                "policyRef": {"namespace": NAMESPACE, "name": "probes"}, "offence": 1,
            },
        }))
        .unwrap();
        admitted(&Api::all(operator), &ban).await;
    }

    /// All bans that are in force or would be.
    pub(crate) async fn banned(&self) -> Vec<IPBan> {
        self.bans().list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until these and no others have a ban that is not being deleted.
    pub(crate) async fn until_banned(&self, names: &[String], limit: Duration) -> Duration {
        let mut expect = names.to_vec();
        expect.sort();
        let is_so = async || {
            let Ok(bans) = self.bans().list(&ListParams::default()).await else { return false };
            let live = bans.iter().filter(|ban| ban.metadata.deletion_timestamp.is_none());
            let mut found: Vec<String> = live.map(ResourceExt::name_any).collect();
            found.sort();
            found == expect
        };
        until(&format!("{} sources are banned", names.len()), limit, is_so).await
    }

    /// Waits until this source is banned, whoever else is.
    pub(crate) async fn until_one_banned(&self, name: &str, limit: Duration) {
        until(&format!("{name} is banned"), limit, async || {
            let ban = self.bans().get_opt(name).await;
            ban.is_ok_and(|ban| ban.is_some_and(|ban| ban.metadata.deletion_timestamp.is_none()))
        })
        .await;
    }

    /// Applies an object of any kind.
    pub(crate) fn apply(&self, object: &Value) {
        let file = self.control_plane.folder.path().join("applied.json");
        std::fs::write(&file, object.to_string()).unwrap();
        self.control_plane.kubectl(&["apply", "--filename", file.to_str().unwrap()]);
    }

    /// How many bans of each source the history says have ended.
    pub(crate) async fn ended(&self) -> Vec<(String, usize)> {
        let shards: Api<OffenceHistory> = Api::all(self.kube.clone());
        let shards = shards.list(&ListParams::default()).await.unwrap();
        let entries = shards.items.into_iter().flat_map(|shard| shard.spec.entries);
        entries.map(|entry| (entry.cidr, entry.ends.len())).collect()
    }
}

/// Makes an object. An API server that has just started refuses it for a while: admission has yet to learn of the kinds
/// and objects that its policies take as parameters.
async fn admitted<K>(api: &Api<K>, object: &K)
where
    K: Resource + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
{
    until("the object is admitted", SOON, async || match api.create(&PostParams::default(), object).await {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
            println!("refused: {}", status.message);
            tokio::time::sleep(Duration::from_millis(200)).await;
            false
        }
        Err(error) => panic!("{error}"),
    })
    .await;
}

impl ControlPlane {
    /// Ends the API server at once.
    pub(crate) fn stop_api_server(&self) {
        let stopped = self.script("cluster.sh").args(["stop", "apiserver"]).status().unwrap();
        assert!(stopped.success(), "the API server did not stop");
    }
}
