//! The agent's own HTTP: `/metrics`, `/healthz`, `/readyz`.

use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Serves until told to stop. `synced` turns true with the first time that everything was in place, and stays.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    synced: watch::Receiver<bool>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let ready = move || async move {
        if *synced.borrow() {
            (StatusCode::OK, "ready\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not in step yet: see this node's NodeFirewall\n")
        }
    };
    let figures = move || async move {
        match metrics.text() {
            Ok(text) => {
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                ([("content-type", kind)], text).into_response()
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures));
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}
