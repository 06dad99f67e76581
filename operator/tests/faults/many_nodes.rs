//! What admission makes of the protected networks of a large cluster.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use ip_sentry_crd::ProtectedNetworks;
use ip_sentry_operator::protected::{
    facts::{Cluster as Objects, facts},
    select::select,
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, SOON},
    control_plane::until,
};

/// One of four nodes in a /24 and a /64 that are far from all others.
fn node(number: u32) -> Node {
    let (far, near) = ((number / 4).wrapping_mul(0x9e37_79b1) >> 16, number % 4 * 50 + 3);
    let v4 = Ipv4Addr::from_bits(10 << 24 | far << 8 | near);
    let v6 = Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(far) << 64 | u128::from(near));
    let addresses = [v4.to_string(), v6.to_string()];
    let addresses = addresses.map(|address| json!({"type": "InternalIP", "address": address}));
    let node = json!({"metadata": {"name": format!("node-{number:04}")}, "status": {"addresses": addresses}});
    serde_json::from_value(node).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_protected_networks_of_a_thousand_nodes_are_admitted_exact_and_widened() {
    let Some(cluster) = Cluster::start().await else { return };
    let api: Api<Node> = Api::all(cluster.kube.clone());
    let networks: Api<ProtectedNetworks> = Api::all(cluster.kube.clone());
    let mut known = 0;
    // Of 500 nodes all addresses of both families have room; those of more are widened.
    for count in [500, 1_000, 1_001] {
        let made = stream::iter(known..count).map(async |number| {
            let node = node(number);
            api.create(&PostParams::default(), &node).await.unwrap();
            let status = Patch::Merge(json!({"status": node.status}));
            api.patch_status(&node.name_any(), &PatchParams::default(), &status).await.unwrap();
        });
        made.buffer_unordered(16).collect::<()>().await;
        known = count;

        let nodes: Vec<Arc<Node>> =
            api.list(&ListParams::default()).await.unwrap().into_iter().map(Arc::new).collect();
        let objects =
            Objects { nodes: &nodes, services: &[], gateways: &[], service_cidrs: &[], endpoint_slices: &[] };
        let facts = facts(&objects);
        let selection = select(&facts);
        assert_eq!(selection.left_out.len(), 0, "nodes are left out");
        assert_eq!(selection.is_widened, count > 500);
        let cidrs: Vec<String> = selection.networks.iter().map(ToString::to_string).collect();
        let list = Patch::Merge(json!({"status": {"cidrs": cidrs, "observedAt": "2026-01-01T00:00:00Z"}}));
        let mut took = Duration::ZERO;
        until("the list is admitted", SOON * 2, async || {
            let begun = Instant::now();
            let written = networks.patch_status("cluster", &PatchParams::default(), &list).await;
            took = begun.elapsed();
            written.inspect_err(|error| println!("after {took:?}: {error}")).is_ok()
        })
        .await;
        println!("{} networks for {} nodes were admitted in {took:?}", cidrs.len(), nodes.len());
    }
}
