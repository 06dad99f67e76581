//! Policies, and what they say of themselves.

use anyhow::{Context as _, Result, ensure};
use ip_sentry_crd::{NodeFirewall, ProbePolicy};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    eventually,
    lab::{Lab, kubectl},
    node::Node,
    scenario::{SOON, Scenario},
};

/// The condition of that type, as `status reason message`.
#[must_use]
pub fn told(conditions: &[Condition], kind: &str) -> String {
    let found = conditions.iter().find(|condition| condition.type_ == kind);
    found.map_or_else(
        || format!("no {kind}"),
        |condition| format!("{} {} {}", condition.status, condition.reason, condition.message),
    )
}

impl Scenario {
    /// The policies of this test.
    #[must_use]
    pub fn policies(&self) -> Api<ProbePolicy> {
        Api::namespaced(self.lab.kube.clone(), &self.namespace)
    }

    /// Makes or changes a policy, and waits until the operator has judged it. It is about the Gateway `public`
    /// unless the spec says otherwise.
    pub async fn policy(&self, name: &str, spec: Value) -> Result<()> {
        let generation = self.store_policy(name, spec).await?;
        self.condition(name, "Accepted", generation, "").await.map(drop)
    }

    /// Makes a policy, and waits until it is in force and its logs are read.
    pub async fn policy_in_force(&self, name: &str, spec: Value) -> Result<()> {
        let generation = self.store_policy(name, spec).await?;
        self.condition(name, "Accepted", generation, "True").await?;
        self.condition(name, "LogsStreaming", generation, "True Streaming").await.map(drop)
    }

    /// Makes or changes a policy and returns its generation.
    pub async fn store_policy(&self, name: &str, mut spec: Value) -> Result<i64> {
        if spec.get("targetRefs").is_none() && spec.get("podSelector").is_none() {
            spec["targetRefs"] =
                json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}]);
        }
        let object = json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy", "metadata": {"name": name}, "spec": spec,
        });
        let params = PatchParams::apply("e2e").force();
        let stored = self.policies().patch(name, &params, &Patch::Apply(object)).await?;
        stored.metadata.generation.context("a policy without a generation")
    }

    /// Waits until the condition was judged for that generation at least, and begins like `expect` when told.
    pub async fn condition(&self, policy: &str, kind: &str, generation: i64, expect: &str) -> Result<String> {
        eventually(SOON * 2, &format!("{policy} says {kind}: {expect}"), async || {
            let status = self.policies().get(policy).await?.status.context("no status yet")?;
            let found = status.conditions.iter().find(|condition| condition.type_ == kind);
            let judged = found.and_then(|condition| condition.observed_generation);
            ensure!(judged >= Some(generation), "judged {judged:?}, is {generation}");
            let told = told(&status.conditions, kind);
            ensure!(told.starts_with(expect), "{told}");
            Ok(told)
        })
        .await
    }
}

impl Scenario {
    /// Waits for a Warning on a policy that begins like `reason note`.
    pub async fn warned(&self, policy: &str, expect: &str) -> Result<()> {
        let space = format!("--namespace={}", self.namespace);
        let columns = r#"--output=jsonpath={range .items[?(@.type=="Warning")]}{.regarding.name} {.reason} {.note}{"\n"}{end}"#;
        eventually(SOON, &format!("{policy} warns: {expect}"), async || {
            let events = kubectl(&[&space, "get", "events.events.k8s.io", columns]).await?;
            let expect = format!("{policy} {expect}");
            ensure!(events.lines().any(|line| line.starts_with(&expect)), "events: {events}");
            Ok(())
        })
        .await
    }
}

impl Lab {
    /// What a node says that it enforces.
    pub async fn firewall(&self, node: Node) -> Result<NodeFirewall> {
        let firewalls: Api<NodeFirewall> = Api::all(self.kube.clone());
        Ok(firewalls.get(&node.to_string()).await?)
    }

    /// Fails unless the node says that it drops every banned source.
    pub async fn check_ready(&self, node: Node) -> Result<()> {
        let status = self.firewall(node).await?.status.context("no status yet")?;
        let told = told(&status.conditions, "Ready");
        ensure!(told.starts_with("True "), "{node}: {told}");
        Ok(())
    }
}
