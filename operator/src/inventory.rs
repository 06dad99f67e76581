//! What exists in the cluster, as far as the operator needs it: one watch a kind, pods one watch a namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ip_sentry_crd::{
    ProbePolicy, ProtectedNetworks,
    targets::{self, Inventory, Problem},
};
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
    networking::v1::ServiceCIDR,
};
use kube::{Api, Client, ResourceExt as _, api::DynamicObject, core::DeserializeGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{metrics::Metrics, protected::facts::Cluster, watch::Watched};

struct Pods {
    watched: Watched<Pod>,
    cancel: CancellationToken,
}

/// The tables of what exists.
pub struct Inventories {
    client: Client,
    dirty: Arc<Notify>,
    metrics: Arc<Metrics>,
    cancel: CancellationToken,
    policies: Watched<DeserializeGuard<ProbePolicy>>,
    protected: Watched<ProtectedNetworks>,
    nodes: Watched<Node>,
    services: Watched<Service>,
    gateways: Watched<DynamicObject>,
    service_cidrs: Watched<ServiceCIDR>,
    api_servers: Watched<EndpointSlice>,
    pods: BTreeMap<String, Pods>,
}

impl Inventories {
    /// Starts the watches; `dirty` is told of each change.
    #[must_use]
    pub fn start(
        client: &Client,
        dirty: &Arc<Notify>,
        metrics: &Arc<Metrics>,
        cancel: &CancellationToken,
    ) -> Self {
        let gateway = targets::gateways();
        macro_rules! watch {
            ($api:expr, $kind:literal, $prune:expr) => {
                Watched::start($api, $kind, $prune, dirty.clone(), metrics.clone(), cancel.clone())
            };
        }
        Self {
            policies: watch!(Api::all(client.clone()), "ProbePolicy", |_| {}),
            protected: watch!(Api::all(client.clone()), "ProtectedNetworks", |_| {}),
            nodes: watch!(Api::all(client.clone()), "Node", prune_node),
            services: watch!(Api::all(client.clone()), "Service", |service: &mut Service| {
                service.metadata.managed_fields = None;
            }),
            gateways: Watched::start_with(
                Api::all_with(client.clone(), &gateway),
                gateway,
                "Gateway",
                |gateway: &mut DynamicObject| gateway.metadata.managed_fields = None,
                dirty.clone(),
                metrics.clone(),
                cancel.clone(),
            ),
            service_cidrs: watch!(Api::all(client.clone()), "ServiceCIDR", |_| {}),
            api_servers: watch!(Api::namespaced(client.clone(), "default"), "EndpointSlice", |_| {}),
            pods: BTreeMap::new(),
            client: client.clone(),
            dirty: dirty.clone(),
            metrics: metrics.clone(),
            cancel: cancel.clone(),
        }
    }

    /// The policies that can be read. One that can't is told in the log, and goes on as it was.
    #[must_use]
    pub fn policies(&self) -> Vec<ProbePolicy> {
        let all = self.policies.all();
        all.iter().filter_map(|object| object.0.as_ref().ok().cloned()).collect()
    }

    /// The one object of protected networks.
    #[must_use]
    pub fn protected_networks(&self) -> Option<Arc<ProtectedNetworks>> {
        let mut all = self.protected.all().into_iter();
        all.find(|object| object.name_any() == ip_sentry_crd::PROTECTED_NETWORKS)
    }

    /// Whether the policies have been listed; before, none must be taken for deleted.
    #[must_use]
    pub fn are_policies_known(&self) -> bool {
        self.policies.is_listed()
    }

    /// Whether what is to be protected has been listed or can't be, so that a first, incomplete look is not
    /// written down.
    #[must_use]
    pub fn is_cluster_known(&self) -> bool {
        [
            (self.protected.is_listed(), None),
            (self.nodes.is_listed(), self.nodes.problem()),
            (self.services.is_listed(), self.services.problem()),
            (self.gateways.is_listed(), self.gateways.problem()),
            (self.service_cidrs.is_listed(), self.service_cidrs.problem()),
            (self.api_servers.is_listed(), self.api_servers.problem()),
        ]
        .into_iter()
        .all(|(listed, problem)| {
            listed || matches!(problem, Some(Problem::Forbidden | Problem::NotInstalled))
        })
    }

    /// Kinds that can't be read though they must be, for what is protected.
    #[must_use]
    pub fn unread(&self) -> Vec<&'static str> {
        let forbidden = |problem| problem == Some(Problem::Forbidden);
        let mut unread = Vec::new();
        for (kind, problem) in [
            ("nodes", self.nodes.problem()),
            ("services", self.services.problem()),
            ("gateways", self.gateways.problem()),
            ("servicecidrs", self.service_cidrs.problem()),
            ("endpointslices", self.api_servers.problem()),
        ] {
            if forbidden(problem) {
                unread.push(kind);
            }
        }
        unread
    }

    /// What states the cluster's own networks.
    pub fn with_cluster<T>(&self, f: impl FnOnce(&Cluster<'_>) -> T) -> T {
        f(&Cluster {
            nodes: &self.nodes.all(),
            services: &self.services.all(),
            gateways: &self.gateways.all(),
            service_cidrs: &self.service_cidrs.all(),
            endpoint_slices: &self.api_servers.all(),
        })
    }

    /// Watches the pods of these namespaces and no others.
    pub fn follow(&mut self, namespaces: &BTreeSet<String>) {
        self.pods.retain(|namespace, pods| {
            let stays = namespaces.contains(namespace);
            if !stays {
                pods.cancel.cancel();
            }
            stays
        });
        for namespace in namespaces {
            if !self.pods.contains_key(namespace) {
                let cancel = self.cancel.child_token();
                let api = Api::namespaced(self.client.clone(), namespace);
                let (dirty, metrics) = (self.dirty.clone(), self.metrics.clone());
                let watched = Watched::start(api, "Pod", prune_pod, dirty, metrics, cancel.clone());
                self.pods.insert(namespace.clone(), Pods { watched, cancel });
            }
        }
    }

    /// What exists for a policy of that namespace, once it was listed or can't be: what was not listed yet must not
    /// be told to be missing.
    pub fn with<T>(&self, namespace: &str, f: impl FnOnce(&Inventory<'_>) -> T) -> Option<T> {
        let pods = &self.pods.get(namespace)?.watched;
        let is_told = (self.gateways.is_listed() || self.gateways.problem().is_some())
            && (self.services.is_listed() || self.services.problem().is_some())
            && (pods.is_listed() || pods.problem().is_some());
        if !is_told {
            return None;
        }
        let (gateways, services, known) = (self.gateways.all(), self.services.all(), pods.all());
        Some(f(&Inventory {
            gateways: readable(&gateways, self.gateways.problem()),
            services: &services,
            pods: readable(&known, pods.problem()),
        }))
    }
}

/// What is known stays good when the watch only broke; when it is not allowed, it is not.
fn readable<T>(known: &[T], problem: Option<Problem>) -> Result<&[T], Problem> {
    match problem {
        Some(Problem::Unreachable) if !known.is_empty() => Ok(known),
        Some(problem) => Err(problem),
        None => Ok(known),
    }
}

fn prune_node(node: &mut Node) {
    node.metadata.managed_fields = None;
    node.metadata.annotations = None;
    node.metadata.labels = None;
    if let Some(status) = &mut node.status {
        // Names and sizes of all images on the node are most of the object.
        status.images = None;
        status.conditions = None;
    }
}

fn prune_pod(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            container.env = None;
            container.volume_mounts = None;
        }
    }
}
