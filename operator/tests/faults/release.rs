//! Bans whose finalizer may not be taken off.

use std::time::Instant;

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::{
    cluster::{Cluster, SOON},
    control_plane::until,
    front::Seen,
    replica::Replica,
};

const HELD: &str = "203.0.113.1";

/// Refuses that one ban is let go, and so much else about it as a webhook would.
fn policy(reason: &str) -> serde_json::Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "somebodys"},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["ipsentry.dev"], "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["ipbans"],
            }]},
            "validations": [{
                "expression": format!("object.metadata.name != '{HELD}'"),
                "message": "somebody holds this ban", "reason": reason,
            }],
        },
    })
}

fn releases(seen: &[Seen]) -> usize {
    let of_the_held = |seen: &&Seen| seen.method == "PATCH" && seen.path.ends_with(HELD);
    seen.iter().filter(of_the_held).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ban_that_may_not_be_let_go_is_tried_again_and_told_and_holds_up_no_other() {
    let Some(cluster) = Cluster::start().await else { return };
    let mut replica = Replica::leading(&cluster).await;
    cluster.policy_in_force(json!({})).await;
    // 403, then 422: how API server and webhooks refuse.
    for (round, reason) in ["Forbidden", "Invalid"].into_iter().enumerate() {
        cluster.log.probe(HELD);
        cluster.until_one_banned(HELD, SOON).await;
        cluster.apply(&policy(reason));
        cluster.apply(&json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "somebodys"},
            "spec": {"policyName": "somebodys", "validationActions": ["Deny"]},
        }));
        let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
        let touch = Patch::Merge(json!({"metadata": {"labels": {"touched": "yes"}}}));
        until("the policy is in force", SOON, async || {
            cluster.bans().patch(HELD, &dry_run, &touch).await.is_err()
        })
        .await;

        let begun = Instant::now();
        cluster.bans().delete(HELD, &DeleteParams::default()).await.unwrap();
        until("it was tried several times", SOON * 2, async || {
            releases(&replica.front.seen_since(begun)) >= 3
        })
        .await;
        // Others come and go meanwhile.
        for last in 2..6 {
            let other = format!("203.0.113.{last}{round}");
            cluster.log.probe(&other);
            cluster.until_one_banned(&other, SOON).await;
            cluster.bans().delete(&other, &DeleteParams::default()).await.unwrap();
            until(&format!("{other} is let go"), SOON, async || {
                cluster.bans().get_opt(&other).await.is_ok_and(|ban| ban.is_none())
            })
            .await;
        }
        let errors = replica.metric("ip_sentry_write_errors_total").await;
        assert!(errors > Some(0.0), "no metric tells that a ban can't be let go");
        let tries = releases(&replica.front.seen_since(begun));
        let rate = f64::from(u32::try_from(tries).unwrap()) / begun.elapsed().as_secs_f64();
        assert!(rate <= 2.0, "{rate} tries a second");
        let held = cluster.bans().get(HELD).await.unwrap();
        assert!(held.metadata.deletion_timestamp.is_some(), "it is not even being deleted");
        assert!(replica.is_running());

        let kinds = "validatingadmissionpolicybindings,validatingadmissionpolicies";
        cluster.control_plane.kubectl(&["delete", kinds, "somebodys"]);
        until("it is let go", SOON * 2, async || {
            cluster.bans().get_opt(HELD).await.is_ok_and(|ban| ban.is_none())
        })
        .await;
    }
}
