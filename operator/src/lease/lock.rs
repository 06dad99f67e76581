//! `kube-leader-election`, with compare-and-swap.
//!
//! Version 0.44 does each operation as a GET, a decision by the wall clock, and a merge patch without a resource
//! version, so the last of several candidates to write wins while all of them think they have.
//! Here its GET is answered with the very lease that [`super::guard`] has judged, and its patch is given that
//! lease's resource version: a lease that has changed since is refused with 409.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header::CONTENT_LENGTH};
use http_body_util::BodyExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::client::Body;
use kube_leader_election::{Error, LeaseLock, LeaseLockParams, LeaseLockResult};
use serde_json::{Value, json};
use tower::BoxError;

/// What became of a write to the lease.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The API server took it.
    Acquired {
        /// Who the stored lease names.
        holder: String,
    },
    /// Somebody else was first, or the object is gone.
    Refused,
    /// It may or may not have been stored.
    Unknown(BoxError),
}

/// The lease as the guard saw it; what the crate reads instead of asking the API server again.
type Judged = Arc<Mutex<Option<Lease>>>;

/// The writing half of an election.
pub(super) struct Lock {
    inner: LeaseLock,
    judged: Judged,
}

impl Lock {
    /// A lock on the Lease `namespace/name`.
    pub(super) fn new(client: Client, namespace: &str, name: &str, holder: &str, ttl: Duration) -> Self {
        let judged = Judged::default();
        let params = LeaseLockParams { lease_name: name.into(), holder_id: holder.into(), lease_ttl: ttl };
        Self { inner: LeaseLock::new(compare_and_swap(client, judged.clone()), namespace, params), judged }
    }

    /// Acquires, renews or creates the lease, if it is still as `judged`, which the guard said may be tried for.
    pub(super) async fn try_acquire(&self, judged: Option<Lease>) -> Attempt {
        self.judge(judged.map(expired));
        self.inner.try_acquire_or_renew().await.map_or_else(failed, |result| match result {
            LeaseLockResult::Acquired(lease) => taken(lease),
            LeaseLockResult::NotAcquired(_) => Attempt::Refused,
        })
    }

    /// Empties the lease, if it is still as `judged`.
    pub(super) async fn release(&self, judged: Lease) -> Attempt {
        self.judge(Some(expired(judged)));
        self.inner.step_down().await.map_or_else(failed, |()| Attempt::Acquired { holder: String::new() })
    }

    fn judge(&self, lease: Option<Lease>) {
        *self.judged.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }
}

/// The lease with each field that the crate reads, and long expired by any wall clock.
///
/// The crate would decide again by comparing clocks of two machines; that decision has been made.
/// And it fails for ever on a lease that lacks a field, as one made by hand does; nothing is stored of these.
fn expired(mut lease: Lease) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    spec.holder_identity.get_or_insert_default();
    spec.lease_transitions.get_or_insert(0);
    spec.lease_duration_seconds = Some(1);
    spec.renew_time = Some(MicroTime(jiff::Timestamp::UNIX_EPOCH));
    lease
}

fn taken(lease: Lease) -> Attempt {
    Attempt::Acquired { holder: lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default() }
}

fn failed(error: Error) -> Attempt {
    let (Error::AcquireLease(kube::Error::Api(status))
    | Error::CreateLease(kube::Error::Api(status))
    | Error::RenewLease(kube::Error::Api(status))
    | Error::ReleaseLease(kube::Error::Api(status))) = &error
    else {
        return Attempt::Unknown(error.into());
    };
    // 404: the object was deleted after it was read. Another may have made it anew by now.
    if matches!(status.code, 404 | 409) { Attempt::Refused } else { Attempt::Unknown(error.into()) }
}

/// A client that answers a GET with `judged` and gives its resource version to each PATCH.
fn compare_and_swap(client: Client, judged: Judged) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = client.clone();
        let judged = judged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        async move {
            match *request.method() {
                Method::GET => answer(judged.as_ref()),
                Method::PATCH => Ok(client.send(with_version(request, judged).await?).await?),
                _ => Ok(client.send(request).await?),
            }
        }
    });
    Client::new(service, namespace)
}

fn answer(lease: Option<&Lease>) -> Result<Response<Body>, BoxError> {
    let (status, body) = if let Some(lease) = lease {
        (StatusCode::OK, serde_json::to_vec(lease)?)
    } else {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "reason": "NotFound", "message": "no such lease", "code": 404});
        (StatusCode::NOT_FOUND, serde_json::to_vec(&status)?)
    };
    Ok(Response::builder().status(status).body(Body::from(body))?)
}

async fn with_version(request: Request<Body>, judged: Option<Lease>) -> Result<Request<Body>, BoxError> {
    let version = judged
        .and_then(|lease| lease.metadata.resource_version)
        .ok_or("a lease without resource version can't be written safely")?;
    let (mut parts, body) = request.into_parts();
    let mut patch: Value = serde_json::from_slice(&body.collect().await?.to_bytes())?;
    patch["metadata"]["resourceVersion"] = version.into();
    parts.headers.remove(CONTENT_LENGTH);
    Ok(Request::from_parts(parts, Body::from(serde_json::to_vec(&patch)?)))
}
