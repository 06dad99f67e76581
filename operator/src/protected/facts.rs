//! What the cluster's objects say of its own networks, each fact with the object that states it.
//!
//! Only what controllers write is a fact. `externalIPs`, `loadBalancerIP` and a Gateway's `spec.addresses` are requests
//! of anyone who may edit one namespace: they never protect, and an address that somebody asked for is kept apart.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ip_sentry_core::{
    enforce::rules::MOST_API_SERVERS,
    net::{Network, Scope, scope},
};
use k8s_openapi::{
    api::{
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
        networking::v1::ServiceCIDR,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{ResourceExt as _, api::DynamicObject};

/// The most addresses that one node states, the first in its status. The admission policy `protectednetworks-nodes` asks
/// for the same ones: it must never ask for an address that is left out here.
const MOST_OF_NODE: usize = 16;

/// What facts are gathered from.
pub struct Cluster<'a> {
    /// Every node.
    pub nodes: &'a [Arc<Node>],
    /// Every Service.
    pub services: &'a [Arc<Service>],
    /// Every Gateway, if there is such a kind.
    pub gateways: &'a [Arc<DynamicObject>],
    /// The ranges of service addresses.
    pub service_cidrs: &'a [Arc<ServiceCIDR>],
    /// The slices of endpoints in the namespace `default`, the API servers' among them.
    pub endpoint_slices: &'a [Arc<EndpointSlice>],
}

/// What a fact rests on, the firmest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Basis {
    /// An address of a node or an API server.
    Host,
    /// A range that the pods of a node have their addresses from.
    PodRange,
    /// A range that services have their addresses from.
    ServiceRange,
    /// A controller gave this address to a load balancer or Gateway.
    Given,
    /// The same, and somebody had asked for just this address.
    Asked,
    /// Somebody asked for this address and a Gateway's status repeats it, but no load balancer has it.
    Unconfirmed,
    /// A node states this address after the 16 that count.
    Surplus,
}

/// The object that states a fact.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Stater<'a> {
    /// The object's kind.
    pub kind: &'static str,
    /// Its namespace, empty for what has none.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl<'a> Stater<'a> {
    fn of(kind: &'static str, metadata: &'a ObjectMeta) -> Self {
        Self {
            kind,
            namespace: metadata.namespace.as_deref().unwrap_or_default(),
            name: metadata.name.as_deref().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Stater<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// One network, and why it is the cluster's own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fact<'a> {
    /// The network.
    pub network: Network,
    /// What the fact rests on.
    pub basis: Basis,
    /// The object that states it.
    pub by: Stater<'a>,
}

/// Every fact that the cluster states; one network may be stated several times.
#[must_use]
pub fn facts<'a>(cluster: &Cluster<'a>) -> Vec<Fact<'a>> {
    let mut facts = Vec::new();
    for node in cluster.nodes {
        of_node(node, &mut facts);
    }
    for cidr in cluster.service_cidrs {
        let by = Stater::of("ServiceCIDR", &cidr.metadata);
        let ranges = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(range);
        facts.extend(ranges.map(|network| Fact { network, basis: Basis::ServiceRange, by }));
    }
    for slice in slices_of_api_servers(cluster) {
        let by = Stater::of("EndpointSlice", &slice.metadata);
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let hosts = addresses.filter_map(|text| address(text)).map(Network::host);
        facts.extend(hosts.map(|network| Fact { network, basis: Basis::Host, by }));
    }
    of_balancers(cluster, &mut facts);
    facts
}

/// The addresses and ports of the API servers.
#[must_use]
pub fn api_servers(cluster: &Cluster<'_>) -> Vec<SocketAddr> {
    let servers = slices_of_api_servers(cluster).flat_map(|slice| {
        let ports = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
        let ports: Vec<u16> = ports.collect();
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        addresses.filter_map(|text| address(text)).flat_map(move |address| {
            ports.clone().into_iter().map(move |port| SocketAddr::new(address, port))
        })
    });
    let servers: BTreeSet<SocketAddr> = servers.collect();
    servers.into_iter().take(MOST_API_SERVERS).collect()
}

/// The API servers keep this one; a slice of another name may be anybody's.
fn slices_of_api_servers<'a>(cluster: &Cluster<'a>) -> impl Iterator<Item = &'a Arc<EndpointSlice>> {
    cluster.endpoint_slices.iter().filter(|slice| slice.name_any() == "kubernetes")
}

fn of_node<'a>(node: &'a Node, facts: &mut Vec<Fact<'a>>) {
    let by = Stater::of("Node", &node.metadata);
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let addresses = addresses.filter(|one| matches!(one.type_.as_str(), "InternalIP" | "ExternalIP"));
    // An entry that is not an address is counted as well: so the admission policy counts the same 16 entries, although it
    // parses addresses in another way.
    facts.extend(addresses.enumerate().filter_map(|(place, one)| {
        let basis = if place < MOST_OF_NODE { Basis::Host } else { Basis::Surplus };
        Some(Fact { network: Network::host(address(&one.address)?), basis, by })
    }));
    let ranges = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    facts.extend(ranges.filter_map(range).map(|network| Fact { network, basis: Basis::PodRange, by }));
}

/// The addresses of load balancers and Gateways. Some Gateway controllers copy `spec` into `status` by way of a
/// Service's `externalIPs`, so a Gateway's status is evidence only where nobody asked for the address, or where a load
/// balancer has it as well.
fn of_balancers<'a>(cluster: &Cluster<'a>, facts: &mut Vec<Fact<'a>>) {
    let asked: HashSet<IpAddr> = asked_by_services(cluster.services)
        .chain(cluster.gateways.iter().flat_map(|gateway| addresses_in(gateway, "spec")))
        .collect();
    let mut balanced = HashSet::new();
    for service in cluster.services {
        let by = Stater::of("Service", &service.metadata);
        for address in ingress(service) {
            balanced.insert(address);
            let is_asked = asked.contains(&address) || is_annotated(service, address);
            let basis = if is_asked { Basis::Asked } else { Basis::Given };
            facts.push(Fact { network: Network::host(address), basis, by });
        }
    }
    for gateway in cluster.gateways {
        let by = Stater::of("Gateway", &gateway.metadata);
        facts.extend(addresses_in(gateway, "status").map(|address| {
            let basis = match (asked.contains(&address), balanced.contains(&address)) {
                (false, _) => Basis::Given,
                (true, true) => Basis::Asked,
                (true, false) => Basis::Unconfirmed,
            };
            Fact { network: Network::host(address), basis, by }
        }));
    }
}

fn asked_by_services(services: &[Arc<Service>]) -> impl Iterator<Item = IpAddr> {
    let specs = services.iter().filter_map(|service| service.spec.as_ref());
    let texts = specs.flat_map(|spec| spec.external_ips.iter().flatten().chain(&spec.load_balancer_ip));
    texts.filter_map(|text| address(text))
}

/// Whether an annotation names the address, as those by which `MetalLB`, kube-vip or Cilium are asked for one.
fn is_annotated(service: &Service, address: IpAddr) -> bool {
    let texts = service.metadata.annotations.iter().flat_map(|annotations| annotations.values());
    let is_apart = |c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':');
    texts.flat_map(|text| text.split(is_apart)).any(|word| self::address(word) == Some(address))
}

fn ingress(service: &Service) -> impl Iterator<Item = IpAddr> {
    let balancers = service.status.iter().filter_map(|status| status.load_balancer.as_ref());
    let ingress = balancers.flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress.filter_map(|ingress| address(ingress.ip.as_deref()?))
}

/// The addresses in a Gateway's `spec` or `status`.
fn addresses_in<'a>(gateway: &'a DynamicObject, part: &str) -> impl Iterator<Item = IpAddr> + use<'a> {
    let addresses = gateway.data[part]["addresses"].as_array();
    addresses.into_iter().flatten().filter_map(|one| address(one["value"].as_str()?))
}

/// One address that packets may come from; host names, `None` and the like are not.
fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    (scope(address) != Scope::Special).then_some(address)
}

fn range(text: impl AsRef<str>) -> Option<Network> {
    text.as_ref().parse().ok()
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    use super::*;

    fn from<T: DeserializeOwned>(values: impl IntoIterator<Item = Value>) -> Vec<Arc<T>> {
        values.into_iter().map(|value| Arc::new(serde_json::from_value(value).unwrap())).collect()
    }

    #[derive(Default)]
    struct Objects {
        nodes: Vec<Arc<Node>>,
        services: Vec<Arc<Service>>,
        gateways: Vec<Arc<DynamicObject>>,
        service_cidrs: Vec<Arc<ServiceCIDR>>,
        endpoint_slices: Vec<Arc<EndpointSlice>>,
    }

    impl Objects {
        fn cluster(&self) -> Cluster<'_> {
            Cluster {
                nodes: &self.nodes,
                services: &self.services,
                gateways: &self.gateways,
                service_cidrs: &self.service_cidrs,
                endpoint_slices: &self.endpoint_slices,
            }
        }

        fn stated(&self) -> Vec<String> {
            facts(&self.cluster())
                .iter()
                .map(|fact| format!("{} {:?} {}", fact.network, fact.basis, fact.by))
                .collect()
        }
    }

    fn service(name: &str, spec: &Value, ingress: &Value) -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": name}, "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        })
    }

    fn gateway(name: &str, asked: &[&str], status: &[&str]) -> Value {
        let list = |addresses: &[&str]| addresses.iter().map(|one| json!({"value": one})).collect::<Vec<_>>();
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"namespace": "shop", "name": name},
            "spec": {"addresses": list(asked)}, "status": {"addresses": list(status)},
        })
    }

    #[test]
    fn nodes_ranges_and_api_servers_state_the_clusters_own_networks() {
        let objects = Objects {
            nodes: from([json!({
                "metadata": {"name": "node-1"},
                "spec": {"podCIDR": "10.97.0.0/24", "podCIDRs": ["10.97.0.0/24", "fd97::/64"]},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": "10.99.0.11"},
                    {"type": "ExternalIP", "address": "198.51.100.1"},
                    {"type": "Hostname", "address": "203.0.113.1"}, {"type": "InternalIP", "address": "0.0.0.0"},
                ]},
            })]),
            service_cidrs: from([
                json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd96::/112"]}}),
            ]),
            endpoint_slices: from([
                json!({"metadata": {"namespace": "default", "name": "kubernetes"}, "addressType": "IPv4",
                    "endpoints": [{"addresses": ["10.99.0.1"]}]}),
                json!({"metadata": {"namespace": "default", "name": "kubernetes-x"}, "addressType": "IPv4",
                    "endpoints": [{"addresses": ["203.0.113.7"]}]}),
            ]),
            ..Objects::default()
        };
        assert_eq!(
            objects.stated(),
            [
                "10.99.0.11/32 Host Node node-1",
                "198.51.100.1/32 Host Node node-1",
                "10.97.0.0/24 PodRange Node node-1",
                "fd97::/64 PodRange Node node-1",
                "10.97.0.0/24 PodRange Node node-1",
                "10.96.0.0/16 ServiceRange ServiceCIDR kubernetes",
                "fd96::/112 ServiceRange ServiceCIDR kubernetes",
                "10.99.0.1/32 Host EndpointSlice default/kubernetes",
            ]
        );
    }

    #[test]
    fn a_node_states_what_the_first_sixteen_places_of_its_status_hold() {
        let numbered = (1..=15).map(|n| format!("198.51.100.{}", 100 - n));
        // A host name is not counted; an entry that is not an address is.
        let addresses = numbered.chain(["none".into(), "203.0.113.1".into(), "203.0.113.2".into()]);
        let mut addresses: Vec<Value> =
            addresses.map(|address| json!({"type": "ExternalIP", "address": address})).collect();
        addresses.insert(0, json!({"type": "Hostname", "address": "node-1"}));
        let node = json!({"metadata": {"name": "node-1"}, "status": {"addresses": addresses}});
        let stated = Objects { nodes: from([node]), ..Objects::default() }.stated();
        assert_eq!(stated.len(), 17);
        assert_eq!(stated[0], "198.51.100.99/32 Host Node node-1");
        assert_eq!(stated[14], "198.51.100.85/32 Host Node node-1");
        assert_eq!(
            stated[15..],
            ["203.0.113.1/32 Surplus Node node-1", "203.0.113.2/32 Surplus Node node-1"]
        );
    }

    #[test]
    fn api_servers_are_those_of_the_slice_that_they_keep_with_their_ports() {
        let slice = |name: &str, address: &str| {
            json!({
                "metadata": {"namespace": "default", "name": name}, "addressType": "IPv4",
                "endpoints": [{"addresses": [address]}, {"addresses": ["10.99.0.2"]}],
                "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
            })
        };
        let objects = Objects {
            endpoint_slices: from([slice("kubernetes", "10.99.0.1"), slice("kubernetes-x", "203.0.113.7")]),
            ..Objects::default()
        };
        let expect = ["10.99.0.1:6443", "10.99.0.2:6443"].map(|text| text.parse().unwrap());
        assert_eq!(api_servers(&objects.cluster()), expect);
    }

    #[test]
    fn a_wish_is_never_a_fact() {
        let wishes = json!({"externalIPs": ["203.0.113.1"], "loadBalancerIP": "203.0.113.2", "clusterIPs": ["203.0.113.3"]});
        let objects = Objects {
            services: from([service("wishes", &wishes, &json!([]))]),
            gateways: from([gateway("wishes", &["203.0.113.4"], &[])]),
            ..Objects::default()
        };
        assert_eq!(objects.stated(), Vec::<String>::new());
    }

    #[test]
    fn an_address_that_somebody_asked_for_counts_where_a_load_balancer_has_it() {
        #[rustfmt::skip]
        let table = [
            ("a controller gave it",
                vec![service("s", &json!({}), &json!([{"ip": "203.0.113.1"}, {"hostname": "lb.example.com"}]))], vec![],
                &["203.0.113.1/32 Given Service shop/s"][..]),
            ("by spec.loadBalancerIP",
                vec![service("s", &json!({"loadBalancerIP": "203.0.113.1"}), &json!([{"ip": "203.0.113.1"}]))], vec![],
                &["203.0.113.1/32 Asked Service shop/s"]),
            ("by another Service's externalIPs",
                vec![service("s", &json!({}), &json!([{"ip": "203.0.113.1"}])),
                     service("t", &json!({"externalIPs": ["203.0.113.1"]}), &json!([]))], vec![],
                &["203.0.113.1/32 Asked Service shop/s"]),
            ("by an annotation",
                vec![json!({
                    "metadata": {"namespace": "shop", "name": "s", "annotations": {
                        "metallb.io/loadBalancerIPs": "203.0.113.1,2001:db8::1"}},
                    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "2001:db8::2"}]}},
                })], vec![],
                &["203.0.113.1/32 Asked Service shop/s", "2001:db8::2/128 Given Service shop/s"]),
            ("a Gateway was given it",
                vec![], vec![gateway("g", &[], &["203.0.113.1", "gw.example.com", "0.0.0.0"])],
                &["203.0.113.1/32 Given Gateway shop/g"]),
            ("a Gateway repeats its own spec",
                vec![], vec![gateway("g", &["203.0.113.1"], &["203.0.113.1"])],
                &["203.0.113.1/32 Unconfirmed Gateway shop/g"]),
            ("a Gateway repeats another's spec",
                vec![], vec![gateway("g", &["203.0.113.1"], &[]), gateway("h", &[], &["203.0.113.1"])],
                &["203.0.113.1/32 Unconfirmed Gateway shop/h"]),
            ("a Gateway repeats a Service's externalIPs, as Envoy Gateway's does",
                vec![service("s", &json!({"externalIPs": ["203.0.113.1"]}), &json!([]))],
                vec![gateway("g", &[], &["203.0.113.1"])],
                &["203.0.113.1/32 Unconfirmed Gateway shop/g"]),
            ("a Gateway asked for what a load balancer has",
                vec![service("s", &json!({}), &json!([{"ip": "203.0.113.1"}]))],
                vec![gateway("g", &["203.0.113.1"], &["203.0.113.1"])],
                &["203.0.113.1/32 Asked Service shop/s", "203.0.113.1/32 Asked Gateway shop/g"]),
        ];
        for (case, services, gateways, expect) in table {
            let objects =
                Objects { services: from(services), gateways: from(gateways), ..Objects::default() };
            assert_eq!(objects.stated(), expect, "{case}");
        }
    }
}
