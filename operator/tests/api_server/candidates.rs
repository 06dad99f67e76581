//! Leases and those who reach for them.

use ip_sentry_operator::client;
use ip_sentry_operator::clock::Clock;
use ip_sentry_operator::lease::{Election, Leadership, Timing};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ControlPlane, config};

/// A client like the operator's for its lease.
pub(crate) async fn lease_client(control_plane: &ControlPlane) -> Client {
    client::connect_lease(&config(&control_plane.kubeconfig()).await, &Clock::default()).unwrap()
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
