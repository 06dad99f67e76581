//! What the agents report about their nodes: the leader marks the `NodeFirewall` of a node whose agent has stopped
//! reporting, and tells the policies' conditions which nodes may let banned sources through.

mod silence;

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use ip_sentry_crd::{FIELD_MANAGER, NodeFirewall};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use self::silence::Heard;
use crate::{lease::Deposed, metrics::Metrics, state::State};

const READY: &str = "Ready";
/// How often the leader looks.
const ROUND: Duration = Duration::from_secs(20);
/// The nodes that the agents' `DaemonSet` wants an agent on, its tolerations aside.
const WITH_KERNEL: &str =
    "kubernetes.io/os=linux,type!=virtual-kubelet,eks.amazonaws.com/compute-type!=fargate";
/// How long a new node may take to start its agent.
const STARTS_WITHIN: SignedDuration = SignedDuration::from_mins(2);

/// Nodes that may let the banned through.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Gaps {
    /// How many there are.
    pub nodes: usize,
    /// Of how many that have an agent or should have one.
    pub of: usize,
    /// Whether one of them is known to let the banned through; else it is only not known that it drops them.
    pub is_known: bool,
    /// What one of them says, the worst.
    pub example: String,
}

/// Looks until `shutdown`, while this replica leads.
pub async fn run(state: Arc<State>, shutdown: CancellationToken) {
    let api: Api<NodeFirewall> = Api::all(state.writer.clone());
    let mut heard = Heard::default();
    loop {
        if state.leadership.is_leading()
            && let Err(error) = round(&api, &state, &mut heard).await
            && !Deposed::is_cause_of(&error)
        {
            Metrics::count(&state.metrics.write_errors, "NodeFirewall");
            tracing::warn!(error = &error as &dyn std::error::Error, "silent nodes could not be marked");
        }
        tokio::select! {
            () = tokio::time::sleep(ROUND) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn round(api: &Api<NodeFirewall>, state: &State, heard: &mut Heard) -> Result<(), kube::Error> {
    let firewalls = api.list(&ListParams::default().match_any()).await?.items;
    let (now, at) = (Instant::now(), state.clock.now());
    heard.hear(&firewalls, now, at);
    let nodes: Api<Node> = Api::all(state.writer.clone());
    let nodes = nodes.list_metadata(&ListParams::default().match_any().labels(WITH_KERNEL)).await?.items;
    let bare = without_agent(nodes, &firewalls, at);
    *state.gaps.lock().unwrap_or_else(PoisonError::into_inner) = gaps(&firewalls, &bare);
    for firewall in firewalls {
        let Some(conditions) = heard.silenced(&firewall, now, at) else { continue };
        let patch = json!({
            "metadata": {"resourceVersion": firewall.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        match api.patch_status(&firewall.name_any(), &params, &Patch::Merge(patch)).await {
            // It spoke, or went, in between.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            written => drop(written?),
        }
    }
    Ok(())
}

/// A node that has never had an agent, and whether one should be there by now.
type WithoutAgent = (String, bool);

/// The nodes that have no `NodeFirewall`: a taint may keep the agent away.
fn without_agent(
    nodes: impl IntoIterator<Item = PartialObjectMeta<Node>>,
    firewalls: &[NodeFirewall],
    now: Timestamp,
) -> Vec<WithoutAgent> {
    let with_agent: HashSet<String> = firewalls.iter().map(NodeFirewall::name_any).collect();
    let bare = nodes.into_iter().filter(|node| !with_agent.contains(&node.name_any()));
    bare.map(|node| {
        let joined = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (node.name_any(), joined.is_none_or(|joined| now.duration_since(joined) > STARTS_WITHIN))
    })
    .collect()
}

/// The nodes without an agent, and those whose `NodeFirewall` is not Ready; where there is no node at all, that.
fn gaps(firewalls: &[NodeFirewall], bare: &[WithoutAgent]) -> Option<Gaps> {
    let ready = |firewall: &NodeFirewall| {
        let status = firewall.status.as_ref()?;
        status.conditions.iter().find(|condition| condition.type_ == READY).cloned()
    };
    let mut open: Vec<(bool, String)> = firewalls
        .iter()
        .filter_map(|firewall| match ready(firewall) {
            Some(ready) if ready.status == "True" => None,
            Some(ready) => {
                let said = format!("{} says {}: {}", firewall.name_any(), ready.reason, ready.message);
                Some((ready.status == "False", said))
            }
            None => Some((false, format!("{} has not said anything yet", firewall.name_any()))),
        })
        .collect();
    open.extend(bare.iter().map(|(name, is_late)| {
        (*is_late, format!("{name} has no agent: is it tainted? See components/tolerate-taints"))
    }));
    let (nodes, of) = (open.len(), firewalls.len() + bare.len());
    match open.into_iter().max_by_key(|&(is_known, _)| is_known) {
        Some((is_known, example)) => Some(Gaps { nodes, of, is_known, example }),
        None if of == 0 => Some(Gaps { nodes, of, is_known: false, example: "no node has an agent".into() }),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn firewall(ready: &str, heartbeat: i64) -> NodeFirewall {
        let at = Timestamp::from_second(heartbeat).unwrap();
        serde_json::from_value(json!({
            "apiVersion": "ipsentry.dev/v1alpha1", "kind": "NodeFirewall", "metadata": {"name": "n"}, "spec": {},
            "status": {
                "lastHeartbeat": at.to_string(),
                "conditions": [
                    {"type": "Ready", "status": ready, "reason": "r", "message": "", "lastTransitionTime": at.to_string()},
                    {"type": "Enforcing", "status": ready, "reason": "r", "message": "", "lastTransitionTime": at.to_string()},
                    {"type": "ChainFirst", "status": "True", "reason": "r", "message": "", "lastTransitionTime": at.to_string()},
                ],
            },
        }))
        .unwrap()
    }

    #[test]
    fn nodes_that_may_let_the_banned_through_are_told_of_the_worst_first() {
        let named = |name: &str, ready: &str| {
            let mut node = firewall(ready, 0);
            node.metadata.name = Some(name.to_owned());
            node
        };
        let mut mute = named("mute", "True");
        mute.status = None;
        let gap = |nodes, of, is_known, example: &str| {
            Some(Gaps { nodes, of, is_known, example: example.to_owned() })
        };
        #[rustfmt::skip]
        let table = [
            (vec![],                                                                   gap(0, 0, false, "no node has an agent")),
            (vec![named("a", "True"), named("b", "True")],                             None),
            (vec![named("a", "True"), named("b", "Unknown")],                          gap(1, 2, false, "b says r: ")),
            (vec![named("a", "False"), named("b", "Unknown"), named("c", "True")],     gap(2, 3, true, "a says r: ")),
            (vec![mute],                                                               gap(1, 1, false, "mute has not said anything yet")),
        ];
        for (firewalls, expect) in table {
            assert_eq!(gaps(&firewalls, &[]), expect);
        }
    }

    #[test]
    fn a_node_that_has_no_agent_though_it_joined_minutes_ago_lets_the_banned_through() {
        let now = Timestamp::from_second(1_000).unwrap();
        let node = |name: &str, joined: i64| -> PartialObjectMeta<Node> {
            let joined = Timestamp::from_second(joined).unwrap().to_string();
            serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": joined}})).unwrap()
        };
        let firewalls = [firewall("True", 990)];
        for (joined, is_known) in [(879, true), (880, false)] {
            let bare = without_agent([node("n", 0), node("tainted", joined)], &firewalls, now);
            let found = gaps(&firewalls, &bare).expect("a gap");
            assert_eq!((found.nodes, found.of, found.is_known), (1, 2, is_known), "joined at {joined}");
            assert!(found.example.starts_with("tainted has no agent"), "{}", found.example);
        }
        assert_eq!(gaps(&firewalls, &without_agent([node("n", 0)], &firewalls, now)), None);
    }
}
