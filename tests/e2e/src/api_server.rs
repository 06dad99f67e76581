//! An API server without nodes, for what needs nothing else: etcd, `kube-apiserver` and the controllers, with
//! ip-sentry's kinds, rights and admission policies. Its pods never run; a test writes what the operator would.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Output,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    eventually,
    lab::{self, printed},
    scenario::{LONG, SOON},
};

/// The namespace that objects are written to where they name none.
pub const NAMESPACE: &str = "shop";
/// The operator.
pub const OPERATOR: &str = "--as=system:serviceaccount:ip-sentry:ip-sentry-operator";
/// What a person does in `kubectl edit`.
const EDITOR: &str = "sed -i 's/origin: Detected/origin: Manual/'";

/// A running API server; stopped when the last test lets go of it.
pub struct ApiServer {
    folder: TempDir,
    kubectl: PathBuf,
}

/// Runs a test on it, with no other test of this program beside it: they share names.
pub fn on_an_api_server<B: AsyncFnOnce(&ApiServer) -> Result<()>>(body: B) {
    report(attempt(body));
}

#[expect(clippy::panic, reason = "a test that has failed says so to the test harness")]
fn report(result: Result<()>) {
    if let Err(error) = result {
        panic!("{error:#}");
    }
}

fn attempt<B: AsyncFnOnce(&ApiServer) -> Result<()>>(body: B) -> Result<()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let Some(server) = running()? else { return Ok(()) };
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(body(&server))
}

/// The one that runs, or else a new one. `None`, and said so, where there is no Kubernetes binary.
fn running() -> Result<Option<Arc<ApiServer>>> {
    static RUNNING: Mutex<Weak<ApiServer>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = running.upgrade() {
        return Ok(Some(server));
    }
    let Some(kubectl) = kubectl()? else {
        let reason = "there is no Kubernetes binary: run 'make cluster-up' first, or 'make test-e2e'";
        // Not `eprintln`, which the test harness keeps to itself when a test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {reason}");
        ensure!(
            std::env::var("CI").as_deref() != Ok("true"),
            "with CI=true nothing may be skipped: {reason}"
        );
        return Ok(None);
    };
    let server = ApiServer { folder: tempfile::tempdir()?, kubectl };
    let up = server.script("up.sh").output()?;
    ensure!(up.status.success(), "no API server: {}", String::from_utf8_lossy(&up.stderr));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(server.install()).context("ip-sentry can't be installed")?;
    let server = Arc::new(server);
    *running = Arc::downgrade(&server);
    Ok(Some(server))
}

/// The scripts' kubectl, once Kubernetes is built.
fn kubectl() -> Result<Option<PathBuf>> {
    let output = std::process::Command::new(lab::script("cluster.sh")).arg("env").output()?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let kubectl = lines.lines().find_map(|line| line.strip_prefix("export KUBECTL='"));
    Ok(kubectl.map(|kubectl| PathBuf::from(kubectl.trim_end_matches('\''))))
}

impl ApiServer {
    fn script(&self, name: &str) -> std::process::Command {
        let mut command = std::process::Command::new(lab::script(name));
        command.env("LAB_DIR", self.folder.path()).env("LAB_PORT", "auto").env("LAB_PARTS", "kcm");
        command
    }

    /// The kinds, everything that the default overlay has, and what `admission/setup.yaml` adds: a cluster's nodes,
    /// and people with one role each.
    async fn install(&self) -> Result<()> {
        let setup = Path::new(env!("CARGO_MANIFEST_DIR")).join("admission/setup.yaml");
        let setup = std::fs::read_to_string(setup)?;
        // Not `--namespace`, which refuses objects of another one.
        let namespace = format!("--namespace={NAMESPACE}");
        self.kubectl(&["config", "set-context", "--current", &namespace]).await?;
        self.kubectl(&["apply", "--server-side", "-k", "deploy/kustomize/crds"]).await?;
        self.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]).await?;
        self.kubectl(&["create", "namespace", "nginx-gateway-fabric"]).await?;
        self.kubectl(&["apply", "-k", crate::install::OVERLAY]).await?;
        self.kubectl_with(&["apply", "--filename=-"], Some(&setup))
            .await
            .and_then(|output| printed("setup", output))?;
        self.discover().await?;
        // An admission policy is in force some moments after it was stored.
        eventually(LONG, "the admission policies are in force", async || {
            let foreign = "{apiVersion: ipsentry.dev/v1alpha1, kind: IPBan, \
                           metadata: {name: 198.51.100.1, finalizers: [example.com/hold]}, \
                           spec: {cidr: 198.51.100.1/32, origin: Manual}}";
            let output = self.kubectl_with(&["create", "--dry-run=server", "-f-"], Some(foreign)).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(said.contains("example.com/hold"), "{said}");
            Ok(())
        })
        .await
    }

    /// Writes what the operator finds in a cluster like that of the setup.
    pub async fn discover(&self) -> Result<()> {
        let status = "{apiVersion: ipsentry.dev/v1alpha1, kind: ProtectedNetworks, metadata: {name: cluster}, \
                      status: {observedAt: \"2026-11-22T10:00:00Z\", cidrs: [10.96.0.0/16, 10.97.0.0/24, \
                      10.97.1.0/24, 10.99.0.1/32, 10.99.0.11/32, 10.99.0.12/31, fd96::/112, fd97::/64, \
                      fd99::11/128, fd99::12/128]}}";
        let arguments =
            ["apply", "--server-side", "--field-manager=ip-sentry", "--subresource=status", OPERATOR, "-f-"];
        eventually(SOON, "the operator may write what it finds", async || {
            printed("status", self.kubectl_with(&arguments, Some(status)).await?)
        })
        .await
        .map(drop)
    }

    /// What says where it is, for a client of the test's own.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Ends the API server at once, and starts it again on what is stored.
    pub async fn restart(&self) -> Result<()> {
        let mut stop = Command::new("bash");
        stop.env("LAB_DIR", self.folder.path()).args(["-c", ". \"$0\"; stop apiserver"]);
        stop.arg(lab::script("lab.sh"));
        printed("stop", lab::run(stop, None).await?)?;
        let up = self.script("up.sh").output()?;
        ensure!(up.status.success(), "no API server: {}", String::from_utf8_lossy(&up.stderr));
        Ok(())
    }

    /// Runs kubectl and returns what it printed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        printed("kubectl", self.kubectl_with(arguments, None).await?)
    }

    /// Runs kubectl with that text as its standard input; a failure is not an error here.
    pub async fn kubectl_with(&self, arguments: &[&str], input: Option<&str>) -> Result<Output> {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig());
        command.env("KUBE_EDITOR", EDITOR).args(arguments).current_dir(lab::root());
        lab::run(command, input).await
    }

    /// Runs what a person types into a shell, with kubectl in its path, and returns what it printed.
    pub async fn shell(&self, typed: &str) -> Result<String> {
        let folder = self.kubectl.parent().context("kubectl is in no folder")?.display();
        let mut command = Command::new("bash");
        command.env("KUBECONFIG", self.kubeconfig()).env("FOLDER", folder.to_string());
        command.args(["-c", &format!("PATH=$FOLDER:$PATH\n{typed}")]).current_dir(lab::root());
        printed(typed, lab::run(command, None).await?)
    }

    /// Runs kubectl, which is to be refused, and returns with which words.
    pub async fn refused(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let output = self.kubectl_with(arguments, input).await?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() {
            bail!("kubectl {arguments:?} is not refused");
        }
        Ok(said)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let down = self.script("down.sh").status();
        if !down.is_ok_and(|down| down.success()) {
            let _ = writeln!(
                std::io::stderr(),
                "the API server in {} did not stop",
                self.folder.path().display()
            );
        }
    }
}
