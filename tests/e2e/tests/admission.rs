//! What the API server refuses, and in which words: the files under `admission/`, one a case. And what it has to let
//! through: the examples, the manifests in every way they are applied, and what the API server itself changes.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ip_sentry_e2e::{
    admission::{cases, check},
    api_server::{ApiServer, NAMESPACE, OPERATOR, on_an_api_server},
    eventually,
    install::OVERLAY,
    lab::printed,
    scenario::LONG,
};
use serde_json::Value;

/// Checks all cases of a folder, one after the other since they share names, and tells of all that fail.
async fn table(server: &ApiServer, folder: &str) -> Result<()> {
    let (cases, mut wrong) = (cases(folder)?, Vec::new());
    for case in &cases {
        if let Err(error) = check(case, server).await {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn bans_are_accepted_and_refused_as_the_table_says() {
    on_an_api_server(async |server: &ApiServer| table(server, "ipban").await);
}

#[test]
fn policies_are_accepted_and_refused_as_the_table_says() {
    on_an_api_server(async |server: &ApiServer| table(server, "probepolicy").await);
}

#[test]
fn policies_are_limited_as_the_table_says() {
    on_an_api_server(async |server: &ApiServer| table(server, "policylimits").await);
}

#[test]
fn people_and_controllers_may_do_what_the_table_says() {
    on_an_api_server(async |server: &ApiServer| table(server, "rights").await);
}

#[test]
fn protected_networks_are_accepted_and_refused_as_the_table_says() {
    on_an_api_server(async |server: &ApiServer| table(server, "protectednetworks").await);
}

#[test]
fn node_firewalls_are_accepted_and_refused_as_the_table_says() {
    on_an_api_server(async |server: &ApiServer| table(server, "nodefirewall").await);
}

/// A dry run on the API server, of a file or folder of the examples.
async fn dry_run(server: &ApiServer, example: &str) -> Result<()> {
    let file = format!("--filename=deploy/kustomize/examples/{example}");
    server.kubectl(&["apply", "--dry-run=server", "--validate=strict", &file]).await.map(drop)
}

#[test]
fn the_examples_are_accepted() {
    on_an_api_server(async |server: &ApiServer| {
        for example in ["jails", "ip-ban.yaml", "policy-limits.yaml", "policy-quota.yaml"] {
            dry_run(server, example).await.context(example)?;
        }
        // It names its namespace.
        let policy = std::fs::read_to_string(
            ip_sentry_e2e::lab::root().join("deploy/kustomize/examples/probe-policy.yaml"),
        )?;
        let policy = policy.replace("nginx-gateway-fabric", NAMESPACE);
        let output = server.kubectl_with(&["apply", "--dry-run=server", "-f-"], Some(&policy)).await?;
        printed("probe-policy.yaml", output).map(drop)
    });
}

#[test]
fn the_api_server_finds_no_fault_with_any_expression() {
    on_an_api_server(async |server: &ApiServer| {
        eventually(LONG, "every policy's expressions are checked", async || {
            let policies = server.kubectl(&["get", "validatingadmissionpolicies", "--output=json"]).await?;
            let policies: Value = serde_json::from_str(&policies)?;
            for policy in policies["items"].as_array().into_iter().flatten() {
                let (name, status) = (&policy["metadata"]["name"], &policy["status"]);
                ensure!(
                    status["observedGeneration"] == policy["metadata"]["generation"],
                    "{name} is not checked"
                );
                ensure!(status["typeChecking"]["expressionWarnings"].is_null(), "{name}: {status:#}");
            }
            Ok(())
        })
        .await
    });
}

#[test]
fn the_network_policy_for_metrics_is_accepted() {
    on_an_api_server(async |server: &ApiServer| {
        let component = "deploy/kustomize/components/metrics-network-policy";
        let policy = server
            .kubectl(&["apply", "--server-side", "--dry-run=server", "--output=json", "-k", component])
            .await;
        let policy: Value = serde_json::from_str(&policy?)?;
        ensure!(policy["spec"]["ingress"][0]["ports"][0]["port"] == "http", "{policy:#}");
        // The port and the pods that it speaks of are the operator's.
        let operator = ["--namespace=ip-sentry", "get", "deployment", "ip-sentry-operator", "--output=json"];
        let operator: Value = serde_json::from_str(&server.kubectl(&operator).await?)?;
        let pods = &operator["spec"]["template"];
        let labels = &policy["spec"]["podSelector"]["matchLabels"];
        for (name, value) in labels.as_object().context("no labels")? {
            ensure!(&pods["metadata"]["labels"][name] == value, "no pod has {name}={value}");
        }
        ensure!(pods["spec"]["containers"][0]["ports"][0]["name"] == "http", "no port is called http");
        Ok(())
    });
}

/// Every object of the manifests as it is stored, without what each write changes.
async fn stored(server: &ApiServer, folder: &str) -> Result<Vec<Value>> {
    let objects = server.kubectl(&["get", "--output=json", "-k", folder]).await?;
    let mut objects: Value = serde_json::from_str(&objects)?;
    // One object comes without a list around it.
    let mut objects = match objects.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => vec![objects],
    };
    for object in &mut objects {
        let metadata = object["metadata"].as_object_mut().context("no metadata")?;
        metadata.remove("resourceVersion");
        metadata.remove("managedFields");
        // A Deployment's counts its annotations, too; that its template stays is what matters.
        metadata.remove("generation");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        }
        if metadata.get("annotations").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            metadata.remove("annotations");
        }
        // The controllers of the API server count the pods, which none of these is about.
        if let Some(object) =
            object.as_object_mut().filter(|object| object["kind"] != "CustomResourceDefinition")
        {
            object.remove("status");
        }
    }
    Ok(objects)
}

#[test]
fn every_way_of_applying_the_manifests_comes_to_the_same() {
    on_an_api_server(async |server: &ApiServer| {
        let component = "deploy/kustomize/components/metrics-network-policy";
        for folder in ["deploy/kustomize/crds", OVERLAY, component] {
            let apply = async |way: &[&str]| {
                let arguments = [&["apply", "-k", folder], way].concat();
                server.kubectl(&arguments).await.with_context(|| format!("{folder}: {way:?}"))
            };
            apply(&[]).await?;
            let first = stored(server, folder).await?;
            for way in [&["--server-side"] as &[&str], &["--server-side"], &[], &["--server-side"]] {
                apply(way).await?;
                let now = stored(server, folder).await?;
                for (before, after) in first.iter().zip(&now) {
                    let name = format!("{} {}", before["kind"], before["metadata"]["name"]);
                    ensure!(before == after, "{name}: {way:?} changes it to {after:#}");
                }
            }
            let diff = server.kubectl_with(&["diff", "--server-side", "-k", folder], None).await?;
            ensure!(diff.status.success(), "{}", String::from_utf8_lossy(&diff.stdout));
        }
        Ok(())
    });
}

/// What a person does to make a detected ban theirs, given as a manifest or by editing.
const WAYS: [(&[&str], bool); 5] = [
    (&["apply", "-f-"], true),
    (&["apply", "--server-side", "--force-conflicts", "-f-"], true),
    // Argo CD and Flux apply so.
    (&["apply", "--server-side", "--field-manager=argocd-controller", "--force-conflicts", "-f-"], true),
    (&["replace", "-f-"], true),
    (&["edit", "ban", "203.0.113.130"], false),
];

#[test]
fn a_detected_ban_becomes_ones_own_in_each_way_of_writing_one() {
    on_an_api_server(async |server: &ApiServer| {
        let detected = "{apiVersion: ipsentry.dev/v1alpha1, kind: IPBan, metadata: {name: 203.0.113.130, \
             labels: {app.kubernetes.io/managed-by: ip-sentry}, finalizers: [ipsentry.dev/ttl]}, \
             spec: {cidr: 203.0.113.130/32, origin: Detected, expiresAt: \"2099-01-01T00:00:00Z\", reason: ^/wp-admin, \
             policyRef: {namespace: shop, name: public}, offence: 1, evidence: {hits: 3, samples: [], \
             firstSeen: \"2026-11-22T10:00:00Z\", lastSeen: \"2026-11-22T10:00:02Z\"}}}";
        let mine = "{apiVersion: ipsentry.dev/v1alpha1, kind: IPBan, metadata: {name: 203.0.113.130}, \
             spec: {cidr: 203.0.113.130/32, origin: Manual, reason: mine}}";
        for (way, is_manifest) in WAYS {
            let create = ["create", "--field-manager=ip-sentry", OPERATOR, "-f-"];
            printed("the operator", server.kubectl_with(&create, Some(detected)).await?)?;
            let arguments = [way, &["--as=banner"]].concat();
            let output = server.kubectl_with(&arguments, is_manifest.then_some(mine)).await?;
            printed(&format!("{way:?}"), output)?;
            let ban = ["get", "ban", "203.0.113.130", "--output=json"];
            let taken: Value = serde_json::from_str(&server.kubectl(&ban).await?)?;
            ensure!(taken["spec"]["origin"] == "Manual", "{way:?}: {taken:#}");
            // What the operator then does.
            let let_go = r#"--patch={"metadata":{"finalizers":null,"labels":{"app.kubernetes.io/managed-by":null}},"spec":{"expiresAt":null,"policyRef":null,"offence":null,"evidence":null}}"#;
            let patch = [
                "patch",
                "ban",
                "203.0.113.130",
                "--type=merge",
                "--field-manager=ip-sentry",
                OPERATOR,
                let_go,
            ];
            server.kubectl(&patch).await.with_context(|| format!("{way:?}: the operator may not let go"))?;
            let left: Value = serde_json::from_str(&server.kubectl(&ban).await?)?;
            let fields: Vec<&String> =
                left["spec"].as_object().into_iter().flatten().map(|(name, _)| name).collect();
            ensure!(fields == ["cidr", "origin", "reason"], "{way:?} leaves {fields:?}");
            server.kubectl(&["delete", "ban", "203.0.113.130", "--as=banner", "--timeout=10s"]).await?;
        }
        Ok(())
    });
}

#[test]
fn deleting_a_ban_with_its_dependents_or_without_ends() {
    on_an_api_server(async |server: &ApiServer| {
        for cascade in ["foreground", "orphan", "background"] {
            let ban = "{apiVersion: ipsentry.dev/v1alpha1, kind: IPBan, metadata: {name: 203.0.113.131}, \
                       spec: {cidr: 203.0.113.131/32, origin: Manual}}";
            printed("a ban", server.kubectl_with(&["create", "-f-"], Some(ban)).await?)?;
            let delete = ["delete", "ban", "203.0.113.131", &format!("--cascade={cascade}"), "--timeout=30s"];
            server.kubectl(&delete).await.with_context(|| format!("--cascade={cascade}"))?;
        }
        Ok(())
    });
}

#[test]
fn the_documented_command_releases_the_bans_that_are_being_deleted_and_no_others() {
    on_an_api_server(async |server: &ApiServer| {
        let docs = std::fs::read_to_string(ip_sentry_e2e::lab::root().join("docs/troubleshooting.md"))?;
        let (_, section) = docs.split_once("## A ban that will not go").context("no such section")?;
        let command = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
        let names = ["203.0.113.132", "203.0.113.133"];
        for name in names {
            let ban = format!(
                "{{apiVersion: ipsentry.dev/v1alpha1, kind: IPBan, metadata: {{name: {name}, \
                 labels: {{app.kubernetes.io/managed-by: ip-sentry}}, finalizers: [ipsentry.dev/ttl]}}, \
                 spec: {{cidr: {name}/32, origin: Detected, expiresAt: \"2099-01-01T00:00:00Z\", \
                 policyRef: {{namespace: shop, name: public}}}}}}"
            );
            let create = ["create", "--field-manager=ip-sentry", OPERATOR, "-f-"];
            printed("the operator", server.kubectl_with(&create, Some(&ban)).await?)?;
        }
        server.kubectl(&["delete", "bans", names[0], "--wait=false"]).await?;
        // The second time there is none.
        for _ in 0..2 {
            server.shell(command.context("no command")?).await?;
            let path = "--output=jsonpath={range .items[*]}{.metadata.name} {.metadata.finalizers[*]}{end}";
            let left = server.kubectl(&["get", "bans", path]).await?;
            ensure!(left == "203.0.113.133 ipsentry.dev/ttl", "{left}");
        }
        server.kubectl(&["delete", "bans", names[1], "--wait=false"]).await?;
        server.shell(command.context("no command")?).await?;
        Ok(())
    });
}

#[test]
fn what_a_node_owns_goes_with_it() {
    on_an_api_server(async |server: &ApiServer| {
        let node = "{apiVersion: v1, kind: Node, metadata: {name: n3}}";
        printed("a node", server.kubectl_with(&["create", "-f-"], Some(node)).await?)?;
        let uid = server.kubectl(&["get", "node", "n3", "--output=jsonpath={.metadata.uid}"]).await?;
        let report = format!(
            "{{apiVersion: ipsentry.dev/v1alpha1, kind: NodeFirewall, metadata: {{name: n3, \
             ownerReferences: [{{apiVersion: v1, kind: Node, name: n3, uid: {uid}}}]}}, spec: {{}}}}"
        );
        let claims = ["name=n3".to_owned(), format!("uid={uid}")]
            .map(|claim| format!("--as-user-extra=authentication.kubernetes.io/node-{claim}"));
        let agent = "--as=system:serviceaccount:ip-sentry-node:ip-sentry-node-agent";
        let create = ["create", agent, &claims[0], &claims[1], "-f-"];
        printed("the agent", server.kubectl_with(&create, Some(&report)).await?)?;
        let patch = async |patch: &str| {
            let patch = format!("--patch={patch}");
            let write = ["patch", "nodefirewall", "n3", "--type=merge", agent, &claims[0], &claims[1]];
            server.kubectl_with(&[&write as &[&str], &[&patch]].concat(), None).await
        };
        for (strip, words) in [
            (
                r#"{"metadata":{"ownerReferences":null}}"#,
                "leaves the ownerReferences of its NodeFirewall as they are",
            ),
            (
                r#"{"metadata":{"ownerReferences":[]}}"#,
                "leaves the ownerReferences of its NodeFirewall as they are",
            ),
            (r#"{"metadata":{"finalizers":["example.com/hold"]}}"#, "gives its NodeFirewall no finalizer"),
        ] {
            let output = patch(strip).await?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success() && said.contains(words), "{strip}: {said}");
        }
        printed("a label", patch(r#"{"metadata":{"labels":{"a":"b"}}}"#).await?)?;
        server.kubectl(&["delete", "node", "n3"]).await?;
        eventually(LONG, "the garbage collector takes the NodeFirewall", async || {
            let left = server.kubectl(&["get", "nodefirewalls", "--output=name"]).await?;
            ensure!(!left.contains("/n3"), "{left}");
            Ok(())
        })
        .await
    });
}

#[test]
fn a_quota_counts_policies() {
    on_an_api_server(async |server: &ApiServer| {
        let quota = "{apiVersion: v1, kind: ResourceQuota, metadata: {name: case}, \
                     spec: {hard: {count/probepolicies.ipsentry.dev: 0}}}";
        let policy = "{apiVersion: ipsentry.dev/v1alpha1, kind: ProbePolicy, metadata: {name: case}, \
                      spec: {podSelector: {}, mode: Shadow}}";
        // The quota controller discovers new kinds every 30 s. A quota that was written before is counted up to 5
        // minutes later, or when it is created again. Until then every policy is refused with another message.
        let refused = eventually(LONG, "a quota is in force", async || {
            server.kubectl(&["delete", "resourcequota", "case", "--ignore-not-found"]).await?;
            printed("a quota", server.kubectl_with(&["create", "-f-"], Some(quota)).await?)?;
            eventually(Duration::from_secs(5), "it is counted", async || {
                let refused = server.refused(&["create", "--dry-run=server", "-f-"], Some(policy)).await?;
                ensure!(refused.contains("exceeded quota: case"), "{refused}");
                Ok(())
            })
            .await
        })
        .await;
        server.kubectl(&["delete", "resourcequota", "case"]).await?;
        refused
    });
}

#[test]
fn only_the_reader_is_part_of_a_role_that_people_have_already() {
    on_an_api_server(async |server: &ApiServer| {
        let may = async |user: &str, verb: &str, what: &str| -> Result<bool> {
            let user = format!("--as={user}");
            let output = server.kubectl_with(&["auth", "can-i", verb, what, &user], None).await?;
            Ok(output.status.success())
        };
        eventually(Duration::from_secs(30), "view has the reader's rights", async || {
            ensure!(may("reader", "list", "ipbans.ipsentry.dev").await?, "not yet");
            Ok(())
        })
        .await?;
        for (user, verb, what, expect) in [
            ("reader", "watch", "probepolicies.ipsentry.dev", true),
            ("reader", "get", "nodefirewalls.ipsentry.dev", true),
            ("reader", "create", "ipbans.ipsentry.dev", false),
            ("banner", "create", "ipbans.ipsentry.dev", true),
            ("banner", "delete", "ipbans.ipsentry.dev", true),
            ("banner", "update", "protectednetworks.ipsentry.dev", false),
            ("banner", "create", "probepolicies.ipsentry.dev", false),
            ("editor", "create", "probepolicies.ipsentry.dev", true),
            ("editor", "enforce", "probepolicies.ipsentry.dev", false),
            ("editor", "create", "ipbans.ipsentry.dev", false),
            ("enforcer", "enforce", "probepolicies.ipsentry.dev", true),
        ] {
            ensure!(may(user, verb, what).await? == expect, "{user} {verb} {what} is not {expect}");
        }
        for role in ["edit", "admin"] {
            let rules = server.kubectl(&["get", "clusterrole", role, "--output=json"]).await?;
            let rules: Value = serde_json::from_str(&rules)?;
            let ours = rules["rules"].as_array().into_iter().flatten();
            let ours = ours.filter(|rule| {
                rule["apiGroups"].as_array().is_some_and(|groups| groups.contains(&"ipsentry.dev".into()))
            });
            for rule in ours {
                let verbs: Vec<&str> =
                    rule["verbs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                ensure!(verbs == ["get", "list", "watch"], "{role} may {verbs:?}");
            }
        }
        Ok(())
    });
}
