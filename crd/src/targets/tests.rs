use serde_json::json;

use super::*;

fn pod(name: &str, labels: &serde_json::Value, containers: &[&str]) -> Arc<Pod> {
    let specs: Vec<_> = containers.iter().map(|name| json!({"name": name})).collect();
    let statuses: Vec<_> = containers
        .iter()
        .map(|name| json!({"name": name, "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}}}))
        .collect();
    Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "web", "uid": format!("uid-{name}"), "labels": labels},
            "spec": {"containers": specs},
            "status": {"containerStatuses": statuses},
        }))
        .unwrap(),
    )
}

fn service(name: &str, spec: &serde_json::Value) -> Arc<Service> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "web"}, "spec": spec}))
            .unwrap(),
    )
}

fn gateway(name: &str) -> Arc<DynamicObject> {
    let object = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": name, "namespace": "web"},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

fn policy(spec: serde_json::Value) -> ProbePolicySpec {
    serde_json::from_value(spec).unwrap()
}

fn on_gateway(name: &str) -> ProbePolicySpec {
    policy(json!({"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name}]}))
}

fn names(resolved: &Resolved) -> Vec<(&str, &str)> {
    resolved.containers.iter().map(|one| (one.pod.as_str(), one.container.as_str())).collect()
}

#[test]
fn a_gateways_pods_are_those_with_its_label() {
    let label = json!({"gateway.networking.k8s.io/gateway-name": "public"});
    let pods = [pod("a", &label, &["nginx"]), pod("b", &json!({"app": "other"}), &["nginx"])];
    let gateways = [gateway("public")];
    let inventory = Inventory { gateways: Ok(&gateways), services: &[], pods: Ok(&pods) };
    let resolved = resolve("web", &on_gateway("public"), &inventory);
    assert_eq!(names(&resolved), [("a", "nginx")]);
    assert_eq!(resolved.finding.status, Some(true));
}

#[test]
fn each_missing_thing_has_its_reason_and_says_what_to_do() {
    let label = json!({"app": "gw"});
    let pods = [pod("a", &label, &["one", "two"])];
    let gateways = [gateway("public")];
    let services = [service("gw", &json!({"selector": {"app": "gw"}})), service("headless", &json!({}))];
    let to_service =
        |name: &str| policy(json!({"targetRefs": [{"group": "", "kind": "Service", "name": name}]}));
    let all = || Inventory { gateways: Ok(&gateways), services: &services, pods: Ok(&pods) };
    #[rustfmt::skip]
    let table = [
        (on_gateway("nope"),   all(),                                                     "TargetNotFound",    "there is no Gateway nope"),
        (to_service("nope"),   all(),                                                     "TargetNotFound",    "there is no Service nope"),
        (to_service("headless"), all(),                                                   "NoSelector",        "use podSelector"),
        (on_gateway("public"), all(),                                                     "NoPods",            "no pod in namespace web"),
        (to_service("gw"),     all(),                                                     "ContainerNotFound", "set spec.container to one of one, two"),
        (on_gateway("public"), Inventory { gateways: Err(Problem::NotInstalled), ..all() }, "GatewayAPIMissing", "target the gateway's Service"),
        (to_service("gw"),     Inventory { pods: Err(Problem::Forbidden), ..all() },      "Forbidden",         "components/log-access"),
    ];
    for (spec, inventory, reason, message) in table {
        let resolved = resolve("web", &spec, &inventory);
        assert_eq!(resolved.finding.reason, reason);
        assert!(resolved.finding.message.contains(message), "{}", resolved.finding.message);
        assert!(resolved.containers.is_empty());
    }
}

#[test]
fn the_container_is_the_one_named_or_the_only_one_or_a_known_gateways() {
    let label = json!({"app": "gw"});
    let spec = |container: Option<&str>| {
        policy(json!({"podSelector": {"matchLabels": {"app": "gw"}}, "container": container}))
    };
    #[rustfmt::skip]
    let table: [(&[&str], Option<&str>, &str); 5] = [
        (&["web"],             None,         "web"),
        (&["agent", "nginx"],  None,         "nginx"),
        (&["agent", "nginx"],  Some("agent"), "agent"),
        (&["agent", "other"],  None,         ""),
        (&["nginx"],           Some("web"),  ""),
    ];
    for (containers, wanted, expect) in table {
        let pods = [pod("a", &label, containers)];
        let inventory = Inventory { gateways: Err(Problem::NotInstalled), services: &[], pods: Ok(&pods) };
        let resolved = resolve("web", &spec(wanted), &inventory);
        let container = names(&resolved).first().map_or("", |(_, container)| container);
        assert_eq!(container, expect, "{containers:?} {wanted:?}");
    }
}

#[test]
fn a_service_that_hides_clients_is_named() {
    let pods = [pod("a", &json!({"app": "gw"}), &["nginx"])];
    let services = [
        service(
            "local",
            &json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"app": "gw"}}),
        ),
        service(
            "cluster",
            &json!({"type": "NodePort", "externalTrafficPolicy": "Cluster", "selector": {"app": "gw"}}),
        ),
        service("inside", &json!({"type": "ClusterIP", "selector": {"app": "gw"}})),
        service("other", &json!({"type": "LoadBalancer", "selector": {"app": "other"}})),
    ];
    let inventory = Inventory { gateways: Err(Problem::NotInstalled), services: &services, pods: Ok(&pods) };
    let resolved =
        resolve("web", &policy(json!({"podSelector": {"matchLabels": {"app": "gw"}}})), &inventory);
    assert_eq!(resolved.hiding_services, ["web/cluster"]);
}
