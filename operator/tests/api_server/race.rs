//! Several candidates reach for one lease in the same moment.

use std::time::Duration;

use futures::future::join_all;
use ip_sentry_operator::lease::Timing;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::LeaseSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use tokio::time::Instant;

use crate::candidates::{Candidate, lease_client, leases, leave_behind};
use crate::control_plane::{ControlPlane, until};

const CANDIDATES: usize = 5;
const TRIALS: usize = 30;

/// Short, so that thirty leases expire in a test's time; the same proportions as the operator's.
const TIMING: Timing = Timing {
    ttl: Duration::from_secs(3),
    deadline: Duration::from_millis(1_800),
    retry: Duration::from_millis(600),
    request: Duration::from_millis(1_500),
};

fn expired() -> LeaseSpec {
    let long_ago = Some(MicroTime(Timestamp::from_second(1_700_000_000).unwrap()));
    LeaseSpec {
        holder_identity: Some("gone".into()),
        lease_duration_seconds: Some(1),
        lease_transitions: Some(7),
        acquire_time: long_ago.clone(),
        renew_time: long_ago,
        ..LeaseSpec::default()
    }
}

/// Lets five candidates loose on the Lease `name`. At no time may two of them lead, and one must.
async fn race(client: Client, name: String, transitions: i32) {
    let candidates: Vec<Candidate> = (0..CANDIDATES)
        .map(|who| Candidate::enter(client.clone(), &name, &format!("candidate-{who}"), TIMING))
        .collect();
    let leaders = || candidates.iter().filter(|candidate| candidate.leadership.is_leading()).count();
    let began = Instant::now();
    until(&format!("{name} has a leader"), Duration::from_secs(30), async || {
        assert!(leaders() <= 1, "{name}: several lead");
        leaders() == 1
    })
    .await;
    let won = began.elapsed();
    // A second winner would show at once, or when the first renews.
    until(&format!("{name} was renewed"), Duration::from_secs(30), async || {
        assert!(leaders() <= 1, "{name}: several lead");
        began.elapsed() > won + 2 * TIMING.retry
    })
    .await;
    let lease = leases(&client).get(&name).await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(transitions), "{name} changed hands more than once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_five_candidates_for_an_expired_lease_exactly_one_leads() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    let names: Vec<String> = (0..TRIALS).map(|trial| format!("race-{trial}")).collect();
    for batch in names.chunks(6) {
        join_all(batch.iter().map(|name| leave_behind(&client, name, Some(expired())))).await;
        join_all(batch.iter().map(|name| race(client.clone(), name.clone(), 8))).await;
    }
    let refused = |name: &String| {
        control_plane.audit(name).iter().any(|request| request.verb == "patch" && request.code == 409)
    };
    let contended = names.iter().filter(|name| refused(name)).count();
    println!("{contended} of {TRIALS} races were decided by the resource version");
    assert!(contended > 0, "the candidates never met: this test shows nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_five_candidates_for_a_lease_that_does_not_exist_exactly_one_leads() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    for trial in 0..10 {
        race(client.clone(), format!("create-race-{trial}"), 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_without_any_field_is_taken_by_exactly_one() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    for (name, spec) in [("no-spec", None), ("empty-spec", Some(LeaseSpec::default()))] {
        leave_behind(&client, name, spec).await;
        race(client.clone(), name.into(), 1).await;
    }
}

/// The control: should this ever fail, the crate has learnt to compare and swap, and needs no help any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_election_crate_alone_lets_several_win_the_same_race() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    let mut several = 0;
    for trial in 0..10 {
        let name = format!("bare-{trial}");
        leave_behind(&client, &name, Some(expired())).await;
        let attempts = (0..CANDIDATES).map(|who| {
            let params = LeaseLockParams {
                lease_name: name.clone(),
                holder_id: format!("candidate-{who}"),
                lease_ttl: Duration::from_secs(10),
            };
            let lock = LeaseLock::new(client.clone(), "default", params);
            tokio::spawn(async move {
                matches!(lock.try_acquire_or_renew().await, Ok(LeaseLockResult::Acquired(_)))
            })
        });
        let winners = join_all(attempts).await.into_iter().filter(|won| *won.as_ref().unwrap()).count();
        several += usize::from(winners > 1);
    }
    println!("several winners in {several} of 10 races");
    assert!(several > 0);
}
