//! What is printed when a test has failed.

use crate::{
    lab::{cluster, kubectl},
    node::Node,
    scenario::Scenario,
};

/// Prints the objects, logs and kernels' state. What can't be had says why.
pub async fn print(scenario: &Scenario) {
    let space = format!("--namespace={}", scenario.namespace);
    #[rustfmt::skip]
    let questions: [&[&str]; 9] = [
        &["get", "nodes,nodefirewalls,ipbans"],
        &["get", "ipbans,protectednetworks,nodefirewalls,offencehistories", "--output=yaml"],
        &[&space, "get", "probepolicies", "--output=yaml"],
        &[&space, "get", "all,gateways", "--output=wide"],
        &[&space, "get", "events"],
        &[&space, "logs", "--selector=gateway.networking.k8s.io/gateway-name", "--prefix", "--tail=30", "--timestamps"],
        &["get", "pods", "--all-namespaces", "--output=wide"],
        &["--namespace=ip-sentry", "logs", "--selector=app.kubernetes.io/name=ip-sentry-operator", "--prefix", "--tail=60"],
        &["--namespace=ip-sentry-node", "logs", "--selector=app.kubernetes.io/name=ip-sentry-node-agent", "--prefix", "--tail=60"],
    ];
    eprintln!("━━━━ {} failed; its namespace is {}", scenario.claim, scenario.namespace);
    for question in questions {
        show(&format!("kubectl {}", question.join(" ")), kubectl(question).await);
    }
    for node in Node::BOTH {
        for command in [
            &["iptables-legacy-save", "--counters", "--table", "filter"][..],
            &["ip6tables-legacy-save", "--counters", "--table", "filter"],
            &["ipset", "list"],
        ] {
            show(&format!("{node}: {}", command.join(" ")), node.run(command).await);
        }
    }
    show("cluster.sh status", cluster("cluster.sh", &["status"]).await);
    eprintln!("━━━━ end of what was seen when {} failed", scenario.claim);
}

fn show(question: &str, answer: anyhow::Result<String>) {
    match answer {
        Ok(answer) => eprintln!("━━ {question}\n{}", answer.trim_end()),
        Err(error) => eprintln!("━━ {question}\n{error:#}"),
    }
}
