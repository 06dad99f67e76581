//! What is never banned: the cluster's own networks, found and written down by the leader, and what people
//! add to them. Every replica reads the result back before it decides anything.

pub mod keeper;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ip_sentry_core::{
    net::Network,
    networks::{Networks, aggregate},
};
use ip_sentry_crd::{
    FIELD_MANAGER, MANAGED_BY, MANAGED_BY_LABEL, PROTECTED_NETWORKS, ProtectedNetworks,
    condition::{self, Finding},
    protected_networks::{ProtectedNetworksSpec, ProtectedNetworksStatus},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
        networking::v1::ServiceCIDR,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::json;

/// The most networks that the status holds: admission looks through them at every create, 15 ms with 1,000.
const MOST: usize = 1024;

/// What the cluster's own networks are made from.
pub struct Cluster<'a> {
    /// Every node.
    pub nodes: &'a [Arc<Node>],
    /// Every Service.
    pub services: &'a [Arc<Service>],
    /// Every Gateway, if there is such a kind.
    pub gateways: &'a [Arc<DynamicObject>],
    /// The ranges of service addresses.
    pub service_cidrs: &'a [Arc<ServiceCIDR>],
    /// The endpoints of the API server.
    pub api_servers: &'a [Arc<EndpointSlice>],
}

/// The addresses of nodes, ranges of pods and services, the API server, load balancers and Gateways.
#[must_use]
pub fn discover(cluster: &Cluster<'_>) -> BTreeSet<Network> {
    let nodes = cluster.nodes.iter().flat_map(|node| {
        let status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
        let addresses = status.filter_map(|address| host(&address.address));
        let spec = node.spec.iter();
        let ranges =
            spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr)).filter_map(range);
        addresses.chain(ranges)
    });
    let services = cluster.services.iter().flat_map(|service| {
        let spec = service.spec.iter().flat_map(|spec| {
            let own = spec.cluster_ips.iter().flatten();
            own.chain(spec.external_ips.iter().flatten()).chain(&spec.load_balancer_ip)
        });
        let balancer = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
        let ingress = balancer.flat_map(|balancer| balancer.ingress.iter().flatten());
        spec.filter_map(|text| host(text)).chain(ingress.filter_map(|ingress| host(ingress.ip.as_deref()?)))
    });
    let gateways = cluster.gateways.iter().flat_map(|gateway| {
        let addresses = gateway.data["status"]["addresses"].as_array();
        addresses.into_iter().flatten().filter_map(|address| host(address["value"].as_str()?))
    });
    let ranges = cluster.service_cidrs.iter().filter_map(|cidr| cidr.spec.as_ref());
    let ranges = ranges.flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(range);
    let endpoints = cluster.api_servers.iter().flat_map(|slice| &slice.endpoints);
    let endpoints = endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|text| host(text));
    nodes.chain(services).chain(gateways).chain(ranges).chain(endpoints).collect()
}

/// One address; host names, `None` and the like are no address.
fn host(text: &str) -> Option<Network> {
    let address: IpAddr = text.parse().ok()?;
    (!address.is_unspecified()).then(|| Network::host(address))
}

fn range(text: impl AsRef<str>) -> Option<Network> {
    text.as_ref().parse().ok()
}

/// Everything that the object protects. What can't be read as a network was refused by the API server.
#[must_use]
pub fn in_force(object: &ProtectedNetworks) -> Networks {
    let found = object.status.iter().flat_map(|status| &status.cidrs);
    object.spec.cidrs.iter().chain(found).filter_map(|text| text.parse::<Network>().ok()).collect()
}

/// Whether the leader has looked for the cluster's own networks yet.
#[must_use]
pub fn is_observed(object: &ProtectedNetworks) -> bool {
    object.status.as_ref().is_some_and(|status| status.observed_at.is_some())
}

/// The status to write, or `None` where it says so already.
#[must_use]
pub fn status(
    object: &ProtectedNetworks,
    found: &BTreeSet<Network>,
    unread: &[&'static str],
    now: Timestamp,
) -> Option<ProtectedNetworksStatus> {
    let found: Vec<Network> = found.iter().copied().collect();
    let (networks, widened) = aggregate(&found, MOST);
    let finding = if !unread.is_empty() {
        let kinds = unread.join(", ");
        Finding::no(
            "Complete",
            "Unreadable",
            format!("the operator can't read {kinds}: check its ClusterRole"),
        )
    } else if widened {
        let message =
            format!("more than {MOST} networks: wider ones that contain them are protected instead");
        Finding::yes("Complete", "Widened", message)
    } else {
        Finding::yes("Complete", "Complete", "the cluster's own networks are protected")
    };
    let old = object.status.as_ref();
    let old_conditions = old.map_or(&[][..], |status| &status.conditions);
    let new = ProtectedNetworksStatus {
        cidrs: networks.iter().map(ToString::to_string).collect(),
        observed_at: Some(Time(now)),
        conditions: condition::merge(old_conditions, &[finding], object.metadata.generation, now),
    };
    let is_told = old.is_some_and(|old| {
        old.observed_at.is_some() && old.cidrs == new.cidrs && old.conditions == new.conditions
    });
    (!is_told).then_some(new)
}

/// Writes the status; `client` lets it through only while this replica leads.
pub async fn write(client: &Client, status: &ProtectedNetworksStatus) -> Result<(), kube::Error> {
    let api: Api<ProtectedNetworks> = Api::all(client.clone());
    let patch = json!({
        "apiVersion": "ipsentry.dev/v1alpha1",
        "kind": "ProtectedNetworks",
        "metadata": {"name": PROTECTED_NETWORKS},
        "status": status,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    api.patch_status(PROTECTED_NETWORKS, &params, &Patch::Apply(patch)).await.map(drop)
}

/// Makes the object when it is missing: without it no ban is admitted.
pub async fn create(client: &Client) -> Result<(), kube::Error> {
    let api: Api<ProtectedNetworks> = Api::all(client.clone());
    let mut object = ProtectedNetworks::new(PROTECTED_NETWORKS, ProtectedNetworksSpec::default());
    object.labels_mut().insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    match api.create(&params, &object).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        created => created.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn from<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn the_clusters_own_networks_are_found_wherever_they_are_written() {
        let nodes = [from(json!({
            "spec": {"podCIDR": "10.97.0.0/24", "podCIDRs": ["10.97.0.0/24", "fd97::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": "10.99.0.11"}, {"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "Hostname", "address": "node-1"},
            ]},
        }))];
        let services = [from(json!({
            "spec": {"clusterIPs": ["10.96.0.1", "None"], "externalIPs": ["198.51.100.2"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.3"}, {"hostname": "lb.example.com"}]}},
        }))];
        let gateways = [from(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
            "status": {"addresses": [{"type": "IPAddress", "value": "198.51.100.4"}, {"value": "0.0.0.0"}]},
        }))];
        let service_cidrs = [from(json!({"spec": {"cidrs": ["10.96.0.0/16", "fd96::/112"]}}))];
        let api_servers = [from(json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.99.0.1"]}]}))];
        let cluster = Cluster {
            nodes: &nodes,
            services: &services,
            gateways: &gateways,
            service_cidrs: &service_cidrs,
            api_servers: &api_servers,
        };
        let found: Vec<String> = discover(&cluster).iter().map(ToString::to_string).collect();
        #[rustfmt::skip]
        assert_eq!(found, [
            "10.96.0.0/16", "10.96.0.1/32", "10.97.0.0/24", "10.99.0.1/32", "10.99.0.11/32", "198.51.100.1/32",
            "198.51.100.2/32", "198.51.100.3/32", "198.51.100.4/32", "fd96::/112", "fd97::/64",
        ]);
    }

    #[test]
    fn the_status_is_written_once_and_again_only_when_it_differs() {
        let now = Timestamp::from_second(100).unwrap();
        let later = Timestamp::from_second(200).unwrap();
        let found = BTreeSet::from(["10.99.0.11/32".parse().unwrap()]);
        let mut object = ProtectedNetworks::new("cluster", ProtectedNetworksSpec::default());
        assert!(!is_observed(&object));
        object.status = status(&object, &found, &[], now);
        assert!(is_observed(&object));
        assert!(in_force(&object).contains("10.99.0.11".parse().unwrap()));
        assert_eq!(status(&object, &found, &[], later), None);
        let unread = status(&object, &found, &["ServiceCIDR"], later).unwrap();
        assert_eq!(unread.conditions[0].reason, "Unreadable");
        assert!(status(&object, &BTreeSet::new(), &[], later).is_some());
    }
}
