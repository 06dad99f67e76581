//! A gateway in the test's own namespace, as `cluster/gateway.yaml` describes it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, LogParams},
};
use serde_json::{Value, json};

use crate::{
    bans::Door,
    client::{Client, Reach},
    eventually,
    lab::{Lab, kubectl, kubectl_with, printed},
    node::Node,
    scenario::{LONG, SOON, Scenario},
};

/// Where the test bed describes the gateway.
const MANIFEST: &str = include_str!("../cluster/gateway.yaml");
/// What lets the operator read pods and their logs in a namespace.
const LOG_ACCESS: &str = "deploy/kustomize/components/log-access";

/// The pods of a gateway and the Service before them. The Gateway is called `public`, the Service
/// `nginx-public-nginx`.
pub struct Gateway {
    node_port: u16,
    /// Each pod with its node and addresses.
    pods: Vec<(String, Node, Vec<IpAddr>)>,
}

/// How a gateway differs from the usual one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// One pod on this node instead of one on each.
    pub only: Option<Node>,
    /// `externalTrafficPolicy: Cluster` instead of `Local`.
    pub hides_clients: bool,
    /// The operator may not read its logs.
    pub keeps_logs: bool,
}

impl Scenario {
    /// Puts up a gateway with a pod on each node, and waits until both nodes let requests in.
    pub async fn gateway(&self) -> Result<Gateway> {
        self.gateway_of(Shape::default()).await
    }

    /// A gateway with one pod, on that node.
    pub async fn gateway_on(&self, node: Node) -> Result<Gateway> {
        self.gateway_of(Shape { only: Some(node), ..Shape::default() }).await
    }

    /// Lets the operator read pods and their logs in the test's namespace.
    pub async fn logs_readable(&self) -> Result<()> {
        kubectl(&[&format!("--namespace={}", self.namespace), "apply", "-k", LOG_ACCESS]).await.map(drop)
    }

    /// The same in another shape.
    pub async fn gateway_of(&self, shape: Shape) -> Result<Gateway> {
        let space = format!("--namespace={}", self.namespace);
        if !shape.keeps_logs {
            self.logs_readable().await?;
        }
        let objects = objects(shape)?;
        printed("kubectl apply", kubectl_with(&[&space, "apply", "-f", "-"], Some(&objects)).await?)?;
        let gateway = eventually(LONG, "the gateway's pods are ready", async || {
            found(&self.lab, &self.namespace, if shape.only.is_some() { 1 } else { 2 }).await
        })
        .await?;
        let visitor = self.client().await?;
        for node in gateway.nodes() {
            for is_ipv4 in [true, false] {
                self.passes(&visitor, &gateway.front(node, is_ipv4)).await?;
            }
        }
        Ok(gateway)
    }
}

/// The objects of the test bed's gateway in that shape, for `kubectl apply`.
fn objects(shape: Shape) -> Result<String> {
    let mut items = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(MANIFEST) {
        let mut object: Value = serde::Deserialize::deserialize(document)?;
        match object["kind"].as_str() {
            Some("Namespace" | "GatewayClass") => continue,
            Some("Gateway") => object["metadata"]["name"] = json!("public"),
            Some("Deployment") => {
                let template = &mut object["spec"]["template"];
                template["metadata"]["labels"]["gateway.networking.k8s.io/gateway-name"] = json!("public");
                let spread = &mut template["spec"]["topologySpreadConstraints"][0];
                spread["labelSelector"]["matchLabels"]["gateway.networking.k8s.io/gateway-name"] =
                    json!("public");
                template["spec"]["terminationGracePeriodSeconds"] = json!(1);
                if let Some(node) = shape.only {
                    template["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node.to_string()});
                    template["spec"]["topologySpreadConstraints"] = json!([]);
                    object["spec"]["replicas"] = json!(1);
                }
                object["spec"]["selector"]["matchLabels"]["gateway.networking.k8s.io/gateway-name"] =
                    json!("public");
            }
            Some("Service") => {
                object["spec"]["selector"]["gateway.networking.k8s.io/gateway-name"] = json!("public");
                if let Some(port) = object["spec"]["ports"][0].as_object_mut() {
                    port.remove("nodePort");
                }
                if shape.hides_clients {
                    object["spec"]["externalTrafficPolicy"] = json!("Cluster");
                }
            }
            kind => anyhow::bail!("gateway.yaml holds a {kind:?}, which is not expected there"),
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("namespace");
        }
        items.push(object);
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
}

/// The gateway, once that many pods are ready.
async fn found(lab: &Lab, namespace: &str, replicas: usize) -> Result<Gateway> {
    let services: Api<Service> = Api::namespaced(lab.kube.clone(), namespace);
    let service = services.get("nginx-public-nginx").await?;
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let node_port =
        ports.first().and_then(|port| port.node_port).context("the Service has no node port yet")?;
    let api: Api<Pod> = Api::namespaced(lab.kube.clone(), namespace);
    let mut pods = Vec::new();
    for pod in
        api.list(&ListParams::default().labels("gateway.networking.k8s.io/gateway-name=public")).await?
    {
        let status = pod.status.as_ref().context("a pod without a status")?;
        let is_ready =
            status.conditions.iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True");
        ensure!(is_ready, "{} is {:?}", pod.name_any(), status.phase);
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let node = Node::BOTH
            .into_iter()
            .find(|known| Some(known.to_string()) == node)
            .context("on no known node")?;
        let addresses = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
        pods.push((pod.name_any(), node, addresses));
    }
    ensure!(pods.len() == replicas, "{} pods are ready, {replicas} are expected", pods.len());
    Ok(Gateway { node_port: u16::try_from(node_port)?, pods })
}

impl Gateway {
    /// The nodes that its pods are on.
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        Node::BOTH.into_iter().filter(|node| self.pods.iter().any(|(_, on, _)| on == node))
    }

    /// Where a node lets requests in: what a load balancer would send to.
    #[must_use]
    pub fn through(&self, node: Node, is_ipv4: bool) -> SocketAddr {
        node.address(is_ipv4, self.node_port)
    }

    /// The same as a door.
    #[must_use]
    pub fn front(&self, node: Node, is_ipv4: bool) -> Door {
        Door { what: "the gateway", to: self.through(node, is_ipv4), open: Reach::Connected }
    }

    /// All the ways into a node: to a pod through its port and directly (FORWARD), and to the node itself (INPUT).
    pub fn doors(&self, node: Node, is_ipv4: bool) -> Result<Vec<Door>> {
        let mut addresses = self
            .pods
            .iter()
            .filter(|(_, on, _)| *on == node)
            .flat_map(|(_, _, addresses)| addresses.iter().copied());
        let pod =
            addresses.find(|address| address.is_ipv4() == is_ipv4).context("no pod of that family there")?;
        Ok(vec![
            self.front(node, is_ipv4),
            Door { what: "a pod", to: SocketAddr::new(pod, 8080), open: Reach::Connected },
            // Nobody listens at the discard port: the node itself answers that.
            Door { what: "the node itself", to: node.address(is_ipv4, 9), open: Reach::Refused },
        ])
    }

    /// What the pod on that node has logged, each line with the container runtime's stamp.
    pub async fn log(&self, scenario: &Scenario, node: Node) -> Result<Vec<(Timestamp, String)>> {
        let (pod, _, _) = self.pods.iter().find(|(_, on, _)| *on == node).context("no pod there")?;
        let pods: Api<Pod> = Api::namespaced(scenario.lab.kube.clone(), &scenario.namespace);
        let text = pods.logs(pod, &LogParams { timestamps: true, ..LogParams::default() }).await?;
        let stamped = text.lines().filter_map(|line| line.split_once(' '));
        Ok(stamped.filter_map(|(stamp, line)| Some((stamp.parse().ok()?, line.to_owned()))).collect())
    }

    /// Waits until the log has a line for which `is_it` holds, and returns its stamp.
    pub async fn logged(
        &self,
        scenario: &Scenario,
        node: Node,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<Timestamp> {
        eventually(SOON, "the gateway logs it", async || {
            let log = self.log(scenario, node).await?;
            let found = log.iter().rev().find(|(_, line)| is_it(line));
            Ok(found.with_context(|| format!("the log ends with {:?}", log.last()))?.0)
        })
        .await
    }

    /// Waits until everything that its pods have logged so far was judged: a stranger probes after it, and is
    /// banned. Returns the strangers, one for each pod.
    pub async fn judged(&self, scenario: &Scenario, path: &str) -> Result<Vec<Client>> {
        let mut strangers = Vec::new();
        for node in self.nodes() {
            let stranger = scenario.client().await?;
            stranger.probe(self.through(node, true), &[path; 3]).await?;
            scenario.banned(stranger.ipv4()).await?;
            strangers.push(stranger);
        }
        Ok(strangers)
    }
}
