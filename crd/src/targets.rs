//! From a policy's targets to the containers whose logs are to be read. Pure: objects in, containers and
//! findings out.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    ResourceExt as _,
    api::{ApiResource, DynamicObject},
    core::{GroupVersionKind, Selector, SelectorExt as _},
};

use crate::{
    condition::Finding,
    probe_policy::{ProbePolicySpec, TargetRef},
};

/// The label by which a Gateway's pods are known (GEP-1762).
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// Names of containers that write the access log in pods with several.
const KNOWN_CONTAINERS: [&str; 6] = ["nginx", "envoy", "traefik", "haproxy", "controller", "istio-proxy"];

/// A container whose log is read. A pod that is deleted and made again under its name is another one.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Container {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The container's name in the pod.
    pub container: String,
}

/// Why the objects of a kind are not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Problem {
    /// No permission.
    Forbidden,
    /// The cluster does not have this kind.
    NotInstalled,
    /// Anything else; it is tried again.
    Unreachable,
}

/// Where Gateways are found: the Gateway API is no dependency, a cluster may be without it.
#[must_use]
pub fn gateways() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "Gateway"))
}

/// What exists in a policy's namespace.
pub struct Inventory<'a> {
    /// The cluster's Gateways, or why they are not known.
    pub gateways: Result<&'a [Arc<DynamicObject>], Problem>,
    /// The cluster's Services.
    pub services: &'a [Arc<Service>],
    /// The pods of the policy's namespace, or why they are not known.
    pub pods: Result<&'a [Arc<Pod>], Problem>,
}

/// What became of a policy's targets.
#[derive(Debug)]
pub struct Resolved {
    /// The containers to read.
    pub containers: BTreeSet<Container>,
    /// `ResolvedRefs`.
    pub finding: Finding,
    /// Services in front of those pods that hide the clients' addresses, as `namespace/name`.
    pub hiding_services: Vec<String>,
}

const RESOLVED_REFS: &str = "ResolvedRefs";

impl Resolved {
    /// Nothing is known of the targets yet.
    #[must_use]
    pub fn unknown() -> Self {
        let finding = Finding::unknown(RESOLVED_REFS, "Pending", "the targets have not been looked for yet");
        Self { containers: BTreeSet::new(), finding, hiding_services: Vec::new() }
    }
}

/// Finds the containers that a policy in `namespace` is about.
#[must_use]
pub fn resolve(namespace: &str, spec: &ProbePolicySpec, inventory: &Inventory<'_>) -> Resolved {
    match selectors(namespace, spec, inventory) {
        Err(finding) => Resolved { containers: BTreeSet::new(), finding, hiding_services: Vec::new() },
        Ok(selectors) => select(namespace, spec, inventory, &selectors),
    }
}

/// One selector of pods for each target, or what is wrong with one of them.
fn selectors(
    namespace: &str,
    spec: &ProbePolicySpec,
    inventory: &Inventory<'_>,
) -> Result<Vec<Selector>, Finding> {
    if let Some(selector) = &spec.pod_selector {
        return Ok(vec![label_selector(selector)?]);
    }
    spec.target_refs.iter().flatten().map(|target| target_selector(namespace, target, inventory)).collect()
}

fn label_selector(selector: &LabelSelector) -> Result<Selector, Finding> {
    Selector::try_from(selector.clone()).map_err(|error| {
        Finding::no(RESOLVED_REFS, "InvalidSelector", format!("podSelector can't be used: {error}"))
    })
}

fn target_selector(
    namespace: &str,
    target: &TargetRef,
    inventory: &Inventory<'_>,
) -> Result<Selector, Finding> {
    let name = &target.name;
    let not_found = || {
        let kind = &target.kind;
        let message =
            format!("there is no {kind} {name} in namespace {namespace}: create it or correct targetRefs");
        Finding::no(RESOLVED_REFS, "TargetNotFound", message)
    };
    if target.kind == "Gateway" {
        let gateways = inventory.gateways.map_err(|problem| match problem {
            Problem::NotInstalled => Finding::no(
                RESOLVED_REFS,
                "GatewayAPIMissing",
                "this cluster has no Gateway API: target the gateway's Service, or use podSelector",
            ),
            Problem::Forbidden | Problem::Unreachable => Finding::unknown(
                RESOLVED_REFS,
                "GatewaysUnknown",
                "the cluster's Gateways can't be listed: check the operator's ClusterRole and its log",
            ),
        })?;
        if !gateways.iter().any(|gateway| is_named(gateway.as_ref(), namespace, name)) {
            return Err(not_found());
        }
        let labels = [(GATEWAY_NAME.to_owned(), name.clone())];
        return Ok(labels.into_iter().collect());
    }
    let service = inventory
        .services
        .iter()
        .find(|service| is_named(service.as_ref(), namespace, name))
        .ok_or_else(not_found)?;
    match service.spec.as_ref().and_then(|spec| spec.selector.clone()) {
        Some(labels) if !labels.is_empty() => Ok(labels.into_iter().collect()),
        _ => Err(Finding::no(
            RESOLVED_REFS,
            "NoSelector",
            format!("Service {name} selects no pods: use podSelector"),
        )),
    }
}

fn is_named<K: kube::ResourceExt>(object: &K, namespace: &str, name: &str) -> bool {
    object.namespace().as_deref() == Some(namespace) && object.name_any() == name
}

fn select(
    namespace: &str,
    spec: &ProbePolicySpec,
    inventory: &Inventory<'_>,
    selectors: &[Selector],
) -> Resolved {
    let nothing = |finding| Resolved { containers: BTreeSet::new(), finding, hiding_services: Vec::new() };
    let pods = match inventory.pods {
        Ok(pods) => pods,
        Err(problem) => return nothing(pods_unknown(namespace, problem)),
    };
    let chosen: Vec<&Pod> = pods
        .iter()
        .map(AsRef::as_ref)
        .filter(|pod| selectors.iter().any(|selector| selector.matches(pod.labels())))
        .collect();
    if chosen.is_empty() {
        return nothing(Finding::no(
            RESOLVED_REFS,
            "NoPods",
            format!("no pod in namespace {namespace} belongs to the targets: bans need a gateway's log"),
        ));
    }
    let mut containers = BTreeSet::new();
    let mut problems = BTreeSet::new();
    for pod in &chosen {
        match container_of(pod, spec.container.as_deref()) {
            Ok(container) => {
                // A pod that has not started has no log; its container is read as soon as it has.
                if has_started(pod, container) {
                    containers.insert(Container {
                        namespace: namespace.to_owned(),
                        pod: pod.name_any(),
                        uid: pod.uid().unwrap_or_default(),
                        container: container.to_owned(),
                    });
                }
            }
            Err(problem) => {
                problems.insert(problem);
            }
        }
    }
    let finding = match problems.first() {
        Some(problem) => Finding::no(RESOLVED_REFS, "ContainerNotFound", problem.clone()),
        None => Finding::yes(RESOLVED_REFS, "ResolvedRefs", format!("{} pods", chosen.len())),
    };
    Resolved { containers, finding, hiding_services: hiding_services(namespace, inventory.services, &chosen) }
}

fn pods_unknown(namespace: &str, problem: Problem) -> Finding {
    match problem {
        Problem::Forbidden => Finding::no(
            RESOLVED_REFS,
            "Forbidden",
            format!(
                "the operator may not read pods and their logs in namespace {namespace}: \
                 add deploy/kustomize/components/log-access for it"
            ),
        ),
        Problem::NotInstalled | Problem::Unreachable => Finding::unknown(
            RESOLVED_REFS,
            "PodsUnknown",
            format!("the pods of namespace {namespace} can't be listed: see the operator's log"),
        ),
    }
}

/// The container of `pod` to read, or what to write instead.
fn container_of<'a>(pod: &'a Pod, wanted: Option<&str>) -> Result<&'a str, String> {
    let spec = pod.spec.as_ref();
    let containers = spec.map_or(&[][..], |spec| &spec.containers);
    let sidecars = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let names: Vec<&str> =
        containers.iter().chain(sidecars).map(|container| container.name.as_str()).collect();
    let has = |name: &str| names.iter().copied().find(|&known| known == name);
    let found = match wanted {
        Some(name) => has(name),
        None if containers.len() == 1 => names.first().copied(),
        None => KNOWN_CONTAINERS.into_iter().find_map(has),
    };
    found.ok_or_else(|| {
        let names = names.join(", ");
        match wanted {
            Some(name) => format!("a pod has no container {name}: set spec.container to one of {names}"),
            None => format!("which container writes the access log? set spec.container to one of {names}"),
        }
    })
}

fn has_started(pod: &Pod, container: &str) -> bool {
    let Some(status) = &pod.status else { return false };
    let statuses = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    statuses.filter(|status| status.name == container).any(|status| {
        status.restart_count > 0
            || status
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

/// Services that reach these pods from outside and replace the clients' addresses on the way.
fn hiding_services(namespace: &str, services: &[Arc<Service>], pods: &[&Pod]) -> Vec<String> {
    services
        .iter()
        .filter(|service| service.namespace().as_deref() == Some(namespace))
        .filter(|service| {
            let Some(spec) = &service.spec else { return false };
            let is_outside = matches!(spec.type_.as_deref(), Some("LoadBalancer" | "NodePort"));
            let keeps_clients = spec.external_traffic_policy.as_deref() == Some("Local");
            let Some(labels) = spec.selector.as_ref().filter(|labels| !labels.is_empty()) else {
                return false;
            };
            let selector: Selector = labels.clone().into_iter().collect();
            is_outside && !keeps_clients && pods.iter().any(|pod| selector.matches(pod.labels()))
        })
        .map(|service| format!("{namespace}/{}", service.name_any()))
        .collect()
}

#[cfg(test)]
mod tests;
