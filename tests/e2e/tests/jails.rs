//! The jails that fail2ban's users know, as the examples write them, with a real nginx that answers so.
//!
//! Where it matters how often a source was banned before, clients come by IPv6: there are addresses enough that none
//! is met again.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ip_sentry_crd::IPBan;
use ip_sentry_e2e::{
    eventually,
    lab::{kubectl_with, printed, root},
    node::Node,
    operator,
    plugin::plugin,
    scenario::{LONG, SOON, Scenario, alone, shared},
};
use jiff::SignedDuration;
use serde_json::{Value, json};

/// The spec of an example, about this test's gateway.
fn example(name: &str) -> Result<Value> {
    let file = root().join("deploy/kustomize/examples/jails").join(format!("{name}.yaml"));
    let mut policy: Value = serde_yaml_ng::from_str(&fs::read_to_string(file)?)?;
    let mut spec = policy["spec"].take();
    spec.as_object_mut().context("a policy without a spec")?.remove("targetRefs");
    Ok(spec)
}

/// How long a ban lasts, from its last hit on, in whole seconds.
fn length(ban: &IPBan) -> Result<i64> {
    let evidence = ban.spec.evidence.as_ref().context("a detected ban has evidence")?;
    let end = ban.spec.expires_at.as_ref().context("an earned ban has an end")?.0;
    // The end is rounded up to a whole second.
    Ok((end.duration_since(evidence.last_seen.0) - SignedDuration::from_nanos(1)).as_secs())
}

#[test]
fn a_storm_of_404s_is_banned_by_its_different_paths() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        scenario.policy_in_force("not-found", example("not-found")?).await?;
        let front = gateway.through(Node::One, true);
        let (visitor, scanner) = (scenario.client().await?, scenario.client().await?);

        // A picture that every page wants, and 13 more that are missing: 14 paths, many more hits.
        let missing: Vec<String> = (0..13).map(|number| format!("/missing/{number}.png")).collect();
        let mut seen: Vec<&str> = missing.iter().map(String::as_str).collect();
        seen.extend([
            "/favicon.ico",
            "/favicon.ico?v=2",
            "//favicon.ico",
            "/%66avicon.ico",
            "/a/../favicon.ico",
        ]);
        visitor.probe(front, &seen).await?;
        let paths: Vec<String> = (0..15).map(|number| format!("/old/backup-{number}.zip?x=1")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        scanner.probe(front, &paths).await?;

        let ban = scenario.banned(scanner.ipv4()).await?;
        ensure!(
            ban.spec.reason.as_deref() == Some("15 different paths, status 404"),
            "{:?}",
            ban.spec.reason
        );
        ensure!(ban.spec.evidence.as_ref().is_some_and(|evidence| evidence.hits == 15), "{:?}", ban.spec);
        ensure!(length(&ban)? == 2 * 3600, "{} s", length(&ban)?);
        scenario.dropped(&scanner, scanner.address_towards(front)?, &visitor, &gateway).await?;
        let found = scenario.detected().await?;
        ensure!(found == [scanner.ipv4().ban_name()], "{found:?} are banned");
        Ok(())
    });
}

#[test]
fn whom_the_gateway_refuses_or_slows_down_again_and_again_is_banned() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        for name in ["forbidden", "too-many-requests"] {
            scenario.policy_in_force(name, example(name)?).await?;
        }
        let front = gateway.through(Node::Two, false);
        // (path, requests that earn nothing yet, their last status, reason, days of the ban)
        for (path, patience, status, reason, days) in [
            ("/private/report", 2, 403, "3 hits: any path, status 403", 7),
            ("/login", 5, 429, "5 hits: any path, status 429", 1), // the first of them is let in
        ] {
            let client = scenario.client().await?;
            for request in 1..=patience {
                let answer = client.get(front, path).await?;
                ensure!(request < patience || answer == status, "{path} is answered {answer}");
            }
            scenario.passes(&client, &gateway.front(Node::Two, false)).await?;
            client.probe(front, &[path]).await?;
            let ban = scenario.banned(client.ipv6()).await?;
            ensure!(ban.spec.reason.as_deref() == Some(reason), "{:?}", ban.spec.reason);
            ensure!(ban.spec.offence == Some(1) && length(&ban)? == days * 86_400, "{:?}", ban.spec);
            scenario.in_both_kernels(client.ipv6().network()).await?;
        }
        Ok(())
    });
}

#[test]
fn failed_logins_to_a_server_without_paths_are_banned_and_a_forged_address_is_not() {
    shared(async |scenario: &Scenario| {
        let (attacker, victim) = (scenario.client().await?, scenario.client().await?);
        let space = format!("--namespace={}", scenario.namespace);
        scenario.logs_readable().await?;
        scenario.store_policy("failed-logins", example("failed-logins")?).await?;
        let (from, forged) = (attacker.ipv6().network(), victim.ipv6().network());
        let (from, forged) = (from.address(), forged.address());
        let line = format!(
            "Failed password for invalid user root from {forged} port 22 ssh2 from {from} port 4022 ssh2"
        );
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "sshd", "labels": {"app.kubernetes.io/name": "sshd"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{
                    "name": "sshd", "image": "docker.io/library/ip-sentry-lab-gateway:dev", "imagePullPolicy": "Never",
                    "command": ["/bin/sh", "-c", format!("for i in 1 2 3; do echo '{line}'; done; exec /bin/busybox sleep 3600")],
                }],
            },
        });
        let made = kubectl_with(&[&space, "apply", "--filename=-"], Some(&pod.to_string())).await?;
        printed("kubectl apply", made)?;
        let ban = eventually(LONG, "the attacker is banned", async || {
            scenario.bans().get_opt(&attacker.ipv6().ban_name()).await?.context("no ban")
        })
        .await?;
        ensure!(
            ban.spec.reason.as_deref() == Some("3 hits: any path") && length(&ban)? == 7 * 86_400,
            "{:?}",
            ban.spec
        );
        let found = scenario.detected().await?;
        ensure!(found == [attacker.ipv6().ban_name()], "{found:?} are banned");
        Ok(())
    });
}

#[test]
fn bans_go_on_becoming_longer_after_every_replica_was_started_anew() {
    alone(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let escalation = json!({"factor": 3, "maxDuration": "15m", "memory": "1h"});
        // So short that the lines of a ban which is made to run out early no longer count when they are read again.
        let spec = json!({"banDuration": "2m", "window": "3s", "escalation": escalation});
        scenario.policy_in_force("probes", spec).await?;
        let (prober, front) = (scenario.client().await?, gateway.through(Node::One, false));
        let source = prober.ipv6();
        // What the n-th ban lasts at the least and at the most, in seconds.
        for (offence, least, most) in [(1, 120, 120), (2, 360, 378), (3, 900, 900)] {
            let ban = eventually(SOON, "the source is banned", async || {
                if scenario.bans().get_opt(&source.ban_name()).await?.is_none() {
                    prober.probe(front, &["/.env"]).await?;
                }
                let ban = scenario.bans().get(&source.ban_name()).await?;
                ensure!(ban.metadata.deletion_timestamp.is_none(), "the last one is still going");
                Ok(ban)
            })
            .await?;
            ensure!(ban.spec.offence == Some(offence), "offence {:?}, not {offence}", ban.spec.offence);
            let length = length(&ban)?;
            ensure!((least..=most).contains(&length), "the ban number {offence} lasts {length} s");
            scenario.let_run_out(&source.ban_name()).await?;
            eventually(SOON, "the ban is gone", async || {
                ensure!(scenario.bans().get_opt(&source.ban_name()).await?.is_none());
                Ok(())
            })
            .await?;
            scenario.in_no_kernel(source.network(), SOON).await?;
            operator::scale(&scenario.lab, 0).await?;
            operator::scale(&scenario.lab, 2).await?;
        }
        Ok(())
    });
}

#[test]
fn a_changed_policy_goes_on_counting_where_it_was() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::Two).await?;
        let spec = |threshold: u32, patterns: &[&str]| json!({"threshold": threshold, "uniquePatternThreshold": 0, "match": {"patterns": patterns}});
        scenario.policy_in_force("changed", spec(5, &["^/admin"])).await?;
        let (prober, front) = (scenario.client().await?, gateway.through(Node::Two, true));
        prober.probe(front, &["/admin"; 3]).await?;
        // A stranger's ban shows that all of them were counted.
        let stranger = scenario.client().await?;
        stranger.probe(front, &["/admin"; 5]).await?;
        scenario.banned(stranger.ipv4()).await?;

        let generation = scenario.store_policy("changed", spec(4, &["^/other", "^/admin"])).await?;
        scenario.condition("changed", "Accepted", generation, "True").await?;
        ensure!(prober.get(front, "/").await? == 200, "three hits are fewer than four");
        prober.probe(front, &["/other"]).await?;
        let ban = scenario.banned(prober.ipv4()).await?;
        ensure!(ban.spec.evidence.as_ref().is_some_and(|evidence| evidence.hits == 4), "{:?}", ban.spec);
        Ok(())
    });
}

#[test]
fn a_policy_says_whether_its_window_is_complete() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway_on(Node::One).await?;
        let generation = scenario.store_policy("first", json!({"window": "1h"})).await?;
        scenario.condition("first", "WindowComplete", generation, "True Complete").await?;
        let generation = scenario.store_policy("late", json!({"window": "1h"})).await?;
        let told = scenario.condition("late", "WindowComplete", generation, "False NewToTheLog").await?;
        ensure!(told.contains("hits from before that are missing until"), "{told}");
        gateway.judged(scenario, "/.env").await.map(drop)
    });
}

#[test]
fn a_policy_is_tried_on_the_logs_of_its_own_pods_before_it_is_applied() {
    shared(async |scenario: &Scenario| {
        let gateway = scenario.gateway().await?;
        let prober = scenario.client().await?;
        for node in Node::BOTH {
            prober.probe(gateway.through(node, true), &["/.env?token=secret"]).await?;
        }
        prober.probe(gateway.through(Node::One, false), &["/.env"; 3]).await?;
        let policy = json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "ProbePolicy",
            "metadata": {"name": "tried", "namespace": scenario.namespace},
            "spec": {
                "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}],
                "threshold": 2,
            },
        });
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("policy.json");
        fs::write(&file, policy.to_string())?;
        let file = file.to_str().context("a path that is no text")?;
        let would_ban = eventually(SOON, "the lines are in the logs", async || {
            let text = plugin(&["replay", "--policy", file, "--since", "10m", "--output", "json"]).await?;
            ensure!(!text.contains("secret"), "a query is shown: {text}");
            let result: Value = serde_json::from_str(&text)?;
            let bans = result["bans"].as_array().context("no list of bans")?.clone();
            let mut cidrs: Vec<String> =
                bans.iter().filter_map(|ban| Some(ban["spec"]["cidr"].as_str()?.to_owned())).collect();
            cidrs.sort();
            ensure!(cidrs.len() == 2, "{cidrs:?} would be banned");
            Ok(cidrs)
        })
        .await?;
        let mut expect = [prober.ipv4().to_string(), prober.ipv6().to_string()];
        expect.sort();
        ensure!(would_ban == expect, "{would_ban:?} would be banned, {expect:?} should");
        let found = scenario.detected().await?;
        ensure!(found.is_empty(), "{found:?} are banned, though nothing was applied");
        Ok(())
    });
}
