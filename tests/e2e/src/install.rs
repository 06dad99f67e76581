//! ip-sentry on the cluster: installed as its README says, and removed.

use anyhow::{Context as _, Result};
use tokio::sync::OnceCell;

use crate::{
    eventually,
    lab::{self, Lab, kubectl},
    node::Node,
    operator,
    scenario::LONG,
};

const CRDS: &str = "deploy/kustomize/crds";
/// The overlay under test.
pub const OVERLAY: &str = "deploy/kustomize/overlays/default";

static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// Installs ip-sentry and waits until it works, once a process.
pub async fn once() -> Result<()> {
    INSTALLED
        .get_or_try_init(async || {
            let lab = Lab::connect().await?;
            gateway_api().await?;
            install().await?;
            works(&lab).await
        })
        .await
        .copied()
}

/// The Gateway API's definitions, which are no part of ip-sentry.
pub async fn gateway_api() -> Result<()> {
    lab::cluster("cluster.sh", &["gateway-api"]).await.map(drop)
}

/// The README's two commands, and the namespace that they ask for.
pub async fn install() -> Result<()> {
    if kubectl(&["get", "namespace", "nginx-gateway-fabric"]).await.is_err() {
        kubectl(&["create", "namespace", "nginx-gateway-fabric"]).await?;
    }
    kubectl(&["apply", "--server-side", "-k", CRDS]).await?;
    kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-k", CRDS]).await?;
    kubectl(&["apply", "-k", OVERLAY]).await.map(drop)
}

/// Waits until the operator leads, the agents are ready, and both nodes say so.
pub async fn works(lab: &Lab) -> Result<()> {
    kubectl(&["--namespace=ip-sentry", "rollout", "status", "deployment/ip-sentry-operator", "--timeout=120s"]).await?;
    kubectl(&["--namespace=ip-sentry-node", "rollout", "status", "daemonset/ip-sentry-node-agent", "--timeout=120s"])
        .await?;
    operator::leads(lab).await?;
    for node in Node::BOTH {
        eventually(LONG, "a node is ready", async || lab.check_ready(node).await).await?;
        node.check_chain().await.context("the node says that it is ready")?;
    }
    Ok(())
}
