//! What the API server answers when it does not store the operator's ban, and what the operator makes of each answer.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ip_sentry_core::detect::{
    decision::{Decision, Evidence, Threshold},
    escalation::{self, BanTime},
};
use ip_sentry_crd::ProbePolicy;
use ip_sentry_e2e::{
    api_server::{ApiServer, on_an_api_server},
    eventually,
    scenario::LONG,
};
use ip_sentry_operator::{
    ban_queue::{Outcome, Write},
    policies::Policies,
    publish::Publisher,
    refusal::{Cause, Refusal},
};
use jiff::Timestamp;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

/// The operator's way to write, with its account's rights.
async fn publisher(server: &ApiServer) -> Result<Publisher> {
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.auth_info.impersonate = Some("system:serviceaccount:ip-sentry:ip-sentry-operator".into());
    Ok(Publisher::new(Client::try_from(config)?))
}

fn write(address: &str, reason: &str) -> Result<Write> {
    let policy: ProbePolicy = serde_json::from_value(json!({
        "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
        "metadata": {"namespace": "shop", "name": "gw"}, "spec": {"podSelector": {}},
    }))?;
    let (mut policies, now) = (Policies::default(), Timestamp::from_second(Timestamp::now().as_second())?);
    policies.update(&[&policy], usize::MAX, &[], now);
    let jail = policies.iter().next().and_then(|(_, entry)| entry.jail.clone());
    let length = Duration::from_mins(10);
    Ok(Write {
        name: address.into(),
        policy: jail.context("the policy is accepted")?,
        decision: Decision {
            source: format!("{address}/32").parse()?,
            reason: reason.into(),
            evidence: Evidence {
                hits: 3,
                threshold: Threshold::Hits,
                first_seen: now,
                last_seen: now,
                samples: Vec::new(),
            },
            ban_time: BanTime { first: length, escalation: None },
        },
        ban: escalation::Ban { offence: 1, length, expires_at: now + length },
    })
}

/// Waits until a ban of a source that has none meets `expect`; admission and rights follow what is stored within
/// moments, so a try may still be stored.
async fn meets(publisher: &Publisher, expect: Option<Cause>) -> Result<()> {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    eventually(LONG, "the answer that is expected", async || {
        let address = Ipv4Addr::from_bits(0xc633_6400 + HOSTS.fetch_add(1, Ordering::Relaxed));
        let outcome = publisher.create(&write(&address.to_string(), "3 hits: /.env")?).await;
        let is_right = match (&outcome, expect) {
            (Outcome::Stored, None) => true,
            (Outcome::Refused(Refusal::Passing(cause, _)), Some(expect)) => *cause == expect,
            _ => false,
        };
        ensure!(is_right, "{outcome:?} instead of {expect:?}");
        Ok(())
    })
    .await
}

#[test]
fn each_refusal_is_known_for_what_it_is_and_passes_with_its_cause() {
    on_an_api_server(async |server: &ApiServer| {
        let publisher = publisher(server).await?;
        meets(&publisher, None).await?;

        let outcome = publisher.create(&write("203.0.113.2", &"x".repeat(300))?).await;
        ensure!(matches!(outcome, Outcome::Refused(Refusal::Invalid(_))), "{outcome:?}");

        let binding = ["clusterrolebinding", "ip-sentry-operator"];
        let rights = server.kubectl(&["get", binding[0], binding[1], "-o=yaml"]).await?;
        server.kubectl(&["delete", binding[0], binding[1]]).await?;
        meets(&publisher, Some(Cause::MissingRights)).await.context("no rights")?;
        server.kubectl_with(&["create", "-f-"], Some(&rights)).await?;
        meets(&publisher, None).await.context("rights again")?;

        let theirs = "{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicy, \
                      metadata: {name: theirs}, spec: {matchConstraints: {resourceRules: [{apiGroups: \
                      [ipsentry.dev], apiVersions: ['*'], operations: [CREATE], resources: [ipbans]}]}, \
                      validations: [{expression: 'false', message: not today}]}}\n---\n{apiVersion: \
                      admissionregistration.k8s.io/v1, kind: ValidatingAdmissionPolicyBinding, metadata: \
                      {name: theirs}, spec: {policyName: theirs, validationActions: [Deny]}}";
        server.kubectl_with(&["create", "-f-"], Some(theirs)).await?;
        meets(&publisher, Some(Cause::AdmissionDenied)).await.context("their policy")?;
        server.kubectl_with(&["delete", "-f-"], Some(theirs)).await?;
        meets(&publisher, None).await.context("without their policy")?;

        let unknown = Some(Cause::ProtectedNetworksUnknown);
        server.kubectl(&["delete", "protectednetworks", "cluster"]).await?;
        meets(&publisher, unknown).await.context("no ProtectedNetworks")?;
        server.kubectl(&["apply", "-f=deploy/kustomize/base/protected-networks.yaml"]).await?;
        meets(&publisher, unknown).await.context("no status")?;
        server.discover().await?;
        meets(&publisher, None).await.context("with a status")?;

        // One that has just started does not know the kind of the policies' parameters for some seconds.
        server.restart().await?;
        let write = write("203.0.113.6", "3 hits: /.env")?;
        let mut causes = Vec::new();
        eventually(LONG, "the ban is stored after the restart", async || {
            let outcome = publisher.create(&write).await;
            if let Outcome::Refused(Refusal::Passing(cause, message)) = &outcome {
                causes.push((*cause, message.clone()));
            }
            ensure!(matches!(outcome, Outcome::Stored), "{outcome:?}");
            Ok(())
        })
        .await?;
        let passing = [
            Cause::AdmissionStarting,
            Cause::KindMissing,
            Cause::Unreachable,
            Cause::ProtectedNetworksUnknown,
            Cause::MissingRights,
        ];
        let other: Vec<_> = causes.iter().filter(|(cause, _)| !passing.contains(cause)).collect();
        ensure!(other.is_empty(), "{other:?}");
        Ok(())
    });
}
