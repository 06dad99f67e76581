//! A replica of the operator: the real program, in a process of its own.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{cluster::Cluster, control_plane::until, front::Front};

/// The namespace of the lease that all replicas of one installation share.
pub(crate) const INSTALLATION: &str = "ip-sentry";

/// Killed with this value.
pub(crate) struct Replica {
    process: Child,
    /// Its way to the API server.
    pub(crate) front: Front,
    name: String,
    listen: SocketAddr,
    log: PathBuf,
}

impl Replica {
    /// Starts a replica, and waits until everything that it must know has been listed.
    pub(crate) async fn start(cluster: &Cluster, name: &str, installation: &str) -> Self {
        Self::start_with(cluster, name, installation, |_| {}).await
    }

    /// [`start`](Self::start) with a changed environment.
    pub(crate) async fn start_with(
        cluster: &Cluster,
        name: &str,
        installation: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let front = Front::start(cluster.kube.clone(), cluster.log.clone()).await;
        let folder = cluster.control_plane.folder.path();
        let (kubeconfig, log) = (folder.join(format!("{name}.json")), folder.join(format!("log/{name}.log")));
        let server = format!("http://{}", front.address());
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        // Free at this moment, and nobody else's a moment later: the kernel goes through them all.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_ip-sentry-operator"));
        change(&mut program);
        let process = program
            .env("KUBECONFIG", &kubeconfig)
            .env("POD_NAMESPACE", installation)
            .env("POD_NAME", name)
            .env("POD_UID", "test")
            .env("IP_SENTRY_LISTEN", listen.to_string())
            .env("IP_SENTRY_LOG_FORMAT", "text")
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let replica = Self { process, front, name: name.into(), listen, log };
        let is_ready = async || replica.ask("/readyz").await.is_some_and(|answer| answer.contains(" 200 "));
        until(&format!("{name} is ready"), Duration::from_secs(40), is_ready).await;
        replica
    }

    /// The first replica of the usual installation, once it leads.
    pub(crate) async fn leading(cluster: &Cluster) -> Self {
        let replica = Self::start(cluster, "first", INSTALLATION).await;
        replica.leads(Duration::from_secs(20)).await;
        replica
    }

    /// Waits until it leads.
    pub(crate) async fn leads(&self, limit: Duration) {
        until(&format!("{} leads", self.name), limit, async || self.is_leading().await).await;
    }

    pub(crate) async fn is_leading(&self) -> bool {
        self.metric("ip_sentry_leader").await == Some(1.0)
    }

    /// The sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let text = self.ask("/metrics").await?;
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let is_it = rest.starts_with([' ', '{']);
            is_it.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        });
        values.reduce(|sum, value| sum + value)
    }

    async fn ask(&self, path: &str) -> Option<String> {
        let mut connection = TcpStream::connect(self.listen).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Forgets the most memory that it ever had resident, and returns what it has now, in KiB.
    pub(crate) fn forget_peak(&self) -> u64 {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
        self.resident_kib().0
    }

    /// The memory that it has resident, and the most that it ever had, in KiB.
    pub(crate) fn resident_kib(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            self.process.wait().ok();
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "━━ the last that {} said\n{}",
                self.name,
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}
