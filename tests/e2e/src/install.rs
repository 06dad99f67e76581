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

/// `make install`, and the namespace that the overlay asks for.
pub async fn install() -> Result<()> {
    if kubectl(&["get", "namespace", "nginx-gateway-fabric"]).await.is_err() {
        kubectl(&["create", "namespace", "nginx-gateway-fabric"]).await?;
    }
    lab::make("install", &[]).await
}

/// `make uninstall`, which gives the operator so many seconds to let go of the bans.
pub async fn uninstall(patience: u32) -> Result<()> {
    lab::make("uninstall", &[("PATIENCE", &patience.to_string())]).await
}

/// Waits until the operator leads, bans are admitted, the agents are ready, and both nodes say so.
pub async fn works(lab: &Lab) -> Result<()> {
    operator::leads(lab).await?;
    lab.admits_bans().await?;
    for node in Node::BOTH {
        eventually(LONG, "a node is ready", async || lab.check_ready(node).await).await?;
        node.check_chain().await.context("the node says that it is ready")?;
    }
    Ok(())
}
