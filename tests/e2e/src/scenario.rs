//! One test on the cluster: what it gets, and what happens when it fails.

use std::{
    any::type_name,
    io::Write as _,
    panic::AssertUnwindSafe,
    sync::{Mutex, PoisonError, RwLock},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures::FutureExt as _;
use ip_sentry_core::net::Network;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use serde_json::json;

use crate::{
    address,
    client::Client,
    dump, install,
    lab::{self, Lab},
};

/// How long most things may take that a test waits for, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
/// How long a rollout, a failover or the start of a pod may take.
pub const LONG: Duration = Duration::from_mins(2);

/// Held by those that use the cluster, and by one alone when it disturbs the others.
static CLUSTER: RwLock<()> = RwLock::new(());

/// What a test works with.
pub struct Scenario {
    /// The cluster.
    pub lab: Lab,
    /// The test's name.
    pub claim: &'static str,
    /// The test's namespace.
    pub namespace: String,
    networks: Mutex<Vec<Network>>,
}

/// Runs a test that minds its own business, beside others.
pub fn shared<B: AsyncFnOnce(&Scenario) -> Result<()>>(body: B) {
    let Some(claim) = ready::<B>() else { return };
    let _beside = CLUSTER.read().unwrap_or_else(PoisonError::into_inner);
    run(claim, true, body);
}

/// Runs a test that disturbs the whole cluster, with no other beside it.
pub fn alone<B: AsyncFnOnce(&Scenario) -> Result<()>>(body: B) {
    let Some(claim) = ready::<B>() else { return };
    let _alone = CLUSTER.write().unwrap_or_else(PoisonError::into_inner);
    run(claim, true, body);
}

/// Runs a test that installs ip-sentry by itself, with no other beside it.
pub fn without_ip_sentry<B: AsyncFnOnce(&Scenario) -> Result<()>>(body: B) {
    let Some(claim) = ready::<B>() else { return };
    let _alone = CLUSTER.write().unwrap_or_else(PoisonError::into_inner);
    run(claim, false, body);
}

/// The test's name, where it can run.
fn ready<B>() -> Option<&'static str> {
    let claim = claim_of(type_name::<B>());
    let Some(missing) = lab::missing() else { return Some(claim) };
    // Not `eprintln`, which the test harness keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {claim}: {missing}");
    let may_skip = std::env::var("CI").as_deref() != Ok("true");
    assert!(may_skip, "with CI=true nothing may be skipped, and {claim} was: {missing}");
    None
}

/// `bans::three_hits_earn_a_ban::{{closure}}` → `three_hits_earn_a_ban`.
fn claim_of(body: &'static str) -> &'static str {
    body.rsplit("::").find(|part| !part.contains('{')).unwrap_or(body)
}

#[expect(clippy::panic, reason = "a test that has failed says so to the test harness")]
fn run<B: AsyncFnOnce(&Scenario) -> Result<()>>(claim: &'static str, needs_ip_sentry: bool, body: B) {
    if let Err(error) = attempt(claim, needs_ip_sentry, body) {
        panic!("{claim}: {error:#}");
    }
}

fn attempt<B: AsyncFnOnce(&Scenario) -> Result<()>>(
    claim: &'static str,
    needs_ip_sentry: bool,
    body: B,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let scenario = Scenario::begin(claim, needs_ip_sentry).await?;
        let ended = AssertUnwindSafe(body(&scenario)).catch_unwind().await;
        if !matches!(ended, Ok(Ok(()))) {
            dump::print(&scenario).await;
        }
        let cleaned = scenario.end().await;
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        cleaned.context("it went well, but what it made can't be removed")
    })
}

impl Scenario {
    async fn begin(claim: &'static str, needs_ip_sentry: bool) -> Result<Self> {
        let lab = Lab::connect().await?;
        if needs_ip_sentry {
            install::once().await.context("ip-sentry can't be installed")?;
            // Whatever the test before has done to the API server.
            lab.admits_bans().await?;
        }
        let short: String = claim.chars().take(40).collect::<String>().replace('_', "-");
        let namespace = format!(
            "e2e-{}-{:x}",
            short.trim_end_matches('-'),
            Timestamp::now().as_millisecond() & 0xff_ffff
        );
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::all(lab.kube.clone()).create(&PostParams::default(), &object).await?;
        Ok(Self { lab, claim, namespace, networks: Mutex::default() })
    }

    /// Removes what the test made; nothing waits for it to be gone.
    async fn end(&self) -> Result<()> {
        let networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for network in networks {
            self.lift_all(network).await?;
        }
        let namespaces: Api<Namespace> = Api::all(self.lab.kube.clone());
        namespaces.delete(&self.namespace, &DeleteParams::background().grace_period(0)).await?;
        Ok(())
    }

    /// Bans that overlap the network are lifted when the test ends.
    pub fn owns(&self, network: Network) {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner).push(network);
    }

    /// A client with one IPv4 address and one of an IPv6 /64 of its own.
    pub async fn client(&self) -> Result<Client> {
        let network = address::ipv6_network();
        self.client_at(&[address::ipv4().into(), address::host_of(&network, 7).into()]).await
    }

    /// A client with these addresses.
    pub async fn client_at(&self, addresses: &[std::net::IpAddr]) -> Result<Client> {
        for &address in addresses {
            self.owns(Network::around(address, if address.is_ipv4() { 32 } else { 64 }));
        }
        Client::new(addresses).await
    }
}
