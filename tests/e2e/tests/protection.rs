//! Nobody is banned by mistake: the cluster itself, and what people protect.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ip_sentry_core::net::Network;
use ip_sentry_crd::ProtectedNetworks;
use ip_sentry_e2e::{
    bans::manual,
    client::Reach,
    eventually,
    lab::{Lab, kubectl_with},
    node::Node,
    policy::told,
    scenario::{SOON, Scenario, alone, shared},
};
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    core::v1::{Node as NodeObject, Service},
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// The nodes, the API server, and an address of a pod and of a service.
async fn own_networks(scenario: &Scenario) -> Result<Vec<Network>> {
    let gateway = scenario.gateway().await?;
    let mut addresses: Vec<IpAddr> = vec!["10.99.0.1".parse()?, "10.96.0.1".parse()?, "fd96::1".parse()?];
    for node in Node::BOTH {
        for is_ipv4 in [true, false] {
            addresses.push(node.address(is_ipv4, 0).ip());
            addresses.push(gateway.doors(node, is_ipv4)?[1].to.ip());
        }
    }
    let single = |&address: &IpAddr| Network::host(address);
    let mut networks: Vec<Network> = addresses.iter().map(single).collect();
    networks.extend(["10.97.0.0/16".parse::<Network>()?, "10.99.0.0/16".parse()?, "fd97::/48".parse()?]);
    Ok(networks)
}

#[test]
fn a_ban_of_the_clusters_own_addresses_is_refused_by_kubectl_apply() {
    shared(async |scenario: &Scenario| {
        for network in own_networks(scenario).await? {
            let mut ban = serde_json::to_value(manual(network, None)?)?;
            (ban["apiVersion"], ban["kind"]) = ("ipsentry.dev/v1alpha1".into(), "IPBan".into());
            let output = kubectl_with(&["apply", "--filename=-"], Some(&ban.to_string())).await?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(!output.status.success(), "{network} was accepted");
            ensure!(
                errors.contains("overlaps") && errors.contains("status.cidrs of ProtectedNetworks/cluster"),
                "{errors}"
            );
        }
        Ok(())
    });
}

/// The binding that refuses bans of protected networks, with another action.
async fn set_action(scenario: &Scenario, action: &str) -> Result<()> {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(scenario.lab.kube.clone());
    let patch = Patch::Merge(json!({"spec": {"validationActions": [action]}}));
    bindings.patch("ipban-protected-networks", &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Stores bans that admission would refuse.
async fn force(scenario: &Scenario, networks: &[Network]) -> Result<()> {
    set_action(scenario, "Audit").await?;
    for &network in networks {
        let ban = manual(network, None)?;
        let stored = eventually(SOON, "a forged ban is stored", async || {
            scenario.bans().create(&PostParams::default(), &ban).await?;
            Ok(())
        });
        stored.await?;
    }
    Ok(())
}

#[test]
fn a_ban_of_the_cluster_itself_that_was_forced_into_storage_cuts_nothing_off() {
    alone(async |scenario: &Scenario| {
        let networks = own_networks(scenario).await?;
        for &network in &networks {
            scenario.owns(network);
        }
        let (canary, bystander) = (scenario.client().await?, scenario.client().await?);
        let forced = force(scenario, &networks).await;
        set_action(scenario, "Deny").await?;
        forced?;
        // Bans stored after those are in force: so those were heard of.
        scenario.ban_by_hand(canary.ipv4().network(), None).await?;
        scenario.in_both_kernels(canary.ipv4().network()).await?;

        for node in Node::BOTH {
            for is_ipv4 in [true, false] {
                let other = node.other().address(is_ipv4, 9).to_string();
                let reach = from_node(node, &other).await?;
                ensure!(reach.contains("refused"), "{node} can't reach {other}: {reach}");
            }
            let reach = from_node(node, "10.99.0.1:16443").await?;
            ensure!(reach.contains("connected"), "{node} can't reach the API server: {reach}");
            scenario.lab.check_ready(node).await?;
        }
        // The pods answer, the kubelets renew their leases, and bystanders pass.
        let gateway = scenario.gateway().await?;
        for node in Node::BOTH {
            for is_ipv4 in [true, false] {
                for door in gateway.doors(node, is_ipv4)? {
                    scenario.passes(&bystander, &door).await?;
                }
            }
        }
        let nodes: Api<NodeObject> = Api::all(scenario.lab.kube.clone());
        for node in nodes.list(&ListParams::default()).await? {
            let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
            ensure!(
                conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True"),
                "{conditions:?}"
            );
        }
        let is_single = |network: &&Network| **network == Network::host(network.address());
        let (singles, ranges): (Vec<&Network>, Vec<&Network>) = networks.iter().partition(is_single);
        eventually(SOON, "each that is protected as a whole says that it is not enforced", async || {
            for network in &singles {
                let name = manual(**network, None)?.name_any();
                let status = scenario
                    .bans()
                    .get(&name)
                    .await?
                    .status
                    .with_context(|| format!("{name} says nothing"))?;
                let told = told(&status.conditions, "Enforced");
                ensure!(told.starts_with("False Protected "), "{name}: {told}");
            }
            Ok(())
        })
        .await?;
        for network in &ranges {
            let ban = scenario.bans().get(&manual(**network, None)?.name_any()).await?;
            let status = ban.status.context("a ban's status has a default")?;
            ensure!(status.enforced == "True", "{network}, of which nodes drop the rest: {status:?}");
        }
        Ok(())
    });
}

/// What becomes of a connection from a node: `connected`, or the error.
async fn from_node(node: Node, to: &str) -> Result<String> {
    let (host, port) = to.rsplit_once(':').context("an address with a port")?;
    let host = host.trim_matches(['[', ']']);
    let open = format!("if exec 3<>/dev/tcp/{host}/{port}; then echo connected; fi 2>&1");
    let script = format!("{{ {open}; }} 2>&1 || true");
    node.run(&["timeout", "3", "bash", "-c", &script]).await
}

/// Changes what people protect.
async fn protect(scenario: &Scenario, change: impl Fn(&mut Vec<String>)) -> Result<()> {
    let api: Api<ProtectedNetworks> = Api::all(scenario.lab.kube.clone());
    eventually(SOON, "ProtectedNetworks/cluster is changed", async || {
        let mut object = api.get("cluster").await?;
        change(&mut object.spec.cidrs);
        // With the resourceVersion that was read: somebody else's change is not lost.
        api.replace("cluster", &PostParams::default(), &object).await?;
        Ok(())
    })
    .await
}

#[test]
fn a_network_that_becomes_protected_is_let_in_at_once_and_earns_no_ban() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        let (front, network) = (gateway.front(Node::One, true), prober.ipv4().network());
        prober.probe(front.to, &["/.env"; 3]).await?;
        scenario.banned(prober.ipv4()).await?;
        eventually(SOON, "it is dropped", async || {
            let reach = prober.reach(front.to).await?;
            ensure!(reach == Reach::Silence, "{reach:?}");
            Ok(())
        })
        .await?;

        let mine = network.to_string();
        protect(scenario, |cidrs| cidrs.push(mine.clone())).await?;
        let begun = std::time::Instant::now();
        let checked = async {
            scenario.passes(&prober, &front).await?;
            let took = begun.elapsed();
            ensure!(took < Duration::from_secs(1), "it was let in after {took:?}");
            eventually(SOON, "the ban is gone", async || {
                ensure!(scenario.bans().get_opt(&prober.ipv4().ban_name()).await?.is_none(), "it is there");
                Ok(())
            })
            .await?;
            prober.probe(front.to, &["/.env"; 5]).await?;
            let strangers = gateway.judged(scenario, "/.env").await?;
            let expect: Vec<String> = strangers.iter().map(|stranger| stranger.ipv4().ban_name()).collect();
            let found = scenario.detected().await?;
            ensure!(found == expect, "{found:?}, not {expect:?}");
            Ok(())
        }
        .await;
        protect(scenario, |cidrs| cidrs.retain(|cidr| *cidr != mine)).await?;
        checked
    });
}

#[test]
fn a_network_that_a_policy_exempts_is_let_in_at_once() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        let prober = scenario.client().await?;
        let front = gateway.front(Node::Two, true);
        prober.probe(front.to, &["/.env"; 3]).await?;
        scenario.banned(prober.ipv4()).await?;
        scenario.in_both_kernels(prober.ipv4().network()).await?;
        let except = json!({"cidrs": [prober.ipv4().to_string()]});
        scenario.policy("probes", json!({"except": except})).await?;
        scenario.passes(&prober, &front).await?;
        scenario.in_no_kernel(prober.ipv4().network(), SOON).await
    });
}

/// Waits until the operator has found a network, which is then protected.
async fn found(scenario: &Scenario, network: &str) -> Result<()> {
    let api: Api<ProtectedNetworks> = Api::all(scenario.lab.kube.clone());
    eventually(SOON, &format!("{network} is found"), async || {
        let found = api.get("cluster").await?.status.map(|status| status.cidrs).unwrap_or_default();
        ensure!(found.iter().any(|cidr| cidr == network), "not in {found:?}");
        Ok(())
    })
    .await
}

#[test]
fn whoever_may_edit_one_namespace_lifts_no_ban() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let (banned, front) = (scenario.client().await?, gateway.front(Node::One, true));
        let network = banned.ipv4().network();
        scenario.ban_by_hand(network, None).await?;
        scenario.in_both_kernels(network).await?;

        let bind = ["create", "rolebinding", "editor", "--clusterrole=edit", "--user=mallory"];
        kubectl_with(&[&bind[..], &["--namespace", &scenario.namespace]].concat(), None).await?;
        let as_editor =
            Lab::client_with(|config| config.auth_info.impersonate = Some("mallory".into())).await?;
        let address = network.address().to_string();
        let wish = json!({
            "metadata": {"name": "wish"},
            "spec": {"ports": [{"port": 80}], "externalIPs": [address], "type": "LoadBalancer", "loadBalancerIP": address},
        });
        let services: Api<Service> = Api::namespaced(as_editor, &scenario.namespace);
        eventually(SOON, "the editor may write a Service", async || {
            services.create(&PostParams::default(), &serde_json::from_value(wish.clone())?).await?;
            Ok(())
        })
        .await?;
        // What a controller gave to a younger Service is protected, so the wish was seen.
        let services: Api<Service> = Api::namespaced(scenario.lab.kube.clone(), &scenario.namespace);
        let given =
            json!({"metadata": {"name": "given"}, "spec": {"ports": [{"port": 80}], "type": "LoadBalancer"}});
        services.create(&PostParams::default(), &serde_json::from_value(given)?).await?;
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.77"}]}}});
        services.patch_status("given", &PatchParams::default(), &Patch::Merge(status)).await?;
        found(scenario, "198.51.100.77/32").await?;

        scenario.in_both_kernels(network).await?;
        let reach = banned.reach(front.to).await?;
        ensure!(reach == Reach::Silence, "{reach:?}");
        Ok(())
    });
}
