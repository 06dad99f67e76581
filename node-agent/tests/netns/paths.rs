//! Packets to pods that go around the rules are noticed.

use std::collections::BTreeMap;

use ip_sentry_core::enforce::{
    paths::{Dataplane, Verdict},
    sets::Family,
};
use ip_sentry_node_agent::{args::BackendChoice, kernel::links};

use crate::lab::{Agent, Client, Target, in_namespaces, passes, sh, until, wire};

const SEVEN: [(&str, i64); 1] = [("203.0.113.7/32", 600)];

/// What an eBPF dataplane does, by means that every kernel has: what comes in at a client's link goes out at the pod's
/// before the packet filter sees it, and what the pod answers goes out the same way.
fn go_around() {
    sh("
        redirect() {
            tc qdisc add dev $1 ingress
            tc filter add dev $1 parent ffff: protocol ip u32 match u32 0 0 action mirred egress redirect dev $2
        }
        redirect n-seven n-pod; redirect n-pod n-seven
        ip -n seven neigh replace 192.0.2.1 lladdr 02:00:00:00:02:03 dev c0
    ");
}

fn flood(client: &str, packets: u32) {
    sh(&format!(
        "ip netns exec {client} bash -c 'for ((n = 0; n < {packets}; n++)); do echo -n x > /dev/udp/10.244.0.2/9; done'"
    ));
}

/// Waits for a verdict; each lock of the tables' file is a sign for the agent to look again.
async fn until_judged(agent: &Agent, expect: &Verdict) {
    until(&format!("{expect:?}"), async || {
        sh("iptables-legacy -w -L IP-BLOCKER -n >/dev/null");
        agent.chain.borrow().paths == *expect
    })
    .await;
}

#[test]
fn packets_to_pods_that_forward_never_sees_are_told() {
    in_namespaces("paths::packets_to_pods_that_forward_never_sees_are_told", async || {
        wire();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        assert!(!passes(Client::Seven, Target::Pod, Family::V4));
        agent.stop().await;

        go_around();
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        assert!(passes(Client::Seven, Target::Pod, Family::V4), "banned, and yet it gets through");
        assert_eq!(agent.chain.borrow().paths, Verdict::Passing, "nothing was seen yet");
        flood("seven", 10_000);
        until_judged(&agent, &Verdict::NoneForwarded).await;
        // The pair of links that Cilium makes on every node.
        sh("ip link add cilium_host type veth peer name cilium_net");
        until_judged(&agent, &Verdict::Bypassed(Dataplane::Cilium)).await;
        agent.stop().await;
    });
}

#[test]
fn a_dataplane_that_forwards_through_the_kernel_passes() {
    in_namespaces("paths::a_dataplane_that_forwards_through_the_kernel_passes", async || {
        wire();
        sh("ip link add antrea-gw0 type veth peer name other");
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        assert_eq!(agent.chain.borrow().paths, Verdict::MayBeBypassed(Dataplane::Antrea));
        flood("eight", 150);
        until_judged(&agent, &Verdict::Passing).await;
        agent.stop().await;
    });
}

#[test]
fn only_pods_links_count() {
    in_namespaces("paths::only_pods_links_count", async || {
        wire();
        let before = links::look(7).unwrap();
        assert_eq!((before.pods.len(), before.forwarded, before.dataplane), (1, 7, None), "{before:?}");
        flood("eight", 5);
        let after = links::look(7).unwrap();
        let sent = |pods: &BTreeMap<u32, u64>| pods.values().sum::<u64>();
        // The kernel itself may tell the pod's neighbourhood of its addresses meanwhile.
        let more = sent(&after.pods) - sent(&before.pods);
        assert!((5..10).contains(&more), "{more}");
    });
}

#[test]
fn a_flowtable_that_a_rule_uses_is_told() {
    in_namespaces("paths::a_flowtable_that_a_rule_uses_is_told", async || {
        wire();
        let table =
            "table inet fast { flowtable pods { hook ingress priority 0; devices = { n-pod, n-eight }; } ";
        let made = std::process::Command::new("nft").arg(format!("{table} }}")).output().unwrap();
        if !made.status.success() {
            // Not a failure with CI=true either: no tool can be installed that makes up for the kernel.
            eprintln!(
                "SKIPPED paths::a_flowtable_that_a_rule_uses_is_told: this kernel has no NF_FLOW_TABLE"
            );
            return;
        }
        assert_eq!(links::look(0).unwrap().flowtable, None, "nothing goes through it");
        sh(&format!(
            "nft '{table} chain f {{ type filter hook forward priority 0; ip protocol tcp flow add @pods; }} }}'"
        ));
        let agent = Agent::in_step(BackendChoice::Ipset, &SEVEN, &[]).await;
        assert_eq!(agent.chain.borrow().paths, Verdict::Offloaded("fast pods".to_owned()));
        agent.stop().await;
    });
}
