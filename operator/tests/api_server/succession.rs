//! How leadership passes on, with the operator's own timing.

use std::time::Duration;

use ip_sentry_operator::lease::Timing;
use jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::candidates::{Candidate, lease_client, leases};
use crate::control_plane::{ControlPlane, until};

const SOON: Duration = Duration::from_secs(10);

async fn leader_and_standby(control_plane: &ControlPlane, name: &str) -> (Candidate, Candidate) {
    let client = lease_client(control_plane).await;
    let leader = Candidate::enter(client.clone(), name, "leader", Timing::default());
    until("the first candidate leads", SOON, async || leader.leadership.is_leading()).await;
    let standby = Candidate::enter(client, name, "standby", Timing::default());
    until("the second has looked", SOON, async || standby.leadership.status().holder.is_some()).await;
    assert!(!standby.leadership.is_leading());
    (leader, standby)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_cleanly_has_a_successor_within_four_seconds() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let (leader, standby) = leader_and_standby(&control_plane, "clean-stop").await;
    leader.shutdown.cancel();
    let took = until("a successor", Duration::from_secs(4), async || {
        let both = leader.leadership.is_leading() && standby.leadership.is_leading();
        assert!(!both, "both lead");
        standby.leadership.is_leading()
    });
    println!("successor after a clean stop: {:?}", took.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_crashes_has_a_successor_within_fifteen_seconds() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let (leader, standby) = leader_and_standby(&control_plane, "crash").await;
    leader.task.abort();
    let took = until("a successor", Duration::from_secs(15), async || {
        let both = leader.leadership.is_leading() && standby.leadership.is_leading();
        assert!(!both, "both lead");
        standby.leadership.is_leading()
    });
    println!("successor after a crash: {:?}", took.await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_lease_was_taken_stops_and_leaves_it_to_the_other() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    let leader = Candidate::enter(client.clone(), "taken", "leader", Timing::default());
    until("it leads", SOON, async || leader.leadership.is_leading()).await;
    let taken =
        json!({"spec": {"holderIdentity": "usurper", "renewTime": format!("{:.6}", Timestamp::now())}});
    leases(&client).patch("taken", &PatchParams::default(), &Patch::Merge(&taken)).await.unwrap();
    // One look, and no more: it must not write for the rest of its term.
    until("it has stopped", Duration::from_secs(4), async || !leader.leadership.is_leading()).await;
    let before = leases(&client).get("taken").await.unwrap();
    assert_eq!(before.spec.as_ref().unwrap().holder_identity.as_deref(), Some("usurper"));
    leader.shutdown.cancel();
    until("it has ended", SOON, async || leader.task.is_finished()).await;
    let after = leases(&client).get("taken").await.unwrap();
    assert_eq!(
        before.metadata.resource_version, after.metadata.resource_version,
        "somebody else's lease was written"
    );
}
