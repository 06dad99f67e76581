//! A throw-away control plane for these tests, shared by those that run at the same time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::time::Instant;

/// A running API server; stopped when the last test lets go of it.
pub(crate) struct ControlPlane {
    /// Where it keeps everything; it goes with this value.
    pub(crate) folder: tempfile::TempDir,
    /// Kubernetes, kubectl among it.
    pub(crate) binary: PathBuf,
}

impl ControlPlane {
    /// Starts one, or joins the one that runs. `None`, and said so, where there is no Kubernetes binary.
    pub(crate) fn start() -> Option<Arc<Self>> {
        static RUNNING: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
        Self::join(&RUNNING)
    }

    /// [`start`](Self::start) for tests that share one among themselves.
    pub(crate) fn join(running: &Mutex<Weak<Self>>) -> Option<Arc<Self>> {
        let mut running = running.lock().unwrap();
        if let Some(control_plane) = running.upgrade() {
            return Some(control_plane);
        }
        let control_plane = Arc::new(Self::alone()?);
        *running = Arc::downgrade(&control_plane);
        Some(control_plane)
    }

    /// Starts one for a test that changes what others would stumble over.
    pub(crate) fn alone() -> Option<Self> {
        let Some(binary) = kubernetes_binary() else {
            let reason = "no Kubernetes binary: build it with tests/e2e/cluster, or set IP_SENTRY_K8SLAB";
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{reason}");
            eprintln!("SKIPPED: {reason}");
            return None;
        };
        let control_plane = Self { folder: tempfile::tempdir().unwrap(), binary };
        control_plane.bring_up();
        Some(control_plane)
    }

    /// Starts what does not run, and waits until the API server is ready.
    pub(crate) fn bring_up(&self) {
        let up = self.script("up.sh").status().unwrap();
        assert!(up.success(), "the control plane did not come up, see {}", self.folder.path().display());
    }

    /// The scripts and what they are told; all that these tests know of them.
    pub(crate) fn script(&self, name: &str) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/cluster");
        let mut command = Command::new(scripts.join(name));
        command
            .env("K8SLAB", &self.binary)
            .env("LAB_DIR", self.folder.path())
            .env("LAB_PORT", "auto")
            .env("LAB_PARTS", "")
            .env("LAB_AUDIT", "1");
        command.stdout(Stdio::null());
        command
    }

    /// Runs kubectl with all rights, in the repository's root. `kubectl edit` makes a ban Manual.
    pub(crate) fn kubectl(&self, arguments: &[&str]) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut command = Command::new(&self.binary);
        command.arg("kubectl").args(arguments).env("KUBECONFIG", self.kubeconfig()).current_dir(root);
        command.env("KUBE_EDITOR", "sed -i 's/origin: Detected/origin: Manual/'");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "kubectl {arguments:?}: {said}");
    }

    /// What says where it is.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let down = self.script("down.sh").status();
        assert!(down.is_ok_and(|down| down.success()), "the control plane did not stop");
    }
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

/// Waits until `condition` holds, at most `limit`. Returns how long that took.
pub(crate) async fn until(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}
