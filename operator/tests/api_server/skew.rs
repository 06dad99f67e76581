//! Replicas whose clocks are an hour apart.

use std::time::Duration;

use futures::future::join_all;
use http::{Request, Response, header::CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use ip_sentry_operator::lease::Timing;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::client::Body;
use kube_leader_election::{LeaseLock, LeaseLockParams, LeaseLockResult};
use serde_json::Value;
use tokio::time::Instant;
use tower::BoxError;

use crate::candidates::{Candidate, lease_client, leases};
use crate::control_plane::{ControlPlane, until};

const HOUR: SignedDuration = SignedDuration::from_hours(1);
/// Three times as long as a lease lasts.
const LONG_ENOUGH: Duration = Duration::from_secs(30);

/// Moves the times in a Lease. What is no Lease stays as it is.
fn shifted(bytes: &[u8], by: SignedDuration) -> Vec<u8> {
    let Ok(mut lease) = serde_json::from_slice::<Value>(bytes) else { return bytes.to_vec() };
    for field in ["renewTime", "acquireTime"] {
        if let Some(time) = lease["spec"][field].as_str() {
            let time: Timestamp = time.parse().unwrap();
            lease["spec"][field] = format!("{:.6}", time + by).into();
        }
    }
    serde_json::to_vec(&lease).unwrap()
}

/// A client that sees and writes leases as on a machine whose clock is so much ahead.
fn ahead(client: Client, by: SignedDuration) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let (mut head, body) = request.into_parts();
            head.headers.remove(CONTENT_LENGTH);
            let body = shifted(&body.collect().await?.to_bytes(), by);
            let (mut head, body) = client.send(Request::from_parts(head, body.into())).await?.into_parts();
            head.headers.remove(CONTENT_LENGTH);
            let body = shifted(&body.collect().await?.to_bytes(), -by);
            Ok::<_, BoxError>(Response::from_parts(head, Body::from(body)))
        }
    });
    Client::new(service, "default")
}

/// A leader, and a standby whose clock is so much ahead of the leader's: the leader stays it while it renews, and has
/// a successor when it has gone.
async fn nothing_is_stolen(client: Client, name: String, leaders: SignedDuration, standbys: SignedDuration) {
    let leader = Candidate::enter(ahead(client.clone(), leaders), &name, "leader", Timing::default());
    until(&format!("{name} has a leader"), Duration::from_secs(10), async || leader.leadership.is_leading())
        .await;
    let standby = Candidate::enter(ahead(client.clone(), standbys), &name, "standby", Timing::default());
    let begun = Instant::now();
    until("the standby has had its chances", LONG_ENOUGH * 2, async || {
        assert!(leader.leadership.is_leading() && !standby.leadership.is_leading(), "{name} was stolen");
        begun.elapsed() > LONG_ENOUGH
    })
    .await;
    let lease = leases(&client).get(&name).await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(0), "{name} has changed hands");
    leader.task.abort();
    let crashed = Duration::from_secs(15);
    until(&format!("{name} has a successor"), crashed, async || standby.leadership.is_leading()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_an_hour_wrong_steals_no_lease_and_keeps_none_from_its_successor() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    let right = SignedDuration::ZERO;
    let table = [
        ("standby-ahead", right, HOUR),
        ("standby-behind", right, -HOUR),
        ("leader-ahead", HOUR, right),
        ("leader-behind", -HOUR, right),
    ];
    let cases = table
        .map(|(name, leaders, standbys)| nothing_is_stolen(client.clone(), name.into(), leaders, standbys));
    join_all(cases).await;
}

/// The control: whoever compares the clocks of two machines steals at the first try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_election_crate_alone_steals_with_a_clock_that_is_ahead() {
    let Some(control_plane) = ControlPlane::start() else { return };
    let client = lease_client(&control_plane).await;
    let leader = Candidate::enter(client.clone(), "robbed", "leader", Timing::default());
    until("it leads", Duration::from_secs(10), async || leader.leadership.is_leading()).await;
    let params = LeaseLockParams {
        lease_name: "robbed".into(),
        holder_id: "thief".into(),
        lease_ttl: Duration::from_secs(10),
    };
    let thief = LeaseLock::new(ahead(client, HOUR), "default", params);
    let stolen = thief.try_acquire_or_renew().await.unwrap();
    assert!(matches!(stolen, LeaseLockResult::Acquired(_)));
}
