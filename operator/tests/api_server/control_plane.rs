//! A throw-away control plane for these tests, shared by those that run at the same time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use ip_sentry_operator::client;
use ip_sentry_operator::lease::{Election, Leadership, Timing};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A running API server; stopped when the last test lets go of it.
pub(crate) struct ControlPlane {
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts one, or joins the one that runs. `None`, and said so, where there is no Kubernetes binary.
    pub(crate) fn start() -> Option<Arc<Self>> {
        static RUNNING: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap();
        if let Some(control_plane) = running.upgrade() {
            return Some(control_plane);
        }
        let Some(binary) = kubernetes_binary() else {
            let reason = "no Kubernetes binary: build it with tests/e2e/cluster, or set IP_SENTRY_K8SLAB";
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{reason}");
            eprintln!("SKIPPED: {reason}");
            return None;
        };
        let control_plane = Self { folder: tempfile::tempdir().unwrap() };
        let up = control_plane.script("up.sh").env("K8SLAB", binary).status().unwrap();
        assert!(
            up.success(),
            "the control plane did not come up, see {}",
            control_plane.folder.path().display()
        );
        let control_plane = Arc::new(control_plane);
        *running = Arc::downgrade(&control_plane);
        Some(control_plane)
    }

    /// The scripts and what they are told; all that these tests know of them.
    fn script(&self, name: &str) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/cluster");
        let mut command = Command::new(scripts.join(name));
        command
            .env("LAB_DIR", self.folder.path())
            .env("LAB_PORT", "auto")
            .env("LAB_PARTS", "")
            .env("LAB_AUDIT", "1");
        command.stdout(Stdio::null());
        command
    }

    /// What says where it is.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// The requests about objects of this name that have been answered, oldest first.
    pub(crate) fn audit(&self, object: &str) -> Vec<Request> {
        let log = std::fs::read_to_string(self.folder.path().join("log/audit.json")).unwrap();
        let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        entries
            .filter(|entry| entry["objectRef"]["name"] == object)
            .map(|entry| Request {
                verb: entry["verb"].as_str().unwrap().into(),
                code: entry["responseStatus"]["code"].as_i64().unwrap(),
                received: entry["requestReceivedTimestamp"].as_str().unwrap().parse().unwrap(),
            })
            .collect()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let down = self.script("down.sh").status();
        assert!(down.is_ok_and(|down| down.success()), "the control plane did not stop");
    }
}

/// One line of the audit log.
pub(crate) struct Request {
    pub(crate) verb: String,
    pub(crate) code: i64,
    pub(crate) received: Timestamp,
}

/// The binary named by `IP_SENTRY_K8SLAB`, else the latest that the cluster's scripts have built.
fn kubernetes_binary() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("IP_SENTRY_K8SLAB") {
        return Some(named.into());
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(
            || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
            PathBuf::from,
        )
        .join("ip-sentry");
    let builds = std::fs::read_dir(cache).ok()?.filter_map(|entry| Some(entry.ok()?.path().join("k8slab")));
    let dated = builds.filter_map(|binary| Some((binary.metadata().ok()?.modified().ok()?, binary)));
    dated.max().map(|(_, binary)| binary)
}

/// The API server's address and credentials, from a kubeconfig.
pub(crate) async fn config(kubeconfig: &Path) -> Config {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// A client like the operator's for its lease.
pub(crate) async fn lease_client(control_plane: &ControlPlane) -> Client {
    client::connect_lease(&config(&control_plane.kubeconfig()).await).unwrap()
}

/// The leases of the namespace that all of these tests use.
pub(crate) fn leases(client: &Client) -> Api<Lease> {
    Api::namespaced(client.clone(), "default")
}

/// Makes a lease as somebody has left it behind.
pub(crate) async fn leave_behind(client: &Client, name: &str, spec: Option<LeaseSpec>) {
    let mut lease = Lease { spec, ..Lease::default() };
    lease.metadata.name = Some(name.into());
    leases(client).create(&PostParams::default(), &lease).await.unwrap();
}

/// A candidate that runs on a task of its own; the task is killed when this is dropped.
pub(crate) struct Candidate {
    pub(crate) leadership: Leadership,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

impl Candidate {
    /// Enters a candidate for the Lease `name`.
    pub(crate) fn enter(client: Client, name: &str, holder: &str, timing: Timing) -> Self {
        let election = Election::new(client, "default", name, holder, timing);
        let (leadership, shutdown) = (election.leadership(), CancellationToken::new());
        Self { leadership, shutdown: shutdown.clone(), task: tokio::spawn(election.run(shutdown)) }
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Waits until `condition` holds, at most `limit`. Returns how long that took.
pub(crate) async fn until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}
