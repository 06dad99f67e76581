//! From the ban to the dropped packet, and back: what `kubectl` does to bans.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ip_sentry_core::net::Network;
use ip_sentry_crd::NodeFirewall;
use ip_sentry_e2e::{
    address,
    bans::Door,
    client::{Client, Reach},
    eventually,
    lab::{Lab, kubectl},
    node::Node,
    scenario::{SOON, Scenario, shared},
};
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// The nodes themselves, which need no gateway.
fn doors(is_ipv4: bool) -> [Door; 2] {
    Node::BOTH.map(|node| Door { what: "a node", to: node.address(is_ipv4, 9), open: Reach::Refused })
}

/// How long after `since` all doors were open again.
async fn let_in(client: &Client, doors: &[Door], since: Instant) -> Result<Duration> {
    eventually(SOON, "the client is let in again", async || {
        for door in doors {
            let reach = client.glance(door.to).await?;
            ensure!(reach == door.open, "{door}: {reach:?}");
        }
        Ok(since.elapsed())
    })
    .await
}

#[test]
fn both_nodes_are_ready_with_kernel_sets_and_know_their_kube_proxys() {
    shared(async |scenario: &Scenario| {
        for node in Node::BOTH {
            scenario.lab.check_ready(node).await?;
            let status = scenario.lab.firewall(node).await?.status.unwrap_or_default();
            ensure!(status.backend == Some(ip_sentry_crd::node_firewall::Backend::Ipset), "{status:?}");
            let mode = if node == Node::One { "legacy" } else { "nftables" };
            eventually(SOON, "the agent knows how kube-proxy works", async || {
                let status = scenario.lab.firewall(node).await?.status.unwrap_or_default();
                ensure!(
                    status.kube_proxy.as_deref() == Some(mode),
                    "{node} has {:?}, not {mode}",
                    status.kube_proxy
                );
                Ok(())
            })
            .await?;
        }
        Ok(())
    });
}

#[test]
fn a_ban_by_hand_without_an_end_stays_until_it_is_deleted() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway().await?;
        let (banned, bystander) = (scenario.client().await?, scenario.client().await?);
        let front = gateway.through(Node::One, true);
        ensure!(banned.get(front, "/").await? == 200);
        let network = banned.ipv4().network();
        let ban = scenario.ban_by_hand(network, None).await?;
        scenario.dropped(&banned, banned.address_towards(front)?, &bystander, &gateway).await?;
        ensure!(ban.finalizers().is_empty(), "nothing may hold a ban made by hand: {:?}", ban.finalizers());

        kubectl(&["delete", "ipban", &ban.name_any(), "--timeout=5s"]).await?;
        let since = Instant::now();
        let mut open = gateway.doors(Node::One, true)?;
        open.extend(gateway.doors(Node::Two, true)?);
        let took = let_in(&banned, &open, since).await?;
        ensure!(took < Duration::from_secs(1), "it was let in {took:?} after the deletion");
        Ok(())
    });
}

#[test]
fn a_ban_of_a_network_drops_each_address_in_it_and_none_beside_it() {
    shared(async |scenario: &Scenario| {
        // A /127 of IPv6 and a /31 of IPv4 stand for networks of any width.
        let six = address::ipv6_network();
        let addresses = [2, 3, 4].map(|host| address::host_of(&six, host).into());
        let client = scenario.client_at(&addresses).await?;
        let network = Network::around(addresses[0], 127);
        scenario.ban_by_hand(network, None).await?;
        scenario.in_both_kernels(network).await?;
        for door in doors(false) {
            let reach = [
                client.reach_from(addresses[0], door.to).await?,
                client.reach_from(addresses[1], door.to).await?,
                client.reach_from(addresses[2], door.to).await?,
            ];
            ensure!(reach == [Reach::Silence, Reach::Silence, Reach::Refused], "{door}: {reach:?}");
        }
        Ok(())
    });
}

#[test]
fn a_ban_ends_on_time() {
    shared(async |scenario: &Scenario| {
        let client = scenario.client().await?;
        let end = Timestamp::from_second(Timestamp::now().as_second() + 6)?;
        let network = client.ipv4().network();
        scenario.ban_by_hand(network, Some(end)).await?;
        scenario.in_both_kernels(network).await?;
        let error = ends_at(&client, end).await?;
        ensure!(error < Duration::from_millis(1500), "it was let in {error:?} away from its end");
        Ok(())
    });
}

/// How far from its end a ban let the client in, at both nodes; fails when that was before the end.
async fn ends_at(client: &Client, end: Timestamp) -> Result<Duration> {
    let mut latest = Duration::ZERO;
    for door in doors(true) {
        let at = eventually(SOON, "the ban has ended", async || {
            let reach = client.glance(door.to).await?;
            ensure!(reach == door.open, "{door}: {reach:?}");
            Ok(Timestamp::now())
        })
        .await?;
        let error = at.duration_since(end);
        ensure!(!error.is_negative(), "{door} let it in {:#} early", error.abs());
        latest = latest.max(error.try_into()?);
    }
    Ok(latest)
}

#[test]
fn a_lifted_ban_stays_lifted_although_its_lines_are_still_in_the_log() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let (prober, front) = (scenario.client().await?, gateway.through(Node::One, true));
        prober.probe(front, &["/.env"; 3]).await?;
        let name = prober.ipv4().ban_name();
        scenario.banned(prober.ipv4()).await?;
        scenario.in_both_kernels(prober.ipv4().network()).await?;

        scenario.lift(&name).await?;
        let since = Instant::now();
        let took = let_in(&prober, &[gateway.front(Node::One, true)], since).await?;
        ensure!(took < Duration::from_secs(1), "it was let in {took:?} after the deletion");

        // A new policy reads the log from the beginning of its window: the old lines, and then a stranger's.
        scenario.policy_in_force("again", json!({"window": "1h"})).await?;
        let strangers = gateway.judged(scenario, "/.env").await?;
        let expect: Vec<String> = strangers.iter().map(|stranger| stranger.ipv4().ban_name()).collect();
        eventually(SOON, "only the stranger is banned", async || {
            let found = scenario.detected().await?;
            ensure!(found == expect, "{found:?}, not {expect:?}");
            Ok(())
        })
        .await?;
        ensure!(prober.get(front, "/").await? == 200);
        Ok(())
    });
}

#[test]
fn an_agent_cannot_write_for_another_node() {
    shared(async |scenario: &Scenario| {
        let client = agent_of(&scenario.lab, Node::One).await?;
        let firewalls: Api<NodeFirewall> = Api::all(client);
        let lie = Patch::Merge(json!({"status": {"entries": 0}}));
        let written = firewalls.patch_status(&Node::Two.to_string(), &PatchParams::default(), &lie).await;
        let Err(kube::Error::Api(status)) = written else { anyhow::bail!("it was not refused: {written:?}") };
        ensure!(
            status.message.contains("an agent writes the NodeFirewall of its own node only"),
            "{}",
            status.message
        );
        firewalls.patch_status(&Node::One.to_string(), &PatchParams::default(), &lie).await?;
        Ok(())
    });
}

/// A client with a token such as the agent on that node has.
async fn agent_of(lab: &Lab, node: Node) -> Result<kube::Client> {
    let pods: Api<Pod> = Api::namespaced(lab.kube.clone(), "ip-sentry-node");
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pod = pods.list(&on_node).await?.items.swap_remove(0);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name_any()),
                uid: pod.uid(),
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(lab.kube.clone(), "ip-sentry-node");
    let made =
        accounts.create_token_request("ip-sentry-node-agent", &PostParams::default(), &request).await?;
    let token = made.status.context("no token was made")?.token;
    Lab::client_with(|config| {
        config.auth_info = kube::config::AuthInfo { token: Some(token.into()), ..Default::default() };
    })
    .await
}
