//! What a policy says when something is wrong, and that others go on meanwhile.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use ip_sentry_e2e::{
    eventually,
    gateway::Shape,
    lab::{kubectl, kubectl_with},
    node::Node,
    scenario::{Scenario, shared},
};
use serde_json::json;

/// RE2, and with it the API server's rules, knows this quotation; Rust's regular expressions do not.
const RE2_ONLY: &str = r"^/\Qonly-re2\E";

#[test]
fn a_pattern_that_does_not_compile_is_refused_with_its_fields_name() {
    shared(async |scenario: &Scenario| {
        let policy = json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
            "metadata": {"name": "broken", "namespace": scenario.namespace},
            "spec": {"podSelector": {}, "match": {"patterns": ["^/a", "^/(b"]}},
        });
        let output = kubectl_with(&["apply", "--filename=-"], Some(&policy.to_string())).await?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && errors.contains("spec.match.patterns[1]"), "{errors}");
        Ok(())
    });
}

#[test]
fn a_broken_change_leaves_the_last_good_version_and_other_policies_in_force() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        scenario.policy_in_force("changed", json!({"match": {"patterns": ["^/good"]}})).await?;
        scenario.policy_in_force("other", json!({"match": {"patterns": ["^/other"]}})).await?;

        let generation = scenario.store_policy("changed", json!({"match": {"patterns": [RE2_ONLY]}})).await?;
        let told = scenario.condition("changed", "Accepted", generation, "False Invalid ").await?;
        ensure!(told.contains("spec.match.patterns[0]"), "{told}");
        ensure!(told.contains("stays in force until the operator restarts"), "{told}");
        scenario.condition("changed", "Ready", generation, "False Invalid Accepted: ").await?;
        scenario.warned("changed", "NotReady not ready: Accepted: ").await?;

        let front = gateway.through(Node::Two, true);
        for path in ["/good", "/other"] {
            let prober = scenario.client().await?;
            prober.probe(front, &[path; 3]).await?;
            scenario.banned(prober.ipv4()).await?;
        }
        Ok(())
    });
}

#[test]
fn a_broken_new_policy_says_so_and_others_go_on() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let generation = scenario.store_policy("broken", json!({"match": {"patterns": [RE2_ONLY]}})).await?;
        let told = scenario.condition("broken", "Accepted", generation, "False Invalid ").await?;
        ensure!(told.contains("nobody is banned"), "{told}");
        scenario.policy_in_force("good", json!({})).await?;
        gateway.judged(scenario, "/.env").await.map(drop)
    });
}

#[test]
fn a_target_that_does_not_exist_is_named_and_found_when_it_comes() {
    shared(async |scenario: &Scenario| {
        let generation = scenario.store_policy("early", json!({})).await?;
        let told = scenario.condition("early", "ResolvedRefs", generation, "False ").await?;
        ensure!(told.contains("there is no Gateway public"), "{told}");
        scenario.condition("early", "Ready", generation, "False TargetNotFound ResolvedRefs: ").await?;
        scenario.warned("early", "NotReady not ready: ResolvedRefs: there is no Gateway public").await?;
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.condition("early", "ResolvedRefs", generation, "True ").await?;
        scenario.condition("early", "LogsStreaming", generation, "True ").await?;
        scenario.condition("early", "Ready", generation, "True Enforcing ").await?;
        gateway.judged(scenario, "/.env").await.map(drop)
    });
}

#[test]
fn a_container_that_does_not_exist_is_named() {
    shared(async |scenario: &Scenario| {
        scenario.gateway_on(Node::One).await?;
        let generation = scenario.store_policy("probes", json!({"container": "envoy"})).await?;
        let told = scenario.condition("probes", "ResolvedRefs", generation, "False ").await?;
        ensure!(told.contains("envoy") && told.contains("nginx"), "{told}");
        Ok(())
    });
}

#[test]
fn the_right_to_read_logs_is_asked_for_and_used_when_it_comes() {
    shared(async |scenario: &Scenario| {
        let shape = Shape { only: Some(Node::Two), keeps_logs: true, ..Shape::default() };
        let gateway = scenario.gateway_of(shape).await?;
        let generation = scenario.store_policy("probes", json!({})).await?;
        let told = scenario.condition("probes", "ResolvedRefs", generation, "False ").await?;
        ensure!(told.contains("components/log-access"), "{told}");
        scenario.condition("probes", "Ready", generation, "False Forbidden ").await?;
        scenario.warned("probes", "NotReady not ready: ResolvedRefs: the operator may not read").await?;
        scenario.logs_readable().await?;
        scenario.condition("probes", "ResolvedRefs", generation, "True ").await?;
        scenario.condition("probes", "LogsStreaming", generation, "True ").await?;
        gateway.judged(scenario, "/.env").await.map(drop)
    });
}

#[test]
fn a_service_and_a_selector_are_targets_too() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        let service = json!([{"group": "", "kind": "Service", "name": "nginx-public-nginx"}]);
        let by_service = json!({"targetRefs": service, "match": {"patterns": ["^/by-service"]}});
        scenario.policy_in_force("by-service", by_service).await?;
        let selector = json!({"matchLabels": {"app.kubernetes.io/name": "nginx-public-nginx"}});
        let by_selector = json!({"podSelector": selector, "match": {"patterns": ["^/by-selector"]}});
        scenario.policy_in_force("by-selector", by_selector).await?;
        for path in ["/by-service", "/by-selector"] {
            gateway.judged(scenario, path).await?;
        }
        Ok(())
    });
}

#[test]
fn lines_of_another_format_are_noticed() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let format = json!({"regex": r"^never (?P<ip>\S+) (?P<path>\S+)$"});
        let generation = scenario.store_policy("probes", json!({"format": format})).await?;
        scenario.condition("probes", "LogsStreaming", generation, "True ").await?;
        let visitor = scenario.client().await?;
        visitor.probe(gateway.through(Node::One, true), &["/secret?token=1234"; 12]).await?;
        let told = scenario.condition("probes", "LogsParsed", generation, "False WrongFormat ").await?;
        scenario.condition("probes", "Ready", generation, "False WrongFormat LogsParsed: ").await?;
        scenario.warned("probes", "NotReady not ready: LogsParsed: ").await?;
        // Its shape, and nothing of its text.
        ensure!(told.contains("looks like d.d.d.d") && !told.contains("secret"), "{told}");
        Ok(())
    });
}

#[test]
fn a_pod_that_comes_later_is_followed_and_one_that_restarts_again() {
    shared(async |scenario: &Scenario| {
        let before = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("probes", json!({})).await?;
        before.judged(scenario, "/.env").await?;
        let space = format!("--namespace={}", scenario.namespace);
        let delete = ["delete", "pods", "--selector=gateway.networking.k8s.io/gateway-name", "--timeout=30s"];
        kubectl(&[&[space.as_str()], &delete[..]].concat()).await?;
        let after = scenario.gateway_on(Node::One).await?;
        after.judged(scenario, "/.env").await.map(drop)
    });
}

#[test]
fn a_policy_that_is_looked_after_says_so_at_least_every_minute() {
    shared(async |scenario: &Scenario| {
        let _gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("quiet", json!({})).await?;
        let observed = async || {
            let status = scenario.policies().get("quiet").await?.status.context("no status")?;
            Ok::<_, anyhow::Error>(status.observed_at.context("no observedAt")?.0)
        };
        let mut last = observed().await?;
        // Nobody asks the gateway for anything: nothing changes but the time.
        for _ in 0..2 {
            let before = last;
            last = eventually(Duration::from_mins(1), "the status is renewed", async || {
                let now = observed().await?;
                ensure!(now > before, "it is still of {before}");
                Ok(now)
            })
            .await?;
        }
        Ok(())
    });
}
