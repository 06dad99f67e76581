//! The operator's replicas: which one leads, and how to be rid of one.

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{eventually, lab::Lab, process::Process, scenario::LONG};

const NAMESPACE: &str = "ip-sentry";
const NAME: &str = "ip-sentry-operator";

/// The pod that holds the lease; fails while none does.
pub async fn leader(lab: &Lab) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(lab.kube.clone(), NAMESPACE);
    let spec = leases.get(NAME).await?.spec.context("the lease is empty")?;
    let holder =
        spec.holder_identity.filter(|holder| !holder.is_empty()).context("nobody holds the lease")?;
    let renewed = spec.renew_time.context("the lease was never renewed")?.0;
    let age = Timestamp::now().duration_since(renewed);
    ensure!(age < SignedDuration::from_secs(10), "{holder} renewed its lease {age:#} ago");
    let (pod, _) = holder.rsplit_once('_').context("the lease's holder names no pod")?;
    ensure!(Process::of_operator(pod).is_some(), "{holder} holds the lease and does not run");
    Ok(pod.to_owned())
}

/// Waits until a replica leads and all of them are ready.
pub async fn leads(lab: &Lab) -> Result<String> {
    let deployments: Api<Deployment> = Api::namespaced(lab.kube.clone(), NAMESPACE);
    eventually(LONG, "all replicas are ready and one leads", async || {
        let deployment = deployments.get(NAME).await?;
        let wanted = deployment.spec.and_then(|spec| spec.replicas);
        let ready = deployment.status.and_then(|status| status.ready_replicas);
        ensure!(ready == wanted, "{ready:?} of {wanted:?} replicas are ready");
        leader(lab).await
    })
    .await
}

/// The replicas' pods that run.
pub async fn pods(lab: &Lab) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(lab.kube.clone(), NAMESPACE);
    let found = pods.list(&ListParams::default().labels("app.kubernetes.io/name=ip-sentry-operator")).await?;
    Ok(found.iter().map(Pod::name_any).filter(|pod| Process::of_operator(pod).is_some()).collect())
}

/// Ends a replica's process at once, as a crash does.
pub fn crash(pod: &str) -> Result<()> {
    Process::of_operator(pod).with_context(|| format!("no operator runs in {pod}"))?.kill()
}

/// Sets the number of replicas and waits until that many are there.
pub async fn scale(lab: &Lab, replicas: usize) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(lab.kube.clone(), NAMESPACE);
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    deployments.patch(NAME, &PatchParams::default(), &patch).await?;
    eventually(LONG, "as many replicas run as shall", async || {
        let running = pods(lab).await?.len();
        ensure!(running == replicas, "{running} run, {replicas} shall");
        Ok(())
    })
    .await?;
    if replicas > 0 { leads(lab).await.map(drop) } else { Ok(()) }
}
