//! What the kubelet and Prometheus ask: `/healthz`, `/readyz`, `/metrics`.

use std::sync::{Arc, atomic::Ordering};

use axum::{
    Router,
    extract::State as With,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::state::State;

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// Ready means that every list is complete, leading or not: both replicas of a rollout must get there.
async fn ready(With(state): With<Arc<State>>) -> impl IntoResponse {
    if state.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not every list is complete yet\n")
    }
}

async fn metrics(With(state): With<Arc<State>>) -> impl IntoResponse {
    let lease = state.leadership.status();
    state.metrics.leader.set(i64::from(lease.leading));
    state.metrics.lease_transitions.set(i64::from(lease.transitions));
    match state.metrics.render() {
        Ok(text) => {
            Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
        }
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
