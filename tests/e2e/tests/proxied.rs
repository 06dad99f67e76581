//! A gateway behind a proxy: whose request it was is what `spec.clientIP` trusts, and nobody else pays for it.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use ip_sentry_core::net::{Network, Source};
use ip_sentry_e2e::{
    address::{self, host_of},
    eventually,
    gateway::Gateway,
    node::Node,
    scenario::{LONG, Scenario, shared},
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Somebody of whom only the header speaks.
fn absent(scenario: &Scenario, address: IpAddr) -> Result<Source> {
    let source = Source::of(address, 64)?;
    scenario.owns(source.network());
    Ok(source)
}

/// A policy that believes that proxy.
fn behind(proxy: Network) -> Value {
    json!({"clientIP": {"trustedProxies": [proxy.to_string()]}})
}

/// These were banned, and the strangers that came after everything else, and nobody else.
async fn banned_only(scenario: &Scenario, gateway: &Gateway, earned: &[Source]) -> Result<()> {
    let strangers = gateway.judged(scenario, "/.env").await?;
    let mut expect: Vec<String> = strangers.iter().map(|stranger| stranger.ipv4().ban_name()).collect();
    expect.extend(earned.iter().map(Source::ban_name));
    let mut found = scenario.detected().await?;
    expect.sort();
    found.sort();
    ensure!(found == expect, "{found:?} are banned, only {expect:?} earned it");
    Ok(())
}

#[test]
fn behind_a_trusted_proxy_the_client_is_banned_and_the_proxy_is_not() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let (proxy, inner) = (scenario.client().await?, address::ipv4());
        let proxies = [proxy.ipv4().to_string(), Network::host(inner.into()).to_string()];
        scenario.policy_in_force("probes", json!({"clientIP": {"trustedProxies": proxies}})).await?;
        let front = gateway.through(Node::One, true);

        let clients = [IpAddr::from(address::ipv4()), host_of(&address::ipv6_network(), 7).into()];
        let victim = address::ipv4();
        let mut earned = Vec::new();
        for client in clients {
            // The client wrote the victim's address; the proxies added the rest.
            proxy.probe_for(&format!("{victim}, {client}, {inner}"), front, &["/.env"; 3]).await?;
            let source = absent(scenario, client)?;
            let ban = scenario.banned(source).await?;
            ensure!(ban.spec.cidr == source.to_string(), "{}", ban.spec.cidr);
            scenario.in_both_kernels(source.network()).await?;
            earned.push(source);
        }
        absent(scenario, victim.into())?;
        banned_only(scenario, &gateway, &earned).await?;
        ensure!(proxy.get(front, "/").await? == 200, "the proxy is still let in");
        Ok(())
    });
}

#[test]
fn a_peer_that_is_no_trusted_proxy_speaks_for_nobody_but_itself() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        let (forger, proxy, victim) = (scenario.client().await?, address::ipv4(), address::ipv4());
        let client_ip =
            json!({"trustedProxies": [Network::host(proxy.into()).to_string()], "trustedHops": 1});
        scenario.policy_in_force("probes", json!({"clientIP": client_ip})).await?;
        let front = gateway.through(Node::Two, true);
        for forged in [format!("{victim}"), format!("{victim}, {proxy}"), format!("{proxy}, {victim}")] {
            forger.probe_for(&forged, front, &["/.env"]).await?;
        }
        scenario.banned(forger.ipv4()).await?;
        absent(scenario, victim.into())?;
        absent(scenario, proxy.into())?;
        banned_only(scenario, &gateway, &[forger.ipv4()]).await
    });
}

#[test]
fn a_request_whose_client_nobody_knows_bans_nobody_and_the_policy_says_so() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let (proxy, victim) = (scenario.client().await?, address::ipv4());
        absent(scenario, victim.into())?;
        scenario.policy_in_force("probes", behind(proxy.ipv4().network())).await?;
        let front = gateway.through(Node::One, true);
        proxy.probe(front, &["/.env"; 4]).await?;
        for header in ["unknown".to_owned(), format!("{victim}, unknown")] {
            proxy.probe_for(&header, front, &["/.env"; 4]).await?;
        }
        scenario.condition("probes", "ClientIPPreserved", 1, "False ClientUnknown ").await?;
        banned_only(scenario, &gateway, &[]).await
    });
}

#[test]
fn a_policy_says_that_a_banned_client_still_gets_through_its_proxy() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        let (proxy, client) = (scenario.client().await?, address::ipv4());
        let source = absent(scenario, client.into())?;
        scenario.policy_in_force("probes", behind(proxy.ipv4().network())).await?;
        let front = gateway.through(Node::Two, true);
        let from = client.to_string();
        proxy.probe_for(&from, front, &["/.env"; 3]).await?;
        let ban = scenario.banned(source).await?;
        scenario.condition("probes", "BansEffective", 1, "True Effective ").await?;

        let made = ban.metadata.creation_timestamp.context("a stored ban has a birth")?.0;
        eventually(LONG, "the ban is more than a minute old", async || {
            let age = Timestamp::now().duration_since(made);
            ensure!(age > SignedDuration::from_secs(62), "{age:#}");
            Ok(())
        })
        .await?;
        proxy.probe_for(&from, front, &["/.env"; 3]).await?;
        let told = scenario.condition("probes", "BansEffective", 1, "False BannedSourceSeen ").await?;
        ensure!(told.contains(&source.to_string()), "{told}");
        scenario.condition("probes", "Ready", 1, "True Degraded ").await?;
        Ok(())
    });
}
