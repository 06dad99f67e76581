//! Installing ip-sentry and removing it, as its README says.

use anyhow::{Context as _, Result, ensure};
use ip_sentry_e2e::{
    client::Reach,
    install,
    lab::kubectl,
    node::Node,
    scenario::{LONG, Scenario, without_ip_sentry},
};
use serde_json::json;

/// Installed anew, and working: a prober is banned on both nodes.
async fn install_and_ban(scenario: &Scenario, name: &str) -> Result<ip_sentry_e2e::client::Client> {
    install::gateway_api().await?;
    install::install().await?;
    install::works(&scenario.lab).await?;
    let gateway = scenario.gateway_on(Node::One).await?;
    scenario.policy_in_force(name, json!({})).await?;
    let prober = scenario.client().await?;
    prober.probe(gateway.through(Node::One, true), &["/.env"; 3]).await?;
    scenario.banned(prober.ipv4()).await?;
    scenario.in_both_kernels(prober.ipv4().network()).await?;
    Ok(prober)
}

/// Removes ip-sentry and fails unless nothing of it is left, in the API or on the nodes.
async fn uninstall(patience: u32) -> Result<()> {
    install::uninstall(patience).await?;
    for node in Node::BOTH {
        node.check_clean().await?;
    }
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,\
                 validatingadmissionpolicies,validatingadmissionpolicybindings,flowschemas";
    let left = kubectl(&["get", kinds, "--output=name"]).await?;
    let left: Vec<&str> =
        left.lines().filter(|name| name.contains("ip-sentry") || name.contains("ipsentry")).collect();
    ensure!(left.is_empty(), "{left:?} are left");
    let roles = kubectl(&["get", "roles,rolebindings", "--all-namespaces", "--output=name"]).await?;
    ensure!(!roles.contains("ip-sentry"), "roles are left: {roles}");
    Ok(())
}

#[test]
fn deleting_the_overlay_does_not_hang_and_leaves_the_bans_in_force() {
    without_ip_sentry(async |scenario: &Scenario| {
        let banned = install_and_ban(scenario, "probes").await?;
        kubectl(&["delete", "-k", install::OVERLAY, "--timeout=120s"])
            .await
            .context("the overlay can't be deleted")?;
        ensure!(scenario.detected().await? == [banned.ipv4().ban_name()], "the ban's object went too");
        let networks = kubectl(&["get", "protectednetworks", "--output=name"]).await?;
        ensure!(networks.is_empty(), "the operator put {networks} back while it was being removed");
        for node in Node::BOTH {
            node.check_chain().await?;
            let reach = banned.reach(node.address(true, 9)).await?;
            ensure!(reach == Reach::Silence, "{node} lets the banned client in: {reach:?}");
        }
        install::install().await?;
        install::works(&scenario.lab).await?;
        scenario.in_both_kernels(banned.ipv4().network()).await?;
        scenario.lift(&banned.ipv4().ban_name()).await
    });
}

#[test]
fn uninstalling_leaves_nothing_and_installing_again_works() {
    without_ip_sentry(async |scenario: &Scenario| {
        let banned = install_and_ban(scenario, "probes").await?;
        uninstall(60).await?;
        for node in Node::BOTH {
            let reach = banned.reach(node.address(true, 9)).await?;
            ensure!(reach == Reach::Refused, "{node} still drops: {reach:?}");
        }
        install_and_ban(scenario, "probes").await.map(drop)
    });
}

#[test]
fn uninstalling_works_with_a_broken_operator() {
    without_ip_sentry(async |scenario: &Scenario| {
        install_and_ban(scenario, "probes").await?;
        let image = json!({"spec": {
            "strategy": {"type": "Recreate", "rollingUpdate": null},
            "template": {"spec": {"containers": [{"name": "operator", "image": "ip-sentry-operator:broken"}]}},
        }});
        let patch = format!("--patch={image}");
        kubectl(&["--namespace=ip-sentry", "patch", "deployment", "ip-sentry-operator", &patch]).await?;
        ip_sentry_e2e::eventually(LONG, "no operator runs", async || {
            let pods = ip_sentry_e2e::operator::pods(&scenario.lab).await?;
            ensure!(pods.is_empty(), "{pods:?} run");
            Ok(())
        })
        .await?;
        uninstall(5).await?;
        install::gateway_api().await?;
        install::install().await?;
        install::works(&scenario.lab).await
    });
}
